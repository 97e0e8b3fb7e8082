"""The registry as an ASGI application, driven by hand: what it receives and sends, on both event loops."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import enseada
from enseada.asgiapp import AnswerBroken, locate
from enseada.limits import KIB, MIB, Limits
from tests.enseada.asgi_client import Exchange, Host
from tests.enseada.oci_client import cheap_settings, digest_of, image_manifest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"


def on_both_loops(scenario: Callable[[Path], Awaitable[None]]) -> Callable[[str, Path], None]:
    """Make a test of an async function: it runs under asyncio and under trio."""

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test(backend: str, tmp_path: Path) -> None:
        anyio.run(scenario, tmp_path, backend=backend)

    test.__doc__ = scenario.__doc__  # and no more: functools.wraps would have pytest look at the scenario's parameters
    return test


def host(folder: Path, scope: Mapping[str, Any] | None = None, **settings: Any) -> Host:
    """An application over a data folder."""
    registry = enseada.Registry(cheap_settings(data=folder / "data", **settings))
    return Host(enseada.asgi(registry), scope or {})


def without_threads(limits: Limits) -> Host:
    """One that no clock runs away from while a thread works."""
    settings = cheap_settings(anonymous="push", limits=limits)
    registry = enseada.Registry(settings, stores=enseada.memory_stores)
    return Host(enseada.asgi(registry), authorization=None)


async def push_blob(served: Host, content: bytes, name: str = "team/app") -> str:
    """Push by POST and PUT; the address of the blob."""
    begun = await served.ask("POST", f"/v2/{name}/blobs/uploads/")
    assert begun.status == 202
    put = await served.ask("PUT", f"{begun.header('location')}?digest={digest_of(content)}", content)
    assert put.status == 201
    return put.header("location")


# -- requests and answers


@on_both_loops
async def test_push_and_pull(tmp_path: Path) -> None:
    served = host(tmp_path)
    layer = os.urandom(MIB + 17)
    async with served.lifespan() as said:
        assert said == [{"type": "lifespan.startup.complete"}]
        address = await push_blob(served, layer)
        await push_blob(served, b"{}")
        manifest = image_manifest(b"{}", [layer])
        put = await served.ask("PUT", "/v2/team/app/manifests/1", manifest, {"Content-Type": OCI_IMAGE})
        assert put.status == 201
        got = await served.ask("GET", "/v2/team/app/manifests/1", headers={"Accept": OCI_IMAGE})
        assert (got.status, got.body, got.header("content-type")) == (200, manifest, OCI_IMAGE)
        got = await served.ask("GET", address)
        assert (got.status, got.body) == (200, layer)
        assert max(map(len, got.pieces)) <= 256 * KIB
        part = await served.ask("GET", address, headers={"Range": "bytes=10-19"})
        assert (part.status, part.body) == (206, layer[10:20])
        head = await served.ask("HEAD", address)
        assert (head.status, head.header("content-length")) == (200, str(len(layer)))
        same = await served.ask("GET", address, headers={"If-None-Match": f'"{digest_of(layer)}"'})
        assert same.status == 304
        begun = await served.ask("POST", "/v2/team/app/blobs/uploads/")
        assert (await served.ask("DELETE", begun.header("location"))).status == 204
        assert (await served.ask("GET", "/elsewhere")).status == 404
    assert [message["type"] for message in said] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@on_both_loops
async def test_an_upload_is_received_as_it_is_stored(tmp_path: Path) -> None:
    """One message at a time, each stored before the next is asked for; nothing is received for a refusal."""
    served = host(tmp_path)
    size, count = 64 * KIB, 32
    pieces = [os.urandom(size) for _ in range(count)]
    stored: list[int] = []

    class Watched(Exchange):
        async def receive(self) -> Any:
            files = (tmp_path / "data" / "blobs").rglob("*")
            stored.append(max((file.stat().st_size for file in files if file.is_file()), default=0))
            return await super().receive()

    async with served.lifespan():
        location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
        upload = Watched("PATCH", pieces)
        await served.run(upload, location, {"Content-Length": str(size * count)})
        assert upload.answer.status == 202
        assert stored == [size * number for number in range(count)]
        # Without a length, as in chunked coding and in HTTP/2.
        location = upload.answer.header("location")
        more = Exchange("PATCH", [b"ab", b"", b"c"])
        await served.run(more, location, {"Transfer-Encoding": "chunked"})
        assert (more.answer.status, more.answer.header("range")) == (202, f"0-{size * count + 2}")
        refused = Exchange("PATCH", pieces)
        await served.run(refused, location, {"Content-Length": str(size * count), "Authorization": "Basic eDp5"})
        assert (refused.answer.status, refused.received) == (401, 0)
        content = b"".join(pieces) + b"abc"
        location = more.answer.header("location")
        assert (await served.ask("PUT", f"{location}?digest={digest_of(content)}")).status == 201


@on_both_loops
async def test_a_refusal_before_the_content_was_asked_for(tmp_path: Path) -> None:
    """The server, too, may take for content what the client sends next: that answer is the connection's last."""
    served = host(tmp_path)
    async with served.lifespan():
        location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
        fields = {"Content-Length": "3", "Expect": "100-continue"}
        for version, last in (("1.1", ["close"]), ("2", [])):
            refused = Exchange("PATCH", [b"abc"])
            await served.run(refused, location, {**fields, "Authorization": "Basic eDp5"}, http_version=version)
            assert (refused.answer.status, refused.received) == (401, 0)
            assert refused.answer.headers.get_all("connection") == last
        taken = Exchange("PATCH", [b"abc"])
        await served.run(taken, location, fields)
        assert (taken.answer.status, taken.answer.headers.get_all("connection")) == (202, [])


