"""crane: images made, moved, listed and deleted without an engine."""

from __future__ import annotations

import gzip
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Result, Served, Shell, assert_refused, need, sha256

if TYPE_CHECKING:
    from pathlib import Path

    from enseada.testing import RunningRegistry


class Crane:
    def __init__(self, shell: Shell) -> None:
        self.shell = shell

    def __call__(self, *args: str | Path, input: bytes = b"") -> Result:
        return self.shell.run("crane", "--insecure", *args, input=input)

    def fails(self, *args: str | Path, input: bytes = b"") -> Result:
        return self.shell.fails("crane", "--insecure", *args, input=input)

    def login(self, registry: Served, password: str) -> Result:
        return self(
            "auth", "login", registry.host, "-u", str(registry.user), "--password-stdin", input=password.encode()
        )


@pytest.fixture
def crane(shell: Shell, registry: Served, password: str) -> Crane:
    need("crane")
    crane = Crane(shell)
    crane.login(registry, password)
    return crane


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """A layer's archive."""
    path = tmp_path / "layer.tar"
    path.write_bytes(images.tar({"data": bytes(range(256)) * 512}))
    return path


def test_wrong_password(shell: Shell, registry: Served, repo: str, layout: Path) -> None:
    """crane's login only notes the password down; what needs it must fail."""
    need("crane")
    crane = Crane(shell)
    crane.login(registry, WRONG_PASSWORD)
    assert_refused(crane.fails("catalog", registry.host))
    assert_refused(crane.fails("push", layout, registry.name(repo)))
    assert registry.tags(repo) == []


