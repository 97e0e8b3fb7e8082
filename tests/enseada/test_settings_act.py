"""Every setting is seen to act, through a whole registry: none is read and then forgotten on its way to who needs it.

One rule: a test here sets one setting to a value that nobody would have by accident, and looks from outside at what it
does. `acts` keeps the list, and a setting that is not on it fails.
"""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import argon2
import pytest
import trio
import trio.testing

from enseada.build import UPLOAD_SECRET_ID, open_registry
from enseada.config import SETTINGS, Secret, Settings, load
from enseada.limits import Limits
from enseada.protocols.digests import resumable
from enseada.protocols.oci.session import NONCE_BYTES, Session
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import prefix_range
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from tests.enseada.http_client import registry_served
from tests.enseada.oci_client import (
    PASSWORD,
    basic,
    cheap_settings,
    client_of,
    digest_of,
    image_manifest,
    in_memory,
)
from tests.enseada.upload_world import LentBody

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.enseada.http_client import Registry
    from tests.enseada.oci_client import Client

NAME = "team/api"
CONTENT = bytes(range(200)) * 3
DEADLINE = 30.0
COVERED: set[str] = set()
T = TypeVar("T")


def acts(*keys: str) -> Callable[[T], T]:
    """The test that this is written above sees these settings act."""
    COVERED.update(keys)
    return lambda test: test


def test_every_setting_is_seen_to_act() -> None:
    assert {key.partition(".")[0] for key in COVERED} == {each.name for each in fields(Settings)}
    assert COVERED - {each.key for each in SETTINGS} == set()


def test_the_defaults() -> None:
    for settings in (Settings(), load(None, {}, {}).settings):
        assert settings.listen == ("127.0.0.1:9623",)
        assert settings.data == Path("enseada-data")
        assert settings.workers is None
        assert settings.processes == len(os.sched_getaffinity(0))
        assert settings.anonymous == "none"
        assert settings.admin_password is None
        assert settings.public_url is None
        assert settings.create_on_push is True
        assert settings.grace == 30
        assert settings.password_workers == 2
        assert settings.password_memory == 60
        assert settings.argon2_memory >= 64 * 1024 * 1024
        assert settings.save_bytes == 64 * 1024 * 1024
        assert settings.save_idle_bytes == 1024 * 1024
        assert settings.save_interval == 30
        assert settings.max_blob_bytes is None
        assert settings.limits == Limits()
        assert settings.limits.manifest_bytes == 4 * 1024 * 1024
        assert settings.limits.json_values == 20_000
        assert settings.limits.json_depth == 32


@asynccontextmanager
async def served(folder: Path, **given: Any) -> AsyncIterator[Registry]:
    """A registry on sockets, as `enseada serve` runs it."""
    everywhere = {"listen": ("127.0.0.1:0",), "data": folder / "data"}
    async with registry_served(cheap_settings(**everywhere | given)) as registry:
        yield registry


# -- accounts and tokens


@acts("admin_password", "data")
async def test_the_folder_and_the_password(tmp_path: Path) -> None:
    folder = tmp_path / "an odd" / "place"
    async with served(tmp_path, data=folder, admin_password=Secret("odd ü")) as registry:
        assert registry.started.data == folder
        assert registry.started.admin_password is None
        assert (await registry.ask("GET", "/v2/", Authorization=basic("admin", "odd ü"))).status == 200
        assert (await registry.ask("GET", "/v2/", Authorization=basic("admin"))).status == 401
        assert (folder / "documents.sqlite").is_file()
        assert (folder / "blobs").is_dir()
    assert os.listdir(tmp_path) == ["an odd"]


