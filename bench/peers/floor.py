"""The floors as peers: started like servers, so that the same load can be put on them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from bench.accounts import Tree
from bench.running import free_port, program, wait_until_listening
from bench.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Floor:
    """One of the programs of `bench.floors`."""

    name = "floor"

    def __init__(self, module: Literal["sink", "source"], about: str) -> None:
        """``about``: what it does, in a few words."""
        self._module = module
        self._about = about

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`; it has one thread whatever ``workers`` says."""
        log, port, files = folder / "log", free_port(), folder / "files"
        files.mkdir(parents=True)
        with program([sys.executable, "-m", f"bench.floors.{self._module}", str(port), files], log) as process:
            wait_until_listening(port, process, log)
            yield Server(
                self.name,
                f"{self.name}: {self._about}",
                port,
                Tree(process.pid),
                f"{self._about}, in one thread, without any authentication",
                data=files,
                kind="sink" if self._module == "sink" else "files",
            )


SINK = Floor("sink", "receive, sha256, write and fsync alone")
SOURCE = Floor("source", "sendfile from bare epoll alone")
