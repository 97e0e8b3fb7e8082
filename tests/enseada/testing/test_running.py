"""The registry that runs beside a test: fresh, whole, looked into, and gone without a trace."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import re
import socket
import tarfile
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio

from enseada.config import Settings
from enseada.exchange import Exchange
from enseada.limits import Limits
from enseada.testing import PushedImage, RunningRegistry, digest_of, inside, registry
from enseada.testing.loopthread import LoopEnded
from enseada.testing.records import KEPT, RecordedRequest, Records

NAME = "team/app"
INDEX = "application/vnd.oci.image.index.v1+json"


def client_of(running: RunningRegistry, **options: Any) -> httpx.Client:
    return httpx.Client(**{"base_url": running.url, "auth": running.auth, "trust_env": False, **options})


# -- what it is


def test_a_whole_push_and_pull(enseada_registry: RunningRegistry, http: httpx.Client) -> None:
    """With tokens, as docker does it, through the registry's own front door."""
    challenge = httpx.get(f"{enseada_registry.url}/v2/", trust_env=False).headers["WWW-Authenticate"]
    realm = re.search('realm="([^"]+)"', challenge)
    assert realm is not None
    assert realm[1] == f"{enseada_registry.url}/v2/_token"
    scope = f"repository:{NAME}:pull,push"
    token = http.get(realm[1], params={"service": "enseada", "scope": scope}).json()["token"]
    with client_of(enseada_registry, auth=None, headers={"Authorization": f"Bearer {token}"}) as bearer:
        location = bearer.post(f"/v2/{NAME}/blobs/uploads/").headers["Location"]
        assert bearer.put(location, params={"digest": digest_of(b"{}")}, content=b"{}").status_code == 201
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"{}"), "size": 2}
        media_type = "application/vnd.oci.image.manifest.v1+json"
        manifest = json.dumps({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": []}).encode()
        pushed = bearer.put(f"/v2/{NAME}/manifests/1", content=manifest, headers={"Content-Type": media_type})
        assert pushed.status_code == 201
        assert bearer.get(f"/v2/{NAME}/manifests/1").content == manifest
    assert enseada_registry.repositories == [NAME]
    stored = enseada_registry.manifest(NAME, "1")
    assert (stored.content, stored.digest, stored.media_type) == (manifest, digest_of(manifest), media_type)
    assert stored.json["config"] == config
    assert enseada_registry.blob(digest_of(b"{}")) == b"{}"


def test_each_is_fresh_and_knows_nothing_of_others() -> None:
    with registry() as one, registry() as two:
        assert one.url != two.url
        one.push(NAME)
        two.faults.on().refuse(500)
        assert (one.repositories, two.repositories) == ([NAME], [])
        with client_of(one) as http:
            assert http.get("/v2/").status_code == 200
        assert (len(one.requests), len(two.requests)) == (1, 0)
    with registry() as three:
        assert three.repositories == []


def test_who_may() -> None:
    with registry(anonymous="pull", username="ann", password="sésame ü") as running:
        assert running.auth == ("ann", "sésame ü")
        bob = running.add_account("bob", "other")
        running.push(NAME)

        def statuses(auth: tuple[str, str] | None) -> tuple[int, int]:
            with client_of(running, auth=auth) as http:
                read = http.get(f"/v2/{NAME}/manifests/latest").status_code
                return read, http.post(f"/v2/{NAME}/blobs/uploads/").status_code

        assert statuses(running.auth) == (200, 202)
        assert statuses(bob) == (200, 403)
        assert statuses(None) == (200, 401)
        assert statuses(("ann", "wrong")) == (401, 401)
        assert statuses(("admin", running.password)) == (401, 401)
        with pytest.raises(ValueError, match="there is an account bob already"):
            running.add_account("bob")
        with pytest.raises(ValueError, match="'Not A Name'"):
            running.add_account("Not A Name")


def test_nobody_may_unless_it_is_said(enseada_registry: RunningRegistry) -> None:
    enseada_registry.push(NAME)
    with client_of(enseada_registry, auth=None) as http:
        assert http.get(f"/v2/{NAME}/manifests/latest").status_code == 401
    with client_of(enseada_registry, auth=enseada_registry.add_account("bob")) as http:
        assert http.get(f"/v2/{NAME}/manifests/latest").status_code == 403


def test_settings_count_save_those_that_are_its_own(enseada_registry: RunningRegistry) -> None:
    settings = Settings(anonymous="push", limits=replace(Limits(), manifest_bytes=100), listen=("0.0.0.0:9623",))
    with registry(settings=settings, anonymous=None) as running, client_of(running, auth=None) as http:
        assert running.url.startswith("http://127.0.0.1:")
        assert http.put(f"/v2/{NAME}/manifests/1", content=b" " * 101).status_code == 413
    with registry(settings=settings, anonymous="none") as running, client_of(running, auth=None) as http:
        assert http.put(f"/v2/{NAME}/manifests/1", content=b" " * 101).status_code == 401


def test_docker_config(enseada_registry: RunningRegistry) -> None:
    config = json.loads(enseada_registry.docker_config)
    login = config["auths"][enseada_registry.host]["auth"]
    with client_of(enseada_registry, auth=None, headers={"Authorization": f"Basic {login}"}) as http:
        assert http.get("/v2/").status_code == 200


async def test_in_a_test_that_runs_in_trio(enseada_registry: RunningRegistry) -> None:
    enseada_registry.push(NAME)
    held = enseada_registry.faults.on("GET").hold()
    answers: list[httpx.Response] = []

    async def ask(http: httpx.AsyncClient) -> None:
        answers.append(await http.get(f"/v2/{NAME}/tags/list"))

    url, auth = enseada_registry.url, enseada_registry.auth
    async with httpx.AsyncClient(base_url=url, auth=auth, trust_env=False) as http, trio.open_nursery() as nursery:
        nursery.start_soon(ask, http)
        await trio.to_thread.run_sync(held.wait)
        assert enseada_registry.tags(NAME) == ["latest"]
        held.release()
    assert answers[0].json() == {"name": NAME, "tags": ["latest"]}


def test_in_a_test_that_runs_in_asyncio(enseada_registry: RunningRegistry) -> None:
    async def test() -> int:
        enseada_registry.push(NAME)
        url, auth = enseada_registry.url, enseada_registry.auth
        async with httpx.AsyncClient(base_url=url, auth=auth, trust_env=False) as http:
            return (await http.get(f"/v2/{NAME}/tags/list")).status_code

    assert asyncio.run(test()) == 200


# -- what is in it


def test_images_are_real(enseada_registry: RunningRegistry) -> None:
    layers = [{"etc/motd": b"hello\n", "empty": b""}, {"etc/motd": b"hello again\n"}]
    image = enseada_registry.push(NAME, "1", layers)
    assert isinstance(image, PushedImage)
    stored = enseada_registry.manifest(NAME, "1")
    assert (stored.content, stored.digest) == (image.manifest, image.digest)
    assert enseada_registry.blob(stored.json["config"]["digest"]) == image.config
    archives = []
    for descriptor, files in zip(stored.json["layers"], layers, strict=True):
        blob = enseada_registry.blob(descriptor["digest"])
        assert len(blob) == descriptor["size"]
        archives.append(gzip.decompress(blob))
        with tarfile.open(fileobj=io.BytesIO(archives[-1])) as archive:
            members = {name: archive.extractfile(name) for name in archive.getnames()}
            assert {name: member and member.read() for name, member in members.items()} == files
    assert json.loads(image.config)["rootfs"]["diff_ids"] == [digest_of(archive) for archive in archives]
    assert enseada_registry.push("other/app", "2", layers).digest == image.digest, "the same files, the same bytes"


def test_a_tag_that_is_pushed_again_moves(enseada_registry: RunningRegistry) -> None:
    old = enseada_registry.push(NAME, "1")
    new = enseada_registry.push(NAME, "1", [{"new": b"new"}])
    assert enseada_registry.manifest(NAME, "1").digest == new.digest != old.digest
    assert enseada_registry.manifest(NAME, old.digest).content == old.manifest


def test_manifests_of_ones_own(enseada_registry: RunningRegistry) -> None:
    image = enseada_registry.push(NAME, "amd64")
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.digest}
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**entry, "size": len(image.manifest)}]}
    ).encode()
    assert enseada_registry.push_manifest(NAME, index, media_type=INDEX) == digest_of(index)
    assert enseada_registry.tags(NAME) == ["amd64"]
    enseada_registry.push_manifest(NAME, index, "all", INDEX)
    assert enseada_registry.tags(NAME) == ["all", "amd64"]
    assert enseada_registry.manifest(NAME, "all").media_type == INDEX
    with pytest.raises(ValueError, match=r"answered 400: .*MANIFEST_INVALID"):
        enseada_registry.push_manifest(NAME, b"[]")
    with pytest.raises(ValueError, match=r"answered 400: .*NAME_INVALID"):
        enseada_registry.push_blob("No/Name", b"")


