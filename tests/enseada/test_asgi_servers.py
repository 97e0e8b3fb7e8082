"""The registry under other people's servers and frameworks: real processes, real sockets, a push by hand."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from enseada.limits import KIB, MIB
from tests.clients.harness import PASSWORD, USER, Served, serving, sha256
from tests.enseada.oci_client import basic, image_manifest
from tests.hosts import HELLO

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS = ("uvicorn", "uvicorn-httptools", "hypercorn-asyncio", "hypercorn-trio")
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
TIMEOUT = 60.0


@contextmanager
def hosted(folder: Path, server: str, framework: str = "none", mount: str = "/") -> Iterator[Served]:
    """A registry in a host's program (`tests.hosts`)."""
    with serving(folder, program=(sys.executable, "-m", "tests.hosts", server, framework, mount)) as served:
        yield served


def in_pieces(content: bytes, size: int = 64 * KIB) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def push_and_pull(http: httpx.Client, root: str = "", name: str = "team/app") -> None:
    """Push an image, with and without lengths, and pull it; every address is the one that was told."""
    layer, config = os.urandom(3 * MIB + 17), os.urandom(1000)
    for content in (layer, config):
        begun = http.post(f"{root}/v2/{name}/blobs/uploads/")
        assert begun.status_code == 202, begun.text
        assert begun.headers["Location"].startswith(f"{root}/v2/{name}/blobs/uploads/")
        cut = len(content) // 3
        patched = http.patch(begun.headers["Location"], content=in_pieces(content[:cut]))  # chunked
        assert (patched.status_code, patched.headers["Range"]) == (202, f"0-{cut - 1}"), patched.text
        patched = http.patch(patched.headers["Location"], content=content[cut:])
        assert patched.status_code == 202, patched.text
        put = http.put(f"{patched.headers['Location']}?digest={sha256(content)}")
        assert (put.status_code, put.headers["Location"]) == (201, f"{root}/v2/{name}/blobs/{sha256(content)}")
    manifest = image_manifest(config, [layer])
    put = http.put(f"{root}/v2/{name}/manifests/1", content=manifest, headers={"Content-Type": OCI_IMAGE})
    assert (put.status_code, put.headers["Location"]) == (201, f"{root}/v2/{name}/manifests/{sha256(manifest)}")

    got = http.get(f"{root}/v2/{name}/manifests/1", headers={"Accept": OCI_IMAGE})
    assert (got.status_code, got.content) == (200, manifest)
    address = f"{root}/v2/{name}/blobs/{sha256(layer)}"
    got = http.get(address)
    assert (got.status_code, got.content, got.headers["Content-Length"]) == (200, layer, str(len(layer)))
    head = http.head(address)
    assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", str(len(layer)))
    part = http.get(address, headers={"Range": "bytes=-5"})
    assert (part.status_code, part.content) == (206, layer[-5:])
    same = http.get(address, headers={"If-None-Match": f'"{sha256(layer)}"'})
    assert (same.status_code, same.content) == (304, b"")
    begun = http.post(f"{root}/v2/{name}/blobs/uploads/")
    assert http.delete(begun.headers["Location"]).status_code == 204
    # The token that the challenge's realm leads to.
    refused = http.get(f"{root}/v2/", auth=("admin", "wrong"))
    realm = refused.headers["WWW-Authenticate"].partition('realm="')[2].partition('"')[0]
    assert (refused.status_code, realm) == (401, f"{str(http.base_url).rstrip('/')}{root}/v2/_token")
    token = http.get(f"{realm}?service=enseada&scope=repository:{name}:pull").json()["token"]
    assert http.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.fixture(scope="module", params=SERVERS)
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    """A registry that is a server's only application, and the folder of its blobs."""
    folder = tmp_path_factory.mktemp(request.param)
    with hosted(folder, request.param) as served:
        yield served, folder / "data" / "blobs"


def test_push_and_pull(alone: tuple[Served, Path]) -> None:
    served, _ = alone
    push_and_pull(served.http)


