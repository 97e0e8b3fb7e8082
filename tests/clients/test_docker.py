"""docker: the command line against a real engine."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import WRONG_PASSWORD, Served, Shell, assert_refused, sha256

if TYPE_CHECKING:
    from pathlib import Path

HELLO = "hello from nothing\n"


@pytest.fixture
def logged_in(docker: Shell, registry: Served, password: str) -> Shell:
    """A shell in which docker is logged in."""
    said = docker.run(
        "docker", "login", "-u", str(registry.user), "--password-stdin", registry.host, input=password.encode()
    )
    assert "Login Succeeded" in said.said
    return docker


def build(docker: Shell, tag: str, *files: dict[str, bytes]) -> str:
    """Build an image of one layer for each of ``files``, and answer its id."""
    context = docker.home / "context"
    lines = ["FROM scratch"]
    for number, layer in enumerate(files):
        folder = context / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in layer.items():
            (folder / name).write_bytes(content)
            (folder / name).chmod(0o755)
        lines.append(f"COPY {number}/ /")
    lines.append('CMD ["/hello"]')
    (context / "Dockerfile").write_text("\n".join(lines))
    # Debian's client has no buildx, so the engine's own builder it is.
    env = Shell(docker.home, {**docker.env, "DOCKER_BUILDKIT": "0"})
    env.run("docker", "build", "-q", "-t", tag, context)
    return docker.run("docker", "image", "inspect", "--format", "{{.Id}}", tag).text


def content_of(docker: Shell, tag: str, path: str) -> bytes:
    """A file's bytes as a container of that image would see them."""
    container = docker.run("docker", "create", tag, "/none").text
    copy = docker.home / "copy.tar"
    copy.write_bytes(docker.run("docker", "cp", f"{container}:{path}", "-").out)
    docker.run("docker", "rm", container)
    with tarfile.open(copy) as archive:
        member = archive.extractfile(archive.getmembers()[0])
        assert member is not None
        return member.read()


def forget(docker: Shell, *tags: str) -> None:
    """Remove images from the engine, so that a pull brings every byte again."""
    docker.run("docker", "rmi", "-f", *tags)


def test_wrong_password(docker: Shell, registry: Served) -> None:
    args = ("docker", "login", "-u", str(registry.user), "--password-stdin", registry.host)
    assert_refused(docker.fails(*args, input=WRONG_PASSWORD.encode()))


def test_unknown_user(docker: Shell, registry: Served, password: str) -> None:
    args = ("docker", "login", "-u", "nobody", "--password-stdin", registry.host)
    assert_refused(docker.fails(*args, input=password.encode()))


def test_push_without_login(docker: Shell, registry: Served, repo: str) -> None:
    name = registry.name(repo)
    build(docker, name, {"hello": images.static_program(HELLO)})
    refused = docker.fails("docker", "push", name).said.lower()
    assert "no basic auth credentials" in refused or "denied" in refused or "unauthorized" in refused, refused
    assert registry.tags(repo) == []


def test_logout(logged_in: Shell, registry: Served, repo: str) -> None:
    name = registry.name(repo)
    build(logged_in, name, {"hello": images.static_program(HELLO)})
    logged_in.run("docker", "push", name)
    forget(logged_in, name)
    logged_in.run("docker", "logout", registry.host)
    logged_in.fails("docker", "pull", name)


def test_push_pull_run(logged_in: Shell, registry: Served, repo: str) -> None:
    name = registry.name(repo) + ":1"
    data = bytes(range(256)) * 4096
    image_id = build(logged_in, name, {"hello": images.static_program(HELLO)}, {"data": data}, {"more": b"more"})
    logged_in.run("docker", "push", name)
    manifest = registry.manifest(repo, "1").json()
    assert manifest["config"]["digest"] == image_id
    assert len(manifest["layers"]) == 3
    for layer in manifest["layers"]:
        assert len(registry.blob(repo, layer["digest"])) == layer["size"]

    forget(logged_in, name)
    logged_in.run("docker", "pull", name)
    assert logged_in.run("docker", "image", "inspect", "--format", "{{.Id}}", name).text == image_id
    assert content_of(logged_in, name, "/data") == data
    if images.ARCHITECTURE is not None:
        assert logged_in.run("docker", "run", "--rm", "--network", "none", name).out.decode() == HELLO


def test_push_again_sends_nothing_new(logged_in: Shell, registry: Served, repo: str) -> None:
    name = registry.name(repo) + ":1"
    build(logged_in, name, {"hello": images.static_program(HELLO + repo)})
    logged_in.run("docker", "push", name)
    assert "Layer already exists" in logged_in.run("docker", "push", name).said


def test_mount_from_another_name(logged_in: Shell, registry: Served, repo: str) -> None:
    """A layer that the engine has pushed to one name goes to another by a mount."""
    first, second = (f"{registry.name(repo)}/{part}" for part in ("first", "second"))
    build(logged_in, first, {"hello": images.static_program(HELLO + repo)}, {"unique": repo.encode()})
    logged_in.run("docker", "push", first)
    logged_in.run("docker", "tag", first, second)
    assert "Mounted from" in logged_in.run("docker", "push", second).said
    for layer in registry.manifest(f"{repo}/second", "latest").json()["layers"]:
        registry.blob(f"{repo}/second", layer["digest"])


