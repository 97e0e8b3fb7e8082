"""cosign: signatures and attestations, in the new format (referrers) and the old one (tags), without any network."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from tests.clients.harness import WRONG_PASSWORD, Served, Shell, assert_refused, need

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients import images

OFFLINE = ("--tlog-upload=false", "--use-signing-config=false", "--allow-http-registry", "--yes")
VERIFY = ("--insecure-ignore-tlog=true", "--allow-http-registry")
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["new", "old"])


@pytest.fixture
def cosign(tmp_path: Path, registry: Served, password: str) -> Shell:
    """A shell with a pair of keys, logged in."""
    need("cosign")
    shell = Shell.at(tmp_path, COSIGN_PASSWORD="x")
    shell.run("cosign", "generate-key-pair")
    shell.run(*login(registry), "--password", password)
    return shell


@pytest.fixture
def signed(registry: Served, repo: str, image: images.Image) -> str:
    """The name, by digest, of an image that has just been put there."""
    for blob in image.blobs:
        location = registry.http.post(f"/v2/{repo}/blobs/uploads/").headers["Location"]
        joint = "&" if "?" in location else "?"
        assert registry.http.put(f"{location}{joint}digest={blob.digest}", content=blob.data).status_code == 201
    headers = {"Content-Type": image.manifest.media_type}
    answer = registry.http.put(f"/v2/{repo}/manifests/1", content=image.manifest.data, headers=headers)
    assert answer.status_code == 201, answer.text
    return f"{registry.name(repo)}@{image.manifest.digest}"


def login(registry: Served) -> tuple[str, ...]:
    return ("cosign", "login", registry.host, "--username", str(registry.user))


def bundle(new: bool) -> str:
    return f"--new-bundle-format={str(new).lower()}"


def test_wrong_password(tmp_path: Path, registry: Served, signed: str) -> None:
    """cosign's login only notes the password down; what needs it must fail."""
    need("cosign")
    shell = Shell.at(tmp_path, COSIGN_PASSWORD="x")
    shell.run("cosign", "generate-key-pair")
    shell.run(*login(registry), "--password", WRONG_PASSWORD)
    assert_refused(shell.fails("cosign", "sign", "--key", "cosign.key", *OFFLINE, signed))


@FORMATS
def test_sign_and_verify(
    cosign: Shell, registry: Served, repo: str, image: images.Image, signed: str, new: bool
) -> None:
    verify = ("cosign", "verify", "--key", "cosign.pub", bundle(new), *VERIFY, signed)
    cosign.fails(*verify)
    cosign.run("cosign", "sign", "--key", "cosign.key", bundle(new), *OFFLINE, signed)
    verified = cosign.run(*verify).json
    assert verified[0]["critical"]["image"]["docker-manifest-digest"] == image.manifest.digest

    # Under another key the same signature proves nothing.
    other = Shell.at(cosign.home / "other", COSIGN_PASSWORD="x", DOCKER_CONFIG=cosign.env["DOCKER_CONFIG"])
    other.run("cosign", "generate-key-pair")
    other.fails("cosign", "verify", "--key", "cosign.pub", bundle(new), *VERIFY, signed)

    old_tag = image.manifest.digest.replace(":", "-") + ".sig"
    if new:
        referrers = registry.http.get(f"/v2/{repo}/referrers/{image.manifest.digest}").json()["manifests"]
        assert len(referrers) == 1
        assert registry.tags(repo) == ["1"], "a client that finds the referrers API leaves no fallback tag"
    else:
        assert old_tag in registry.tags(repo)
    assert registry.digest(repo, "1") == image.manifest.digest


@FORMATS
def test_attest_and_verify(cosign: Shell, registry: Served, signed: str, new: bool) -> None:
    (cosign.home / "predicate.json").write_text(json.dumps({"built": "from nothing"}))
    about = ("--type", "https://example.org/built/v1")
    attest = ("cosign", "attest", "--key", "cosign.key", bundle(new), *about, "--predicate", "predicate.json")
    cosign.run(*attest, *OFFLINE, signed)
    verified = cosign.run("cosign", "verify-attestation", "--key", "cosign.pub", bundle(new), *about, *VERIFY, signed)
    envelope = json.loads(verified.out.splitlines()[0])
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicateType"] == "https://example.org/built/v1"
    assert statement["predicate"] == {"built": "from nothing"}
    assert statement["subject"][0]["digest"]["sha256"] == signed.rpartition(":")[2]


def test_two_signatures(cosign: Shell, registry: Served, repo: str, image: images.Image, signed: str) -> None:
    """A second signer adds to the list, and each is found by its own key."""
    other = Shell.at(cosign.home / "other", COSIGN_PASSWORD="x", DOCKER_CONFIG=cosign.env["DOCKER_CONFIG"])
    other.run("cosign", "generate-key-pair")
    for shell in (cosign, other):
        shell.run("cosign", "sign", "--key", "cosign.key", bundle(True), *OFFLINE, signed)
    for shell in (cosign, other):
        shell.run("cosign", "verify", "--key", "cosign.pub", bundle(True), *VERIFY, signed)
    assert len(registry.http.get(f"/v2/{repo}/referrers/{image.manifest.digest}").json()["manifests"]) == 2