@on_both_loops
async def test_a_client_that_goes_while_it_uploads(tmp_path: Path) -> None:
    """What came is saved, and nobody is answered."""
    exchanges: list[enseada.Exchange] = []
    served = host(tmp_path)
    served.app = enseada.asgi(served.app.registry, on_exchange=exchanges.append)
    async with served.lifespan():
        location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
        upload = Exchange("PATCH", [bytes(1000)], then_gone=True)
        await served.run(upload, location, {"Content-Length": "3000"})
        assert upload.answer.status == 0
        assert (await served.ask("GET", location)).header("range") == "0-999"
    begun, broken, _ = exchanges
    assert (begun.method, begun.status, begun.subject, begun.client) == ("POST", 202, "admin", "192.0.2.1")
    assert (broken.status, broken.bytes_in, broken.error) == (499, 1000, "the client has gone")


@on_both_loops
async def test_content_that_is_not_as_long_as_it_was_said_to_be(tmp_path: Path) -> None:
    """Whoever stands between the client and us may cut it: it must not count as whole."""
    served = host(tmp_path)
    async with served.lifespan():
        location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
        upload = Exchange("PATCH", [bytes(1000)])
        await served.run(upload, location, {"Content-Length": "3000"})
        assert upload.answer.status == 400


@on_both_loops
async def test_a_client_that_goes_while_it_downloads(tmp_path: Path) -> None:
    """The file is closed, and not read to its end for nobody."""
    exchanges: list[enseada.Exchange] = []
    served = host(tmp_path)
    served.app = enseada.asgi(served.app.registry, on_exchange=exchanges.append)
    async with served.lifespan():
        address = await push_blob(served, bytes(4 * MIB))
        download = Exchange("GET")
        download.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(served.run, download, address)
            await download.sent_piece.wait()
            assert open_files(tmp_path) == 1
            download.gone.set()
        assert not download.answer.whole
        assert len(download.answer.body) < 4 * MIB
        assert open_files(tmp_path) == 0
    assert (exchanges[-1].status, exchanges[-1].error) == (200, "the client has gone")


