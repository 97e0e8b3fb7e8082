"""regctl: the client that sends blobs in many chunks, and that goes by every part of the specification."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Served, Shell, assert_refused, need, sha256

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
CHUNKS = ("--blob-chunk", str(MIB), "--blob-max", str(2 * MIB))
"""What makes regctl send chunks of a mebibyte."""


@pytest.fixture
def stranger(shell: Shell, registry: Served) -> Shell:
    """A shell in which regctl knows the registry and nobody is logged in."""
    need("regctl")
    shell.run("regctl", "registry", "set", "--tls", "disabled", "--skip-check", registry.host)
    return shell


def login(registry: Served) -> tuple[str, ...]:
    return ("regctl", "registry", "login", registry.host, "-u", str(registry.user), "--pass-stdin")


@pytest.fixture
def regctl(stranger: Shell, registry: Served, password: str) -> Shell:
    """A shell in which regctl is logged in."""
    stranger.run(*login(registry), input=password.encode())
    return stranger


def test_wrong_password(stranger: Shell, registry: Served) -> None:
    result = stranger.ends(*login(registry), input=WRONG_PASSWORD.encode())
    assert_refused(result)
    assert_refused(stranger.fails("regctl", "repo", "ls", registry.host))


def test_logout(regctl: Shell, registry: Served, repo: str, layout: Path) -> None:
    regctl.run("regctl", "registry", "logout", registry.host)
    assert_refused(regctl.fails("regctl", "image", "copy", f"ocidir://{layout}:1", f"{registry.name(repo)}:1"))
    assert registry.tags(repo) == []


def test_image_copy(regctl: Shell, registry: Served, repo: str, multi_layout: Path, multi_arch: images.Index) -> None:
    name = registry.name(repo)
    regctl.run("regctl", "image", "copy", f"ocidir://{multi_layout}:1", f"{name}:1")
    assert registry.manifest(repo, "1").content == multi_arch.manifest.data
    regctl.run("regctl", "image", "copy", f"{name}:1", f"{name}/copy:2")
    assert registry.manifest(f"{repo}/copy", "2").content == multi_arch.manifest.data
    regctl.run("regctl", "image", "copy", f"{name}/copy:2", f"ocidir://{regctl.home}/back:1")
    images.assert_layout_holds(regctl.home / "back", multi_arch)
    assert regctl.run("regctl", "image", "digest", f"{name}:1").text == multi_arch.manifest.digest


def test_get_file(regctl: Shell, registry: Served, repo: str, layout: Path) -> None:
    regctl.run("regctl", "image", "copy", f"ocidir://{layout}:1", f"{registry.name(repo)}:1")
    assert regctl.run("regctl", "image", "get-file", f"{registry.name(repo)}:1", "/data").out == bytes(range(256)) * 64


def test_blob(regctl: Shell, registry: Served, repo: str) -> None:
    data = b"a small blob"
    assert regctl.run("regctl", "blob", "put", registry.name(repo), input=data).text == sha256(data)
    assert regctl.run("regctl", "blob", "get", registry.name(repo), sha256(data)).out == data
    assert f"size={len(data)}" in _head(regctl, registry, repo, sha256(data))
    regctl.run("regctl", "blob", "copy", registry.name(repo), f"{registry.name(repo)}/copy", sha256(data))
    assert registry.blob(f"{repo}/copy", sha256(data)) == data
    regctl.run("regctl", "blob", "delete", registry.name(repo), sha256(data))
    assert registry.status(f"{repo}/blobs/{sha256(data)}") == 404


def _head(shell: Shell, registry: Served, repo: str, digest: str) -> str:
    headers = shell.run("regctl", "blob", "head", registry.name(repo), digest).said.lower()
    length = headers.partition("content-length:")[2].split()[0]
    return f"size={length}"


def test_blob_in_chunks(regctl: Shell, registry: Served, repo: str) -> None:
    """12 MiB and 5 bytes. That these are many PATCHes, and what becomes of them, test_faults.py shows."""
    data = os.urandom(12 * MIB + 5)
    regctl.run("regctl", "registry", "set", "--skip-check", *CHUNKS, registry.host)
    assert regctl.run("regctl", "blob", "put", registry.name(repo), input=data).text == sha256(data)
    assert registry.blob(repo, sha256(data)) == data
    assert regctl.run("regctl", "blob", "get", registry.name(repo), sha256(data)).out == data


def test_artifact_and_referrers(regctl: Shell, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    name = f"{registry.name(repo)}:1"
    regctl.run("regctl", "image", "copy", f"ocidir://{layout}:1", name)
    put = ("regctl", "artifact", "put", "--artifact-type", "application/vnd.example.sbom", "--annotation", "a=b")
    regctl.run(*put, "--subject", name, input=b"a bill of materials")
    regctl.run(
        "regctl", "artifact", "put", "--artifact-type", "application/vnd.example.x", "--subject", name, input=b"x"
    )
    listed = regctl.run("regctl", "artifact", "list", "--format", "{{json .}}", name).json["descriptors"]
    assert sorted(entry["artifactType"] for entry in listed) == [
        "application/vnd.example.sbom",
        "application/vnd.example.x",
    ]
    only = regctl.run(
        *("regctl", "artifact", "list", "--filter-artifact-type", "application/vnd.example.sbom"),
        *("--format", "{{json .}}", name),
    ).json["descriptors"]
    assert [entry["annotations"]["a"] for entry in only] == ["b"]
    got = regctl.run("regctl", "artifact", "get", f"{registry.name(repo)}@{only[0]['digest']}").out
    assert got == b"a bill of materials"
    by_subject = regctl.run(
        "regctl", "artifact", "get", "--subject", name, "--filter-artifact-type", "application/vnd.example.x"
    ).out
    assert by_subject == b"x"
    assert registry.tags(repo) == ["1"], "a client that finds the referrers API leaves no fallback tag"
    tree = regctl.run("regctl", "artifact", "tree", name).text
    assert only[0]["digest"] in tree


def test_tags(regctl: Shell, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    name = registry.name(repo)
    for tag in ("b", "a", "c"):
        regctl.run("regctl", "image", "copy", f"ocidir://{layout}:1", f"{name}:{tag}")
    assert regctl.run("regctl", "tag", "ls", name).text.split() == ["a", "b", "c"]
    assert regctl.run("regctl", "tag", "ls", "--limit", "2", name).text.split() == ["a", "b"]
    # One tag goes and leaves what it named: other tags still do.
    regctl.run("regctl", "tag", "delete", f"{name}:b")
    assert registry.tags(repo) == ["a", "c"]
    assert registry.digest(repo, "a") == image.manifest.digest
    assert registry.status(f"{repo}/manifests/{image.manifest.digest}") == 200
    regctl.run("regctl", "manifest", "delete", f"{name}@{image.manifest.digest}")
    assert registry.tags(repo) == []


def test_repositories(regctl: Shell, registry: Served, repo: str, layout: Path) -> None:
    for part in ("one", "two"):
        regctl.run("regctl", "image", "copy", f"ocidir://{layout}:1", f"{registry.name(repo)}/{part}:1")
    listed = regctl.run("regctl", "repo", "ls", registry.host).text.split()
    assert {f"{repo}/one", f"{repo}/two"} <= set(listed)
    assert listed == sorted(listed)
    last = f"{repo}/one"
    after = regctl.run("regctl", "repo", "ls", "--last", last, "--limit", "1", registry.host).text.split()
    assert after == [listed[listed.index(last) + 1]]


def test_index(regctl: Shell, registry: Served, repo: str, multi_arch: images.Index) -> None:
    name = registry.name(repo)
    for one in multi_arch.images:
        images.write_layout(regctl.home / one.architecture, "1", one)
        regctl.run(
            "regctl", "image", "copy", f"ocidir://{regctl.home}/{one.architecture}:1", f"{name}:{one.architecture}"
        )
    references = [part for one in multi_arch.images for part in ("--ref", f"{name}:{one.architecture}")]
    regctl.run("regctl", "index", "create", *references, f"{name}:all")
    listed = [entry["digest"] for entry in registry.manifest(repo, "all").json()["manifests"]]
    assert listed == [one.manifest.digest for one in multi_arch.images]


def test_anonymous(shell: Shell, anonymous_registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    need("regctl")
    host = ("--host", f"reg={anonymous_registry.host},tls=disabled")
    shell.run("regctl", *host, "image", "copy", f"ocidir://{layout}:1", f"{anonymous_registry.name(repo)}:1")
    shell.run("regctl", *host, "image", "copy", f"{anonymous_registry.name(repo)}:1", f"ocidir://{shell.home}/back:1")
    images.assert_layout_holds(shell.home / "back", image)
