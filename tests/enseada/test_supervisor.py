"""The supervisor and its workers as processes: who there is, what survives whose death, and that nobody is left."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import random
import select
import signal
import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from enseada.storage.documents.sqlite import SQLiteStore
from enseada.supervisor import MOST_FAILURES
from enseada.watchdog import END_HUNG
from tests.enseada.server_process import (
    DEADLINE,
    MIB,
    SOON,
    TWO,
    Server,
    connections_of,
    has_open,
    refused,
    send_part,
    served_by,
    serving,
    starting,
    wait_for_ends,
    wait_for_received,
    wait_for_refusal,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

GET = b"GET /-/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def state(pid: int) -> str:
    """The state of a process; see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def lines(server: Server) -> list[dict[str, object]]:
    """What is in the log. Raises ValueError where a line is not whole."""
    whole, _, _ = server.log.read_text().rpartition("\n")  # it is being written
    return [json.loads(line) for line in whole.splitlines()]


def successors(server: Server) -> int:
    """How many workers have come to serve in the place of others."""
    return sum(' serves"' in line for line in server.log.read_text().splitlines())


def wait_for_successor(server: Server, before: int = 0) -> None:
    """Wait until there is one more than there were ``before``."""
    wait_until(lambda: successors(server) > before)


def waiting(server: Server) -> bool:
    """Whether there is a client that no process has accepted yet."""
    return any(each.inode == "0" for each in connections_of(server))


def taker(server: Server, client: socket.socket) -> int:
    """The id of the process that takes a client, as soon as it has."""
    worker = wait_until(lambda: served_by(server, client))
    assert worker is not None
    return worker


SECRET = "a-secret-of-mine"


def login(server: Server, password: str) -> int:
    """The status that ``admin`` is answered."""
    known = base64.b64encode(f"admin:{password}".encode()).decode()
    return server.request("GET", "/v2/", Authorization=f"Basic {known}")[0]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for tests that kill nobody. Nobody dies in it."""
    data = tmp_path_factory.mktemp("calm") / "data"
    with serving(data, "--workers", "3", ENSEADA_ADMIN_PASSWORD=SECRET) as server:
        before = server.workers()
        yield server
        assert server.workers() == before
        assert server.end() == 0


# -- who there is


def test_one_worker_is_one_process(tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--workers", "1") as server:
        assert server.workers() == []
        assert server.family() == [server.process.pid]
        assert server.request("GET", "/-/live")[0] == 200
        assert server.end() == 0


def test_every_worker_serves_and_says_who_it_is(calm: Server) -> None:
    workers = calm.workers()
    assert len(workers) == 3
    with calm.connected_to_each() as connections:
        assert sorted(connections) == sorted(workers)
        told = [{"worker": number, "target": f"/{pid}"} for number, pid in enumerate(workers, 1)]
        for pid, connection in connections.items():
            connection.request("GET", f"/{pid}")
    for each in told:
        wait_until(lambda: any(line.items() >= each.items() for line in lines(calm)))  # noqa: B023


def test_what_a_worker_is_given_is_not_there_for_others_to_read(calm: Server) -> None:
    for pid in calm.workers():
        for name in ("cmdline", "environ"):
            said = Path(f"/proc/{pid}/{name}").read_bytes()
            assert SECRET.encode() not in said
            assert b"ENSEADA_" not in said
    assert login(calm, SECRET) == 200


def sockets(pid: int) -> set[str]:
    """The inodes of the sockets that a process has open."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}


def test_each_worker_has_a_socket_of_its_own_and_the_supervisor_all(calm: Server) -> None:
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    listening = {each[9] for each in fields if each[1].endswith(f":{calm.port:04X}") and each[3] == "0A"}
    assert len(listening) == 3
    assert listening < sockets(calm.process.pid)
    own = [sockets(pid) & listening for pid in calm.workers()]
    assert [len(each) for each in own] == [1, 1, 1]
    assert set.union(*own) == listening


