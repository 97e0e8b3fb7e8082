"""Figures: names that say what they are, summaries and ratios."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import KINDS, Compared, Figure, Summary, compare

VALUES = st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=9)
CPU = Figure("CPU per request", "us")


@pytest.mark.parametrize("name", ["", "cpu per request", "requests a second", "memory, peak", "walls"])
def test_a_name_says_what_it_is(name: str) -> None:
    with pytest.raises(ValueError, match="begins with one of CPU, wall, memory, rate"):
        Figure(name, "s")


def test_names_of_every_kind() -> None:
    assert [Figure(f"{kind} of something", "s").better for kind in KINDS] == ["lower"] * 4


@given(VALUES)
def test_a_summary_is_of_the_values(values: list[float]) -> None:
    summary = Summary.of(values)
    assert (summary.low, summary.high) == (min(values), max(values))
    assert sum(value <= summary.median for value in values) * 2 >= len(values)
    assert sum(value >= summary.median for value in values) * 2 >= len(values)


def test_no_values_have_no_summary() -> None:
    with pytest.raises(ValueError, match="no values"):
        Summary.of([])


@given(VALUES, VALUES)
def test_the_ratio_is_of_the_medians(ours: list[float], theirs: list[float]) -> None:
    ratio = Compared(CPU, tuple(ours), tuple(theirs)).ratio
    assert ratio == pytest.approx(Summary.of(ours).median / Summary.of(theirs).median)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio", "verdict"),
    [
        ((100,), (500,), 0.2, "5.0 times less"),
        ((1, 9, 2), (4, 4, 4), 0.5, "2.0 times less"),
        ((150,), (100,), 1.5, "1.50 times more"),
        ((3000,), (100,), 30.0, "30 times more"),
        ((7,), (7,), 1.0, "the same"),
        ((7,), (), None, ""),
        ((), (7,), None, ""),
        ((7,), (0,), None, ""),
        ((0,), (7,), 0.0, ""),
    ],
)
def test_ratios_and_their_words(
    ours: tuple[float, ...], theirs: tuple[float, ...], ratio: float | None, verdict: str
) -> None:
    compared = Compared(CPU, ours, theirs)
    assert (compared.ratio, compared.verdict) == (ratio, verdict)


def test_rounds_are_sorted_by_figure() -> None:
    wall, unmeasured = Figure("wall per push", "s"), Figure("memory per upload", "KiB")
    ours = [{CPU.name: 1.0, wall.name: 4.0}, {CPU.name: 2.0}]
    theirs = [{CPU.name: 3.0}]
    assert compare((wall, CPU, unmeasured), ours, theirs) == (
        Compared(wall, (4.0,), ()),
        Compared(CPU, (1.0, 2.0), (3.0,)),
    )