def open_files(folder: Path) -> int:
    """Blobs that this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith(str(folder / "data" / "blobs"))
        except FileNotFoundError:  # the one that the folder was listed by
            continue
    return count


@on_both_loops
async def test_a_cancelled_download_lets_go_of_its_file(tmp_path: Path) -> None:
    served = host(tmp_path)
    async with served.lifespan():
        address = await push_blob(served, bytes(4 * MIB))
        download = Exchange("GET")
        download.hold = True
        async with anyio.create_task_group() as group:
            group.start_soon(served.run, download, address)
            await download.sent_piece.wait()
            group.cancel_scope.cancel()
        assert not download.answer.whole
        assert open_files(tmp_path) == 0


@on_both_loops
async def test_an_answer_that_breaks_off_is_never_ended(tmp_path: Path) -> None:
    """The application fails, by which every server learns that it has to cut the connection."""
    served = host(tmp_path)
    content = os.urandom(4 * MIB)
    async with served.lifespan():
        address = await push_blob(served, content)

        class Truncating(Exchange):
            async def send(self, message: Any) -> None:
                if message.get("body"):
                    for file in (tmp_path / "data" / "blobs").rglob("*"):
                        if file.is_file():
                            os.truncate(file, 1000)
                await super().send(message)

        download = Truncating("GET")
        with pytest.raises(AnswerBroken, match="end before their end"):
            await served.run(download, address)
        assert (download.answer.status, download.answer.whole) == (200, False)
        assert 0 < len(download.answer.body) < len(content)
        assert open_files(tmp_path) == 0


def test_an_upload_that_stops_is_given_up(autojump_clock: Any) -> None:
    """After the time that a client has for one read, whatever the host's server thinks of it."""

    async def scenario() -> None:
        served = without_threads(Limits(read_timeout=7))
        async with served.lifespan():
            location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
            upload = Exchange("PATCH", [b"x"])

            async def stall() -> Any:
                if upload.received:
                    await anyio.sleep_forever()
                return {**await upload.receive(), "more_body": True}

            began = anyio.current_time()
            await served.app(served.http("PATCH", location, {"Content-Length": "2"}), stall, upload.send)
            assert upload.answer.status == 408
            assert anyio.current_time() - began == pytest.approx(7)

    anyio.run(scenario, backend="trio", backend_options={"clock": autojump_clock})


def test_an_upload_that_crawls_is_given_up(autojump_clock: Any) -> None:
    async def scenario() -> None:
        served = without_threads(Limits(min_rate=10, rate_grace=60))
        async with served.lifespan():
            location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
            upload = Exchange("PATCH")

            async def crawl() -> Any:
                await anyio.sleep(1)
                return {"type": "http.request", "body": b"12345", "more_body": True}

            await served.app(served.http("PATCH", location, {"Content-Length": "2000"}), crawl, upload.send)
            assert upload.answer.status == 408
            assert "slower than 10 bytes a second" in upload.answer.body.decode()
            # What came in more than 60 seconds of waiting is saved.
            assert (await served.ask("GET", location)).header("range") == f"0-{5 * 60 - 1}"

    anyio.run(scenario, backend="trio", backend_options={"clock": autojump_clock})


@pytest.mark.parametrize(("size", "status"), [(611, 202), (609, 408)])
def test_what_has_just_come_counts(autojump_clock: Any, size: int, status: int) -> None:
    """A client is judged when content comes, with that content: 610 bytes are due after 61 seconds."""

    async def scenario() -> None:
        served = without_threads(Limits(read_timeout=100, min_rate=10, rate_grace=60))
        async with served.lifespan():
            location = (await served.ask("POST", "/v2/team/app/blobs/uploads/")).header("location")
            upload = Exchange("PATCH", [bytes(size)])

            async def slowly() -> Any:
                if not upload.received:
                    await anyio.sleep(61)
                return await upload.receive()

            await served.app(served.http("PATCH", location, {"Content-Length": str(size)}), slowly, upload.send)
            assert upload.answer.status == status

    anyio.run(scenario, backend="trio", backend_options={"clock": autojump_clock})