def test_what_is_not_there(enseada_registry: RunningRegistry) -> None:
    assert enseada_registry.repositories == enseada_registry.tags(NAME) == []
    with pytest.raises(KeyError, match="team/app: latest"):
        enseada_registry.manifest(NAME, "latest")
    with pytest.raises(KeyError, match="sha256:"):
        enseada_registry.blob(digest_of(b""))
    with pytest.raises(ValueError, match="is not a digest"):
        enseada_registry.blob("latest")


def test_lists_of_several_pages(enseada_registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "PAGE", 2)
    image = enseada_registry.push("a/0", "t0")
    for number in range(1, 5):
        enseada_registry.push(f"a/{number}")
        enseada_registry.push_manifest("a/0", image.manifest, f"t{number}")
    assert enseada_registry.repositories == [f"a/{number}" for number in range(5)]
    assert enseada_registry.tags("a/0") == [f"t{number}" for number in range(5)]


def test_the_inside_meets_no_fault_and_leaves_no_record(enseada_registry: RunningRegistry, http: httpx.Client) -> None:
    refused = enseada_registry.faults.on().refuse(500)
    enseada_registry.push(NAME)
    assert enseada_registry.tags(NAME) == ["latest"]
    assert enseada_registry.requests == []
    assert not refused.fired
    assert http.get(f"/v2/{NAME}/tags/list").status_code == 500


