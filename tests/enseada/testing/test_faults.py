"""Every fault, as a client meets it: over a real socket, from a thread that is not the registry's."""

from __future__ import annotations

import hashlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enseada.testing import Faults, UnmetFaults, digest_of, registry
from enseada.testing.records import RecordedRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enseada.testing import RunningRegistry

NAME = "team/app"
CONTENT = bytes(range(256)) * 1024
"""More than one read of a blob in memory gives."""


@pytest.fixture
def faults(enseada_registry: RunningRegistry) -> Faults:
    return enseada_registry.faults


def begin(http: httpx.Client) -> str:
    """Begin an upload; its address."""
    answer = http.post(f"/v2/{NAME}/blobs/uploads/")
    assert answer.status_code == 202
    return answer.headers["Location"]


def offset(http: httpx.Client, location: str) -> int:
    """How much of an upload the registry has."""
    answer = http.get(location)
    assert answer.status_code == 204
    first, _, last = answer.headers["Range"].partition("-")
    assert first == "0"
    return int(last) + 1 if last != "0" else 0  # a range cannot be empty, and so no upload rests at one byte


def code(answer: httpx.Response) -> str:
    """The code of the one error that an answer tells of."""
    [error] = answer.json()["errors"]
    return str(error["code"])


# -- refusals


def test_the_second_patch_is_refused(enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client) -> None:
    refused = faults.on("PATCH", nth=2).refuse(503, retry_after=7)
    location = begin(http)
    assert http.patch(location, content=b"one ").status_code == 202
    answer = http.patch(location, content=b"two ")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "7"
    assert code(answer) == "UNAVAILABLE"
    assert offset(http, location) == len(b"one ")
    assert http.patch(location, content=b"two ").status_code == 202
    digest = digest_of(b"one two ")
    assert http.put(location, params={"digest": digest}).status_code == 201
    assert enseada_registry.blob(digest) == b"one two "
    assert refused.fired == 1
    assert refused.is_met
    assert faults.fired == [refused]
    assert faults.unmet == []


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        (f"{NAME}/manifests/1", 404, "MANIFEST_UNKNOWN"),
        (f"{NAME}/blobs/{digest_of(b'')}", 404, "BLOB_UNKNOWN"),
        (f"{NAME}/blobs/uploads/x", 404, "BLOB_UPLOAD_UNKNOWN"),
        (f"{NAME}/tags/list", 404, "NAME_UNKNOWN"),
        (f"{NAME}/tags/list", 401, "UNAUTHORIZED"),
        (f"{NAME}/tags/list", 403, "DENIED"),
        (f"{NAME}/tags/list", 429, "TOOMANYREQUESTS"),
        (f"{NAME}/tags/list", 500, "UNKNOWN"),
    ],
)
def test_the_usual_code(faults: Faults, http: httpx.Client, path: str, status: int, said: str) -> None:
    faults.on().refuse(status)
    answer = http.get(f"/v2/{path}")
    assert (answer.status_code, code(answer)) == (status, said)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)
    assert "Retry-After" not in answer.headers


def test_a_refusal_of_ones_own(faults: Faults, http: httpx.Client) -> None:
    date = "Fri, 31 Dec 1999 23:59:59 GMT"
    more = {"X-Handle": "here", "x-spout": "there"}
    faults.on("GET", "ping").refuse(418, code="TEAPOT", message="short and stout", retry_after=date, headers=more)
    answer = http.get("/v2/")
    assert answer.status_code == 418
    assert answer.json() == {"errors": [{"code": "TEAPOT", "message": "short and stout"}]}
    assert answer.headers["Retry-After"] == date
    assert (answer.headers["X-Handle"], answer.headers["X-Spout"]) == ("here", "there")


def test_outside_of_any_format(faults: Faults, http: httpx.Client) -> None:
    faults.on(path="^/-/ready$").refuse(503)
    answer = http.get("/-/ready")
    assert answer.status_code == 503
    assert answer.text.startswith("UNAVAILABLE: ")
    assert http.get("/-/ready").status_code == 200


def test_how_often(faults: Faults, http: httpx.Client) -> None:
    def statuses(count: int) -> list[int]:
        return [http.get("/v2/").status_code for _ in range(count)]

    twice = faults.on("GET", nth=2, times=2).refuse(500)
    assert statuses(2) == [200, 500]
    assert faults.unmet == [twice]
    assert statuses(2) == [500, 200]
    assert faults.unmet == []
    always = faults.on("GET", times=None).refuse(502)
    assert statuses(3) == [502] * 3
    assert always.fired == 3
    faults.clear()
    assert statuses(2) == [200, 200]
    assert faults.armed == faults.fired == faults.unmet == []


