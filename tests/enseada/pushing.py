"""An image pushed and pulled by hand over any connection: POST, PATCH, PUT, a manifest, and every byte back again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.enseada.oci_client import basic, digest_of, image_manifest

if TYPE_CHECKING:
    from tests.enseada.http_client import Answer, Client

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"


async def ask(client: Client, method: str, target: str, content: bytes = b"", **fields: str) -> Answer:
    """One exchange, as the admin of `tests.enseada.oci_client.cheap_settings`."""
    lines = [f"{method} {target} HTTP/1.1", "Host: registry.test", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    lines += [f"Authorization: {basic('admin')}", "", ""]
    await client.send("\r\n".join(lines).encode() + content)
    return await client.answer(method)


async def push_and_pull(client: Client, name: str = "team/app", size: int = 300_000) -> None:
    """Push an image of one random layer in two parts, and pull it; every answer is what it should be."""
    layer = os.urandom(size)
    config = b"{}"
    begun = await ask(client, "POST", f"/v2/{name}/blobs/uploads/")
    assert begun.status == 202, begun
    location = begun.headers["location"]
    for start, stop in ((0, size // 3), (size // 3, size)):
        patched = await ask(client, "PATCH", location, layer[start:stop], Content_Range=f"{start}-{stop - 1}")
        assert (patched.status, patched.headers["range"]) == (202, f"0-{stop - 1}"), patched
        location = patched.headers["location"]
    assert (await ask(client, "PUT", f"{location}?digest={digest_of(layer)}")).status == 201
    location = (await ask(client, "POST", f"/v2/{name}/blobs/uploads/")).headers["location"]
    assert (await ask(client, "PUT", f"{location}?digest={digest_of(config)}", config)).status == 201
    manifest = image_manifest(config, [layer])
    put = await ask(client, "PUT", f"/v2/{name}/manifests/1", manifest, Content_Type=OCI_IMAGE)
    assert put.status == 201, put
    got = await ask(client, "GET", f"/v2/{name}/manifests/1", Accept=OCI_IMAGE)
    assert (got.status, got.body) == (200, manifest)
    head = await ask(client, "HEAD", f"/v2/{name}/blobs/{digest_of(layer)}")
    assert (head.status, head.headers["content-length"]) == (200, str(size))
    assert (await ask(client, "GET", f"/v2/{name}/blobs/{digest_of(layer)}")).body == layer
