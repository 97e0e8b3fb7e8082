"""A server under measurement, and how it is told to hold what a scenario wants to read from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.accounts import Tree

REPOSITORY = "bench/image"
"""The image that scenarios push and pull."""


@dataclass(slots=True)
class Server:
    """One that runs: where it listens, and which processes it is."""

    name: str
    version: str
    port: int
    tree: Tree
    settings: str
    """How it was started, in a sentence."""
    authorization: str | None
    """The Authorization field of a request that may pull from and push to `REPOSITORY`; None where all may."""
    data: Path | None = None
    """The folder in which it stores, where that is ours to look into."""
    files: Path | None = None
    """The folder whose files it serves by their path, where it is not a registry."""
    notes: list[str] = field(default_factory=list)
    """What must be known of this side to read its figures."""


class Peer(Protocol):
    """A kind of server: how it is started."""

    name: str

    def start(self, folder: Path, workers: int) -> AbstractContextManager[Server]:
        """Run it on a free loopback port with fresh data in ``folder`` while the block runs.

        ``workers``: how many cores it may use. Raises CannotMeasure.
        """


def header_lines(server: Server, more: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """The fields that every request to ``server`` has."""
    fields = [("Host", f"127.0.0.1:{server.port}"), *more]
    if server.authorization is not None:
        fields.append(("Authorization", server.authorization))
    return fields