def test_each_counts_for_itself(faults: Faults, http: httpx.Client) -> None:
    third = faults.on("GET", nth=3).refuse(503)
    first = faults.on("GET").refuse(500)
    other = faults.on("DELETE", times=2).refuse(504)
    assert [http.get("/v2/").status_code for _ in range(4)] == [500, 200, 503, 200]
    assert faults.fired == [third, first]
    assert faults.unmet == [other]
    with pytest.raises(UnmetFaults, match=r"DELETE, number 1 and on: refuse with 504 \(happened 0 of 2 times\)$"):
        faults.check()


def test_those_that_could_not_happen_are_for_the_next(faults: Faults, http: httpx.Client) -> None:
    """Armed one after the other, they happen one after the other."""
    armed = [faults.on("GET").refuse(status) for status in (500, 501)] + [faults.on("GET", nth=2).refuse(502)]
    assert [http.get("/v2/").status_code for _ in range(4)] == [500, 501, 502, 200]
    assert faults.fired == armed


def test_exactly_as_many_as_ordered_whoever_comes_first(enseada_registry: RunningRegistry, faults: Faults) -> None:
    """Eight clients at once, and a test that arms while they ask."""
    go = threading.Barrier(9)

    def ask(_: int) -> list[int]:
        with httpx.Client(base_url=enseada_registry.url, auth=enseada_registry.auth, trust_env=False) as http:
            go.wait(30)
            return [http.get("/v2/").status_code for _ in range(25)]

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(ask, range(8))
        early = faults.on("GET", nth=10, times=20).refuse(500)
        go.wait(30)
        late = [faults.on("GET").refuse(502) for _ in range(3)]
        statuses = [status for each in answers for status in each]
    assert len(statuses) == len(enseada_registry.requests) == 200
    assert statuses.count(500) == early.fired == 20
    assert statuses.count(502) == sum(fault.fired for fault in late)


# -- holding


def test_hold(enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client) -> None:
    held = faults.on("PUT", "manifest").hold()
    with ThreadPoolExecutor(1) as pool:
        image = enseada_registry.push(NAME, "old")
        pushing = pool.submit(http.put, f"/v2/{NAME}/manifests/new", content=image.manifest, headers=MANIFEST_TYPE)
        held.wait()
        assert [(each.method, each.status) for each in enseada_registry.requests] == [("PUT", None)]
        assert enseada_registry.tags(NAME) == ["old"], "what is held has not happened"
        assert not pushing.done()
        held.release()
        assert pushing.result(30).status_code == 201
    assert enseada_registry.tags(NAME) == ["new", "old"]
    held.release()
    assert http.get("/v2/").status_code == 200


def test_what_is_released_holds_nobody(faults: Faults, http: httpx.Client) -> None:
    held = faults.on(times=None).hold()
    held.release()
    assert http.get("/v2/").status_code == 200
    assert held.fired == 1


def test_clearing_releases(faults: Faults, http: httpx.Client) -> None:
    held = faults.on().hold()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(http.get, "/v2/")
        held.wait()
        faults.clear()
        assert asking.result(30).status_code == 200


def test_a_registry_ends_although_a_request_is_held() -> None:
    with ThreadPoolExecutor(1) as pool:
        with registry() as running:
            held = running.faults.on().hold()
            asking = pool.submit(httpx.get, f"{running.url}/v2/", trust_env=False)
            held.wait()
        with pytest.raises(httpx.TransportError):
            asking.result(30)
    held.release()
    assert running.requests[0].status == 499


def test_waiting_in_vain(faults: Faults) -> None:
    with pytest.raises(TimeoutError, match=r"no request met the fault within 0\.01 seconds: GET, number 1: hold"):
        faults.on("GET").hold().wait(0.01)


# -- connections that end


MANIFEST_TYPE = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}


