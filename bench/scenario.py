"""What a scenario is, and what it is given.

One rule: a scenario opens a side (a server that holds what it must, warm) and measures it a round at a time; what
differs between sides is in the peers, and both get the same.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bench.errors import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bench.figures import Figure
    from bench.server import Peer, Server


@dataclass(frozen=True, slots=True)
class Run:
    """How a scenario is run."""

    folder: Path
    """A fresh one, for data of this run."""
    rounds: int = 3
    workers: int = 1
    """Cores that each side may use."""
    scale: float = 1.0
    """What sizes, counts and times are multiplied by; below 1 the figures say little, and the run is short."""

    def scaled(self, count: float, least: int = 1) -> int:
        """``count`` of something, to this run's scale."""
        return max(least, round(count * self.scale))


@dataclass(frozen=True, slots=True)
class Round:
    """What one round gave on one side."""

    values: Mapping[str, float]
    """By the figure's name."""
    load_cpu: float = 0.0
    """CPU seconds that the load took itself."""
    server_cpu: float = 0.0
    """CPU seconds that the server took meanwhile."""
    asides: Mapping[str, float] = field(default_factory=dict)
    """What was measured beside, to understand the figures: a value by a phrase that ends in its unit."""


@dataclass(slots=True)
class Side:
    """One side, ready to be measured."""

    name: str
    measure: Callable[[int], Round]
    """A round, counted from 1. Raises CannotMeasure."""
    server: Server | None = None
    """The one that was measured last, also after it has ended."""


class Scenario(ABC):
    """A scenario: its declaration, and how a side is opened and measured."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line."""
    goal: ClassVar[str]
    """What is to be reached; told, and never judged by."""
    figures: ClassVar[Sequence[Figure]]
    peers: ClassVar[Sequence[Peer]]
    """What it can be measured beside by name, the default first."""
    options: ClassVar[Sequence[str]] = ()
    """Flags that Enseada is started with."""
    workers: ClassVar[int] = 1
    """Cores for each side, where the command line does not say."""
    moves_much: ClassVar[bool] = False
    """A round takes so much memory, for files, connections or processes, that it weighs in the figures how memory is to
    be had: see `bench.memory`."""
    fresh: ClassVar[bool] = False
    """Each round has a server of its own, whose data is removed after it."""

    def peer(self, name: str | None) -> Peer:
        """The peer of that name, or the default. Raises CannotMeasure."""
        known = {each.name: each for each in self.peers}
        if name is None:
            return self.peers[0]
        if name in known:
            return known[name]
        raise CannotMeasure(f"{self.name} has no peer {name}: choose one of {', '.join(known)}")

    @contextmanager
    def open(self, peer: Peer, run: Run) -> Iterator[Side]:
        """Start a server, fill and warm it, and end it when the block ends. Raises CannotMeasure."""
        if self.fresh:
            side = Side(peer.name, lambda number: self._fresh(side, peer, run, number))
            yield side
            return
        folder = run.folder / peer.name
        folder.mkdir()
        with peer.start(folder, run.workers) as server:
            self.prepare(server, run)
            yield Side(peer.name, lambda number: self.measure(server, run, number), server)

    def _fresh(self, side: Side, peer: Peer, run: Run, number: int) -> Round:
        folder = run.folder / f"{peer.name}-{number}"
        folder.mkdir()
        try:
            with peer.start(folder, run.workers) as side.server:
                self.prepare(side.server, run)
                return self.measure(side.server, run, number)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @abstractmethod
    def prepare(self, server: Server, run: Run) -> None:
        """Fill and warm a server. Raises CannotMeasure."""

    @abstractmethod
    def measure(self, server: Server, run: Run, number: int) -> Round:
        """One round. Raises CannotMeasure."""

    @abstractmethod
    def settings(self, run: Run) -> str:
        """What the load does, in a sentence."""