def sleeps_while_asked(server: Server) -> bool:
    """Whether its supervisor has used no time of a processor while its workers answered."""
    used = Path(f"/proc/{server.process.pid}/schedstat")
    before = used.read_text().split()[0]
    for _ in range(20):
        assert server.request("GET", "/-/live")[0] == 200
    return used.read_text().split()[0] == before


def test_the_supervisor_sleeps(calm: Server) -> None:
    """Once it has said what it had to, and while its workers serve, it does nothing at all."""
    wait_until(lambda: sleeps_while_asked(calm))


def test_another_server_does_not_get_in_on_the_port(calm: Server, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        code, said = refused(tmp_path / "data", "--listen", f"127.0.0.1:{calm.port}", "--workers", workers)
        assert code == 1
        assert f"cannot listen on 127.0.0.1:{calm.port}: it is in use" in said


def test_it_is_stopped_and_continued_as_a_whole(calm: Server) -> None:
    """Ctrl-Z, and fg."""
    os.killpg(calm.process.pid, signal.SIGSTOP)
    wait_until(lambda: {state(pid) for pid in calm.family()} == {"T"})
    with closing(socket.create_connection(("127.0.0.1", calm.port), timeout=DEADLINE)) as client:
        client.sendall(GET)
        os.killpg(calm.process.pid, signal.SIGCONT)
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_worker_finds_modules_where_its_supervisor_does(tmp_path: Path) -> None:
    """Not in the working directory, where anything may lie."""
    tuned = "import os, sys; sys.path = [each or os.getcwd() for each in sys.path]; os.chdir(f'{sys.argv[3]}/..')"
    (tmp_path / "data").mkdir()
    (tmp_path / "trio.py").write_text("raise SystemExit('this is not trio')")
    with serving(tmp_path / "data", *TWO, tuned=tuned) as server:
        assert server.end() == 0


def test_the_supervisor_is_small(tmp_path: Path) -> None:
    """It has no event loop, and nothing of a registry."""
    tuned = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    with serving(tmp_path / "data", *TWO, tuned=tuned) as server:
        assert server.end() == 0
        loaded = server.log.read_text().splitlines()[-1].split()
    assert "enseada.supervisor" in loaded
    assert not {"trio", "anyio", "h11", "sqlite3", "enseada.app", "enseada.build", "enseada.server"} & set(loaded)


# -- the death of a worker


def test_who_waits_at_a_dead_worker_is_served_by_its_successor(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *TWO) as server, ExitStack() as stack:
        before = server.workers()
        victim, *others = before
        os.kill(victim, signal.SIGSTOP)
        clients = []
        while not waiting(server):  # one in two does
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE))
            client.sendall(GET)
            clients.append(client)
            assert len(clients) < 1000
        os.kill(victim, signal.SIGKILL)
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        wait_for_successor(server)
        after = server.workers()
        assert set(others) < set(after)
        assert victim not in after
        assert [state(pid) for pid in after].count("Z") == 0
        assert server.logged(f"worker 1 (process {victim}) was killed by SIGKILL; another takes its place in 0 s")
        assert server.end() == 0


def test_a_worker_that_is_asked_to_end_ends_gracefully_and_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *TWO, "--anonymous", "push") as server:
        client = send_part(server, server.begin(), b"1234", 5)
        worker = taker(server, client)
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGINT)
        client.sendall(b"5")
        assert client.recv(65536).startswith(b"HTTP/1.1 202 ")
        client.close()
        wait_for_successor(server)
        assert server.logged(f"(process {worker}) ended with exit code 0; another takes its place")
        assert server.end() == 0


def test_all_workers_die_at_once(tmp_path: Path) -> None:
    """As when the system runs out of memory: the supervisor hears of one death while it looks at another."""
    with serving(tmp_path / "data", "--workers", "4") as server:
        for count in (4, 8):
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: successors(server) == count)  # noqa: B023
        assert server.request("GET", "/-/live")[0] == 200
        assert server.end() == 0


