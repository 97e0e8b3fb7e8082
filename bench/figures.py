"""Figures: what was measured, its values round by round, and how two sides compare.

One rule: a figure's name begins with what it is (`KINDS`), and values are kept as they were measured; medians and
ratios are worked out only where they are shown.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS = ("CPU", "wall", "memory", "rate")
AGAIN = "again"
"""The name of the line about an outcome that is the command which measures it again."""
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that a scenario measures. Raises ValueError for a name that does not say what it is."""

    name: str
    unit: str
    better: Better = "lower"

    def __post_init__(self) -> None:
        if self.name.split(" ", 1)[0] not in KINDS:
            raise ValueError(f"a figure's name begins with one of {', '.join(KINDS)}, not as {self.name!r} does")


@dataclass(frozen=True, slots=True)
class Summary:
    """Minimum, median and maximum of some values."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Raises ValueError where there are no values."""
        if not values:
            raise ValueError("no values")
        return cls(min(values), statistics.median(values), max(values))


@dataclass(frozen=True, slots=True)
class Compared:
    """The values of one figure, a value a round, on both sides."""

    figure: Figure
    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    """Empty where there is nothing to compare with."""

    @property
    def ratio(self) -> float | None:
        """The median of ours divided by the median of theirs; None where that says nothing."""
        if not self.ours or not self.theirs:
            return None
        theirs = statistics.median(self.theirs)
        return statistics.median(self.ours) / theirs if theirs else None

    @property
    def verdict(self) -> str:
        """The ratio in words, as a table's last column: ``5.1 times less``."""
        ratio = self.ratio
        if ratio is None or ratio <= 0:
            return ""
        if ratio < 1:
            return f"{_times(1 / ratio)} times less"
        return f"{_times(ratio)} times more" if ratio > 1 else "the same"


def _times(factor: float) -> str:
    return f"{factor:.2f}" if factor < 2 else f"{factor:.1f}" if factor < 20 else f"{factor:.0f}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a scenario gave."""

    scenario: str
    peer: str
    figures: tuple[Compared, ...]
    about: tuple[tuple[str, str], ...]
    """The machine, the versions and the settings: a name and a sentence each."""
    notes: tuple[str, ...] = field(default=())
    """What must be known to read the figures, such as the load's own share."""
    variant: str = ""
    """How it was run, where it was not as the scenario is by itself: ``2 cores``."""

    @property
    def beside(self) -> str:
        """The peer, and the variant: what tells outcomes of one scenario apart."""
        return f"{self.peer}, {self.variant}" if self.variant else self.peer


def compare(
    figures: Sequence[Figure], ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]
) -> tuple[Compared, ...]:
    """The rounds' values by figure, in the order of ``figures``; those that neither side gave are left out."""

    def values(rounds: Sequence[Mapping[str, float]], name: str) -> tuple[float, ...]:
        return tuple(each[name] for each in rounds if name in each)

    found = (Compared(each, values(ours, each.name), values(theirs, each.name)) for each in figures)
    return tuple(each for each in found if each.ours or each.theirs)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of ``values`` that at least ``share`` of them do not exceed. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
