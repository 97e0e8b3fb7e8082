"""What a scenario is, and what it is given.

One rule: a scenario opens a side (a server with what it needs to hold, warm) and measures it a round at a time; it
never knows which side it has, and what differs between them is in the peers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from bench.errors import CannotMeasure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
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


@dataclass(slots=True)
class Side:
    """One side, ready to be measured."""

    name: str
    version: str
    settings: str
    measure: Callable[[int], Round]
    """A round, counted from 1. Raises CannotMeasure."""
    notes: list[str] = field(default_factory=list)


class Scenario(ABC):
    """A scenario: its declaration, and how a side is opened and measured."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line."""
    figures: ClassVar[Sequence[Figure]]
    peers: ClassVar[Sequence[str]] = ("distribution", "distribution3")
    """What it can be measured beside, the default first."""

    @contextmanager
    def open(self, peer: Peer, run: Run) -> Iterator[Side]:
        """Start a server, fill and warm it, and end it when the block ends. Raises CannotMeasure."""
        folder = run.folder / peer.name
        folder.mkdir()
        with peer.start(folder, run.workers) as server:
            self.prepare(server, run)
            side = Side(server.name, server.version, server.settings, lambda number: self.measure(server, run, number))
            side.notes = server.notes
            yield side

    def open_floor(self, run: Run) -> AbstractContextManager[Side]:
        """The same for the machine's own limit. Raises CannotMeasure where this scenario has none."""
        raise CannotMeasure(f"{self.name} has no floor")

    @abstractmethod
    def prepare(self, server: Server, run: Run) -> None:
        """Fill and warm a server. Raises CannotMeasure."""

    @abstractmethod
    def measure(self, server: Server, run: Run, number: int) -> Round:
        """One round. Raises CannotMeasure."""

    @abstractmethod
    def settings(self, run: Run) -> str:
        """What the load does, in a sentence."""
