"""``oci-push-small``: many small blobs and their manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.figures import Figure
from bench.image import push, small_image
from bench.measure import PEAKS, measuring, peaks
from bench.peers import REGISTRIES
from bench.scenario import Round, Run, Scenario
from bench.syscalls import SYNCS, counting

if TYPE_CHECKING:
    from bench.image import Image
    from bench.server import Server

IMAGES = 200
BLOBS_EACH = 10
"""One of them the config."""
CONNECTIONS = 16
WARM_IMAGES = 20
TRACED_IMAGES = 20
"""Pushed once more under strace, to count."""


class PushSmall(Scenario):
    """2,000 blobs of 4 KiB in 200 images, on sixteen connections."""

    name = "oci-push-small"
    about = "2,000 blobs of 4 KiB and their manifests, 16 clients; fsyncs and document writes a blob"
    goal = "2 times faster than distribution"
    figures = (
        Figure("wall per push of all", "s"),
        Figure("CPU per blob", "ms"),
        Figure("rate of blobs", "1/s", "higher"),
        Figure("rate of fsyncs per blob", "1"),
        Figure("rate of document writes per blob", "1"),
        *PEAKS,
    )
    peers = REGISTRIES
    moves_much = True

    def prepare(self, server: Server, run: Run) -> None:
        """See `Scenario`."""
        push(server, _images("warm", run, WARM_IMAGES), CONNECTIONS)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """See `Scenario`."""
        images = _images(f"small-{number}", run, IMAGES)
        blobs = len(images) * BLOBS_EACH
        documents = server.documents() if server.documents is not None else 0
        with measuring(server.tree) as usage:
            told = push(server, images, CONNECTIONS)
        values = {
            "wall per push of all": told.wall,
            "CPU per blob": usage.cpu / blobs * 1e3,
            "rate of blobs": blobs / told.wall,
            **peaks(usage),
        }
        if server.documents is not None:
            values["rate of document writes per blob"] = (server.documents() - documents) / blobs
        traced = _images(f"traced-{number}", run, TRACED_IMAGES)
        with counting(server.tree, SYNCS) as calls:
            push(server, traced, CONNECTIONS)
        values["rate of fsyncs per blob"] = (calls.get("fsync", 0) + calls.get("fdatasync", 0)) / (
            len(traced) * BLOBS_EACH
        )
        return Round(values, told.cpu, usage.cpu)

    def settings(self, run: Run) -> str:
        """See `Scenario`."""
        images = run.scaled(IMAGES)
        return (
            f"a lean client of the harness's own (epoll), {images * BLOBS_EACH} new blobs of 4 KiB in {images} images "
            f"a round, {CONNECTIONS} connections, HEAD, POST, PATCH and PUT each. fsyncs (and fdatasyncs) are counted "
            f"by strace in a push of its own; document writes of a peer are the link files that it has after"
        )


def _images(label: str, run: Run, count: int) -> list[Image]:
    return [small_image(f"{label}-{number}", BLOBS_EACH) for number in range(run.scaled(count))]
