"""docs/benchmarks.md, from what runs have left.

One rule: what stands between the two marks is made here, from the figures alone, and again the same from the same
figures; what people write around it, such as where the time goes, is left as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench import plots
from bench.errors import CannotMeasure
from bench.figures import AGAIN, Summary
from bench.table import NOTHING, number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bench.figures import Compared, Outcome

BEGIN = "<!-- made by python -m bench report: begin -->"
END = "<!-- made by python -m bench report: end -->"
INTRODUCTION = """# Benchmarks

Figures from `python -m bench run`, taken with both sides on one machine, in turn, in the same run. A ratio is the
median of ours divided by the median of theirs.

## How it is measured

`python -m bench list` names the scenarios. A run needs Linux, the extra `bench`, and by package name what a scenario
uses: `docker-registry`, `nginx-light`, `wrk`, `hey`, `strace`, and Go for the peer `distribution3`.

- Both sides are started with fresh data on loopback, hold the same bytes, are warmed, and are measured in turn. Both
  check a bearer token and decide what it allows at each request, and write one line or more about it into a file; nginx
  and `floor` check nothing.
- CPU is user and system time of the whole tree of processes, of those that ended too. Memory is the peak of PSS, looked
  at ten times a second, with what the kernel's socket buffers grew by (those of the whole machine: the load's are
  among them, on both sides alike), and PSS alone beside it.
- Memory that a virtual machine has freed may be taken back by its host, and then costs more CPU when it is touched
  again than to push as many bytes, and whoever comes first pays. There, free memory is filled with cache before each
  round, as on a machine that has run for a while, in the scenarios whose line about the machine says so.
- The load runs on the same machine, in processes of its own, and what it takes itself is told under each table. Bodies
  leave by sendfile; bytes that are pushed are new in each round; bytes that are downloaded are thrown away in the
  kernel, after they were downloaded once and their digests were right.
- Both registries fsync what is pushed: distribution each file when it is closed, but no folder, so that a crash may
  lose the name of a file; Enseada the file, its folder and the documents. None of it is turned off.
- `floor` is what the machine needs for the same bytes: one thread that receives, hashes, writes and fsyncs them, or
  sends them by sendfile, and does nothing else.

"""
FOLDER = "benchmarks"
"""Of the plots, beside the page."""
PLOT = re.compile(rf"^!\[[^]]*\]\({FOLDER}/([a-z0-9-]+)\.svg\)$", re.MULTILINE)
"""As a section shows its own."""


def write(outcomes: Sequence[Outcome], page: Path) -> list[Path]:
    """Write the page and its plots; the paths of all that was written. Raises CannotMeasure, OSError.

    Plots that the page had before, and has no more, are removed; nothing is touched where the page has no place.
    """
    if not outcomes:
        raise CannotMeasure("there is nothing to report")
    known: dict[str, Outcome] = {}
    for each in outcomes:
        if _slug(each) in known:
            raise CannotMeasure(f"{each.scenario} beside {each.beside} is there twice")
        known[_slug(each)] = each
    made = "\n".join(line for slug, outcome in known.items() for line in _section(slug, outcome))
    old = page.read_text() if page.exists() else f"{INTRODUCTION}{BEGIN}\n{END}\n"
    text = replace(old, made)
    folder = page.parent / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    written = [page]
    for slug, outcome in known.items():
        written.append(folder / f"{slug}.svg")
        written[-1].write_bytes(plots.draw(outcome))
    page.write_text(text)
    for slug in PLOT.findall(old.partition(BEGIN)[2].partition(END)[0]):
        if slug not in known:
            (folder / f"{slug}.svg").unlink(missing_ok=True)
    return written


def replace(text: str, made: str) -> str:
    """``text`` with ``made`` between the marks. Raises CannotMeasure where it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CannotMeasure(f"the page has no place for the figures: the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def _slug(outcome: Outcome) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{outcome.scenario} {outcome.beside}".lower()).strip("-")


def _section(slug: str, outcome: Outcome) -> Iterator[str]:
    yield f"## {outcome.scenario}, beside {outcome.beside}"
    yield ""
    yield f"![{outcome.scenario}, enseada and {outcome.beside}]({FOLDER}/{slug}.svg)"
    yield ""
    yield f"| figure | unit | enseada | {outcome.peer} | ratio | so ours is |"
    yield "|---|---|---|---|---|---|"
    for each in outcome.figures:
        yield _row(each)
    yield ""
    yield "Medians, with minimum and maximum."
    yield ""
    for name, text in outcome.about:
        yield f"- {name}: `{text}`" if name == AGAIN else f"- {name}: {text}"
    for note in outcome.notes:
        yield f"- {note}"
    yield ""


def _row(each: Compared) -> str:
    ratio = NOTHING if each.ratio is None else number(each.ratio)
    cells = (each.figure.name, each.figure.unit, _range(each.ours), _range(each.theirs), ratio, each.verdict or NOTHING)
    return f"| {' | '.join(cells)} |"


def _range(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    summary = Summary.of(values)
    return f"{number(summary.median)} ({number(summary.low)} to {number(summary.high)})"
