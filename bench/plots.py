"""Plots of outcomes, as SVG.

One rule: the same figures give the same bytes: no date, no random ids, and text stays text, so that fonts do not
matter.
"""

from __future__ import annotations

import textwrap
from io import BytesIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from bench.figures import Summary
from bench.table import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bench.figures import Compared, Outcome

SETTINGS: Any = {
    "svg.hashsalt": "enseada",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: text is measured alike everywhere
    "font.size": 9.0,
}
WIDTH = 7.5
"""Inches."""
TOP = 0.45
EACH = 0.62
"""Inches a figure."""
OURS = "#1f6f8b"
THEIRS = "#b9b4a7"
NAME_CHARACTERS = 36
"""Of one line of a figure's name."""
LABEL = 0.02
"""Between a bar and its number, in widths of the axes."""


def draw(outcome: Outcome) -> bytes:
    """A pair of bars a figure: the medians, with a line from the minimum to the maximum."""
    shown = [each for each in outcome.figures if each.ours]
    height = TOP + EACH * len(shown)
    with mpl.rc_context(SETTINGS):
        canvas = Canvas(figsize=(WIDTH, height))
        FigureCanvasSVG(canvas)
        for place, each in enumerate(shown):
            bottom = height - TOP - EACH * (place + 1)
            axes = canvas.add_axes((0.5, (bottom + 0.1) / height, 0.36, (EACH - 0.16) / height))
            _pair(axes, each, outcome.peer)
        canvas.text(0.01, 1 - 0.3 / height, f"{outcome.scenario}: enseada and {outcome.beside}", weight="bold")
        sink = BytesIO()
        canvas.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    return sink.getvalue()


def _pair(axes: Axes, each: Compared, peer: str) -> None:
    sides: list[tuple[str, Sequence[float], str]] = [("enseada", each.ours, OURS), (peer, each.theirs, THEIRS)]
    sides = [side for side in sides if side[1]]
    largest = max(max(values) for _, values, _ in sides) or 1.0
    for row, (_, values, colour) in enumerate(sides):
        summary = Summary.of(values)
        axes.barh(row, summary.median, height=0.7, color=colour)
        axes.plot([summary.low, summary.high], [row, row], color="black", linewidth=0.8)
        axes.text(summary.high + largest * LABEL, row, f"{number(summary.median)} {each.figure.unit}", va="center")
    axes.set_xlim(0, largest)
    axes.set_ylim(len(sides) - 0.5, -0.5)
    axes.set_xticks([])
    axes.set_yticks(range(len(sides)), [name for name, _, _ in sides])
    axes.tick_params(length=0)
    for spine in ("top", "right", "bottom"):
        axes.spines[spine].set_visible(False)
    axes.text(
        -0.33, 0.5, textwrap.fill(each.figure.name, NAME_CHARACTERS), transform=axes.transAxes, ha="right", va="center"
    )
