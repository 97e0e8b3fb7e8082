"""Real clients at a registry that fails on demand: what each of them does when a request is refused or cut.

The registry is the one that `enseada.testing` gives to whoever writes such clients.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from enseada.testing import digest_of
from tests.clients import images
from tests.clients.harness import Shell, need
from tests.clients.test_regctl import CHUNKS, MIB

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.testing import Faults, RecordedRequest, RunningRegistry

NAME = "team/app"
PATIENT = 60.0
"""Seconds for a client that waits before it tries again."""


@pytest.fixture
def faults(enseada_registry: RunningRegistry) -> Faults:
    return enseada_registry.faults


@pytest.fixture
def chunking(logged_in: Shell, enseada_registry: RunningRegistry) -> Shell:
    """A shell in which regctl pushes in chunks of a mebibyte."""
    need("regctl")
    logged_in.run("regctl", "registry", "set", "--tls", "disabled", "--skip-check", *CHUNKS, enseada_registry.host)
    return logged_in


def patches(registry: RunningRegistry) -> list[RecordedRequest]:
    return [request for request in registry.requests if request.method == "PATCH"]


def test_regctl_waits_as_long_as_it_is_told(
    chunking: Shell, enseada_registry: RunningRegistry, faults: Faults
) -> None:
    data = os.urandom(4 * MIB)
    refused = faults.on("PATCH", nth=2).refuse(503, retry_after=1)
    put = chunking.run("regctl", "blob", "put", f"{enseada_registry.host}/{NAME}", input=data, timeout=PATIENT)
    assert put.text == digest_of(data)
    assert enseada_registry.blob(digest_of(data)) == data
    assert refused.fired == 1
    assert [request.status for request in patches(enseada_registry)] == [202, 503, 202, 202, 202]


def test_regctl_goes_on_where_the_connection_broke(
    chunking: Shell, enseada_registry: RunningRegistry, faults: Faults
) -> None:
    data = os.urandom(4 * MIB)
    faults.on("PATCH", nth=2).cut_request(after=300_000)
    put = chunking.run("regctl", "blob", "put", f"{enseada_registry.host}/{NAME}", input=data, timeout=PATIENT)
    assert put.text == digest_of(data)
    assert enseada_registry.blob(digest_of(data)) == data
    first, cut, again, *rest = patches(enseada_registry)
    assert (first.status, cut.status, cut.bytes_in >= 300_000) == (202, 499, True)
    assert again.status == 416, "it sends the same chunk, and is told how far it got"
    assert str(rest[0].headers.get("content-range")).startswith(f"{MIB + 300_000}-")
    assert {request.status for request in rest} == {202}


def test_crane_begins_a_blob_again(
    logged_in: Shell, enseada_registry: RunningRegistry, faults: Faults, layout: Path, image: images.Image
) -> None:
    need("crane")
    faults.on("PATCH").refuse(503, retry_after=1)
    logged_in.run("crane", "--insecure", "push", layout, f"{enseada_registry.host}/{NAME}:1", timeout=PATIENT)
    assert enseada_registry.manifest(NAME, "1").content == image.manifest.data
    assert sorted(request.status or 0 for request in patches(enseada_registry)) == [202, 202, 202, 503]


def test_crane_finds_what_an_answer_that_was_lost_has_told(
    logged_in: Shell, enseada_registry: RunningRegistry, faults: Faults, layout: Path, image: images.Image
) -> None:
    need("crane")
    faults.on("PUT", "upload").lose_answer()
    logged_in.run("crane", "--insecure", "push", layout, f"{enseada_registry.host}/{NAME}:1", timeout=PATIENT)
    assert enseada_registry.manifest(NAME, "1").content == image.manifest.data
    assert len(patches(enseada_registry)) == 3, "no blob is pushed twice"


def test_crane_trusts_no_bytes(logged_in: Shell, enseada_registry: RunningRegistry, faults: Faults) -> None:
    need("crane")
    image = enseada_registry.push(NAME, "1", [{"data": os.urandom(MIB)}])
    pull = ("crane", "--insecure", "pull", f"{enseada_registry.host}/{NAME}:1", logged_in.home / "image.tar")
    for number in (len(image.config), 100_000):
        faults.on("GET", "blob", path=digest_of(image.layers[0])).corrupt(at=number)
        assert "checksum" in logged_in.fails(*pull).said
        faults.on("GET", "blob", path=digest_of(image.layers[0])).cut_answer(after=number)
        assert "unexpected EOF" in logged_in.fails(*pull).said
    assert faults.unmet == []
    logged_in.run(*pull)


def test_skopeo_begins_anew_if_it_may(
    logged_in: Shell, enseada_registry: RunningRegistry, faults: Faults, layout: Path, image: images.Image
) -> None:
    need("skopeo")
    copy = ("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:1", f"docker://{enseada_registry.host}/{NAME}:1")
    faults.on("PATCH").cut_request(after=10)
    assert "connection reset by peer" in logged_in.fails(*copy).said
    faults.on("PATCH").cut_request(after=10)
    logged_in.run(*copy, "--retry-times", "1", timeout=PATIENT)
    assert faults.unmet == []
    assert enseada_registry.manifest(NAME, "1").content == image.manifest.data


def test_docker_begins_a_blob_again(
    docker: Shell, enseada_registry: RunningRegistry, faults: Faults, tmp_path: Path
) -> None:
    """It waits five seconds before, whatever Retry-After says."""
    (tmp_path / ".docker" / "config.json").write_text(enseada_registry.docker_config)
    name = f"{enseada_registry.host}/{NAME}:1"
    docker.run("docker", "import", "-", name, input=images.tar({"data": os.urandom(MIB)}))
    try:
        faults.on("PATCH").cut_request(after=200_000)
        pushed = docker.run("docker", "push", name, timeout=PATIENT)
    finally:
        docker.run("docker", "image", "rm", name)
    assert "Retrying in" in pushed.said
    assert [request.status for request in patches(enseada_registry)] == [499, 202, 202]
    assert enseada_registry.tags(NAME) == ["1"]
