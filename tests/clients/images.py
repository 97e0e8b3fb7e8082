"""Images made from nothing, byte for byte the same each time, so that a test knows every digest beforehand."""

from __future__ import annotations

import gzip
import io
import json
import platform
import struct
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.clients.harness import sha256

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
"""This machine's name in images, or None where `static_program` knows no code for it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with a media type."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return sha256(self.data)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one platform."""

    manifest: Blob
    config: Blob
    layers: Sequence[Blob]
    architecture: str

    @property
    def blobs(self) -> Sequence[Blob]:
        """All that the manifest names."""
        return [self.config, *self.layers]


@dataclass(frozen=True, slots=True)
class Index:
    """An image for several platforms."""

    manifest: Blob
    images: Sequence[Image]


def tar(files: Mapping[str, bytes]) -> bytes:
    """An archive of ``files`` (path: content), each of them executable."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as out:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o755
            out.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def image(
    *layers: Mapping[str, bytes],
    architecture: str = "amd64",
    command: Sequence[str] = ("/hello",),
    compress: bool = True,
) -> Image:
    """An OCI image of ``layers`` (path: content), gzipped unless ``compress`` is false."""
    archives = [tar(files) for files in layers]
    blobs = [
        Blob(LAYER_GZIP, gzip.compress(archive, 6, mtime=0)) if compress else Blob(LAYER, archive)
        for archive in archives
    ]
    config = Blob(
        CONFIG,
        encode(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": list(command)},
                "rootfs": {"type": "layers", "diff_ids": [sha256(archive) for archive in archives]},
                "history": [{"created_by": "a test"} for _ in archives],
            }
        ),
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor,
        "layers": [blob.descriptor for blob in blobs],
    }
    return Image(Blob(MANIFEST, encode(manifest)), config, blobs, architecture)


def index(*images: Image) -> Index:
    """An index of ``images``, one a platform."""
    manifests = [
        image.manifest.descriptor | {"platform": {"os": "linux", "architecture": image.architecture}}
        for image in images
    ]
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
    return Index(Blob(INDEX, encode(document)), images)


def write_layout(folder: Path, tag: str, top: Image | Index) -> None:
    """Write ``top``, and all that it names, as the OCI layout ``folder``, under ``tag``."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    images = top.images if isinstance(top, Index) else [top]
    parts = [top.manifest] + [part for image in images for part in (image.manifest, *image.blobs)]
    for part in parts:
        (blobs / part.digest.removeprefix("sha256:")).write_bytes(part.data)
    (folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    descriptor = top.manifest.descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (folder / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}))


def layout_blob(folder: Path, digest: str) -> bytes:
    """A blob's bytes in the OCI layout ``folder``; its digest is checked."""
    data = (folder / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert sha256(data) == digest
    return data


def assert_layout_holds(folder: Path, top: Image | Index) -> None:
    """Assert that the OCI layout ``folder`` holds exactly the bytes of ``top`` and of all that it names."""
    listed = [entry["digest"] for entry in json.loads((folder / "index.json").read_bytes())["manifests"]]
    assert top.manifest.digest in listed
    images = top.images if isinstance(top, Index) else [top]
    for part in [top.manifest, *(part for image in images for part in (image.manifest, *image.blobs))]:
        assert layout_blob(folder, part.digest) == part.data


def static_program(text: str) -> bytes:
    """A Linux program of some 200 bytes that needs no library, writes ``text`` and ends with exit code 0.

    One ELF header and one segment (elf(5)), and two system calls: write(1, text) and exit_group(0). On a machine that
    ``ARCHITECTURE`` does not name it is one for amd64, and only good for being moved about.
    """
    message = text.encode()
    entry = 64 + 56  # behind the two headers
    base = 0x400000
    if ARCHITECTURE != "arm64":
        machine, size = 62, 31
        code = b"\xb8\x01\0\0\0\xbf\x01\0\0\0"  # mov eax, 1 (write); mov edi, 1
        code += b"\xbe" + struct.pack("<I", base + entry + size)  # mov esi, message
        code += b"\xba" + struct.pack("<I", len(message))  # mov edx, length
        code += b"\x0f\x05\xb8\xe7\0\0\0\x31\xff\x0f\x05"  # syscall; mov eax, 231; xor edi, edi; syscall
    else:
        machine, size = 183, 32
        words = [
            0xD2800020,  # mov x0, 1
            0x10000001 | (7 << 5),  # adr x1, seven instructions on
            0xD2800002 | (len(message) << 5),  # mov x2, length
            0xD2800808,  # mov x8, 64 (write)
            0xD4000001,  # svc 0
            0xD2800000,  # mov x0, 0
            0xD2800BC8,  # mov x8, 94 (exit_group)
            0xD4000001,  # svc 0
        ]
        code = struct.pack("<8I", *words)
    length = entry + size + len(message)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQ", 2, machine, 1, base + entry, 64, 0)
    header += struct.pack("<IHHHHHH", 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, length, length, 0x1000)
    return header + segment + code + message