@pytest.mark.parametrize("reset", [False, True])
def test_lost_requests_never_happened(
    enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client, reset: bool
) -> None:
    image = enseada_registry.push(NAME, "old")
    lost = faults.on("DELETE", "manifest").lose_request(reset=reset)
    with pytest.raises(httpx.ReadError if reset else httpx.RemoteProtocolError):
        http.delete(f"/v2/{NAME}/manifests/old")
    assert lost.fired == 1
    assert enseada_registry.manifest(NAME, "old").content == image.manifest
    assert http.delete(f"/v2/{NAME}/manifests/old").status_code == 202
    [first, second] = enseada_registry.requests
    assert (first.status, first.faults) == (499, ("lose the request",))
    assert first.error is not None
    assert "before the registry saw" in first.error
    assert (second.status, second.faults, second.error) == (202, (), None)


@pytest.mark.parametrize("reset", [False, True])
def test_lost_answers_are_of_what_happened(
    enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client, reset: bool
) -> None:
    enseada_registry.push(NAME, "old")
    lost = faults.on("DELETE", "manifest").lose_answer(reset=reset)
    with pytest.raises(httpx.ReadError if reset else httpx.RemoteProtocolError):
        http.delete(f"/v2/{NAME}/manifests/old")
    assert lost.fired == 1
    assert enseada_registry.tags(NAME) == []
    assert http.delete(f"/v2/{NAME}/manifests/old").status_code == 404


def test_a_lost_answer_to_an_upload_that_was_complete(
    enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client
) -> None:
    """What a client does that knows its trade: it sends the same PUT again, and is told that all is well."""
    faults.on("PUT", "upload").lose_answer()
    location = begin(http)
    digest = digest_of(CONTENT)
    with pytest.raises(httpx.TransportError):
        http.put(location, params={"digest": digest}, content=CONTENT)
    assert enseada_registry.blob(digest) == CONTENT
    assert http.put(location, params={"digest": digest}, content=CONTENT).status_code == 201


def in_pieces(content: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(2, 3000) | st.just(200_000),
    where=st.floats(0, 1),
    piece=st.integers(1, 1000),
    sized=st.booleans(),
    before=st.sampled_from([0, 5]),
)
@example(length=2, where=0.0, piece=1, sized=True, before=0)
@example(length=2, where=0.5, piece=1, sized=False, before=0)
@example(length=2, where=1.0, piece=2, sized=False, before=0)
def test_a_request_is_cut_at_any_byte(length: int, where: float, piece: int, sized: bool, before: int) -> None:
    """The registry has saved every byte up to there when the client learns of it; from there it goes on."""
    content = CONTENT[: before + length]
    after = round(where * length)
    with (
        registry() as running,
        httpx.Client(base_url=running.url, auth=running.auth, trust_env=False) as http,
    ):
        location = begin(http)
        if before:
            assert http.patch(location, content=content[:before]).status_code == 202
        cut = running.faults.on("PATCH").cut_request(after)
        rest = content[before:]
        sent = rest if sized else in_pieces(rest, max(piece, length // 50))
        if after == length:
            assert http.patch(location, content=sent).status_code == 202
            assert running.faults.unmet == [cut]
        else:
            with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):  # it may be writing just then, or not
                http.patch(location, content=sent)
            assert cut.fired == 1
            assert running.requests[-1].status == 499
        saved = before + after if before + after != 1 else 0
        assert offset(http, location) == saved
        digest = digest_of(content)
        answer = http.put(location, params={"digest": digest}, content=content[saved:])
        assert answer.status_code == 201
        assert running.blob(digest) == content


def test_of_several_uploads_at_once_the_one_that_is_long_enough_is_cut(
    enseada_registry: RunningRegistry, faults: Faults
) -> None:
    """Clients push the layers of an image all together, and its small config with them."""
    cut = faults.on("PATCH").cut_request(1000)

    def push(content: bytes) -> int | None:
        with httpx.Client(base_url=enseada_registry.url, auth=enseada_registry.auth, trust_env=False) as http:
            try:
                return http.patch(begin(http), content=content).status_code
            except httpx.TransportError:
                return None

    contents = [b"small"] * 3 + [CONTENT] * 3
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(push, contents))
    assert statuses[:3] == [202] * 3
    assert sorted(statuses[3:], key=str) == [202, 202, None]
    assert cut.fired == 1


