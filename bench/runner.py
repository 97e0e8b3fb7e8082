"""Runs a scenario: both sides up at one time, their rounds in turn, and everything ended after.

One rule: A B A B. What else happens on the machine then hits both sides alike.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench import machine, peers
from bench.figures import Outcome, compare
from bench.peers.enseada import Enseada
from bench.running import scratch
from bench.scenario import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.scenario import Round, Scenario, Side
    from bench.server import Peer


def run(
    scenario: Scenario,
    peer: Peer | None,
    *,
    rounds: int = 3,
    workers: int = 1,
    scale: float = 1.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Run ``scenario``; ``peer`` None: beside the floor. ``tell`` gets a line now and then about how far it is.

    Raises CannotMeasure. Interrupted: what was started is ended, and the data is removed.
    """
    busy = machine.busy()
    with scratch() as folder, ExitStack() as stack:
        settings = Run(folder, rounds, workers, scale)
        sides: list[Side] = []
        for each in (Enseada(), peer):
            tell(f"starting and warming {each.name if each else peers.FLOOR}")
            opened = scenario.open_floor(settings) if each is None else scenario.open(each, settings)
            sides.append(stack.enter_context(opened))
        measured: tuple[list[Round], list[Round]] = ([], [])
        for number in range(1, rounds + 1):
            for side, into in zip(sides, measured, strict=True):
                tell(f"round {number} of {rounds}: {side.name}")
                into.append(side.measure(number))
    figures = compare(scenario.figures, *([each.values for each in rounds] for rounds in measured))
    ours, theirs = sides
    about = [
        ("machine", f"{machine.describe()}; {busy}"),
        ("versions", f"{ours.version}; {theirs.version}"),
        (ours.name, ours.settings),
        (theirs.name, theirs.settings),
        ("load", scenario.settings(settings)),
        ("rounds", f"{rounds}, in turn; {workers} core{'s' * (workers > 1)} for each side; scale {scale:g}"),
    ]
    notes = [_share(side, given) for side, given in zip(sides, measured, strict=True)]
    notes += [note for side in sides for note in side.notes]
    return Outcome(scenario.name, theirs.name, figures, tuple(about), tuple(note for note in notes if note))


def _share(side: Side, given: Sequence[Round]) -> str:
    """The load's own part of the CPU, in a sentence; nothing where there was no load."""
    load, server = sum(each.load_cpu for each in given), sum(each.server_cpu for each in given)
    if not load:
        return ""
    return (
        f"beside {side.name} the load took {load / len(given):.2f} s of CPU a round itself, "
        f"{load / (load + server):.0%} of what both took"
    )