def test_append_and_pull(crane: Crane, registry: Served, repo: str, layer: Path, tmp_path: Path) -> None:
    name = f"{registry.name(repo)}:1"
    pushed = crane("append", "--oci-empty-base", "-f", layer, "-t", name).text
    assert pushed == f"{registry.name(repo)}@{registry.digest(repo, '1')}"
    crane("validate", "--remote", name)
    crane("pull", name, tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        layers = [name for name in archive.getnames() if name.endswith(".tar.gz")]
        content = archive.extractfile(layers[0])
        assert content is not None
        assert gzip.decompress(content.read()) == layer.read_bytes()
    crane("pull", "--format=oci", name, tmp_path / "oci")
    assert images.layout_blob(tmp_path / "oci", registry.digest(repo, "1")) == registry.manifest(repo, "1").content
    exported = crane("export", name, "-").out
    (tmp_path / "exported.tar").write_bytes(exported)
    with tarfile.open(tmp_path / "exported.tar") as archive:
        content = archive.extractfile("data")
        assert content is not None
        assert content.read() == bytes(range(256)) * 512


def test_push_known_bytes(
    crane: Crane, registry: Served, repo: str, layout: Path, image: images.Image, tmp_path: Path
) -> None:
    name = f"{registry.name(repo)}:1"
    crane("push", layout, name)
    assert registry.manifest(repo, "1").content == image.manifest.data
    assert crane("digest", name).text == image.manifest.digest
    assert crane("manifest", name).out.rstrip(b"\n") == image.manifest.data
    assert crane("config", name).out.rstrip(b"\n") == image.config.data
    for blob in image.layers:
        assert crane("blob", f"{registry.name(repo)}@{blob.digest}").out == blob.data
    crane("pull", "--format=oci", name, tmp_path / "back")
    images.assert_layout_holds(tmp_path / "back", image)


def test_index(
    crane: Crane, registry: Served, repo: str, multi_layout: Path, multi_arch: images.Index, tmp_path: Path
) -> None:
    name = f"{registry.name(repo)}:1"
    crane("push", "--index", multi_layout, name)
    # With --index the layout's own index.json is pushed, which names ours.
    outer = registry.manifest(repo, "1").json()
    assert [entry["digest"] for entry in outer["manifests"]] == [multi_arch.manifest.digest]
    assert registry.manifest(repo, multi_arch.manifest.digest).content == multi_arch.manifest.data
    inner = f"{registry.name(repo)}@{multi_arch.manifest.digest}"
    crane("copy", inner, f"{registry.name(repo)}/copy:1")
    crane("validate", "--remote", f"{registry.name(repo)}/copy:1")
    crane("pull", "--format=oci", f"{registry.name(repo)}/copy:1", tmp_path / "back")
    images.assert_layout_holds(tmp_path / "back", multi_arch)
    assert crane("--platform", "linux/arm64", "digest", inner).text == multi_arch.images[1].manifest.digest


def test_copy_mounts(
    logged_in: Shell, enseada_registry: RunningRegistry, repo: str, layout: Path, image: images.Image
) -> None:
    need("crane")
    crane = Crane(logged_in)
    name = f"{enseada_registry.host}/{repo}"
    crane("push", layout, f"{name}/from:1")
    crane("copy", f"{name}/from:1", f"{name}/to:1")
    mounts = [request.status for request in enseada_registry.requests if "mount=" in request.query]
    assert mounts == [201] * len(image.blobs)
    assert enseada_registry.manifest(f"{repo}/to", "1").content == image.manifest.data
    crane("validate", "--remote", f"{name}/to:1")


def test_tag_and_list(crane: Crane, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    name = registry.name(repo)
    crane("push", layout, f"{name}:b")
    crane("tag", f"{name}:b", "a")
    crane("tag", f"{name}@{image.manifest.digest}", "c")
    assert crane("ls", name).text.split() == ["a", "b", "c"]
    assert registry.digest(repo, "c") == image.manifest.digest
    assert repo in crane("catalog", registry.host).text.split()


def test_mutate(crane: Crane, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    name = f"{registry.name(repo)}:1"
    crane("push", layout, name)
    crane("mutate", name, "--label", "a=b", "--annotation", "c=d", "-t", name)
    manifest = registry.manifest(repo, "1").json()
    assert manifest["annotations"] == {"c": "d"}
    assert registry.http.get(f"/v2/{repo}/blobs/{manifest['config']['digest']}").json()["config"]["Labels"] == {
        "a": "b"
    }
    assert registry.manifest(repo, image.manifest.digest).content == image.manifest.data


def test_delete(crane: Crane, registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    name = registry.name(repo)
    crane("push", layout, f"{name}:1")
    crane("tag", f"{name}:1", "2")
    crane("delete", f"{name}@{image.manifest.digest}")
    assert registry.status(f"{repo}/manifests/{image.manifest.digest}") == 404
    assert registry.tags(repo) == []
    assert "MANIFEST_UNKNOWN" in crane.fails("manifest", f"{name}:1").said


def test_large_layer(crane: Crane, registry: Served, repo: str, tmp_path: Path) -> None:
    """A layer of 30 MiB, which comes in one PATCH of unknown length and goes back in many pieces."""
    data = b"".join(sha256(number.to_bytes(4, "big")).encode() for number in range(440_000))
    (tmp_path / "layer.tar").write_bytes(images.tar({"big": data}))
    crane("append", "--oci-empty-base", "-f", tmp_path / "layer.tar", "-t", f"{registry.name(repo)}:1")
    crane("export", f"{registry.name(repo)}:1", tmp_path / "exported.tar")
    with tarfile.open(tmp_path / "exported.tar") as archive:
        content = archive.extractfile("big")
        assert content is not None
        assert sha256(content.read()) == sha256(data)


def test_anonymous(shell: Shell, anonymous_registry: Served, repo: str, layout: Path, image: images.Image) -> None:
    need("crane")
    crane = Crane(shell)
    crane("push", layout, f"{anonymous_registry.name(repo)}:1")
    crane("pull", "--format=oci", f"{anonymous_registry.name(repo)}:1", shell.home / "back")
    images.assert_layout_holds(shell.home / "back", image)