@acts("argon2_time", "argon2_memory", "argon2_lanes")
@pytest.mark.parametrize(
    ("given", "costs"),
    [
        ({"argon2_time": 2, "argon2_memory": 9 * 8192, "argon2_lanes": 3}, "m=72,t=2,p=3"),
        ({"argon2_time": 4, "argon2_memory": 8192, "argon2_lanes": 1}, "m=8,t=4,p=1"),
        (None, "m=65536,t=3,p=1"),
    ],
)
async def test_what_a_stored_password_costs(given: dict[str, int] | None, costs: str) -> None:
    documents = MemoryDocuments()
    settings = Settings() if given is None else cheap_settings(**given)
    await open_registry(settings, documents, MemoryBlobs())
    admin = await documents.get("user:admin")
    assert admin is not None
    assert admin.data["password"].startswith(f"$argon2id$v=19${costs}$")


class Verifying:
    """Watches argon2 verify passwords; while it is `shut`, it takes for ever."""

    def __init__(self) -> None:
        self.count = 0
        self.most = 0
        """Verifications that were under way at one time."""
        self.begun = threading.Semaphore(0)
        self.opened = threading.Event()
        self.opened.set()
        self._now = 0
        self._lock = threading.Lock()
        self._verify = argon2.PasswordHasher.verify

    def shut(self) -> None:
        self.opened.clear()

    def verify(self, hasher: argon2.PasswordHasher, stored: str, secret: bytes) -> bool:
        with self._lock:
            self.count += 1
            self._now += 1
            self.most = max(self.most, self._now)
        self.begun.release()
        try:
            assert self.opened.wait(DEADLINE)
            return self._verify(hasher, stored, secret)
        finally:
            with self._lock:
                self._now -= 1


@pytest.fixture
def verifying(monkeypatch: pytest.MonkeyPatch) -> Verifying:
    watch = Verifying()
    monkeypatch.setattr(argon2.PasswordHasher, "verify", lambda *args: watch.verify(*args))
    return watch


@acts("password_workers", "password_queue")
@pytest.mark.parametrize(("workers", "queue"), [(3, 2), (1, 4)])
async def test_passwords_at_one_time(workers: int, queue: int, verifying: Verifying) -> None:
    statuses: list[int] = []

    async def ask(number: int) -> None:
        statuses.append((await client.as_user("admin", f"wrong {number}").get("/v2/")).status)

    async with in_memory(password_workers=workers, password_queue=queue) as client:
        verifying.shut()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, number)
            for _ in range(workers):
                assert await trio.to_thread.run_sync(verifying.begun.acquire, True, DEADLINE)
            await trio.testing.wait_all_tasks_blocked()
            assert statuses == [503] * (10 - workers - queue)
            verifying.opened.set()
        assert statuses[10 - workers - queue :] == [401] * (workers + queue)
        assert verifying.most == workers


@acts("password_memory")
@pytest.mark.parametrize(("memory", "count"), [(600.0, 1), (0.0, 3)])
async def test_how_long_a_password_is_remembered(memory: float, count: int, verifying: Verifying) -> None:
    async with in_memory(password_memory=memory) as client:
        for _ in range(3):
            assert (await client.get("/v2/")).status == 200
    assert verifying.count == count


def claims(token: str) -> dict[str, Any]:
    """What a token says (RFC 7519)."""
    payload = token.split(".")[1]
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return said


@acts("token_lifetime", "refresh_lifetime", "token_service")
async def test_tokens(tmp_path: Path) -> None:
    odd = {"token_lifetime": 61.0, "refresh_lifetime": 1234.0, "token_service": "odd.example"}
    async with served(tmp_path, **odd) as registry:
        challenge = (await registry.ask("GET", "/v2/")).headers["www-authenticate"]
        assert 'service="odd.example"' in challenge
        target = "/v2/_token?service=odd.example&offline_token=true"
        answer = json.loads((await registry.ask("GET", target, Authorization=basic("admin"))).body)
        assert answer["expires_in"] == 61
        said, refresh = claims(answer["token"]), claims(answer["refresh_token"])
        assert said["exp"] - said["iat"] == 61
        assert refresh["exp"] - refresh["iat"] == 1234
        assert said["iss"] == said["aud"] == refresh["iss"] == refresh["aud"] == "odd.example"
        bearer = f"Bearer {answer['token']}"
        assert (await registry.ask("GET", "/v2/", Authorization=bearer)).status == 200
    async with served(tmp_path, token_service="another") as registry:
        assert (await registry.ask("GET", "/v2/", Authorization=bearer)).status == 401


