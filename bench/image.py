"""An image made of load bytes: its blobs, its manifest, and how a server comes to hold it before a round."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bench.cache import Blob, blobs
from bench.errors import CannotMeasure
from bench.load import program
from bench.running import get
from bench.server import REPOSITORY, header_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.load.program import Told
    from bench.server import Server

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
RUN = secrets.token_hex(4)
"""Names this run in its images: a registry that an earlier run has pushed to holds no blob of them."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image under one tag."""

    tag: str
    config: Blob
    layers: tuple[Blob, ...]

    @property
    def manifest(self) -> bytes:
        """The manifest, as it is pushed."""

        def descriptor(blob: Blob, media_type: str) -> dict[str, object]:
            return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

        fields = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(self.config, CONFIG_TYPE),
            "layers": [descriptor(layer, LAYER_TYPE) for layer in self.layers],
        }
        return json.dumps(fields).encode()

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return "sha256:" + hashlib.sha256(self.manifest).hexdigest()


@lru_cache(maxsize=4)  # both sides of a round push the same: it is hashed once
def image(label: str, layers: int, layer_bytes: int) -> Image:
    """An image whose bytes, and whose tag, follow from this run and ``label``."""
    label = f"{label}-{RUN}"
    return Image(label, config(label), tuple(blobs(label, layers, layer_bytes)))


def small_image(label: str, count: int, size: int = 4096) -> Image:
    """An image of ``count`` blobs of ``size`` bytes each, of which one is its config."""
    label = f"{label}-{RUN}"
    return Image(label, config(label, size), tuple(blobs(label, count - 1, size)))


def config(label: str, size: int = 0) -> Blob:
    """A config of ``size`` bytes, or of as few as it needs; another one for each ``label``."""
    content = json.dumps({"architecture": "amd64", "os": "linux", "author": label, "rootfs": {"type": "layers"}})
    content = content.ljust(size)
    digest = "sha256:" + hashlib.sha256(content.encode()).hexdigest()
    return Blob(digest, content.encode(), Path("/dev/null"), 0, 0)


def push(server: Server, images: Sequence[Image], connections: int) -> Told:
    """Push images by the load program: all blobs, then all manifests. Raises CannotMeasure.

    A sink gets the same bytes, and nothing else.
    """
    return program.run("raw" if server.kind == "sink" else "push", push_orders(server, images, connections))


def push_orders(
    server: Server, images: Sequence[Image], connections: int, *, may_be_there: bool = False
) -> dict[str, Any]:
    """What the load program ``push`` is told. ``may_be_there``: a blob that is there already is not an error."""
    parts = [blob for each in images for blob in (*each.layers, each.config)]
    return {
        "port": server.port,
        "fields": header_lines(server),
        "repository": REPOSITORY,
        "connections": connections,
        "may_be_there": may_be_there,
        "blobs": [
            {
                "digest": blob.digest,
                "head": base64.b64encode(blob.head).decode(),
                "path": str(blob.path),
                "offset": blob.offset,
                "length": blob.length,
            }
            for blob in parts
        ],
        "manifests": [
            {"reference": each.tag, "type": MANIFEST_TYPE, "content": each.manifest.decode()} for each in images
        ],
    }


def hold(server: Server, images: Sequence[Image], connections: int = 2) -> None:
    """Make ``server`` hold ``images``: pushed to a registry, as files to a server of files. Raises CannotMeasure.

    It may hold them already, where it outlives rounds.
    """
    if server.kind == "registry":
        program.run("push", push_orders(server, images, connections, may_be_there=True))
        return
    if server.data is None:
        raise CannotMeasure(f"{server.name} has no folder for files")
    for each in images:
        for blob in (*each.layers, each.config):
            _place(server.data / blob_path(blob.digest).lstrip("/"), blob.content())
        for reference in (each.tag, each.digest):
            _place(server.data / manifest_path(reference).lstrip("/"), each.manifest)


def check_manifest(server: Server, held: Image) -> None:
    """Whether ``server`` answers the manifest's own bytes, by its tag and by its digest. Raises CannotMeasure."""
    fields = dict(header_lines(server, [("Accept", MANIFEST_TYPE)]))
    for reference in (held.tag, held.digest):
        try:
            status, _, content = get(server.port, manifest_path(reference), fields)
        except (OSError, http.client.HTTPException) as reason:
            raise CannotMeasure(f"{server.name} does not answer {manifest_path(reference)}: {reason!r}") from None
        if status != 200:
            raise CannotMeasure(f"{server.name} answers {status} to {manifest_path(reference)}")
        if "sha256:" + hashlib.sha256(content).hexdigest() != held.digest:
            raise CannotMeasure(f"{server.name} answers other bytes than it should to {manifest_path(reference)}")


def blob_path(digest: str) -> str:
    """The target of a blob of `REPOSITORY`."""
    return f"/v2/{REPOSITORY}/blobs/{quote(digest, safe=':')}"


def manifest_path(reference: str) -> str:
    """The target of a manifest of `REPOSITORY`."""
    return f"/v2/{REPOSITORY}/manifests/{reference}"


def _place(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as reason:
        raise CannotMeasure(f"the files for the peer cannot be written: {reason}") from None
