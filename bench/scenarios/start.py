"""``start``: from exec to the first answer."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.accounts import Tree
from bench.errors import CannotMeasure
from bench.figures import Figure
from bench.peers import NGINX, REGISTRIES
from bench.running import first_status, program, scratch
from bench.scenario import Round, Run, Scenario, Side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.server import Peer, Server


class Start(Scenario):
    """The same command again and again on the same data, and once a round on none."""

    name = "start"
    about = "exec to the first 200, with a token, on data that is there; and to the first answer, on none"
    goal = "at most 300 ms"
    figures = (
        Figure("wall from exec to the first 200", "ms"),
        Figure("wall from exec to the first answer, without data", "ms"),
        Figure("CPU from exec to the first 200", "ms"),
        Figure("memory after the first 200", "MiB"),
    )
    peers = (*REGISTRIES, NGINX)
    moves_much = True

    @contextmanager
    def open(self, peer: Peer, run: Run) -> Iterator[Side]:
        """Start it once, for its data and a token, and end it again; rounds start it anew."""
        folder = run.folder / peer.name
        folder.mkdir()
        with peer.start(folder, run.workers) as server:
            if server.launch is None:
                raise CannotMeasure(f"{peer.name} is not ours to start")
        yield Side(peer.name, lambda number: self._round(peer, server, run), server)

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`; there is nothing to be filled."""

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`; one start on data that is there."""
        assert server.launch is not None
        fields = {} if server.authorization is None else {"Authorization": server.authorization}
        began = time.perf_counter()
        with program(server.launch.command, server.launch.log, environment=server.launch.environment) as process:
            status = first_status(server.port, process, server.launch.log, fields)
            wall = time.perf_counter() - began
            tree = Tree(process.pid)
            cpu, memory = tree.cpu(), tree.pss()
        if status != 200:
            raise CannotMeasure(f"{server.name} answers {status} after its start")
        values = {
            "wall from exec to the first 200": wall * 1e3,
            "CPU from exec to the first 200": cpu * 1e3,
            "memory after the first 200": memory / 2**20,
        }
        return Round(values)

    def _round(self, peer: Peer, server: Server, run: Run) -> Round:
        values = dict(self.measure(server, run, 0).values)
        with scratch() as folder, peer.start(folder, run.workers) as fresh:
            values["wall from exec to the first answer, without data"] = fresh.start_seconds * 1e3
        return Round(values)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        return "GET /v2/ on a new connection each millisecond until one is answered; files are in the page cache"