@acts("anonymous")
@pytest.mark.parametrize(("anonymous", "pull", "push"), [("none", 401, 401), ("pull", 200, 401), ("push", 200, 202)])
async def test_what_anybody_may(anonymous: str, pull: int, push: int) -> None:
    async with in_memory(anonymous=anonymous) as admin:
        image = await admin.push_image(NAME)
        assert (await admin.anonymous.get(f"/v2/{NAME}/manifests/{image.digest}")).status == pull
        assert (await admin.anonymous.post(f"/v2/{NAME}/blobs/uploads/")).status == push


@acts("create_on_push")
async def test_repositories_that_a_push_may_not_make() -> None:
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    strict = await client_of(documents, blobs, create_on_push=False)
    answer = await strict.post(f"/v2/{NAME}/blobs/uploads/")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])
    await (await client_of(documents, blobs, create_on_push=True)).push_image("team/other")
    assert (await strict.post(f"/v2/{NAME}/blobs/uploads/")).status == 202  # the repository is there now


@acts("public_url")
async def test_the_address_in_a_challenge(tmp_path: Path) -> None:
    async with served(tmp_path, public_url="https://odd.example:81") as registry:
        challenge = (await registry.ask("GET", "/v2/")).headers["www-authenticate"]
        assert 'realm="https://odd.example:81/v2/_token"' in challenge


# -- uploads


@acts("max_blob_bytes")
async def test_the_largest_blob() -> None:
    async with in_memory(max_blob_bytes=7) as client:
        await client.push_blob(NAME, b"1234567")
        for body in (b"12345678", LentBody(b"12345678", [3])):
            answer = await client.patch(await client.begin(NAME), body)
            assert answer.status == 413


async def saved(client: Client) -> dict[str, Any] | None:
    """What is saved of the one upload there is."""
    found = await client.documents.scan(*prefix_range("upload:"), 2)
    assert len(found) <= 1
    return found[0].data["saved"] if found else None


@acts("resumable_hash")
@pytest.mark.parametrize("choice", ["auto", "never"])
async def test_the_state_of_a_hash(choice: str) -> None:
    async with in_memory(resumable_hash=choice) as client:
        answer = await client.patch(await client.begin(NAME), CONTENT[:100])
        assert answer.status == 202
        document = await saved(client)
        assert document is not None
        assert (document["hash"] is not None) == (choice == "auto" and resumable("sha256"))
        later = await client_of(client.documents, client.blobs, resumable_hash=choice)
        answer = await later.put(f"{answer.location}?digest={digest_of(CONTENT)}", CONTENT[100:])
        assert answer.status == 201


@asynccontextmanager
async def silent(client: Client, count: int) -> AsyncIterator[None]:
    """A PATCH whose client has sent ``count`` bytes, one by one, and then says nothing more."""
    silence = trio.Event()
    body = LentBody(CONTENT[:count], [1], silence=silence)
    location = await client.begin(NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.patch, location, body)
        await body.silent.wait()
        await trio.testing.wait_all_tasks_blocked()
        yield
        silence.set()


@acts("save_bytes")
async def test_what_is_saved_by_size() -> None:
    blobs = MemoryBlobs(parts=10)
    client = await client_of(MemoryDocuments(), blobs, save_bytes=70)
    for count, offset in [(69, None), (70, 70), (139, 70), (145, 140)]:
        async with silent(client, count):
            document = await saved(client)
            assert (document and document["offset"]) == offset
        for session in await client.documents.scan(*prefix_range("upload:"), 1):
            await client.documents.delete(session)