def test_all_tags(logged_in: Shell, registry: Served, repo: str) -> None:
    name = registry.name(repo)
    ids = {}
    for tag in ("1", "2", "latest"):
        ids[tag] = build(logged_in, f"{name}:{tag}", {"hello": images.static_program(HELLO), "tag": tag.encode()})
    logged_in.run("docker", "push", "--all-tags", name)
    assert registry.tags(repo) == ["1", "2", "latest"]
    for tag, image_id in ids.items():
        assert registry.manifest(repo, tag).json()["config"]["digest"] == image_id
    forget(logged_in, *(f"{name}:{tag}" for tag in ids))
    logged_in.run("docker", "pull", "--all-tags", name)
    for tag, image_id in ids.items():
        assert logged_in.run("docker", "image", "inspect", "--format", "{{.Id}}", f"{name}:{tag}").text == image_id


def test_pull_by_digest(logged_in: Shell, registry: Served, repo: str) -> None:
    name = registry.name(repo)
    first = build(logged_in, name, {"hello": images.static_program(HELLO), "version": b"1"})
    logged_in.run("docker", "push", name)
    digest = registry.digest(repo, "latest")
    build(logged_in, name, {"hello": images.static_program(HELLO), "version": b"2"})
    logged_in.run("docker", "push", name)
    assert registry.digest(repo, "latest") != digest
    forget(logged_in, name, first)
    said = logged_in.run("docker", "pull", f"{name}@{digest}").said
    assert digest in said
    assert content_of(logged_in, f"{name}@{digest}", "/version") == b"1"


def test_import(logged_in: Shell, registry: Served, repo: str) -> None:
    """An image without a history, from an archive."""
    name = registry.name(repo)
    archive = images.tar({"file": b"imported"})
    image_id = logged_in.run("docker", "import", "-", name, input=archive).text
    logged_in.run("docker", "push", name)
    assert registry.manifest(repo, "latest").json()["config"]["digest"] == image_id
    forget(logged_in, name)
    logged_in.run("docker", "pull", name)
    assert content_of(logged_in, name, "/file") == b"imported"


def test_manifest_list(logged_in: Shell, registry: Served, repo: str) -> None:
    """docker manifest: an image for two platforms, made from two that were pushed."""
    name = registry.name(repo)
    for architecture in ("amd64", "arm64"):
        build(logged_in, f"{name}:{architecture}", {"which": architecture.encode()})
        logged_in.run("docker", "push", f"{name}:{architecture}")
    logged_in.run("docker", "manifest", "create", "--insecure", f"{name}:all", f"{name}:amd64", f"{name}:arm64")
    for architecture in ("amd64", "arm64"):
        logged_in.run("docker", "manifest", "annotate", "--arch", architecture, f"{name}:all", f"{name}:{architecture}")
    pushed = logged_in.run("docker", "manifest", "push", "--insecure", f"{name}:all").text
    assert pushed.endswith(registry.digest(repo, "all"))
    served = registry.manifest(repo, "all")
    assert served.headers["Content-Type"] == "application/vnd.docker.distribution.manifest.list.v2+json"
    listed = {entry["platform"]["architecture"]: entry["digest"] for entry in served.json()["manifests"]}
    assert listed == {architecture: registry.digest(repo, architecture) for architecture in ("amd64", "arm64")}
    seen = logged_in.run("docker", "manifest", "inspect", "--insecure", f"{name}:all").json
    assert seen == served.json()

    architecture = images.ARCHITECTURE or "amd64"
    forget(logged_in, f"{name}:amd64", f"{name}:arm64")
    logged_in.run("docker", "pull", "--platform", f"linux/{architecture}", f"{name}:all")
    assert content_of(logged_in, f"{name}:all", "/which") == architecture.encode()


def test_pull_what_another_client_pushed(logged_in: Shell, registry: Served, repo: str, image: images.Image) -> None:
    """OCI media types, known digests: the engine must end with the very config and files that were put in."""
    for blob in image.blobs:
        location = registry.http.post(f"/v2/{repo}/blobs/uploads/").headers["Location"]
        joint = "&" if "?" in location else "?"
        answer = registry.http.put(f"{location}{joint}digest={blob.digest}", content=blob.data)
        assert answer.status_code == 201, answer.text
    answer = registry.http.put(
        f"/v2/{repo}/manifests/1", content=image.manifest.data, headers={"Content-Type": image.manifest.media_type}
    )
    assert answer.status_code == 201, answer.text
    name = registry.name(repo) + ":1"
    said = logged_in.run("docker", "pull", name).said
    assert image.manifest.digest in said
    assert logged_in.run("docker", "image", "inspect", "--format", "{{.Id}}", name).text == image.config.digest
    saved = logged_in.home / "saved.tar"
    logged_in.run("docker", "save", "-o", saved, name)
    with tarfile.open(saved) as archive:
        digests = set()
        for part in archive.getmembers():
            content = archive.extractfile(part) if part.isreg() else None
            if content is not None:
                digests.add(sha256(content.read()))
    assert image.config.digest in digests
    assert set(json.loads(image.config.data)["rootfs"]["diff_ids"]) <= digests


def test_unknown_tag(logged_in: Shell, registry: Served, repo: str) -> None:
    said = logged_in.fails("docker", "pull", registry.name(repo) + ":none").said
    assert "manifest unknown" in said or "not found" in said, said


def test_anonymous(docker: Shell, anonymous_registry: Served, repo: str, tmp_path: Path) -> None:
    name = anonymous_registry.name(repo)
    image_id = build(docker, name, {"hello": images.static_program(HELLO)})
    docker.run("docker", "push", name)
    forget(docker, name)
    docker.run("docker", "pull", name)
    assert docker.run("docker", "image", "inspect", "--format", "{{.Id}}", name).text == image_id
