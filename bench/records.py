"""What a run leaves in a JSON file, for programs that judge and for the report.

One rule: the file itself is the list that everybody reads, seven keys a figure and medians only; what else the report
wants (each round's value, the machine, the settings) is in a file beside it, and the list is whole without it.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from bench.errors import CannotMeasure
from bench.figures import Compared, Figure, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BESIDE = ".rounds.json"
"""What the name of the second file ends with, in place of ``.json``."""


def rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The list: a figure each, with the medians of both sides; None where a side has no value."""
    return [
        {
            "scenario": outcome.scenario,
            "figure": each.figure.name,
            "unit": each.figure.unit,
            "ours": _median(each.ours),
            "theirs": _median(each.theirs),
            "ratio": each.ratio,
            "better": each.figure.better,
        }
        for each in outcome.figures
    ]


def check(path: Path) -> None:
    """Whether `write` could write to ``path``, of which nothing is left that was not there. Raises OSError."""
    for each in (path.resolve(), beside(path).resolve()):
        there = each.exists()
        each.open("ab").close()
        if not there:
            each.unlink()


def write(outcome: Outcome, path: Path) -> None:
    """Write the list to ``path``, and the rounds beside it. Raises OSError."""
    _dump(rows(outcome), path)
    rounds = {
        "scenario": outcome.scenario,
        "peer": outcome.peer,
        "variant": outcome.variant,
        "figures": [
            {
                "figure": each.figure.name,
                "unit": each.figure.unit,
                "better": each.figure.better,
                "ours": list(each.ours),
                "theirs": list(each.theirs),
            }
            for each in outcome.figures
        ],
        "about": [list(pair) for pair in outcome.about],
        "notes": list(outcome.notes),
    }
    _dump(rounds, beside(path))


def read(path: Path) -> list[Outcome]:
    """The outcomes in a file that `write` wrote; a list alone gives its medians. Raises CannotMeasure.

    Rounds are believed only where their medians are those of the list, which may be newer. A file of rounds gives
    nothing: its figures come with the list.
    """
    if path.name.endswith(BESIDE):
        return []
    try:
        listed = json.loads(path.read_text())
        if beside(path).exists():
            outcome = _outcome(json.loads(beside(path).read_text()))
            if rows(outcome) == listed:
                return [outcome]
        return _from_rows(listed, path.name.removesuffix(".json"))
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise CannotMeasure(f"{path} holds no figures of a benchmark: {reason!r}") from None


def beside(path: Path) -> Path:
    """The second file's name."""
    return path.with_name(path.name.removesuffix(".json") + BESIDE)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _dump(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _outcome(data: Any) -> Outcome:
    figures = tuple(
        Compared(
            Figure(each["figure"], each["unit"], each["better"]),
            tuple(map(float, each["ours"])),
            tuple(map(float, each["theirs"])),
        )
        for each in data["figures"]
    )
    about = tuple((str(name), str(text)) for name, text in data["about"])
    notes = tuple(map(str, data["notes"]))
    return Outcome(data["scenario"], data["peer"], figures, about, notes, str(data.get("variant", "")))


def _from_rows(data: Any, name: str) -> list[Outcome]:
    """``name``: of the file, which is all that may tell of the peer: ``oci-push-floor``."""
    found: dict[str, list[Compared]] = {}
    for each in data:
        ours, theirs = (() if each[side] is None else (float(each[side]),) for side in ("ours", "theirs"))
        figure = Figure(each["figure"], each["unit"], each["better"])
        found.setdefault(each["scenario"], []).append(Compared(figure, ours, theirs))
    return [
        Outcome(scenario, name.removeprefix(scenario).strip("-") or "peer", tuple(figures), ())
        for scenario, figures in found.items()
    ]