# -- what was asked


def test_requests(enseada_registry: RunningRegistry, http: httpx.Client) -> None:
    digest = enseada_registry.push_blob(NAME, b"x" * 200_000)
    assert http.get(f"/v2/{NAME}/blobs/{digest}", headers={"X-Odd": "yes"}).status_code == 200
    location = http.post(f"/v2/{NAME}/blobs/uploads/").headers["Location"]
    http.patch(location, content=b"12345")
    with client_of(enseada_registry, auth=None) as other:
        other.get("/v2/_catalog", params={"n": "5"})
    read, begun, patched, listed = enseada_registry.requests
    assert (read.method, read.operation, read.status) == ("GET", "blob", 200)
    assert (read.bytes_in, read.bytes_out, read.subject) == (0, 200_000, "admin")
    assert read.headers.get("x-odd") == "yes"
    assert read.error is None
    assert (begun.method, begun.operation, begun.status) == ("POST", "upload", 202)
    assert (patched.path, patched.bytes_in, patched.status) == (location, 5, 202)
    assert (listed.operation, listed.query, listed.status) == ("catalog", "n=5", 401)
    assert (listed.subject, listed.headers.get("authorization")) == ("anonymous", None)


def test_whoever_has_an_answer_finds_its_request(enseada_registry: RunningRegistry, http: httpx.Client) -> None:
    digest = enseada_registry.push_blob(NAME, b"x" * 200_000)
    for number in range(1, 51):
        http.get(f"/v2/{NAME}/blobs/{digest}")
        requests = enseada_registry.requests
        assert len(requests) == number
        assert (requests[-1].status, requests[-1].bytes_out) == (200, 200_000)


