"""Every program in examples/ is run, and does what it says."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.clients.harness import PASSWORD, USER, sha256
from tests.enseada.oci_client import image_manifest
from tests.programs import ROOT, running

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = ROOT / "examples"
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"


def client(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, auth=(USER, PASSWORD), timeout=60, trust_env=False)


def push(http: httpx.Client, name: str = "team/app") -> None:
    """Push an image, and pull it."""
    layer = os.urandom(100_000)
    for content in (layer, b"{}"):
        location = http.post(f"/v2/{name}/blobs/uploads/").headers["Location"]
        assert http.put(f"{location}?digest={sha256(content)}", content=content).status_code == 201
    manifest = image_manifest(b"{}", [layer])
    put = http.put(f"/v2/{name}/manifests/1", content=manifest, headers={"Content-Type": OCI_IMAGE})
    assert put.status_code == 201
    assert http.get(f"/v2/{name}/manifests/1", headers={"Accept": OCI_IMAGE}).content == manifest
    assert http.get(f"/v2/{name}/blobs/{sha256(layer)}").content == layer


def test_all_are_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"} == {
        "beside.py",
        "checksums.py",
        "fastapi_app.py",
    }


def test_checksums(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    with running(tmp_path, EXAMPLES / "checksums.py", "127.0.0.1:0") as address, client(address) as http:
        for body in (content, iter([content[:1000], content[1000:]])):
            answer = http.post("/", content=body)
            assert answer.text == hashlib.sha256(content).hexdigest() + "\n"
        assert http.get("/").status_code == 405


def test_checksums_is_as_short_as_it_is_said_to_be() -> None:
    """About thirty lines, as docs/library.md says."""
    lines = (EXAMPLES / "checksums.py").read_text().splitlines()
    assert len(lines) <= 40


def test_beside(tmp_path: Path) -> None:
    program = (EXAMPLES / "beside.py", "127.0.0.1:0", tmp_path / "data")
    with running(tmp_path, *program) as address, client(address) as http:
        assert http.get("/").text == "0 images were pushed since the start\n"
        push(http)
        assert http.get("/").text == "1 images were pushed since the start\n"


def test_fastapi(tmp_path: Path) -> None:
    program = ("-m", "uvicorn", "--app-dir", EXAMPLES, "--port", "0", "fastapi_app:app")
    with running(tmp_path, *program) as address, client(address) as http:
        push(http)
        assert http.get("/health").json() == {"registry": True}


@pytest.mark.parametrize(
    "program",
    [
        (EXAMPLES / "beside.py", "127.0.0.1:0", "data"),
        ("-m", "uvicorn", "--app-dir", EXAMPLES, "--port", "0", "fastapi_app:app"),
    ],
)
def test_the_password_that_is_made_is_told(program: tuple[str | Path, ...], tmp_path: Path) -> None:
    """It is told nowhere else, and never again."""
    with running(tmp_path, *program, password=None) as address:
        [told] = re.findall("^admin password: (.+)", (tmp_path / "log").read_text(), re.MULTILINE)
        assert httpx.get(f"{address}/v2/", auth=(USER, told), timeout=60, trust_env=False).status_code == 200
