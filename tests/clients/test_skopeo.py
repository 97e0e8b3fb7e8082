"""skopeo: every kind of copy, and what it can list and delete."""

from __future__ import annotations

import json
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Served, Shell, assert_refused, need, sha256

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.testing import RunningRegistry

TO = ("skopeo", "copy", "--dest-tls-verify=false")
FROM = ("skopeo", "copy", "--src-tls-verify=false")
BIG = 200 * 1024 * 1024


@pytest.fixture
def skopeo(shell: Shell, registry: Served, password: str) -> Shell:
    """A shell in which skopeo is logged in."""
    need("skopeo")
    login(shell, registry, password)
    return shell


def login(shell: Shell, registry: Served, password: str) -> None:
    args = ("skopeo", "login", "--tls-verify=false", "-u", str(registry.user), "--password-stdin", registry.host)
    assert "Login Succeeded" in shell.run(*args, input=password.encode()).said


def test_wrong_password(shell: Shell, registry: Served) -> None:
    need("skopeo")
    args = ("skopeo", "login", "--tls-verify=false", "-u", str(registry.user), "--password-stdin", registry.host)
    assert_refused(shell.fails(*args, input=WRONG_PASSWORD.encode()))


def test_without_login(shell: Shell, registry: Served, repo: str, layout: Path) -> None:
    need("skopeo")
    assert_refused(shell.fails(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}:1"))
    assert registry.tags(repo) == []


def test_logout(skopeo: Shell, registry: Served, repo: str, layout: Path) -> None:
    skopeo.run(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}:1")
    skopeo.run("skopeo", "logout", registry.host)
    assert_refused(skopeo.fails("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.name(repo)}:1"))


def test_oci_both_ways(
    skopeo: Shell, registry: Served, repo: str, layout: Path, image: images.Image, tmp_path: Path
) -> None:
    skopeo.run(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}:1")
    assert registry.manifest(repo, "1").content == image.manifest.data
    for blob in image.blobs:
        assert registry.blob(repo, blob.digest) == blob.data
    skopeo.run(*FROM, f"docker://{registry.name(repo)}:1", f"oci:{tmp_path}/back:1")
    images.assert_layout_holds(tmp_path / "back", image)


def test_by_digest(
    skopeo: Shell, registry: Served, repo: str, layout: Path, image: images.Image, tmp_path: Path
) -> None:
    digest = image.manifest.digest
    skopeo.run(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}@{digest}")
    assert registry.tags(repo) == []
    skopeo.run(*FROM, f"docker://{registry.name(repo)}@{digest}", f"oci:{tmp_path}/back:1")
    images.assert_layout_holds(tmp_path / "back", image)


def test_all_platforms(
    skopeo: Shell, registry: Served, repo: str, multi_layout: Path, multi_arch: images.Index, tmp_path: Path
) -> None:
    skopeo.run(*TO, "--all", f"oci:{multi_layout}:1", f"docker://{registry.name(repo)}:1")
    assert registry.manifest(repo, "1").content == multi_arch.manifest.data
    skopeo.run(*FROM, "--all", f"docker://{registry.name(repo)}:1", f"oci:{tmp_path}/back:1")
    images.assert_layout_holds(tmp_path / "back", multi_arch)


def test_docker_schema_and_archive(
    skopeo: Shell, registry: Served, repo: str, layout: Path, image: images.Image, tmp_path: Path
) -> None:
    skopeo.run(*TO, "--format", "v2s2", f"oci:{layout}:1", f"docker://{registry.name(repo)}:1")
    response = registry.manifest(repo, "1")
    assert response.headers["Content-Type"] == "application/vnd.docker.distribution.manifest.v2+json"
    skopeo.run(*FROM, f"docker://{registry.name(repo)}:1", f"docker-archive:{tmp_path}/image.tar:{repo}:1")
    with tarfile.open(tmp_path / "image.tar") as archive:
        members = {sha256(part.read()) for name in archive.getnames() if (part := _file(archive, name)) is not None}
    assert {image.config.digest, *json.loads(image.config.data)["rootfs"]["diff_ids"]} <= members
    skopeo.run(*TO, f"docker-archive:{tmp_path}/image.tar", f"docker://{registry.name(repo)}:2")
    assert registry.manifest(repo, "2").json()["config"]["digest"] == image.config.digest


def _file(archive: tarfile.TarFile, name: str) -> tarfile.ExFileObject | None:
    member = archive.extractfile(name)
    return member if isinstance(member, tarfile.ExFileObject) else None


def test_between_repositories(
    logged_in: Shell, enseada_registry: RunningRegistry, repo: str, layout: Path, image: images.Image
) -> None:
    """A copy inside one registry, which skopeo does by mounting the blobs."""
    need("skopeo")
    where = f"docker://{enseada_registry.host}/{repo}"
    logged_in.run(*TO, f"oci:{layout}:1", f"{where}/from:1")
    logged_in.run(*TO, "--src-tls-verify=false", f"{where}/from:1", f"{where}/to:1")
    mounts = [request.status for request in enseada_registry.requests if "mount=" in request.query]
    assert mounts
    assert set(mounts) == {201}
    assert enseada_registry.manifest(f"{repo}/to", "1").content == image.manifest.data
    logged_in.run(*FROM, f"{where}/to:1", f"oci:{logged_in.home}/back:1")
    images.assert_layout_holds(logged_in.home / "back", image)


def test_inspect_and_list_tags(skopeo: Shell, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    for tag in ("b", "a", "c"):
        skopeo.run(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}:{tag}")
    where = f"docker://{registry.name(repo)}"
    seen = skopeo.run("skopeo", "inspect", "--tls-verify=false", f"{where}:b").json
    assert seen["Digest"] == image.manifest.digest
    assert seen["RepoTags"] == ["a", "b", "c"]
    assert seen["Layers"] == [blob.digest for blob in image.layers]
    assert skopeo.run("skopeo", "inspect", "--tls-verify=false", "--raw", f"{where}:b").out == image.manifest.data
    assert (
        skopeo.run("skopeo", "inspect", "--tls-verify=false", "--config", "--raw", f"{where}:b").out
        == image.config.data
    )
    assert skopeo.run("skopeo", "list-tags", "--tls-verify=false", where).json["Tags"] == ["a", "b", "c"]


def test_delete(skopeo: Shell, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    for tag in ("1", "2"):
        skopeo.run(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}:{tag}")
    # It looks up the tag's digest and deletes the manifest, and with it every tag.
    skopeo.run("skopeo", "delete", "--tls-verify=false", f"docker://{registry.name(repo)}:1")
    assert registry.status(f"{repo}/manifests/{image.manifest.digest}") == 404
    assert registry.tags(repo) == []
    skopeo.fails(*FROM, f"docker://{registry.name(repo)}:2", "dir:gone")


def test_sync(skopeo: Shell, registry: Served, repo: str, layout: Path, image: images.Image, tmp_path: Path) -> None:
    for tag in ("1", "2"):
        skopeo.run(*TO, f"oci:{layout}:1", f"docker://{registry.name(repo)}/app:{tag}")
    args = ("skopeo", "sync", "--src-tls-verify=false", "--dest-tls-verify=false", "--src", "docker")
    skopeo.run(*args, "--dest", "dir", f"{registry.name(repo)}/app", tmp_path / "synced")
    for tag in ("1", "2"):
        assert (tmp_path / "synced" / f"app:{tag}" / "manifest.json").read_bytes() == image.manifest.data
    skopeo.run(*args, "--dest", "docker", f"{registry.name(repo)}/app", f"{registry.name(repo)}/mirror")
    assert registry.tags(f"{repo}/mirror/app") == ["1", "2"]


def test_layer_of_200_mib(skopeo: Shell, registry: Served, repo: str, tmp_path: Path) -> None:
    big = images.image({"big": os.urandom(BIG)}, compress=False)
    images.write_layout(tmp_path / "big", "1", big)
    where = f"docker://{registry.name(repo)}:1"
    skopeo.run(*TO, "--preserve-digests", f"oci:{tmp_path}/big:1", where, timeout=600)
    skopeo.run(*FROM, "--preserve-digests", where, f"oci:{tmp_path}/back:1", timeout=600)
    images.assert_layout_holds(tmp_path / "back", big)


def test_anonymous(anonymous_registry: Served, shell: Shell, repo: str, layout: Path, image: images.Image) -> None:
    need("skopeo")
    where = f"docker://{anonymous_registry.name(repo)}:1"
    shell.run(*TO, f"oci:{layout}:1", where)
    shell.run(*FROM, where, "oci:back:1")
    images.assert_layout_holds(shell.home / "back", image)