def test_deaths_soon_after_each_other_are_followed_by_longer_pauses(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *TWO) as server:
        victim = server.workers()[1]
        for before, pause in enumerate(("0", "0.1", "0.2")):
            os.kill(victim, signal.SIGKILL)
            wait_for_successor(server, before)
            victim = server.workers()[-1]
            assert server.logged(f"another takes its place in {pause} s")
        assert server.end() == 0


def test_a_death_after_long_service_has_nothing_to_do_with_those_before(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *TWO, tuned="supervisor.STEADY_TIME = 0.0") as server:
        for before in range(2):
            os.kill(server.workers()[-1], signal.SIGKILL)
            wait_for_successor(server, before)
        assert server.log.read_text().count("another takes its place in 0 s") == 2
        assert server.end() == 0


async def remove_admin(data: Path) -> None:
    """Remove the account ``admin``, as a process beside the server."""
    async with await SQLiteStore.open(data / "documents.sqlite") as documents:
        account = await documents.get("user:admin")
        assert account is not None
        await documents.delete(account)


def test_an_account_that_was_removed_comes_back_with_another_password_which_is_told(tmp_path: Path) -> None:
    """That of the settings is for the first start: no later worker is given it."""
    data = tmp_path / "data"
    with serving(data, *TWO, ENSEADA_ADMIN_PASSWORD=SECRET) as server:
        trio.run(remove_admin, data)
        os.kill(server.workers()[0], signal.SIGKILL)
        assert server.process.stdout is not None
        assert select.select([server.process.stdout], [], [], DEADLINE)[0], "nothing is told"
        said = server.process.stdout.readline() + server.process.stdout.readline()
        password = said.partition("admin password: ")[2].split()[0]
        assert login(server, password) == 200
        assert login(server, SECRET) == 401
        assert server.end() == 0


def test_workers_that_never_come_to_serve_are_given_up(tmp_path: Path) -> None:
    """With a sentence, and the others end gracefully."""
    data = tmp_path / "data"
    tuned = "supervisor.FIRST_PAUSE = 0.001; supervisor.MOST_FAILURES = 3"
    assert MOST_FAILURES > 3
    with serving(data, *TWO, "--anonymous", "push", tuned=tuned) as server:
        location = server.begin()
        client = send_part(server, location, b"1234", 5)
        survivor = taker(server, client)
        [victim] = set(server.workers()) - {survivor}
        (data / "blobs").rename(data / "away")
        (data / "blobs").write_text("a file")
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: server.logged("so did 2 before it: ending"))
        (data / "blobs").unlink()
        (data / "away").rename(data / "blobs")
        client.sendall(b"5")
        assert client.recv(65536).startswith(b"HTTP/1.1 202 ")
        client.close()
        assert server.process.wait(DEADLINE) == 1
    last = server.log.read_text().splitlines()[-1]
    assert last.startswith("enseada: worker ")
    assert "blobs cannot be kept in" in last
    assert "Traceback" not in server.log.read_text()


# -- a start that fails


def test_what_a_worker_cannot_open_is_one_sentence(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "documents.sqlite").write_text("no database, and long enough to be seen as none" * 100)
    code, said = refused(data, *TWO)
    assert code == 1
    assert said.startswith("enseada: the documents in ")
    assert said.count("\n") == 1


