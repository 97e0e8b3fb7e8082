"""``workers``: what a second worker brings on a second core, and how long writes of documents wait for one another."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.figures import Figure, percentile
from bench.floors import spin
from bench.image import MANIFEST_TYPE, Image, check_manifest, hold, image, manifest_path, push
from bench.load import program, small
from bench.measure import PEAKS, Usage, measuring, peaks
from bench.peers import REGISTRIES
from bench.peers.enseada import Enseada
from bench.scenario import Round, Run, Scenario, Side
from bench.scenarios.oci_small import CONNECTIONS, SECONDS, WARM_SECONDS, requests_of, small_image
from bench.server import header_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.server import Peer, Server

KINDS = ("GET /v2/", "GET manifest by tag")
LAYERS = 16
LAYER_BYTES = 64 << 20
LEAST_LAYER = 64 * 1024
PUSH_CONNECTIONS = 5
MANY = 4
"""Workers whose writes must wait for each other."""
WRITERS = 32
WRITE_SECONDS = 5.0


class Workers(Scenario):
    """Two workers beside one: the same small answers, the same pushes; and four workers that all write."""

    name = "workers"
    about = "2 workers beside 1: small answers and pushes; longest wait for a document write with 4 workers (beside 1)"
    goal = "1.7 times the rate of one worker; no write waits longer than 500 ms"
    figures = (
        *(Figure(f"rate of {kind}", "1/s", "higher") for kind in KINDS),
        *(Figure(f"CPU per {kind}", "us") for kind in KINDS),
        Figure("rate of pushing", "MiB/s", "higher"),
        Figure("CPU per GiB pushed", "s"),
        Figure("wall of a document write, the longest", "ms"),
        Figure("wall of a document write, p50", "ms"),
        Figure("rate of document writes", "1/s", "higher"),
        *PEAKS,
    )
    peers = (Enseada(name="one-worker", workers=1), *REGISTRIES)
    moves_much = True
    workers = 2

    @contextmanager
    def open(self, peer: Peer, run: Run) -> Iterator[Side]:
        """Start two servers: one for answers and pushes, and one with many workers that write. Raises CannotMeasure."""
        folder = run.folder / f"{peer.name}-writing"
        folder.mkdir()
        with super().open(peer, run) as side, peer.start(folder, MANY) as writing:
            hold(writing, [small_image()])
            measure = side.measure

            def both(number: int) -> Round:
                first, second, gain = measure(number), _write(writing, run, number), spin.gain(run.workers)
                return Round(
                    {**first.values, **second.values},
                    first.load_cpu + second.load_cpu,
                    first.server_cpu + second.server_cpu,
                    {f"bare processes on {run.workers} cores at one time do so many times what one does": gain},
                )

            side.measure = both
            yield side

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        hold(server, [small_image()])
        check_manifest(server, small_image())
        for kind in KINDS:
            small.run(requests_of(kind, server), server.port, seconds=WARM_SECONDS, connections=CONNECTIONS)
        push(server, [_pushed("warm", run)], PUSH_CONNECTIONS)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        values = {}
        usages: list[Usage] = []
        load_cpu = server_cpu = 0.0
        for kind in KINDS:
            with measuring(server.tree) as usage:
                requests, seconds = requests_of(kind, server), SECONDS * run.scale
                told = small.run(requests, server.port, seconds=seconds, connections=CONNECTIONS)
            values[f"rate of {kind}"] = told.more["requests"] / told.wall
            values[f"CPU per {kind}"] = usage.cpu / told.more["requests"] * 1e6
            load_cpu += told.cpu
            server_cpu += usage.cpu
            usages.append(usage)
        pushed = _pushed(f"workers-{number}", run)
        total = sum(layer.size for layer in pushed.layers)
        with measuring(server.tree) as usage:
            told = push(server, [pushed], PUSH_CONNECTIONS)
        values["rate of pushing"] = total / told.wall / 2**20
        values["CPU per GiB pushed"] = usage.cpu / total * 2**30
        return Round({**values, **peaks(*usages, usage)}, load_cpu + told.cpu, server_cpu + usage.cpu)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        return (
            f"{small.wrk_version()}, {CONNECTIONS} keep-alive connections; pushes as in oci-push; {WRITERS} "
            f"connections that write one tag after the other for {_seconds(run):.0f} s, to a server of their own: "
            f"{MANY} workers, or one-worker again"
        )


def _write(server: Server, run: Run, number: int) -> Round:
    orders = {
        "port": server.port,
        "fields": header_lines(server, [("Content-Type", MANIFEST_TYPE)]),
        "connections": WRITERS,
        "rate": None,
        "method": "PUT",
        "target": manifest_path(f"written-{number}-{{unique}}"),
        "body": small_image().manifest.decode(),
    }
    with measuring(server.tree, memory=False) as usage, program.holding("pace", orders) as load:
        time.sleep(_seconds(run))
        told = load.end()
    waits = told.more["waits"]
    values = {
        "wall of a document write, the longest": max(waits) * 1e3,
        "wall of a document write, p50": percentile(waits, 0.5) * 1e3,
        "rate of document writes": len(waits) / told.wall,
    }
    return Round(values, told.cpu, usage.cpu)


def _pushed(label: str, run: Run) -> Image:
    return image(label, LAYERS, run.scaled(LAYER_BYTES, LEAST_LAYER))


def _seconds(run: Run) -> float:
    return max(1.0, WRITE_SECONDS * run.scale)