@settings(deadline=None, max_examples=60)
@given(length=st.integers(1, 200_000), where=st.floats(0, 1), reset=st.booleans())
@example(length=1, where=0.0, reset=False)
@example(length=65_536, where=0.5, reset=True)
def test_an_answer_is_cut_at_any_byte(length: int, where: float, reset: bool) -> None:
    content = CONTENT[:length]
    after = round(where * length)
    with registry() as running, httpx.Client(base_url=running.url, auth=running.auth, trust_env=False) as http:
        path = f"/v2/{NAME}/blobs/{running.push_blob(NAME, content)}"
        cut = running.faults.on("GET", "blob").cut_answer(after, reset=reset)
        received, error = download(http, path, length)
        if after == length:
            assert error is None
        else:
            assert isinstance(error, httpx.ReadError if reset else httpx.RemoteProtocolError)
        if reset:
            assert content[:after].startswith(received)
        else:
            assert received == content[:after]
        assert cut.is_met == (after < length)
        rest = http.get(path, headers={"Range": f"bytes={len(received)}-"}) if len(received) < length else None
        assert received + (b"" if rest is None else rest.content) == content


def download(http: httpx.Client, path: str, length: int) -> tuple[bytes, httpx.TransportError | None]:
    """What comes in answer to a GET that is said to have so many bytes, and how it broke off."""
    received = b""
    with http.stream("GET", path) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == str(length)
        try:
            for piece in answer.iter_raw():
                received += piece
        except httpx.TransportError as error:
            return received, error
    return received, None


def raw(running: RunningRegistry, path: str) -> bytes:
    """What comes in answer to a GET, to the end of the connection; its errors are raised."""
    with socket.create_connection(("127.0.0.1", int(running.host.rpartition(":")[2])), 30) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


@pytest.mark.parametrize("what", ["lose_request", "lose_answer"])
@pytest.mark.enseada(anonymous="pull")
def test_how_a_connection_ends(enseada_registry: RunningRegistry, faults: Faults, what: str) -> None:
    """On the wire: an end is an end, and a reset is a reset."""
    occasion = faults.on("GET", times=1)
    getattr(occasion, what)()
    assert raw(enseada_registry, f"/v2/{NAME}/tags/list") == b""
    getattr(occasion, what)(reset=True)
    with pytest.raises(ConnectionResetError):
        raw(enseada_registry, f"/v2/{NAME}/tags/list")
    assert raw(enseada_registry, f"/v2/{NAME}/tags/list").startswith(b"HTTP/1.1 404 ")


