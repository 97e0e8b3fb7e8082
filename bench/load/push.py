"""Pushes images as clients do: POST, PATCH and PUT for each blob on a few connections, then a manifest.

One rule: each blob takes the steps of a docker push (HEAD whether it is there, POST, PATCH, PUT), and every answer is
looked at: an upload that did not end in 201 ends the load.
"""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from bench.load.client import BadAnswer, Client
from bench.load.loop import Loop
from bench.load.program import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.load.loop import Task

OCTETS = (("Content-Type", "application/octet-stream"),)


@dataclass(frozen=True, slots=True)
class Part:
    """One blob, as the orders name it."""

    digest: str
    head: bytes
    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest, pushed when all blobs are there."""

    reference: str
    media_type: str
    content: bytes


def push_blob(client: Client, repository: str, part: Part, *, may_be_there: bool = False) -> Task[None]:
    """Push one blob. ``may_be_there``: a blob that is there already is not an error, and not pushed again."""
    path = f"/v2/{repository}/blobs"
    found = yield from client.request("HEAD", f"{path}/{part.digest}")
    if may_be_there and found.status == 200:
        return
    found.expect(404)
    began = (yield from client.request("POST", f"{path}/uploads/")).expect(202)
    location = target(began.headers["location"])
    yield from client.send_head("PATCH", location, len(part.head) + part.length, OCTETS, part.head)
    yield from client.send_file(part.file, part.offset, part.length)
    patched = (yield from client.answer("PATCH")).expect(202)
    location = target(patched.headers.get("location", location))
    joint = "&" if "?" in location else "?"
    ended = yield from client.request("PUT", f"{location}{joint}digest={quote(part.digest, safe='')}")
    if ended.expect(201).headers.get("docker-content-digest") != part.digest:
        raise BadAnswer(f"another digest than {part.digest} was stored")


def push_manifest(client: Client, repository: str, manifest: Manifest) -> Task[None]:
    """Push one manifest."""
    path = f"/v2/{repository}/manifests/{manifest.reference}"
    answer = yield from client.request("PUT", path, manifest.content, [("Content-Type", manifest.media_type)])
    answer.expect(201)


def target(location: str) -> str:
    """A Location as the target of a request to the same server."""
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _blobs(client: Client, repository: str, parts: Iterator[Part], *, may_be_there: bool) -> Task[None]:
    for part in parts:  # one iterator for all connections: who is free takes the next
        yield from push_blob(client, repository, part, may_be_there=may_be_there)
    client.close()


def _manifests(client: Client, repository: str, manifests: Iterator[Manifest]) -> Task[None]:
    for manifest in manifests:
        yield from push_manifest(client, repository, manifest)
    client.close()


def work(orders: Mapping[str, Any]) -> dict[str, Any]:
    """Push all blobs, then all manifests."""
    files = {path: os.open(path, os.O_RDONLY) for path in {each["path"] for each in orders["blobs"]}}
    parts = [
        Part(each["digest"], base64.b64decode(each["head"]), files[each["path"]], each["offset"], each["length"])
        for each in orders["blobs"]
    ]
    manifests = [Manifest(each["reference"], each["type"], each["content"].encode()) for each in orders["manifests"]]
    fields = [(name, value) for name, value in orders["fields"]]
    began = time.perf_counter()
    repository, connections, port = orders["repository"], orders["connections"], orders["port"]
    loop, all_parts = Loop(), iter(parts)
    for _ in range(connections):
        client = Client(loop, port, fields)
        loop.spawn(_blobs(client, repository, all_parts, may_be_there=orders["may_be_there"]))
    loop.run()
    loop, all_manifests = Loop(), iter(manifests)
    for _ in range(connections):
        loop.spawn(_manifests(Client(loop, port, fields), repository, all_manifests))
    loop.run()
    wall = time.perf_counter() - began
    for file in files.values():
        os.close(file)
    return {"wall": wall}


if __name__ == "__main__":
    main(work)