def held(data: Path) -> int:
    """Keep every process from opening the documents of a new data folder, until this descriptor is closed."""
    data.mkdir()
    fd = os.open(data / "documents.sqlite-lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def test_a_worker_that_dies_before_it_serves(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fd = held(data)
    with starting(data, *TWO) as server:
        wait_until(lambda: len(server.workers()) > 1)
        [first, *_] = server.workers()
        wait_until(lambda: has_open(first, data / "documents.sqlite-lock"))
        os.kill(first, signal.SIGKILL)
        assert server.process.wait(SOON) == 1
    os.close(fd)
    assert server.log.read_text() == f"enseada: worker 1 (process {first}) was killed by SIGKILL at the start\n"


def test_sigterm_before_it_serves(tmp_path: Path) -> None:
    """The password of the account that was made is told all the same: nobody will know it otherwise."""
    data = tmp_path / "data"
    fd = held(data)
    with starting(data, *TWO) as server:
        wait_until(lambda: len(server.workers()) > 1)
        [first, *others] = server.workers()
        wait_until(lambda: has_open(first, data / "documents.sqlite-lock"))
        server.process.send_signal(signal.SIGTERM)
        wait_for_ends(others)
        os.close(fd)
        assert server.process.stdout is not None
        said = server.process.stdout.read()
        assert server.process.wait(DEADLINE) == 0
    assert "listening" not in said
    assert "admin password: " in said


# -- the end


def uploads_on_each(server: Server, content: bytes) -> dict[int, tuple[str, socket.socket]]:
    """On every worker an upload under way, that has come to the end of ``content``: its location, and its client."""
    uploads: dict[int, tuple[str, socket.socket]] = {}
    while len(uploads) < len(server.workers()):
        location = server.begin()
        client = send_part(server, location, content, len(content) + 1)
        worker = taker(server, client)
        if worker in uploads:
            client.close()
        else:
            uploads[worker] = location, client
    return uploads


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)])
def test_every_worker_suspends_what_does_not_finish(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    """Also where a terminal or systemd sends the signal to all processes."""
    content = random.Random(number).randbytes(MIB + 5)
    data = tmp_path / "data"
    with serving(data, *TWO, "--anonymous", "push", "--grace", "0.3") as server:
        uploads = uploads_on_each(server, content)
        if group:
            os.killpg(server.process.pid, number)
        else:
            server.process.send_signal(number)
        assert server.process.wait(DEADLINE) == 0
        for _, client in uploads.values():
            client.close()
    log = server.log.read_text()
    assert "ending: requests under way have 0.3 seconds" in log
    assert "Traceback" not in log
    assert "was killed" not in log
    with serving(data, *TWO, "--anonymous", "push") as server:
        assert [server.offset(location) for location, _ in uploads.values()] == [len(content)] * 2
        assert server.end() == 0


def test_a_signal_to_all_lets_requests_under_way_finish(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *TWO, "--anonymous", "push") as server:
        uploads = uploads_on_each(server, b"1234")
        os.killpg(server.process.pid, signal.SIGTERM)
        wait_for_refusal(server.port)
        os.killpg(server.process.pid, signal.SIGCONT)
        for _, client in uploads.values():
            client.sendall(b"5")
            assert client.recv(65536).startswith(b"HTTP/1.1 202 ")
            client.close()
        assert server.process.wait(DEADLINE) == 0


def test_a_worker_that_hangs_in_its_end_is_killed(tmp_path: Path) -> None:
    tuned = "supervisor.LAST_MOMENTS = supervisor.KILL_TIME = 0.2"
    with serving(tmp_path / "data", *TWO, "--grace", "0", tuned=tuned) as server:
        os.kill(server.workers()[1], signal.SIGSTOP)
        assert server.end() == 3
        assert server.logged("the end hangs")


def test_the_second_signal_reaches_every_worker(tmp_path: Path) -> None:
    with serving(tmp_path / "data", *TWO, "--anonymous", "push", "--grace", "600") as server:
        uploads = uploads_on_each(server, b"1234")
        server.process.send_signal(signal.SIGTERM)
        wait_for_refusal(server.port)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(SOON) == 128 + signal.SIGINT
        for _, client in uploads.values():
            client.close()
    with serving(tmp_path / "data", *TWO, "--anonymous", "push") as server:
        assert [server.offset(location) for location, _ in uploads.values()] == [4] * 2


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(fields["SigCgt"], 16) >> number - 1 & 1)


