"""buildah: images built here, for several platforms, pushed as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Result, Served, Shell, assert_refused, need, need_root


class Buildah:
    """buildah with storage of its own."""

    def __init__(self, shell: Shell, storage: Path) -> None:
        self.shell = shell
        where = ("--root", storage / "store", "--runroot", storage / "run", "--storage-driver", "vfs")
        self.command = ("buildah", *where)

    def __call__(self, *args: str | Path, input: bytes = b"") -> Result:
        return self.shell.run(*self.command, *args, input=input)

    def fails(self, *args: str | Path, input: bytes = b"") -> Result:
        return self.shell.fails(*self.command, *args, input=input)


@pytest.fixture
def buildah(shell: Shell, short: Path) -> Buildah:
    need("buildah")
    need_root("buildah's vfs storage")
    return Buildah(shell, short)


@pytest.fixture
def logged_in(buildah: Buildah, registry: Served, password: str) -> Buildah:
    args = ("login", "--tls-verify=false", "-u", str(registry.user), "--password-stdin", registry.host)
    assert "Login Succeeded" in buildah(*args, input=password.encode()).said
    return buildah


def build(buildah: Buildah, name: str, architecture: str, files: dict[str, bytes]) -> None:
    """Commit an image of ``files`` for one platform."""
    container = buildah("from", "--arch", architecture, "scratch").text
    for path, content in files.items():
        source = buildah.shell.home / "source"
        source.write_bytes(content)
        buildah("copy", container, source, f"/{path}")
    buildah("commit", "-q", "--rm", container, name)


def test_wrong_password(buildah: Buildah, registry: Served) -> None:
    args = ("login", "--tls-verify=false", "-u", str(registry.user), "--password-stdin", registry.host)
    assert_refused(buildah.fails(*args, input=WRONG_PASSWORD.encode()))


def test_build_push_pull(logged_in: Buildah, registry: Served, repo: str) -> None:
    name = registry.name(repo) + ":1"
    context = logged_in.shell.home / "context"
    context.mkdir()
    (context / "data").write_bytes(b"from a Containerfile")
    (context / "Containerfile").write_text('FROM scratch\nCOPY data /data\nCMD ["/data"]\n')
    logged_in("bud", "-q", "--isolation", "chroot", "-t", name, context)
    digest_file = logged_in.shell.home / "digest"
    logged_in("push", "--tls-verify=false", "--digestfile", digest_file, name)
    digest = digest_file.read_text().strip()
    assert registry.digest(repo, "1") == digest
    config = registry.manifest(repo, digest).json()["config"]["digest"]

    logged_in("rmi", "-f", name)
    assert "sha256:" + logged_in("pull", "-q", "--tls-verify=false", f"{registry.name(repo)}@{digest}").text == config
    container = logged_in("from", "--pull-never", f"{registry.name(repo)}@{digest}").text
    mounted = Path(logged_in("mount", container).text)
    assert (mounted / "data").read_bytes() == b"from a Containerfile"
    logged_in("umount", container)


def test_multi_arch(logged_in: Buildah, registry: Served, repo: str) -> None:
    logged_in("manifest", "create", "all")
    for architecture in ("amd64", "arm64"):
        build(logged_in, f"localhost/{architecture}", architecture, {"which": architecture.encode()})
        logged_in("manifest", "add", "--arch", architecture, "all", f"localhost/{architecture}")
    logged_in("manifest", "push", "--all", "--tls-verify=false", "all", f"docker://{registry.name(repo)}:1")
    served = registry.manifest(repo, "1")
    assert served.headers["Content-Type"] in (images.INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
    listed = {entry["platform"]["architecture"]: entry["digest"] for entry in served.json()["manifests"]}
    assert set(listed) == {"amd64", "arm64"}
    for architecture, digest in listed.items():
        manifest = registry.manifest(repo, digest).json()
        for part in (manifest["config"], *manifest["layers"]):
            assert len(registry.blob(repo, part["digest"])) == part["size"]
        container = logged_in(
            "from", "--tls-verify=false", "--pull-always", "--arch", architecture, f"{registry.name(repo)}:1"
        ).text
        assert (Path(logged_in("mount", container).text) / "which").read_bytes() == architecture.encode()
        logged_in("umount", container)
        logged_in("rm", container)


def test_docker_format(logged_in: Buildah, registry: Served, repo: str) -> None:
    build(logged_in, "localhost/one", "amd64", {"file": b"docker's own media types"})
    logged_in("push", "--tls-verify=false", "--format", "v2s2", "localhost/one", f"docker://{registry.name(repo)}:1")
    served = registry.manifest(repo, "1")
    assert served.headers["Content-Type"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_logout(logged_in: Buildah, registry: Served, repo: str) -> None:
    build(logged_in, "localhost/one", "amd64", {"file": b"one"})
    logged_in("logout", registry.host)
    assert_refused(logged_in.fails("push", "--tls-verify=false", "localhost/one", f"docker://{registry.name(repo)}:1"))
    assert registry.tags(repo) == []
