"""``oci-slow-uploads``: what an upload costs that comes slowly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Figure
from bench.load import program
from bench.measure import PEAKS, measuring, peaks
from bench.peers import REGISTRIES
from bench.scenario import Round, Run, Scenario
from bench.server import REPOSITORY, header_lines

if TYPE_CHECKING:
    from bench.load.program import Told
    from bench.server import Server

UPLOADS = 1000
RATE = 20 * 1024
"""Bytes a second of each."""
INTERVAL = 0.2
"""Seconds between two pieces."""
PIECE = round(RATE * INTERVAL)
"""Bytes."""
SECONDS = 30.0
LEAST_SECONDS = 2.0
RAMP = 4.0
"""Seconds in which they begin."""
WARM_UPLOADS = 20


class SlowUploads(Scenario):
    """A thousand PATCHes at one time, each 20 KiB a second."""

    name = "oci-slow-uploads"
    about = "1,000 uploads at 20 KiB/s: memory per upload, CPU"
    goal = "at most 32 KiB an upload, 10 times less than distribution"
    figures = (
        Figure("memory per upload, PSS", "KiB"),
        Figure("memory per upload, PSS and socket buffers", "KiB"),
        *PEAKS,
        Figure("CPU per GiB received", "s"),
        Figure("rate of receiving", "MiB/s", "higher"),
        Figure("CPU share of a core while they run", "%"),
    )
    peers = REGISTRIES
    moves_much = True
    fresh = True

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        _upload(server, run, WARM_UPLOADS, LEAST_SECONDS)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        count, seconds = _count(run), _seconds(run)
        total = count * _pieces(seconds) * PIECE
        with measuring(server.tree) as usage:
            told = _upload(server, run, count, seconds)
        values = {
            "memory per upload, PSS": (usage.pss - usage.memory_before) / count / 1024,
            "memory per upload, PSS and socket buffers": (usage.memory - usage.memory_before) / count / 1024,
            **peaks(usage),
            "CPU per GiB received": usage.cpu / total * 2**30,
            "rate of receiving": total / told.wall / 2**20,
            "CPU share of a core while they run": usage.cpu / told.wall * 100,
        }
        return Round(values, told.cpu, usage.cpu)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        return (
            f"a lean client of the harness's own (epoll), {_count(run)} uploads begun within {RAMP * run.scale:.1f} s, "
            f"each {RATE // 1024} KiB/s for {_seconds(run):.0f} s in pieces of {RATE * INTERVAL / 1024:.0f} KiB, one "
            f"PATCH with a Content-Length each; per upload: the peak less what the warm server had before, "
            f"of a fresh server each round, for memory once used is not always given back"
        )


def _count(run: Run) -> int:
    return run.scaled(UPLOADS, 10)


def _seconds(run: Run) -> float:
    return max(LEAST_SECONDS, SECONDS * run.scale)


def _pieces(seconds: float) -> int:
    return round(seconds / INTERVAL)


def _upload(server: Server, run: Run, count: int, seconds: float) -> Told:
    orders = {
        "port": server.port,
        "fields": header_lines(server),
        "repository": REPOSITORY,
        "connections": count,
        "piece": PIECE,
        "interval": INTERVAL,
        "pieces": _pieces(seconds),
        "ramp": RAMP * run.scale,
    }
    return program.run("slow", orders)
