"""A server under measurement, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.accounts import Tree

REPOSITORY = "bench/image"
"""The image that scenarios push and pull."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How the server's process was started; the same starts it again on the same data."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]
    log: Path


@dataclass(slots=True)
class Server:
    """One that runs: where it listens, and which processes it is."""

    name: str
    version: str
    port: int
    tree: Tree
    settings: str
    """How it was started, in a sentence."""
    authorization: str | None = None
    """The Authorization field of a request that may pull from and push to `REPOSITORY`; None where all may."""
    data: Path | None = None
    """The folder in which it stores, where that is ours to look into."""
    start_seconds: float = 0.0
    """From exec to its first answer."""
    kind: Literal["registry", "files", "sink"] = "registry"
    """``files``: it serves ``data`` by path. ``sink``: `bench.floors.sink`."""
    launch: Launch | None = None
    """None where it is not ours to start."""
    documents: Callable[[], int] | None = None
    """How many small documents it has written so far, or how many files of that kind it has; where that can be told."""
    notes: list[str] = field(default_factory=list)
    """What must be known of this side to read its figures."""


class Peer(Protocol):
    """A kind of server: how it is started."""

    @property
    def name(self) -> str:
        """As it is chosen by, and as the table calls it."""

    def start(self, folder: Path, workers: int) -> AbstractContextManager[Server]:
        """Run it on a free loopback port with fresh data in ``folder``, which is there, while the block runs.

        ``workers``: how many cores it may use. Raises CannotMeasure.
        """


def header_lines(server: Server, more: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The fields that every request to ``server`` has."""
    fields = [("Host", f"127.0.0.1:{server.port}"), *more]
    if server.authorization is not None:
        fields.append(("Authorization", server.authorization))
    return fields