@on_both_loops
async def test_a_failing_log_fails_nothing(tmp_path: Path) -> None:
    def fail(exchange: enseada.Exchange) -> None:
        raise RuntimeError("no room")

    served = host(tmp_path)
    served.app = enseada.asgi(served.app.registry, on_exchange=fail)
    async with served.lifespan():
        assert (await served.ask("GET", "/-/live")).status == 200


class Fixed(enseada.Registry):
    """One that has the same answer to everything, made anew by ``make``."""

    make: Callable[[], enseada.Response]

    async def __call__(self, request: enseada.Request) -> enseada.Response:
        return self.make()


def fixed(make: Callable[[], enseada.Response]) -> tuple[Host, list[enseada.Exchange]]:
    """An application over `Fixed`, and what is told of its requests."""
    registry = Fixed(cheap_settings(), stores=enseada.memory_stores)
    registry.make = make
    exchanges: list[enseada.Exchange] = []
    return Host(enseada.asgi(registry, on_exchange=exchanges.append)), exchanges


@on_both_loops
async def test_what_is_sent_in_a_head(tmp_path: Path) -> None:
    """Names in lower case, as ASGI has them, and nothing twice: framing and the request's id are ours."""
    given = [(b"X-Odd", b"A"), (b"Content-Length", b"9"), (b"Transfer-Encoding", b"x"), (b"connection", b"close")]
    served, exchanges = fixed(
        lambda: enseada.Response(200, enseada.Headers([*given, (b"X-Request-Id", b"another")]), b"abc")
    )
    async with served.lifespan():
        headers = (await served.ask("GET", "/")).headers
    assert headers.raw == [(b"x-odd", b"A"), (b"content-length", b"3"), (b"x-request-id", exchanges[0].id.encode())]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_length_where_nothing_has_changed(method: str) -> None:
    """There are servers that would wait for the content of a 304."""

    async def scenario() -> None:
        served, _ = fixed(lambda: enseada.Response(304, length=9))
        async with served.lifespan():
            answer = await served.ask(method, "/")
        assert (answer.status, answer.body, answer.headers.get("content-length")) == (304, b"", None)

    anyio.run(scenario)


