"""oras: artifacts, what refers to them, and single blobs and manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Served, Shell, assert_refused, need, sha256

if TYPE_CHECKING:
    from pathlib import Path

HTTP = "--plain-http"
TYPE = "application/vnd.example.thing"


def login(shell: Shell, registry: Served, password: str) -> tuple[str, ...]:
    return ("oras", "login", HTTP, "-u", str(registry.user), "--password-stdin", registry.host)


@pytest.fixture
def oras(shell: Shell, registry: Served, password: str) -> Shell:
    """A shell in which oras is logged in."""
    need("oras")
    assert "Login Succeeded" in shell.run(*login(shell, registry, password), input=password.encode()).said
    return shell


@pytest.fixture
def pushed(oras: Shell, registry: Served, repo: str) -> str:
    """The digest of an artifact of two files, pushed as ``repo:1``."""
    (oras.home / "first.txt").write_bytes(b"the first file\n")
    (oras.home / "second.bin").write_bytes(bytes(range(256)) * 4096)
    result = oras.run(
        *("oras", "push", HTTP, "--artifact-type", TYPE, "--annotation", "a=b", "--format", "json"),
        *(f"{registry.name(repo)}:1", "first.txt:text/plain", "second.bin"),
    )
    digest: str = result.json["digest"]
    return digest


def test_wrong_password(shell: Shell, registry: Served) -> None:
    need("oras")
    assert_refused(shell.fails(*login(shell, registry, WRONG_PASSWORD), input=WRONG_PASSWORD.encode()))


def test_logout(oras: Shell, registry: Served, repo: str, pushed: str) -> None:
    oras.run("oras", "logout", registry.host)
    assert_refused(oras.fails("oras", "pull", HTTP, f"{registry.name(repo)}:1", "-o", "back"))


def test_push_pull(oras: Shell, registry: Served, repo: str, pushed: str) -> None:
    manifest = registry.manifest(repo, "1")
    assert sha256(manifest.content) == pushed
    assert manifest.json()["artifactType"] == TYPE
    assert manifest.json()["annotations"]["a"] == "b"
    oras.run("oras", "pull", HTTP, f"{registry.name(repo)}@{pushed}", "-o", "back")
    for name in ("first.txt", "second.bin"):
        assert (oras.home / "back" / name).read_bytes() == (oras.home / name).read_bytes()


def test_attach_and_discover(oras: Shell, registry: Served, repo: str, pushed: str) -> None:
    (oras.home / "sbom.json").write_bytes(b'{"a": 1}')
    (oras.home / "signature").write_bytes(b"signed")
    name = f"{registry.name(repo)}:1"
    digests = {}
    for kind, file in (
        ("application/vnd.example.sbom", "sbom.json"),
        ("application/vnd.example.signature", "signature"),
    ):
        attach = ("oras", "attach", HTTP, "--distribution-spec", "v1.1-referrers-api", "--artifact-type", kind)
        digests[kind] = oras.run(*attach, "--annotation", "of=it", "--format", "json", name, file).json["digest"]
    discover = ("oras", "discover", HTTP, "--distribution-spec", "v1.1-referrers-api", "--format", "json")
    seen = oras.run(*discover, name).json["referrers"]
    assert {entry["artifactType"]: entry["digest"] for entry in seen} == digests
    assert all(entry["annotations"]["of"] == "it" for entry in seen)
    only = oras.run(*discover, "--artifact-type", "application/vnd.example.sbom", name).json["referrers"]
    assert [entry["digest"] for entry in only] == [digests["application/vnd.example.sbom"]]
    assert registry.tags(repo) == ["1"], "a client that finds the referrers API leaves no fallback tag"

    oras.run("oras", "pull", HTTP, f"{registry.name(repo)}@{only[0]['digest']}", "-o", "back")
    assert (oras.home / "back" / "sbom.json").read_bytes() == b'{"a": 1}'
    oras.run("oras", "manifest", "delete", HTTP, "--force", f"{registry.name(repo)}@{only[0]['digest']}")
    left = oras.run(*discover, name).json["referrers"]
    assert [entry["digest"] for entry in left] == [digests["application/vnd.example.signature"]]


def test_copy_with_referrers(oras: Shell, registry: Served, repo: str, pushed: str) -> None:
    name = registry.name(repo)
    (oras.home / "note").write_bytes(b"a note")
    oras.run("oras", "attach", HTTP, "--artifact-type", "application/vnd.example.note", f"{name}:1", "note")
    copy = ("oras", "cp", "-r", "--from-plain-http", "--to-plain-http")
    oras.run(*copy, f"{name}:1", f"{name}/copy:1")
    assert registry.digest(f"{repo}/copy", "1") == pushed
    seen = oras.run("oras", "discover", HTTP, "--format", "json", f"{name}/copy:1").json["referrers"]
    assert [entry["artifactType"] for entry in seen] == ["application/vnd.example.note"]


def test_lists(oras: Shell, registry: Served, repo: str, pushed: str) -> None:
    name = registry.name(repo)
    oras.run("oras", "tag", HTTP, f"{name}:1", "3", "2")
    assert oras.run("oras", "repo", "tags", HTTP, name).text.split() == ["1", "2", "3"]
    assert oras.run("oras", "repo", "tags", HTTP, "--last", "1", name).text.split() == ["2", "3"]
    assert repo in oras.run("oras", "repo", "ls", HTTP, registry.host).text.split()


def test_blob(oras: Shell, registry: Served, repo: str) -> None:
    data = bytes(reversed(range(256))) * 8192
    (oras.home / "blob").write_bytes(data)
    name = f"{registry.name(repo)}@{sha256(data)}"
    oras.run("oras", "blob", "push", HTTP, name, "blob")
    assert registry.blob(repo, sha256(data)) == data
    oras.run("oras", "blob", "fetch", HTTP, "--output", "back", name)
    assert (oras.home / "back").read_bytes() == data
    assert oras.run("oras", "blob", "fetch", HTTP, "--descriptor", name).json["size"] == len(data)
    oras.run("oras", "blob", "delete", HTTP, "--force", name)
    assert registry.status(f"{repo}/blobs/{sha256(data)}") == 404
    oras.fails("oras", "blob", "fetch", HTTP, "--output", "again", name)


def test_manifest(oras: Shell, registry: Served, repo: str, pushed: str) -> None:
    name = registry.name(repo)
    fetched = oras.run("oras", "manifest", "fetch", HTTP, f"{name}:1").out
    assert sha256(fetched) == pushed
    (oras.home / "copy.json").write_bytes(fetched)
    oras.run("oras", "manifest", "push", HTTP, f"{name}:2,3", "copy.json")
    assert registry.tags(repo) == ["1", "2", "3"]
    oras.run("oras", "manifest", "delete", HTTP, "--force", f"{name}@{pushed}")
    assert registry.tags(repo) == []
    assert registry.status(f"{repo}/manifests/{pushed}") == 404


def test_image_layout(oras: Shell, registry: Served, repo: str, multi_layout: Path, multi_arch: images.Index) -> None:
    name = f"{registry.name(repo)}:1"
    oras.run("oras", "cp", "--from-oci-layout", "--to-plain-http", f"{multi_layout}:1", name)
    assert registry.manifest(repo, "1").content == multi_arch.manifest.data
    oras.run("oras", "cp", "--from-plain-http", "--to-oci-layout", name, "back:1")
    images.assert_layout_holds(oras.home / "back", multi_arch)


def test_anonymous(shell: Shell, anonymous_registry: Served, repo: str) -> None:
    need("oras")
    (shell.home / "file").write_bytes(b"anybody's")
    shell.run("oras", "push", HTTP, f"{anonymous_registry.name(repo)}:1", "file")
    shell.run("oras", "pull", HTTP, f"{anonymous_registry.name(repo)}:1", "-o", "back")
    assert (shell.home / "back" / "file").read_bytes() == b"anybody's"
