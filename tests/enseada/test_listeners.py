"""Sockets that share an address among themselves, and with nobody else."""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from enseada.listeners import ListenError, Place, close_all, open_places

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enseada.listeners import Listener


@contextmanager
def opened(*addresses: str, copies: int) -> Iterator[list[Place]]:
    places = open_places(addresses, copies)
    try:
        yield places
    finally:
        for place in places:
            close_all(place)


def name(listener: Listener) -> str:
    """The address as the settings have it."""
    return listener.address.removeprefix("http://")


def connect(listener: Listener) -> socket.socket:
    if listener.path is None:
        return socket.create_connection(listener.socket.getsockname()[:2])
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.path)
    return client


def accept(place: Place) -> tuple[int, socket.socket]:
    """Which socket has a client waiting, and what was accepted."""
    for number, listener in enumerate(place):
        try:
            return number, listener.socket.accept()[0]
        except OSError:  # nobody waits there, or it does not listen
            continue
    raise AssertionError("nobody waits")


def taker(place: Place) -> int:
    """Which socket has a client waiting, who is taken from it."""
    number, accepted = accept(place)
    accepted.close()
    return number


def test_clients_are_dealt_out() -> None:
    with opened("127.0.0.1:0", copies=3) as [place]:
        assert len({listener.address for listener in place}) == 1
        for _ in range(50):  # the others wait for somebody to accept
            with closing(connect(place[0])):
                assert taker(place) == 0
        for listener in place:
            listener.listen()
        taken: Counter[int] = Counter()
        while len(taken) < 3:  # one in three each time, by a hash of the client's port
            with closing(connect(place[0])):
                taken[taker(place)] += 1
            assert taken.total() < 1000


def test_who_waits_at_a_socket_waits_on_while_anybody_has_it() -> None:
    """As a worker's, which dies while its supervisor keeps the socket for a successor."""
    with opened("127.0.0.1:0", copies=2) as [place]:
        place[1].listen()
        dying = [listener.socket.dup() for listener in place]
        clients = [connect(place[0]) for _ in range(50)]
        for each in dying:
            each.close()
        assert len({taker(place) for _ in clients}) == 2
        for client in clients:
            client.close()


@pytest.mark.parametrize("copies", [1, 2])
def test_ours_is_nobody_elses(copies: int) -> None:
    """Neither one server alone nor one with workers gets in beside another, be it the same user's."""
    for others in (1, 2):
        with opened("127.0.0.1:0", copies=others) as [place]:
            for listener in place:
                with pytest.raises(ListenError, match="in use"):
                    open_places([name(place[0])], copies)
                listener.listen()
            with pytest.raises(ListenError, match="in use"):
                open_places([name(place[0])], copies)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_program_that_would_share_its_port_is_not_shared_with(host: str, copies: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((host, 0))
        other.listen()
        with pytest.raises(ListenError, match="in use"):
            open_places([f"127.0.0.1:{other.getsockname()[1]}"], copies)


def test_of_two_that_are_bound_at_once_one_listens() -> None:
    """Two sockets may be bound to one address while neither listens: SO_REUSEADDR lets them."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        with opened(f"127.0.0.1:{other.getsockname()[1]}", copies=2), pytest.raises(OSError, match="in use"):
            other.listen()


def test_one_unix_socket_is_for_all(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with opened(f"unix:{path}", "127.0.0.1:0", copies=4) as [unix, tcp]:
        assert (len(unix), len(tcp)) == (1, 4)
        with closing(connect(unix[0])):
            assert taker(unix) == 0
    assert not path.exists()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_that_is_given_is_for_all(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    given = socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
    given.bind(("127.0.0.1", 0) if kind == "tcp" else str(path))
    os.set_inheritable(given.fileno(), True)
    where = f"http+unix://{path}" if kind == "unix" else "http://{}:{}".format(*given.getsockname())
    with opened(f"fd:{given.detach()}", copies=4) as [place]:
        assert [each.address for each in place] == [where]
        listening = place[0].socket
        assert not listening.getblocking()
        assert not os.get_inheritable(listening.fileno())
        with socket.socket(listening.family) as client:
            client.connect(listening.getsockname())
            assert taker(place) == 0
    assert path.exists() is (kind == "unix")  # it is removed by who has made it


def test_what_is_given_twice() -> None:
    given = socket.create_server(("127.0.0.1", 0)).detach()
    with pytest.raises(ListenError, match="given twice"):
        open_places([f"fd:{given}"] * 2, 2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(given)


def test_what_is_given_and_is_no_such_socket() -> None:
    """It is left as it is: it may be anybody's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connected,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as unbound,
        open(os.devnull) as file,
    ):
        before = len(os.listdir("/proc/self/fd"))
        closed = os.dup(file.fileno())
        os.close(closed)
        for number, why in (
            (datagrams.fileno(), "no stream socket"),
            (unbound.fileno(), "not bound"),
            (connected.fileno(), "no socket that is bound and not connected"),
            (file.fileno(), "no socket"),
            (closed, "nothing is open under that number"),
        ):
            with pytest.raises(ListenError, match=f"^cannot listen on fd:{number}: .*{why}$"):
                open_places([f"fd:{number}"], 2)
        assert not connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("copies", [1, 2])
def test_what_is_written_to_a_client_leaves_at_once(copies: int) -> None:
    with opened("127.0.0.1:0", copies=copies) as [place]:
        for listener in place:
            listener.listen()
        taken: Counter[int] = Counter()
        while len(taken) < copies:
            with closing(connect(place[0])):
                number, accepted = accept(place)
                with closing(accepted):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            taken[number] += 1
            assert taken.total() < 1000


def test_a_hosts_name() -> None:
    with opened("localhost:0", copies=2) as places:
        assert all(len(place) == 2 for place in places)
    with pytest.raises(ListenError, match="not known"):
        open_places(["host.invalid:80"], 2)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    path = tmp_path / "socket"
    with opened("127.0.0.1:0", copies=2) as [place]:
        for wrong in (name(place[0]), "203.0.113.1:0", "9623"):
            with pytest.raises(ListenError):
                open_places([f"unix:{path}", "127.0.0.1:0", wrong], 3)
            assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == len(before)