@pytest.mark.parametrize(
    ("server", "framework", "mount"),
    [
        ("uvicorn", "starlette", "/"),
        ("uvicorn", "starlette", "/v2"),
        ("uvicorn", "starlette", "/registry"),
        ("uvicorn", "fastapi", "/"),
        ("uvicorn", "fastapi", "/v2"),
        ("uvicorn-httptools", "fastapi", "/two parts/v2"),
        ("hypercorn-asyncio", "starlette", "/v2"),
        ("hypercorn-trio", "starlette", "/"),
        ("hypercorn-trio", "fastapi", "/v2"),
    ],
)
def test_mounted(server: str, framework: str, mount: str, tmp_path: Path) -> None:
    with hosted(tmp_path, server, framework, mount) as served:
        root = mount.replace(" ", "%20").removesuffix("/v2").rstrip("/")
        push_and_pull(served.http, root)
        assert served.http.get("/hello").text == HELLO


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn-trio"])
def test_mounted_and_never_run(server: str, tmp_path: Path) -> None:
    with hosted(tmp_path, server, "forgetful", "/v2") as served:
        answer = served.http.get("/v2/")
        assert answer.status_code == 503
        assert "async with registry.running():" in answer.text
        assert served.http.get("/hello").text == HELLO


def test_an_answer_that_breaks_off_does_not_look_whole(alone: tuple[Served, Path]) -> None:
    served, blobs = alone
    size = 64 * MIB
    content = os.urandom(MIB) * (size // MIB)
    location = served.http.post("/v2/broken/blobs/uploads/").headers["Location"]
    put = served.http.put(f"{location}?digest={sha256(content)}", content=content)
    assert put.status_code == 201
    with served.http.stream("GET", put.headers["Location"]) as answer:
        pieces = answer.iter_raw()
        received = len(next(pieces))
        [file] = (file for file in blobs.rglob("*") if file.is_file() and file.stat().st_size == size)
        os.truncate(file, MIB)
        with pytest.raises(httpx.TransportError):
            received += sum(map(len, pieces))
    assert received < size
    assert served.http.get("/v2/").status_code == 200


def test_uploads_are_not_collected(alone: tuple[Served, Path]) -> None:
    """However large they are, the process stays as large as it was."""
    served, _ = alone
    size = 128 * MIB
    push_and_pull(served.http, name="large/first")
    assert served.log is not None
    process = served.log.wait_for(b"process ", TIMEOUT).split()[-1].decode()
    before = peak_memory(process)
    piece = os.urandom(MIB)
    location = served.http.post("/v2/large/app/blobs/uploads/").headers["Location"]
    patched = served.http.patch(location, content=(piece for _ in range(size // MIB)))
    assert patched.headers["Range"] == f"0-{size - 1}"
    assert peak_memory(process) - before < size // 4


def peak_memory(process: str) -> int:
    """The most bytes of memory that a process has had (proc(5))."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no VmHWM")


def test_a_client_that_goes_away(alone: tuple[Served, Path]) -> None:
    """What it has sent is saved, and others can go on."""
    served, blobs = alone
    size = 1234
    location = served.http.post("/v2/gone/app/blobs/uploads/").headers["Location"]
    host, _, port = served.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as client:
        head = f"PATCH {location} HTTP/1.1\r\nHost: {served.host}\r\nContent-Length: {2 * size}\r\n"
        client.sendall(f"{head}Authorization: {basic(USER, PASSWORD)}\r\n\r\n".encode() + bytes(size))
        while not any(file.stat().st_size == size for file in blobs.rglob("*")):
            assert served.http.get("/v2/").status_code == 200
    patched = served.http.patch(location, content=bytes(size))  # it waits until the other has let go
    assert (patched.status_code, patched.headers["Range"]) == (202, f"0-{2 * size - 1}")


def test_a_refusal_before_the_content_was_sent(alone: tuple[Served, Path]) -> None:
    """The connection ends with it, whatever the server has said of the content, so that nothing is taken for it."""
    served, _ = alone
    host, _, port = served.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT) as client:
        head = f"PATCH /v2/app/blobs/uploads/x HTTP/1.1\r\nHost: {served.host}\r\nContent-Length: 100\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    assert b"HTTP/1.1 401 " in answer