def test_what_is_no_request_is_on_record_too(enseada_registry: RunningRegistry) -> None:
    port = int(enseada_registry.host.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
        client.shutdown(socket.SHUT_WR)
        while client.recv(1000):
            pass
    [request] = enseada_registry.requests
    assert (request.method, request.status, request.operation) == ("-", 400, None)
    assert len(request.headers) == 0


def test_the_report_is_for_people(enseada_registry: RunningRegistry, http: httpx.Client) -> None:
    assert enseada_registry.report() == "nothing was asked"
    enseada_registry.faults.on("GET", "ping").refuse(503)
    enseada_registry.faults.on("PATCH", nth=2).hold()
    http.get("/v2/")
    http.get("/v2/", params={"a": "b"})
    assert enseada_registry.report().splitlines() == [
        "GET /v2/ -> 503 (refuse with 503)",
        "GET /v2/?a=b -> 200",
        "fault: GET ping, number 1: refuse with 503 (happened 1 of 1 times)",
        "fault: PATCH, number 2: hold (happened 0 of 1 times)",
    ]


def test_the_report_is_of_what_is_over(enseada_registry: RunningRegistry) -> None:
    """All that was sent counts, whether or not the client has waited for what becomes of it."""
    enseada_registry.faults.on("GET", times=None).lose_request()
    address = ("127.0.0.1", int(enseada_registry.host.rpartition(":")[2]))
    for number in range(1, 21):
        with socket.create_connection(address, 30) as client:
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            *said, fault = enseada_registry.report().splitlines()
        assert fault.startswith("fault: GET")
        assert len(said) == number
        assert said[-1].startswith("GET /v2/ -> 499 (lose the request; ")


def test_only_so_many_are_remembered() -> None:
    records = Records()
    for number in range(KEPT + 5):
        records.end(Exchange("GET", f"/{number}", "", 200, 1, 2, 0.5, "ann", "127.0.0.1", f"id-{number}", None))
    assert len(records.all) == KEPT
    assert records.all[0].path == "/5"
    records.change("id-0", status=500)
    records.add_fault("id-0", "hold")
    assert records.all[-1] == RecordedRequest("GET", f"/{KEPT + 4}", "", records.all[-1].headers, 200, 1, 2, "ann")


# -- its end


def threads_of_registries() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "enseada-registry"]


def test_nothing_is_left() -> None:
    with registry():
        pass  # what is imported, and made once for the process, is there now
    before = set(os.listdir("/proc/self/fd"))
    with registry() as running:
        assert len(threads_of_registries()) == 1
        port = int(running.host.rpartition(":")[2])
        idle = socket.create_connection(("127.0.0.1", port), 30)
        with client_of(running) as http:
            http.post(f"/v2/{NAME}/blobs/uploads/")
            assert http.get("/v2/").status_code == 200
    with idle:
        assert idle.recv(1) == b""
    assert threads_of_registries() == []
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 30)


def test_afterwards(enseada_registry: RunningRegistry) -> None:
    with registry() as running, client_of(running) as http:
        http.get("/v2/")
    assert [str(request) for request in running.requests] == ["GET /v2/ -> 200"]
    for look in (lambda: running.repositories, lambda: running.push(NAME), lambda: running.blob(digest_of(b""))):
        with pytest.raises(LoopEnded):
            look()


def test_a_test_that_fails_ends_it_too() -> None:
    def fail() -> None:
        with registry(strict=True) as running:
            running.faults.on().refuse(500)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert threads_of_registries() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [({"username": "No Name"}, "no account can be named"), ({"password": "x" * 2000}, "no longer than 1024 bytes")],
)
def test_what_cannot_start_says_why(options: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said), registry(**options):  # type: ignore[arg-type]
        pytest.fail("it runs")
    assert threads_of_registries() == []


def test_a_defect_of_the_registry_fails_the_test() -> None:
    """Here it is one of the settings, whose types nobody looks at in a program."""
    wrong: Any = "many"

    def use() -> None:
        with registry(settings=Settings(max_blob_bytes=wrong)) as running, client_of(running) as http:
            answer = http.post(f"/v2/{NAME}/blobs/uploads/", params={"digest": digest_of(b"x")}, content=b"x")
            assert answer.status_code == 500

    with pytest.RaisesGroup(TypeError):
        use()
    assert threads_of_registries() == []
