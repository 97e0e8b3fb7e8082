"""``oci-pull``: what a download costs, from the disk and from memory, for one client and for many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.coldness import make_cold
from bench.figures import Figure
from bench.image import Image, blob_path, hold, image
from bench.load import program
from bench.measure import PEAKS, Usage, measuring, peaks
from bench.peers import NGINX, REGISTRIES
from bench.peers.floor import SOURCE
from bench.scenario import Round, Run, Scenario
from bench.server import header_lines

if TYPE_CHECKING:
    from bench.load.program import Told
    from bench.server import Server

TOTAL_BYTES = 1 << 30
MANY = 64
LAYERS = MANY
"""A layer for each of many clients: what one reads from the disk, no other finds in memory."""
LEAST_LAYER = 1 << 20
KINDS = (("warm", 1), ("warm", MANY), ("cold", 1), ("cold", MANY))


def _words(clients: int) -> str:
    return f"{clients} client{'s' * (clients > 1)}"


class Pull(Scenario):
    """All layers by one client after another, and by 64 clients of which each takes another one."""

    name = "oci-pull"
    about = "1 GiB in 64 layers: CPU per GiB of downloads, cold and warm, 1 and 64 clients"
    goal = "2 times less CPU than distribution, at most 1.5 times nginx"
    figures = (
        *(Figure(f"CPU per GiB {state}, {_words(clients)}", "s") for state, clients in KINDS),
        *(Figure(f"rate {state}, {_words(clients)}", "MiB/s", "higher") for state, clients in KINDS),
        *PEAKS,
    )
    peers = (*REGISTRIES, NGINX, SOURCE)
    moves_much = True

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`. Here every download is checked for its digest."""
        hold(server, [_image(run)])
        _pull(server, _image(run), 1, check=True)
        _pull(server, _image(run), MANY, check=True)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        pulled = _image(run)
        values = {}
        usages: list[Usage] = []
        load_cpu = server_cpu = 0.0
        _pull(server, pulled, 1, check=False)  # what came between two rounds may have put it out of memory
        for state, clients in KINDS:
            if state == "cold":
                if server.data is None:
                    continue  # not ours to make cold
                make_cold(server.data)
            with measuring(server.tree) as usage:
                told = _pull(server, pulled, clients, check=False)
            total = sum(layer.size for layer in pulled.layers) / 2**30
            values[f"CPU per GiB {state}, {_words(clients)}"] = usage.cpu / total
            values[f"rate {state}, {_words(clients)}"] = total * 1024 / told.wall
            load_cpu += told.cpu
            server_cpu += usage.cpu
            usages.append(usage)
        return Round({**values, **peaks(*usages)}, load_cpu, server_cpu)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        size = _layer_bytes(run) / 2**20
        return (
            f"a lean client of the harness's own (epoll, bytes thrown away in the kernel), {LAYERS} different "
            f"layers of {size:g} MiB: one client takes them all, {MANY} take one each, so that none is taken "
            f"twice; cold: all were dropped from the page cache just before. All were downloaded once at the start and "
            f"their digests were right"
        )


def _image(run: Run) -> Image:
    return image("pull", LAYERS, _layer_bytes(run))


def _layer_bytes(run: Run) -> int:
    return run.scaled(TOTAL_BYTES // LAYERS, LEAST_LAYER)


def _pull(server: Server, pulled: Image, clients: int, *, check: bool) -> Told:
    orders = {
        "port": server.port,
        "fields": header_lines(server),
        "connections": clients,
        "check": check,
        "downloads": [{"target": blob_path(each.digest), "digest": each.digest} for each in pulled.layers],
    }
    return program.run("pull", orders)