@acts("save_idle_bytes", "save_interval")
@pytest.mark.parametrize(("count", "offset"), [(76, None), (77, 77), (78, 78)])
async def test_what_is_saved_by_time(count: int, offset: int | None, autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory(save_idle_bytes=77, save_interval=12.5, anonymous="push") as admin, admin.registry.running():
        client = admin.anonymous  # a password is verified in a thread, and meanwhile the clock would go on
        began = trio.current_time()
        async with silent(client, count):
            await trio.sleep_until(began + 12.4)
            assert await saved(client) is None
            await trio.sleep_until(began + 12.6)
            document = await saved(client)
            assert (document and document["offset"]) == offset


@acts("lease_time")
@pytest.mark.parametrize("lease_time", [3.25, 77.0])
async def test_how_long_the_next_writer_waits(lease_time: float, autojump_clock: trio.testing.MockClock) -> None:
    silence = trio.Event()
    first = LentBody(CONTENT[:10], silence=silence)
    async with in_memory(lease_time=lease_time, anonymous="push") as admin, trio.open_nursery() as nursery:
        client = admin.anonymous
        location = await client.begin(NAME)
        nursery.start_soon(client.patch, location, first)
        await first.silent.wait()
        began = trio.current_time()
        answer = await client.patch(location, CONTENT)
        assert answer.status == 503
        assert trio.current_time() - began == pytest.approx(lease_time)
        silence.set()


@acts("upload_expiry")
@pytest.mark.parametrize(("age", "status"), [(3000, 204), (4000, 404)])
async def test_the_age_of_an_upload(age: int, status: int) -> None:
    async with in_memory(upload_expiry=3500.0) as client:
        secret = await client.documents.get(UPLOAD_SECRET_ID)
        assert secret is not None
        session = Session(NAME, int(time.time()) - age, "sha256", bytes(NONCE_BYTES))
        signed = session.sign(base64.b64decode(secret.data["secret"]))
        assert (await client.get(f"/v2/{NAME}/blobs/uploads/{signed}")).status == status


# -- limits


@acts("limits.head_bytes", "limits.head_count", "limits.target_bytes")
async def test_the_limits_of_a_head(tmp_path: Path) -> None:
    limits = Limits(head_bytes=2000, head_count=7, target_bytes=300)
    async with served(tmp_path, limits=limits) as registry:
        assert (await registry.ask("GET", "/-/live")).status == 200
        assert (await registry.ask("GET", "/-/live?" + "x" * (300 - 8))).status == 200
        assert (await registry.ask("GET", "/-/live?" + "x" * (301 - 8))).status == 414
        assert (await registry.ask("GET", "/-/live", X="x" * 1800)).status == 200
        assert (await registry.ask("GET", "/-/live", X="x" * 2000)).status == 431
        assert (await registry.ask("GET", "/-/live", **{f"X{n}": "" for n in range(5)})).status == 200
        assert (await registry.ask("GET", "/-/live", **{f"X{n}": "" for n in range(6)})).status == 431


@acts("limits.manifest_bytes", "limits.json_values", "limits.json_depth", "limits.form_bytes")
async def test_the_limits_of_what_is_parsed() -> None:
    limits = Limits(manifest_bytes=900, json_values=30, json_depth=5, form_bytes=40)
    async with in_memory(limits=limits) as client:
        await client.push_blob(NAME, b"{}")

        async def put(**more: object) -> int:
            return (await client.put_manifest(NAME, "latest", image_manifest(b"{}", (), **more))).status

        bare = len(image_manifest(b"{}", (), x=""))
        assert await put(x="y" * (900 - bare)) == 201
        assert await put(x="y" * (901 - bare)) == 413
        assert await put(x=[0] * 10) == 201
        assert await put(x=[0] * 30) == 400
        assert await put(x=[[[[]]]]) == 201
        assert await put(x=[[[[[]]]]]) == 400
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        form = f"grant_type=password&username=admin&password={PASSWORD}".replace(" ", "+").encode()
        assert len(form) > 40
        assert (await client.anonymous.post("/v2/_token", form, kind)).status == 413
        assert (await client.anonymous.post("/v2/_token", form[:40], kind)).status == 400


# -- the process


@acts("listen")
async def test_where_it_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    async with served(tmp_path, listen=("127.0.0.1:0", f"unix:{path}", "127.0.0.2:0")) as registry:
        first, second, third = registry.started.addresses
        assert first.startswith("http://127.0.0.1:")
        assert second == f"http+unix://{path}"
        assert third.startswith("http://127.0.0.2:")
        for number in range(3):
            async with registry.connected(number) as client:
                await client.send(b"GET /-/live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await client.answer()).status == 200


@acts("workers")
@pytest.mark.parametrize("workers", ["1", "3", "none"])
def test_how_many_processes_serve(tmp_path: Path, workers: str) -> None:
    serving = len(os.sched_getaffinity(0)) if workers == "none" else int(workers)
    with process(tmp_path, subprocess.DEVNULL, WORKERS=workers) as server:
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert len(children) == (serving if serving > 1 else 0)  # one serves itself
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE) == 0


@acts("grace")
async def test_the_time_to_finish(tmp_path: Path) -> None:
    async with served(tmp_path, grace=0.4, anonymous="push") as registry, registry.connected() as client:
        location = (await registry.ask("POST", f"/v2/{NAME}/blobs/uploads/")).headers["location"]
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
        await client.send(head.encode())
        assert b" 100 " in await client.interim()
        began = trio.current_time()
        registry.shutdown.set()
        with trio.fail_after(DEADLINE / 2):
            await registry.over.wait()
        assert trio.current_time() - began >= 0.4


@contextmanager
def process(folder: Path, stderr: int, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`enseada serve` that serves and was asked for something once; it is ended with the block."""
    settings = {"DATA": str(folder / "data"), "LISTEN": f"unix:{folder}/socket", "ADMIN_PASSWORD": PASSWORD}
    settings |= {"ARGON2_MEMORY": "8MiB", "ARGON2_TIME": "1", **variables}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ENSEADA_")}
    environment = clean | {f"ENSEADA_{key}": value for key, value in settings.items()}
    command = [sys.executable, "-m", "enseada", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == f"listening on http+unix://{folder}/socket\n"
            yield running
        finally:
            running.kill()


async def lines_of(folder: Path, terminal: bool, **variables: str) -> list[str]:
    """What it writes to a standard error that is a terminal, or not, about one request and its end."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    with closing(os.fdopen(reader, "rb", buffering=0)) as said:
        try:
            with process(folder, writer, **variables) as server:
                os.close(writer)
                writer = -1
                async with await trio.open_unix_socket(f"{folder}/socket") as stream:
                    await stream.send_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    while await stream.receive_some():
                        pass
                server.send_signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(server.wait, DEADLINE) == 0
        finally:
            if writer >= 0:
                os.close(writer)
        content = b""
        while select.select([said], [], [], 0)[0]:
            try:
                piece = said.read(65536)
            except OSError:  # a terminal whose other end is closed
                break
            if not piece:
                break
            content += piece
    return content.decode().splitlines()


@acts("log_format")
@pytest.mark.parametrize(
    ("log_format", "terminal", "is_json"),
    [("auto", False, True), ("auto", True, False), ("text", False, False), ("json", True, True)],
)
async def test_how_lines_look(tmp_path: Path, log_format: str, terminal: bool, is_json: bool) -> None:
    lines = await lines_of(tmp_path, terminal, LOG_FORMAT=log_format)
    [line] = [each for each in lines if "/v2/" in each]
    assert line.startswith("{") == is_json
    if is_json:
        assert json.loads(line)["target"] == "/v2/"


@acts("log_level")
@pytest.mark.parametrize(("log_level", "told"), [("info", True), ("error", False)])
async def test_which_lines_are_written(tmp_path: Path, log_level: str, told: bool) -> None:
    lines = await lines_of(tmp_path, terminal=False, LOG_LEVEL=log_level)
    assert any("/v2/" in each for each in lines) == told
    assert bool(lines) == told