@pytest.mark.enseada(anonymous="push")
def test_how_a_connection_ends_whose_request_is_cut(enseada_registry: RunningRegistry, faults: Faults) -> None:
    """By a reset, also where nothing is left unread, for which the system would reset it anyway."""
    with httpx.Client(base_url=enseada_registry.url, trust_env=False) as http:
        location = begin(http)
    cut = faults.on("PATCH").cut_request(100)
    with socket.create_connection(("127.0.0.1", int(enseada_registry.host.rpartition(":")[2])), 30) as client:
        client.sendall(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n".encode() + bytes(101))
        with pytest.raises(ConnectionResetError):
            client.recv(65536)
    assert cut.fired == 1


# -- answers that lie


@pytest.mark.parametrize(("after", "met"), [(0, True), (70_000, True), (len(CONTENT) - 1, True), (len(CONTENT), False)])
def test_truncate(
    enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client, after: int, met: bool
) -> None:
    path = f"/v2/{NAME}/blobs/{enseada_registry.push_blob(NAME, CONTENT)}"
    truncated = faults.on("GET").truncate(after)
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(after)
    assert answer.content == CONTENT[:after]
    assert truncated.is_met == met
    assert http.get(path).content == CONTENT, "and the connection goes on"


@pytest.mark.parametrize(("at", "met"), [(0, True), (65_536, True), (len(CONTENT) - 1, True), (len(CONTENT), False)])
def test_corrupt(enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client, at: int, met: bool) -> None:
    digest = enseada_registry.push_blob(NAME, CONTENT)
    corrupted = faults.on("GET").corrupt(at)
    answer = http.get(f"/v2/{NAME}/blobs/{digest}")
    assert len(answer.content) == len(CONTENT)
    assert [index for index, byte in enumerate(answer.content) if byte != CONTENT[index]] == ([at] if met else [])
    assert corrupted.is_met == met


def test_answers_of_a_few_bytes(enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client) -> None:
    """Those that the registry holds whole, which go out together with their heads."""
    image = enseada_registry.push(NAME)
    path = f"/v2/{NAME}/manifests/latest"
    faults.on("GET").truncate(10)
    faults.on("GET", nth=2).corrupt(3)
    faults.on("GET", nth=3).cut_answer(5)
    assert http.get(path).content == image.manifest[:10]
    corrupted = http.get(path)
    assert hashlib.sha256(corrupted.content).hexdigest() != image.digest.partition(":")[2]
    assert corrupted.content[4:] == image.manifest[4:]
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(path)
    assert faults.unmet == []


def test_answers_without_content_are_left_alone(
    enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client
) -> None:
    image = enseada_registry.push(NAME)
    for arm in (faults.on().truncate, faults.on().corrupt, faults.on().cut_answer):
        arm(0)
    answer = http.head(f"/v2/{NAME}/manifests/latest")
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(len(image.manifest))
    assert len(faults.unmet) == 3


def test_headers(enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client) -> None:
    image = enseada_registry.push(NAME)
    wrong = digest_of(b"something else")
    faults.on("HEAD").change_headers({"docker-content-digest": wrong, "X-More": "yes", "ETag": None})
    path = f"/v2/{NAME}/manifests/latest"
    answer = http.head(path)
    assert answer.headers["Docker-Content-Digest"] == wrong
    assert answer.headers["X-More"] == "yes"
    assert "ETag" not in answer.headers
    answer = http.head(path)
    assert answer.headers["Docker-Content-Digest"] == image.digest
    assert "ETag" in answer.headers


def test_several_at_one_request(enseada_registry: RunningRegistry, faults: Faults, http: httpx.Client) -> None:
    digest = enseada_registry.push_blob(NAME, CONTENT)
    faults.on("GET").change_headers({"ETag": None})
    held = faults.on("GET").hold()
    faults.on("GET").cut_answer(100)
    faults.on("GET").corrupt(50)
    held.release()
    received, error = download(http, f"/v2/{NAME}/blobs/{digest}", len(CONTENT))
    assert isinstance(error, httpx.RemoteProtocolError)
    assert len(received) == 100
    assert received[50] != CONTENT[50]
    assert faults.unmet == []
    assert len(enseada_registry.requests[-1].faults) == 4


# -- what cannot be


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("refuse", {"status": 200}),
        ("refuse", {"status": 600}),
        ("refuse", {"retry_after": "1\r\nX: y"}),
        ("refuse", {"headers": {"X": "a\nb"}}),
        ("refuse", {"headers": {"Content-Length": "1"}}),
        ("refuse", {"headers": {"x-request-id": "1"}}),
        ("cut_request", {"after": -1}),
        ("cut_answer", {"after": -1}),
        ("truncate", {"after": -1}),
        ("corrupt", {"at": -1}),
        ("change_headers", {"headers": {"Content-Length": "1"}}),
        ("change_headers", {"headers": {"transfer-encoding": None}}),
        ("change_headers", {"headers": {"X-Request-Id": "1"}}),
        ("change_headers", {"headers": {"X": "a\nb"}}),
        ("change_headers", {"headers": {"X:": "a"}}),
        ("change_headers", {"headers": {"X:": None}}),
    ],
)
def test_faults_that_cannot_be(method: str, arguments: dict[str, Any]) -> None:
    faults = Faults()
    with pytest.raises(ValueError, match=r"."):
        getattr(faults.on(), method)(**arguments)
    assert faults.armed == []


def test_how_they_read() -> None:
    faults = Faults()
    on = faults.on("PATCH")
    texts = [
        str(fault.act)
        for fault in (
            on.refuse(503),
            on.lose_request(),
            on.hold(),
            on.cut_request(1),
            on.lose_answer(),
            on.cut_answer(2),
            on.truncate(3),
            on.corrupt(4),
            on.change_headers({"A": "b", "C": None}),
        )
    ]
    assert texts == [
        "refuse with 503",
        "lose the request",
        "hold",
        "cut the connection after 1 bytes of the request's content",
        "lose the answer",
        "cut the connection after 2 bytes of the answer's content",
        "truncate the answer's content to 3 bytes",
        "corrupt byte 4 of the answer's content",
        "change the answer's A, C",
    ]
    assert repr(faults.armed[0]) == "<Fault PATCH, number 1: refuse with 503 (happened 0 of 1 times)>"
    assert str(RecordedRequest("GET", "/v2/", "a=b", None, faults=("hold",))) == "GET /v2/?a=b -> no answer yet (hold)"  # type: ignore[arg-type]
