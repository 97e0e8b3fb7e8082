"""``oci-small``: what a small answer costs, with a token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import CannotMeasure
from bench.figures import Figure
from bench.image import MANIFEST_TYPE, Image, check_manifest, hold, image, manifest_path
from bench.load import small
from bench.load.small import Requests
from bench.measure import PEAKS, Usage, measuring, peaks
from bench.peers import NGINX, REGISTRIES
from bench.running import get
from bench.scenario import Round, Run, Scenario
from bench.server import header_lines

if TYPE_CHECKING:
    from bench.server import Server

SECONDS = 3.0
"""Of each kind of request in a round."""
WARM_SECONDS = 1.0
CONNECTIONS = 16
LAYERS = 4
LAYER_BYTES = 4096
KINDS = ("GET /v2/", "HEAD manifest by tag", "HEAD manifest by digest", "GET manifest by tag", "GET manifest by digest")


class Small(Scenario):
    """Keep-alive connections, one kind of request after the other."""

    name = "oci-small"
    about = "CPU of a small answer: GET /v2/, HEAD and GET of a manifest by tag and by digest, with a token"
    goal = "5 times less CPU than distribution"
    figures = (
        Figure("CPU per request, all kinds alike", "us"),
        *(Figure(f"CPU per {kind}", "us") for kind in KINDS),
        *(Figure(f"rate of {kind}", "1/s", "higher") for kind in KINDS),
        *PEAKS,
    )
    peers = (*REGISTRIES, NGINX)

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        hold(server, [small_image()])
        check_manifest(server, small_image())
        for kind in KINDS:
            requests = requests_of(kind, server)
            status, _, _ = get(server.port, requests.target, dict(requests.headers))
            if status != 200:
                raise CannotMeasure(f"{server.name} answers {status} to {requests.target}")
            small.run(requests, server.port, seconds=WARM_SECONDS, connections=CONNECTIONS)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        values, each_cpu = {}, []
        usages: list[Usage] = []
        load_cpu = server_cpu = 0.0
        for kind in KINDS:
            with measuring(server.tree) as usage:
                told = small.run(
                    requests_of(kind, server), server.port, seconds=SECONDS * run.scale, connections=CONNECTIONS
                )
            requests = told.more["requests"]
            each_cpu.append(usage.cpu / requests * 1e6)
            values[f"CPU per {kind}"] = each_cpu[-1]
            values[f"rate of {kind}"] = requests / told.wall
            usages.append(usage)
            load_cpu += told.cpu
            server_cpu += usage.cpu
        values["CPU per request, all kinds alike"] = sum(each_cpu) / len(each_cpu)
        return Round({**values, **peaks(*usages)}, load_cpu, server_cpu)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        seconds = max(1, round(SECONDS * run.scale))
        return (
            f"{small.wrk_version()} and, for HEAD, hey, {CONNECTIONS} keep-alive connections, {seconds} s of each kind "
            f"of request a round"
        )


def small_image() -> Image:
    """What is asked for."""
    return image("small", LAYERS, LAYER_BYTES)


def requests_of(kind: str, server: Server) -> Requests:
    """One of `KINDS`, as ``server`` is to be asked."""
    method, _, what = kind.partition(" ")
    if what == "/v2/":
        target = what
    else:
        target = manifest_path(small_image().tag if what.endswith("tag") else small_image().digest)
    return Requests(method, target, header_lines(server, [("Accept", MANIFEST_TYPE)]))
