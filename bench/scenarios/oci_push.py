"""``oci-push``: an image of 1 GiB, as docker pushes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Figure
from bench.floors.alone import hash_seconds, write_seconds
from bench.image import image, push
from bench.measure import PEAKS, measuring, peaks
from bench.peers import REGISTRIES
from bench.peers.floor import SINK
from bench.scenario import Round, Run, Scenario

if TYPE_CHECKING:
    from bench.image import Image
    from bench.server import Server

TOTAL_BYTES = 1 << 30
LAYERS = 16
CONNECTIONS = 5
"""Layers at a time; docker's max-concurrent-uploads."""
WARM_PART = 8
"""What part of a round's bytes warms a server."""
LEAST_LAYER = 64 * 1024


class Push(Scenario):
    """Sixteen layers on five connections, each with HEAD, POST, PATCH and PUT, then the manifest."""

    name = "oci-push"
    about = "1 GiB in 16 layers, fsynced: wall and CPU of a push"
    goal = "3 times faster than distribution, within 1.3 times of floor"
    figures = (
        Figure("wall per push", "s"),
        Figure("CPU per GiB pushed", "s"),
        Figure("rate of pushing", "MiB/s", "higher"),
        *PEAKS,
    )
    peers = (*REGISTRIES, SINK)
    moves_much = True

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        push(server, [image("warm", LAYERS, _layer_bytes(run) // WARM_PART)], CONNECTIONS)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        pushed = image(f"push-{number}", LAYERS, _layer_bytes(run))
        total = sum(layer.size for layer in pushed.layers)
        with measuring(server.tree) as usage:
            told = push(server, [pushed], CONNECTIONS)
        values = {
            "wall per push": told.wall,
            "CPU per GiB pushed": usage.cpu / total * 2**30,
            "rate of pushing": total / told.wall / 2**20,
            **peaks(usage),
        }
        return Round(values, told.cpu, usage.cpu, _steps(server, run, pushed))

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        size = _layer_bytes(run) * LAYERS / 2**20
        return (
            f"a lean client of the harness's own (epoll, sendfile), {size:.0f} MiB in {LAYERS} layers of new bytes "
            f"each round, {CONNECTIONS} connections; HEAD, POST, PATCH with a Content-Length, PUT, then the manifest"
        )


def _steps(server: Server, run: Run, pushed: Image) -> dict[str, float]:
    """Beside the floor: what its steps take one by one."""
    if server.kind != "sink":
        return {}
    return {
        "sha256 of the same bytes alone, in s": hash_seconds(pushed.layers),
        "write and fsync of the same bytes alone, in s": write_seconds(pushed.layers, run.folder),
    }


def _layer_bytes(run: Run) -> int:
    return run.scaled(TOTAL_BYTES // LAYERS, LEAST_LAYER)
