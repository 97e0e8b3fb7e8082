"""Runs a scenario: both sides up at one time, their rounds in turn, and everything ended after.

One rule: A B A B. What else happens on the machine then hits both sides alike.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import machine, memory
from bench.errors import CannotMeasure
from bench.figures import AGAIN, Outcome, compare
from bench.measure import PEAKS
from bench.peers.enseada import Enseada
from bench.running import scratch
from bench.scenario import Run
from bench.table import number as shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.figures import Figure
    from bench.scenario import Round, Scenario, Side
    from bench.server import Peer, Server

FULL_SCALE = 1.0
"""Below it figures say little, and nothing is done that takes long."""
SHARED_BUFFERS = (
    "memory: PSS is the server's alone; socket buffers are counted by the kernel for the whole machine, so that the "
    "load's are among them, and those of anybody else"
)


def run(
    scenario: Scenario,
    peer: Peer,
    *,
    rounds: int = 3,
    workers: int = 1,
    scale: float = 1.0,
    command: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run ``scenario`` beside ``peer``. ``tell`` gets a line now and then about how far it is.

    ``command``: what measures the same again, for the outcome to tell.

    Raises CannotMeasure. Interrupted: what was started is ended, and the data is removed.
    """
    ours = Enseada(scenario.options)
    if peer.name == ours.name:
        raise CannotMeasure(f"a peer needs another name than {ours.name}")
    busy = machine.busy()
    measured: tuple[list[Round], list[Round]] = ([], [])
    with scratch() as folder, ExitStack() as stack:
        settings = Run(folder, rounds, workers, scale)
        described, notes = machine.describe(folder), machine.caveats(folder)
        full = scenario.moves_much and scale >= FULL_SCALE and memory.is_taken_back()
        fill = stack.enter_context(memory.cache(folder)) if full else lambda: None
        sides: list[Side] = []
        for each in (ours, peer):
            tell(f"starting and warming {each.name}")
            sides.append(stack.enter_context(scenario.open(each, settings)))
        for number in range(1, rounds + 1):
            for side, into in zip(sides, measured, strict=True):
                tell(f"round {number} of {rounds}: {side.name}")
                fill()
                into.append(side.measure(number))
    figures = compare(scenario.figures, *([each.values for each in rounds] for rounds in measured))
    our, their = map(_server, sides)
    filled = "; free memory filled with cache before each round" if full else ""
    about = (
        ("machine", f"{described}; {busy}{filled}"),
        ("versions", f"{our.version}; {their.version}"),
        (our.name, our.settings),
        (their.name, their.settings),
        ("goal", scenario.goal),
        ("load", scenario.settings(settings)),
        ("rounds", f"{rounds}, in turn; {_cores(workers)} for each side; scale {scale:g}"),
        *([(AGAIN, command)] if command else []),
    )
    notes += [SHARED_BUFFERS] if any(_has_buffers(each.figure) for each in figures) else []
    notes += [note for side, given in zip(sides, measured, strict=True) for note in _notes(side, given)]
    variant = "" if workers == scenario.workers else _cores(workers)
    return Outcome(scenario.name, their.name, figures, about, tuple(notes), variant)


def _cores(count: int) -> str:
    return f"{count} core{'s' * (count > 1)}"


def _has_buffers(figure: Figure) -> bool:
    return figure == PEAKS[0] or "socket buffers" in figure.name


def _server(side: Side) -> Server:
    if side.server is None:
        raise CannotMeasure(f"{side.name} was never started")
    return side.server


def _notes(side: Side, given: Sequence[Round]) -> Iterator[str]:
    """The load's own part of the CPU, and what was measured beside, a sentence each."""
    load, server = sum(each.load_cpu for each in given), sum(each.server_cpu for each in given)
    if load:
        yield (
            f"{side.name}: the load itself took {shown(load / len(given))} s of CPU a round, "
            f"{load / (load + server):.0%} of what both took"
        )
    for phrase in dict.fromkeys(phrase for each in given for phrase in each.asides):
        values = [each.asides[phrase] for each in given if phrase in each.asides]
        yield f"{side.name}: {phrase}: {shown(statistics.median(values))} (median)"
    yield from _server(side).notes