@pytest.mark.parametrize("third", [signal.SIGTERM, signal.SIGINT])
def test_the_third_signal_is_the_systems(tmp_path: Path, third: signal.Signals) -> None:
    """Whatever the workers do, who end by themselves as soon as they can."""
    with serving(tmp_path / "data", *TWO, "--grace", "600") as server:
        workers = server.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.logged("ending: "))
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not handles(server.process.pid, third))
        assert server.end(third) == -third
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        wait_for_ends(workers)


STUCK = (
    "import os, threading, enseada.watchdog; enseada.watchdog.LAST_MOMENTS = 0.2; "
    "os.fdatasync = lambda fd: threading.Event().wait()"
)
"""For workers whose disk does not answer, and who soon see that they hang."""


def cut_by_itself(server: Server) -> bool:
    """Whether a worker has said that its end hangs."""
    return any("the end hangs" in str(line.get("message")) and "worker" in line for line in lines(server))


@pytest.mark.parametrize(
    ("grace", "signals"), [("0", [signal.SIGTERM]), ("600", [signal.SIGTERM, signal.SIGINT])], ids=["one", "two"]
)
def test_a_worker_whose_disk_does_not_answer_is_cut(tmp_path: Path, grace: str, signals: list[signal.Signals]) -> None:
    """By itself, long before its supervisor would do it, which tells of it by its exit code."""
    data = tmp_path / "data"
    with serving(data, *TWO, "--anonymous", "push", "--grace", grace, tuned_workers=STUCK) as server:
        client = send_part(server, server.begin(), b"1234", 5)
        wait_for_received(tmp_path, 4)
        for number in signals:
            server.process.send_signal(number)
            wait_until(lambda: server.logged("ending: "))
        assert server.process.wait(DEADLINE) == END_HUNG
        client.close()
    assert cut_by_itself(server)


# -- the death of the supervisor


def test_workers_end_gracefully_when_their_supervisor_was_killed(tmp_path: Path) -> None:
    """And nobody else gets the data folder before the last of them has ended."""
    data = tmp_path / "data"
    path = tmp_path / "socket"
    listen = ("--listen", f"unix:{path}")
    with serving(data, *TWO, "--anonymous", "push", *listen) as server:
        idle, busy = server.workers()
        uploads = uploads_on_each(server, b"1234")
        uploads[idle][1].close()
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        wait_for_ends([idle])
        assert server.family() == [busy]
        code, said = refused(data, *TWO)
        assert code == 1
        assert f"(process {server.process.pid}, which is gone, and whose workers are ending)" in said
        location, client = uploads[busy]
        client.sendall(b"5")
        assert client.recv(65536).startswith(b"HTTP/1.1 202 ")
        client.close()
        wait_for_ends([busy])
        assert server.family() == []
        assert server.logged("the supervisor is gone: ending")
    assert path.exists()  # nobody was there to remove it
    with serving(data, *TWO, "--anonymous", "push", *listen) as server:
        assert server.offset(location) == 5
        assert server.end() == 0
    assert not path.exists()


def test_a_worker_whose_disk_does_not_answer_outlives_nobody_for_long(tmp_path: Path) -> None:
    """There is no supervisor any more that would kill it."""
    data = tmp_path / "data"
    with serving(data, *TWO, "--anonymous", "push", "--grace", "0", tuned_workers=STUCK) as server:
        workers = server.workers()
        client = send_part(server, server.begin(), b"1234", 5)
        wait_for_received(tmp_path, 4)
        assert server.end(signal.SIGKILL) == -signal.SIGKILL
        wait_for_ends(workers)
        client.close()
    assert cut_by_itself(server)


# -- addresses


def test_a_unix_socket_is_every_workers_and_outlives_them(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(tmp_path / "data", *TWO, "--listen", f"unix:{path}") as server:
        for before, victim in enumerate(server.workers()):
            os.kill(victim, signal.SIGKILL)
            with closing(socket.socket(socket.AF_UNIX)) as client:
                client.connect(str(path))
                client.sendall(GET)
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            wait_for_successor(server, before)
        assert server.end() == 0
    assert not path.exists()
