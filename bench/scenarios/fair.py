"""``fair``: how long a small request waits while the disk is busy and clients are slow."""

from __future__ import annotations

import math
import shutil
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from bench.accounts import PAGE_BYTES
from bench.errors import CannotMeasure
from bench.figures import Figure, percentile
from bench.image import MANIFEST_TYPE, Image, blob_path, check_manifest, hold, image, manifest_path, push
from bench.load import program
from bench.measure import PEAKS, measuring, peaks
from bench.peers import REGISTRIES
from bench.scenario import Round, Run, Scenario
from bench.server import header_lines

if TYPE_CHECKING:
    from bench.server import Server

PUSHES = 8
READERS = 64
READ_RATE = 16 * 1024
"""Bytes a second of each reader."""
PROBES = 100
"""Small requests a second."""
PROBE_CONNECTIONS = 32
"""Many, so that a request hardly ever waits for the answer to an earlier one."""
BLOB_BYTES = 32 << 20
"""Of what the readers hang on: more than they can take while it lasts."""
BEYOND = 1.1
"""How much more than the kernel's limit of dirty pages is pushed."""
QUIET_SECONDS = 5.0
"""In which only the small requests come."""
MOST_BYTES = 8 << 30
"""Where the limit is larger than the disk of a test machine should bear, so much is pushed, and the table says so."""
LEAST_LAYER = 1 << 20
LAYER_BYTES = 256 << 20
VMSTAT = Path("/proc/vmstat")


class Fair(Scenario):
    """A hundred small GETs a second, timed from when each was due, through pushes and slow readers."""

    name = "fair"
    about = "p99 of a small GET while 8 pushes write more than the kernel's dirty limit and 64 slow readers hang on"
    goal = "p99 at most 20 ms, and at most distribution's"
    figures = (
        Figure("wall of a small GET, p50", "ms"),
        Figure("wall of a small GET, p99", "ms"),
        Figure("wall of a small GET, the longest", "ms"),
        Figure("wall of a small GET, p99 without other load", "ms"),
        Figure("rate of pushing meanwhile", "MiB/s", "higher"),
        Figure("CPU per GiB pushed meanwhile", "s"),
        *PEAKS,
    )
    peers = REGISTRIES
    moves_much = True
    fresh = True

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        free = shutil.disk_usage(run.folder).free
        if free < 2 * _bytes(run):
            raise CannotMeasure(f"{_bytes(run) / 2**30:.1f} GiB are to be pushed, and {free / 2**30:.1f} GiB are free")
        hold(server, [_held(), image("warm", PUSHES, LEAST_LAYER)], PUSHES)
        check_manifest(server, _held())

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        with program.holding("pace", _probes(server)) as probes:
            time.sleep(max(1.0, QUIET_SECONDS * run.scale))
            quiet = probes.end().more["waits"]
        pushed = image(f"fair-{number}", _layers(run), _layer_bytes(run))
        total = sum(layer.size for layer in pushed.layers)
        readers = {
            "port": server.port,
            "fields": header_lines(server),
            "connections": READERS,
            "target": blob_path(_held().layers[0].digest),
            "rate": READ_RATE,
        }
        with (
            program.holding("slowread", readers) as reading,
            program.holding("pace", _probes(server)) as probes,
            measuring(server.tree) as usage,
        ):
            told = push(server, [pushed], PUSHES)
            probed = probes.end()
            read = reading.end()
        waits = probed.more["waits"]
        values = {
            "wall of a small GET, p50": percentile(waits, 0.5) * 1e3,
            "wall of a small GET, p99": percentile(waits, 0.99) * 1e3,
            "wall of a small GET, the longest": max(waits) * 1e3,
            "wall of a small GET, p99 without other load": percentile(quiet, 0.99) * 1e3,
            "rate of pushing meanwhile": total / told.wall / 2**20,
            "CPU per GiB pushed meanwhile": usage.cpu / total * 2**30,
            **peaks(usage),
        }
        asides = {"small GETs a round": float(len(waits))}
        return Round(values, told.cpu + probed.cpu + read.cpu, usage.cpu, asides)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        limit = dirty_limit() / 2**30
        return (
            f"lean clients of the harness's own (epoll): {PROBES} GETs of a manifest a second on {PROBE_CONNECTIONS} "
            f"connections, each timed from the moment it was due; {_bytes(run) / 2**30:.2f} GiB pushed on {PUSHES} "
            f"connections, while {limit:.2f} GiB may be dirty; {READERS} readers, {READ_RATE // 1024} KiB/s each"
        )


def dirty_limit(vmstat: Path = VMSTAT) -> int:
    """Bytes that may be dirty before the kernel makes writers wait, now. Raises CannotMeasure."""
    for line in vmstat.read_text().splitlines():
        name, _, pages = line.partition(" ")
        if name == "nr_dirty_threshold":
            return int(pages) * PAGE_BYTES
    raise CannotMeasure(f"{vmstat} does not tell how much may be dirty")


def _bytes(run: Run) -> int:
    return _layers(run) * _layer_bytes(run)


@cache
def _layers(run: Run) -> int:
    """Asked once a run: the limit changes with the memory that is free."""
    wanted = min(MOST_BYTES, dirty_limit() * BEYOND)
    return max(PUSHES, math.ceil(wanted / LAYER_BYTES))


def _layer_bytes(run: Run) -> int:
    return min(LAYER_BYTES, run.scaled(LAYER_BYTES, LEAST_LAYER))


def _held() -> Image:
    return image("held", 1, BLOB_BYTES)


def _probes(server: Server) -> dict[str, object]:
    return {
        "port": server.port,
        "fields": header_lines(server, [("Accept", MANIFEST_TYPE)]),
        "connections": PROBE_CONNECTIONS,
        "rate": PROBES,
        "method": "GET",
        "target": manifest_path(_held().tag),
        "body": "",
    }
