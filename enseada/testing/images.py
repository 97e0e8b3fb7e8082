"""Small images for tests: real ones, that engines and tools unpack.

One rule: the same files make the same bytes, and so the same digests.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enseada.protocols.oci.manifest import OCI_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
HELLO: Mapping[str, bytes] = {"hello": b"hello from a test\n"}
"""The files of an image whose content does not matter."""


def digest_of(content: bytes) -> str:
    """The sha256 digest of ``content``, as OCI writes it."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class PushedImage:
    """An image that the test has put into the registry."""

    name: str
    tag: str
    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]

    @property
    def digest(self) -> str:
        """The manifest's."""
        return digest_of(self.manifest)


def make_image(name: str, tag: str, layers: Iterable[Mapping[str, bytes]]) -> PushedImage:
    """An image for linux/amd64 whose ``layers`` (path: content) are gzipped archives."""
    archives = [_archive(files) for files in layers]
    blobs = tuple(gzip.compress(archive, mtime=0) for archive in archives)
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(archive) for archive in archives]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": _descriptor(config, CONFIG_TYPE),
            "layers": [_descriptor(blob, LAYER_TYPE) for blob in blobs],
        }
    )
    return PushedImage(name, tag, manifest, config, blobs)


def _archive(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def _descriptor(content: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