@on_both_loops
async def test_content_that_nobody_wants_is_not_received_beside_the_answer(tmp_path: Path) -> None:
    """It is looked whether the client has gone, and no further than to the first message with content."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        await anyio.wait_all_tasks_blocked()
        yield b"b"

    served, exchanges = fixed(lambda: enseada.Response(200, body=pieces(), length=2))
    upload = Exchange("PUT", [b"1", b"2", b"3"])
    async with served.lifespan():
        await served.run(upload, "/", {"Content-Length": "3"})
    assert (upload.answer.body, upload.answer.whole, upload.received) == (b"ab", True, 1)
    assert exchanges[0].error is None


@pytest.mark.parametrize("moment", [0, 1, 2])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_server_that_says_by_an_error_that_the_client_has_gone(moment: int, backend: str) -> None:
    """ASGI HTTP 2.4: an OSError, in place of the head or of content. It is no failure of ours."""
    closed = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            yield b"a"
            yield b"b"
        finally:
            closed += 1

    class Gone(Exchange):
        sent = 0

        async def send(self, message: Any) -> None:
            if self.sent == moment:
                raise BrokenPipeError("the client has gone")
            self.sent += 1
            await super().send(message)

    async def scenario() -> None:
        served, exchanges = fixed(lambda: enseada.Response(200, body=pieces(), length=2))
        async with served.lifespan():
            await served.run(Gone("GET"), "/")
        [told] = exchanges
        assert (told.status, told.bytes_out) == ((200, moment - 1) if moment else (499, 0))
        assert told.error == "the client has gone"

    anyio.run(scenario, backend=backend)
    assert closed == 1


# -- where it is mounted


@pytest.mark.parametrize(
    ("root_path", "path", "raw_path", "found"),
    [
        ("", "/v2/a", b"/v2/a", ("", "/v2/a")),
        ("", "/v2/a", None, ("", "/v2/a")),
        ("", "", None, ("", "")),
        ("/", "/v2/a", None, ("", "/v2/a")),
        # Encoded as it was sent, wherever that can be known.
        ("", "/v2/a/b", b"/v2/a%2Fb", ("", "/v2/a%2Fb")),
        ("", "/v2/ä b", None, ("", "/v2/%C3%A4%20b")),
        ("", "/v2/\ufffd", b"/v2/\xff", ("", "/v2/%FF")),
        # By the specification, path includes root_path.
        ("/r", "/r/v2/a", b"/r/v2/a", ("/r", "/v2/a")),
        ("/r/s", "/r/s/v2/a", None, ("/r/s", "/v2/a")),
        ("/r/", "/r/v2/a", None, ("/r", "/v2/a")),
        ("/r", "/r", None, ("/r", "")),
        ("/r s", "/r s/v2/a b", b"/r%20s/v2/a%20b", ("/r%20s", "/v2/a%20b")),
        ("/r s", "/r s/v2/a", None, ("/r%20s", "/v2/a")),
        # Starlette before 0.33 leaves it out of path; behind a proxy that cuts it off, so does a server.
        ("/r", "/v2/a", b"/r/v2/a", ("/r", "/v2/a")),
        ("/r", "/v2/a", b"/v2/a", ("/r", "/v2/a")),
        ("/r", "/rest/a", b"/rest/a", ("/r", "/rest/a")),
        # Somebody has rewritten path and not raw_path.
        ("", "/v2/a", b"/old/a", ("", "/v2/a")),
        ("/r", "/r/v2/a", b"/old/a", ("/r", "/v2/a")),
        # Mounted as one format: its prefix is a part of the address that root_path is not.
        ("/v2", "/v2/a", b"/v2/a", ("", "/v2/a")),
        ("/v2", "/v2/", b"/v2/", ("", "/v2/")),
        ("/v2", "/v2", None, ("", "/v2")),
        ("/v2", "/v2/v2/a", None, ("", "/v2/v2/a")),
        ("/v2", "/v2/-/live", None, ("", "/v2/-/live")),
        ("/r/v2", "/r/v2/a", None, ("/r", "/v2/a")),
        ("/v2", "/a", b"/v2/a", ("", "/v2/a")),
        ("/rv2", "/rv2/v2/a", None, ("/rv2", "/v2/a")),
    ],
)
def test_where_it_is_mounted(root_path: str, path: str, raw_path: bytes | None, found: tuple[str, str]) -> None:
    scope: dict[str, Any] = {"root_path": root_path, "path": path}
    if raw_path is not None:
        scope["raw_path"] = raw_path
    assert locate(scope, ("/v2", "/npm")) == found


@pytest.mark.parametrize("root_path", ["", "/registry", "/v2", "/two parts/v2"])
def test_every_address_is_told_with_the_prefix(root_path: str, tmp_path: Path) -> None:
    """Location, Link and realm lead where the client came from."""

    async def scenario() -> None:
        encoded = root_path.replace(" ", "%20").removesuffix("/v2")
        served = host(tmp_path, {"root_path": root_path})

        async def ask(method: str, target: str, content: bytes = b"", **fields: str) -> Any:
            exchange = Exchange(method, [content] if content else [])
            path = root_path.removesuffix("/v2") + target.removeprefix(encoded).partition("?")[0]
            scope = {"path": path, "query_string": target.partition("?")[2].encode()}
            headers = {"Content-Length": str(len(content)), **{k.replace("_", "-"): v for k, v in fields.items()}}
            await served.run(exchange, path, headers, **scope)
            return exchange.answer

        async with served.lifespan():
            begun = await ask("POST", "/v2/app/blobs/uploads/")
            assert begun.header("location").startswith(f"{encoded}/v2/app/blobs/uploads/")
            put = await ask("PUT", f"{begun.header('location')}?digest={digest_of(b'{}')}", b"{}")
            assert (put.status, put.header("location")) == (201, f"{encoded}/v2/app/blobs/{digest_of(b'{}')}")
            for tag in ("1", "2"):
                target = f"/v2/app/manifests/{tag}"
                put = await ask("PUT", target, image_manifest(b"{}"), Content_Type=OCI_IMAGE)
                assert put.header("location") == f"{encoded}/v2/app/manifests/{digest_of(image_manifest(b'{}'))}"
            listed = await ask("GET", "/v2/app/tags/list?n=1")
            assert listed.header("link") == f'<{encoded}/v2/app/tags/list?n=1&last=1>; rel="next"'
            refused = await ask("GET", "/v2/", Authorization="")
            assert refused.status == 401
            refused = await ask("GET", "/v2/", Authorization="Basic eDp5")
            assert f'realm="http://registry.test{encoded}/v2/_token"' in refused.header("www-authenticate")

    anyio.run(scenario)


@pytest.mark.parametrize(
    ("host_field", "server", "told"),
    [
        ("registry.test:8080", ("127.0.0.1", 80), "registry.test:8080"),
        ("[::1]:5000", ("::1", 5000), "[::1]:5000"),
        ('x", realm="y', ("127.0.0.1", 80), "127.0.0.1:80"),
        ("", ("/run/host.sock", None), "localhost"),
        ("", None, "localhost"),
    ],
)
def test_the_host_that_is_told(host_field: str, server: tuple[str, int | None] | None, told: str) -> None:
    async def scenario() -> None:
        settings = cheap_settings()
        served = Host(enseada.asgi(enseada.Registry(settings, stores=enseada.memory_stores)), {"server": server})
        async with served.lifespan():
            refused = await served.ask("GET", "/v2/", headers={"Host": host_field, "Authorization": "Basic eDp5"})
            assert f'realm="http://{told}/v2/_token"' in refused.header("www-authenticate")

    anyio.run(scenario)


# -- whether it runs


@on_both_loops
async def test_a_mounted_application_that_nobody_runs(tmp_path: Path) -> None:
    """It is sent no lifespan: until its host enters `running`, it says that."""
    served = host(tmp_path)
    logger = logging.getLogger("enseada.server")
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        for target in ("/v2/", "/v2/", "/"):
            answer = await served.ask("GET", target)
            assert answer.status == 503
            assert "async with registry.running():" in answer.body.decode()
    finally:
        logger.removeHandler(handler)
    assert len(records) == 1
    assert not (tmp_path / "data").exists()
    async with served.app.registry.running():
        assert (await served.ask("GET", "/v2/")).status == 200
        # A host that runs it by itself and passes the lifespan on, too.
        async with served.lifespan() as said:
            assert said == [{"type": "lifespan.startup.complete"}]
        assert said[1:] == [{"type": "lifespan.shutdown.complete"}]
        assert (await served.ask("GET", "/v2/")).status == 200
    assert (await served.ask("GET", "/v2/")).status == 503


@on_both_loops
async def test_a_start_that_fails_is_told_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    served = host(tmp_path)
    async with served.lifespan() as said:
        pass
    assert [message["type"] for message in said] == ["lifespan.startup.failed"]
    assert "is not a folder" in said[0]["message"]


def test_the_password_is_told_where_nobody_else_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        served = Host(enseada.asgi(enseada.Registry(enseada.Settings(data=tmp_path / "data"))))
        async with served.lifespan():
            pass

    anyio.run(scenario)
    assert capsys.readouterr().err.startswith("admin password: ")
    anyio.run(scenario)
    assert capsys.readouterr().err == ""


@on_both_loops
async def test_other_scopes(tmp_path: Path) -> None:
    served = host(tmp_path)
    said = []

    async def connect() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    await served.app({"type": "websocket", "path": "/v2/"}, connect, send)
    assert said == [{"type": "websocket.close", "code": 1000}]
    with pytest.raises(ValueError, match="tcp"):
        await served.app({"type": "tcp"}, connect, send)
