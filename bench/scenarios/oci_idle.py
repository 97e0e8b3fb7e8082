"""``oci-idle``: what a connection costs on which nothing happens."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

from bench.accounts import socket_buffers
from bench.figures import Figure
from bench.load import program
from bench.measure import measuring
from bench.peers import NGINX, REGISTRIES
from bench.scenario import Round, Run, Scenario
from bench.server import header_lines

if TYPE_CHECKING:
    from bench.server import Server

CONNECTIONS = 10_000
FILES_A_CONNECTION = 2
"""As Enseada counts: a connection may want a file of its own."""
SPARE_FILES = 100
LEAST_CONNECTIONS = 50
WARM_CONNECTIONS = 50
IDLE_SECONDS = "1h"


class Idle(Scenario):
    """Ten thousand keep-alive connections that have each asked once."""

    name = "oci-idle"
    about = "10,000 idle keep-alive connections: memory each"
    goal = "at most 10 KiB a connection"
    figures = (
        Figure("memory per connection, PSS", "KiB"),
        Figure("memory per connection, PSS and socket buffers", "KiB"),
        Figure("memory with all of them, PSS", "MiB"),
        Figure("CPU per connection and its one request", "us"),
    )
    peers = (*REGISTRIES, NGINX)
    moves_much = True
    fresh = True
    options = ("--set", "limits.connections=20000", "--set", f"limits.idle_timeout={IDLE_SECONDS}")

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        with program.holding("idle", _orders(server, WARM_CONNECTIONS)) as load:
            load.end()

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        count = _count(run)
        before, buffers = server.tree.pss(), socket_buffers()
        with measuring(server.tree, memory=False) as usage, program.holding("idle", _orders(server, count)) as load:
            with_all = server.tree.pss()
            grown = max(0, socket_buffers() - buffers)
            told = load.end()
        values = {
            "memory per connection, PSS": (with_all - before) / count / 1024,
            "memory per connection, PSS and socket buffers": (with_all - before + grown) / count / 1024,
            "memory with all of them, PSS": with_all / 2**20,
            "CPU per connection and its one request": usage.cpu / count * 1e6,
        }
        return Round(values, told.cpu, usage.cpu)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        return (
            f"a lean client of the harness's own (epoll), {_count(run):,} connections (as far as the limit of open "
            f"files goes), each with one GET /v2/ and then nothing; looked at when all are open, and all must still be "
            f"open after; a fresh server each round, for memory once used is not always given back"
        )


def _count(run: Run) -> int:
    """As many as are wanted, or as the limit of open files lets a server have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = (most - SPARE_FILES) // FILES_A_CONNECTION
    return min(run.scaled(CONNECTIONS, LEAST_CONNECTIONS), max(LEAST_CONNECTIONS, possible))


def _orders(server: Server, count: int) -> dict[str, object]:
    return {"port": server.port, "fields": header_lines(server), "connections": count}
