"""podman, without a daemon: login, push and pull. (It cannot run containers everywhere that we test.)"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Result, Served, Shell, assert_refused, need, need_root

if TYPE_CHECKING:
    from pathlib import Path


class Podman:
    """podman with storage of its own."""

    def __init__(self, shell: Shell, storage: Path) -> None:
        self.shell = shell
        where = ("--root", storage / "store", "--runroot", storage / "run", "--storage-driver", "vfs")
        self.command = ("podman", *where, "--cgroup-manager", "cgroupfs", "--log-level", "error")

    def __call__(self, *args: str | Path, input: bytes = b"") -> Result:
        return self.shell.run(*self.command, *args, input=input)

    def fails(self, *args: str | Path, input: bytes = b"") -> Result:
        return self.shell.fails(*self.command, *args, input=input)


@pytest.fixture
def podman(shell: Shell, short: Path) -> Podman:
    need("podman")
    need_root("podman's vfs storage")
    return Podman(shell, short)


@pytest.fixture
def logged_in(podman: Podman, registry: Served, password: str) -> Podman:
    args = ("login", "--tls-verify=false", "-u", str(registry.user), "--password-stdin", registry.host)
    assert "Login Succeeded" in podman(*args, input=password.encode()).said
    return podman


def saved_files(podman: Podman, name: str) -> dict[str, bytes]:
    """Every file of an image's container, by its path."""
    container = podman("create", name, "/none").text
    archive = podman.shell.home / "export.tar"
    podman("export", "-o", archive, container)
    podman("rm", container)
    files = {}
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            content = opened.extractfile(member) if member.isreg() else None
            if content is not None:
                files[member.name] = content.read()
    return files


def test_wrong_password(podman: Podman, registry: Served) -> None:
    args = ("login", "--tls-verify=false", "-u", str(registry.user), "--password-stdin", registry.host)
    assert_refused(podman.fails(*args, input=WRONG_PASSWORD.encode()))


def test_push_pull(logged_in: Podman, registry: Served, repo: str) -> None:
    name = registry.name(repo) + ":1"
    data = bytes(range(256)) * 1000
    logged_in("import", "-", name, input=images.tar({"data": data}))
    image_id = logged_in("image", "inspect", "--format", "{{.Id}}", name).text
    logged_in("push", "--tls-verify=false", name)
    assert registry.manifest(repo, "1").json()["config"]["digest"] == f"sha256:{image_id}"
    logged_in("rmi", "-f", name)
    assert logged_in("pull", "-q", "--tls-verify=false", name).text == image_id
    assert saved_files(logged_in, name)["data"] == data


def test_pull_known_bytes(logged_in: Podman, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    name = registry.name(repo)
    logged_in("pull", "-q", f"oci:{layout}:1")
    local = logged_in("images", "-q", "--no-trunc").text
    assert local == image.config.digest
    logged_in("push", "--tls-verify=false", local.removeprefix("sha256:"), f"docker://{name}:1")
    digest = registry.digest(repo, "1")
    logged_in("rmi", "-f", local.removeprefix("sha256:"))
    assert "sha256:" + logged_in("pull", "-q", "--tls-verify=false", f"{name}@{digest}").text == image.config.digest
    assert saved_files(logged_in, f"{name}@{digest}")["data"] == bytes(range(256)) * 64


def test_manifest_list(
    logged_in: Podman, registry: Served, repo: str, multi_layout: Path, multi_arch: images.Index
) -> None:
    """podman manifest push --all, then a pull that must choose the right one of two."""
    name = registry.name(repo) + ":1"
    logged_in("manifest", "create", "all")
    for one in multi_arch.images:
        folder = logged_in.shell.home / one.architecture
        images.write_layout(folder, "1", one)
        logged_in("manifest", "add", "--arch", one.architecture, "all", f"oci:{folder}:1")
    logged_in("manifest", "push", "--all", "--tls-verify=false", "all", f"docker://{name}")
    listed = {
        entry["platform"]["architecture"]: entry["digest"] for entry in registry.manifest(repo, "1").json()["manifests"]
    }
    assert set(listed) == {"amd64", "arm64"}
    for one in multi_arch.images:
        pushed = registry.manifest(repo, listed[one.architecture]).json()
        assert pushed["config"]["digest"] == one.config.digest
        logged_in("pull", "-q", "--tls-verify=false", "--arch", one.architecture, name)
        assert saved_files(logged_in, name)["which"] == one.architecture.encode()


def test_search(logged_in: Podman, registry: Served, repo: str) -> None:
    name = registry.name(repo)
    logged_in("import", "-", f"{name}:1", input=images.tar({"file": b"1"}))
    for tag in ("b", "a"):
        logged_in("tag", f"{name}:1", f"{name}:{tag}")
        logged_in("push", "-q", "--tls-verify=false", f"{name}:{tag}")
    listed = logged_in("search", "--list-tags", "--tls-verify=false", "--format", "json", name).json
    assert listed == [{"Name": name, "Tags": ["a", "b"]}]
    # Without tags it looks through the catalog.
    assert name in logged_in("search", "--tls-verify=false", "--format", "{{.Name}}", registry.name("podman")).text


def test_logout(logged_in: Podman, registry: Served, repo: str) -> None:
    name = registry.name(repo)
    logged_in("import", "-", name, input=images.tar({"file": b"1"}))
    logged_in("logout", registry.host)
    assert_refused(logged_in.fails("push", "--tls-verify=false", name))
    assert registry.tags(repo) == []
