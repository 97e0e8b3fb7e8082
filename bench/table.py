"""The one table that a run prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Compared, Outcome

NOTHING = "-"


def render(outcome: Outcome) -> str:
    """The table as text that ends with a line break: figures, then notes, then machine, versions and settings."""
    head = ("figure", "unit", "", "minimum", "median", "maximum", "ratio", "so ours is")
    rows: list[tuple[str, ...]] = []
    for each in outcome.figures:
        rows.extend(_rows(each, outcome.peer))
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [f"{outcome.scenario}: enseada and {outcome.beside}", "", _line(head, widths)]
    lines.append(_line(["-" * width for width in widths], widths))
    lines.extend(_line(row, widths) for row in rows)
    lines += ["", "ratio: the median of ours divided by the median of theirs"]
    lines.extend(f"note: {note}" for note in outcome.notes)
    lines.extend(f"{name}: {text}" for name, text in outcome.about)
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A number with three significant digits, and never in the notation with an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = next(places for places in range(12) if abs(value) * 10**places >= 100 or places == 11)
    return f"{value:.{digits}f}"


def _rows(each: Compared, peer: str) -> list[tuple[str, ...]]:
    ratio = each.ratio
    shown = NOTHING if ratio is None else number(ratio)
    ours = (each.figure.name, each.figure.unit, "enseada", *_summary(each.ours), shown, each.verdict)
    return [ours, ("", "", peer, *_summary(each.theirs), "", "")]


def _summary(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return NOTHING, NOTHING, NOTHING
    summary = Summary.of(values)
    return number(summary.low), number(summary.median), number(summary.high)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    left = (0, 1, 2, 7)
    padded = (
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()
