"""The JSON files: what programs read, and what the report reads back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import records
from bench.errors import CannotMeasure
from bench.figures import KINDS, Compared, Figure, Outcome

if TYPE_CHECKING:
    from pathlib import Path

VALUES = st.lists(st.floats(0, 1e9), max_size=5).map(tuple)
FIGURES = st.builds(
    Figure,
    st.tuples(st.sampled_from(KINDS), st.text(max_size=20)).map(" ".join),
    st.sampled_from(["s", "us", "1/s"]),
    st.sampled_from(["lower", "higher"]),
)
LINES = st.lists(st.text(max_size=20), max_size=3)
OUTCOMES = st.builds(
    Outcome,
    st.just("oci-push"),
    st.just("distribution"),
    st.lists(st.builds(Compared, FIGURES, VALUES, VALUES), max_size=4).map(tuple),
    st.lists(st.tuples(st.text(max_size=9), st.text(max_size=20)), max_size=3).map(tuple),
    LINES.map(tuple),
    st.sampled_from(["", "2 cores"]),
)


def outcome() -> Outcome:
    cpu = Compared(Figure("CPU per request", "us"), (1.0, 3.0, 2.0), (8.0, 8.0, 9.0))
    rate = Compared(Figure("rate of GET /v2/", "1/s", "higher"), (5.0,), ())
    return Outcome("oci-small", "distribution", (cpu, rate), (("machine", "fast"),), ("quiet",))


def test_the_list(tmp_path: Path) -> None:
    records.write(outcome(), tmp_path / "small.json")
    cpu = {"figure": "CPU per request", "unit": "us", "ours": 2.0, "theirs": 8.0, "ratio": 0.25, "better": "lower"}
    rate = {"figure": "rate of GET /v2/", "unit": "1/s", "ours": 5.0, "theirs": None, "ratio": None, "better": "higher"}
    assert json.loads((tmp_path / "small.json").read_text()) == [
        {"scenario": "oci-small", **cpu},
        {"scenario": "oci-small", **rate},
    ]


@given(OUTCOMES)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, outcome: Outcome) -> None:
    path = tmp_path_factory.mktemp("json") / "some.json"
    records.write(outcome, path)
    assert records.read(path) == [outcome]


def test_a_list_alone_gives_its_medians(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    records.write(outcome(), path)
    records.beside(path).unlink()
    (read,) = records.read(path)
    assert [(each.ours, each.theirs) for each in read.figures] == [((2.0,), (8.0,)), ((5.0,), ())]
    assert records.rows(read) == json.loads(path.read_text())


def test_the_peer_of_a_list_alone_is_in_the_name_of_its_file(tmp_path: Path) -> None:
    names = ["oci-small.json", "oci-small-floor.json", "tuesday.json"]
    for name in names:
        records.write(outcome(), tmp_path / name)
        records.beside(tmp_path / name).unlink()
    assert [each.peer for name in names for each in records.read(tmp_path / name)] == ["peer", "floor", "tuesday"]


def test_rounds_are_read_with_their_list_only(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    records.write(outcome(), path)
    assert records.read(records.beside(path)) == []


def test_rounds_of_an_older_run_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "oci-small-distribution.json"
    records.write(outcome(), path)
    listed = json.loads(path.read_text())
    listed[0]["ours"] = 4.0
    path.write_text(json.dumps(listed))
    (read,) = records.read(path)
    assert (read.peer, read.figures[0].ours, read.about) == ("distribution", (4.0,), ())


@pytest.mark.parametrize("text", ["", "{}", '[{"scenario": "x"}]', '[{"figure": "speed"}]', "[1]"])
def test_what_is_no_record(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    if text == "{}":
        assert records.read(path) == []
        return
    with pytest.raises(CannotMeasure, match=r"other\.json holds no figures"):
        records.read(path)


def test_rounds_of_a_run_that_told_no_variant(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    records.write(outcome(), path)
    rounds = json.loads(records.beside(path).read_text())
    del rounds["variant"]
    records.beside(path).write_text(json.dumps(rounds))
    assert records.read(path) == [outcome()]


def test_a_look_whether_it_can_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    link, target = tmp_path / "small.json", tmp_path / "elsewhere.json"
    link.symlink_to(target)
    records.check(link)
    assert link.is_symlink()
    assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["small.json"]
