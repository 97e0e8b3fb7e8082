"""Sockets that listen: where clients find us, bound for one process or for several that share an address.

One rule: an address that is taken is refused, also where several sockets of ours are to share it. So the first socket
of an address binds and listens by itself, as any program's would, and only then becomes one that may be shared: Linux
checks both for a socket that asks for no share, against any socket that listens, whoever has it and whatever it allows.
Waits only for the names of hosts. Knows no event loop.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from enseada.values import parse_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from enseada.values import Address

BACKLOG = 1024
"""Connections that the kernel completes and keeps for us."""
UNIX_MODE = 0o660
"""Mode of a unix socket, unless another is asked for."""
UNIX_PREFIX = "unix:"
LOOKED_FOR: Mapping[str, int] = {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
"""What getaddrinfo is asked for."""
Found = tuple[int, int, int, str, tuple[Any, ...]]
"""One answer of getaddrinfo."""


class HasName(Protocol):
    """A socket, or trio's."""

    @property
    def family(self) -> int: ...
    def getsockname(self) -> Any: ...


def address_of(listening: HasName, scheme: str = "http") -> str:
    """Where clients find a listening socket."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"{scheme}+unix://{os.fsdecode(name)}"
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class ListenError(Exception):
    """An address cannot be listened on. The message is a sentence for whoever gave the address."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that is bound, and that listens unless it is one of several of its address."""

    socket: socket.socket
    address: str
    """Where clients find it: ``http://127.0.0.1:9623``, or ``http+unix:///run/enseada.sock``."""
    path: str | None = None
    """The file of a unix socket."""

    def listen(self) -> None:
        """Let clients in. Safe any number of times."""
        self.socket.listen(BACKLOG)

    def close(self) -> None:
        """Stop listening, and remove a unix socket's file. Safe any number of times."""
        if self.socket.fileno() >= 0:
            self.socket.close()
            if self.path is not None:
                with suppress(OSError):
                    os.unlink(self.path)


Place = tuple[Listener, ...]
"""One address's listeners. Several TCP sockets: the kernel deals out clients to those that listen, which at first is
one, and others from when they are told to. Or one socket, of a file's name or given, for all to share."""


@dataclass(frozen=True, slots=True)
class Target:
    """What one address in the settings leads to."""

    address: str
    """As it was given."""
    parsed: Address
    found: Sequence[Found] = ()
    """What getaddrinfo said of its host."""


def adopt_socket(bound: socket.socket) -> Listener:
    """A listener over a socket that somebody else has bound, which listens from now on. Raises OSError."""
    bound.listen(BACKLOG)  # first: nothing is changed of a socket that cannot
    if bound.family in (socket.AF_INET, socket.AF_INET6):
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.setblocking(False)
    return Listener(bound, address_of(bound))


def open_places(addresses: Iterable[str], copies: int) -> list[Place]:
    """Look every address up, and `bind` it. Blocks while it looks up. Raises ListenError."""
    targets = []
    for address in addresses:
        parsed = parse(address)
        try:
            found = socket.getaddrinfo(parsed.host, parsed.port, **LOOKED_FOR) if parsed.host else ()
        except (OSError, UnicodeError) as error:
            raise unknown_host(address, parsed, error) from error
        targets.append(Target(address, parsed, found))
    return bind(targets, copies)


def parse(address: str) -> Address:
    """``HOST:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or ``fd:NUMBER``. Raises ListenError."""
    try:
        return parse_address(address)
    except ValueError as reason:
        raise ListenError(f"{address!r} is no address: {reason}") from None


def unknown_host(address: str, parsed: Address, error: Exception) -> ListenError:
    """What is said where a host's name leads nowhere."""
    return ListenError(f"cannot listen on {address}: {parsed.host} is not known ({_reason(error)})")


def bind(targets: Iterable[Target], copies: int, unix_mode: int = UNIX_MODE) -> list[Place]:
    """Bind, with ``copies`` sockets for each TCP address, and listen. A host may stand for several addresses.

    Raises ListenError, and then nothing is left open.
    """
    places: list[Place] = []
    try:
        for target in targets:
            if target.parsed.path is not None:
                places.append((_listen_unix(target.parsed.path, unix_mode),))
                continue
            if target.parsed.fd is not None:
                if any(listener.socket.fileno() == target.parsed.fd for place in places for listener in place):
                    raise ListenError(f"cannot listen on {target.address}: it is given twice")
                places.append((_listen_given(target.parsed.fd, target.address),))
                continue
            # getaddrinfo may name an address more than once; the order is kept.
            wheres = dict.fromkeys((family, (str(where[0]), int(where[1]))) for family, *_, where in target.found)
            places += [_listen_tcp(family, where, target.address, copies) for family, where in wheres]
    except BaseException:
        for place in places:
            close_all(place)
        raise
    return places


def close_all(listeners: Iterable[Listener]) -> None:
    """Close every one."""
    for listener in listeners:
        listener.close()


def _listen_tcp(family: int, where: tuple[str, int], address: str, copies: int) -> Place:
    """So many sockets that share ``where``; port 0 is picked by the first."""
    place: list[Listener] = []
    try:
        for number in range(copies):
            listening = _bound_tcp(family, where, shared=number > 0)
            where = (where[0], listening.getsockname()[1])
            place.append(Listener(listening, address_of(listening)))
            if number == 0 and copies > 1:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        close_all(place)
        raise _explain(address, error) from error
    return tuple(place)


def _bound_tcp(family: int, where: tuple[str, int], *, shared: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Inherited by what is accepted: answers leave in one write each, and wait for no other.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(where)
        if not shared:
            listening.listen(BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def _listen_unix(path: str, mode: int) -> Listener:
    path = os.path.abspath(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # Nobody may connect before the mode is the one that was asked for: without listen, connecting is refused.
        listening.bind(path)
        os.chmod(path, mode)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise _explain(UNIX_PREFIX + path, error) from error
    return Listener(listening, f"http+unix://{path}", path)


def _listen_given(fd: int, address: str) -> Listener:
    """A listener over a descriptor, which is ours from then on; until then it may be anybody's, and is left alone."""
    try:
        given = socket.socket(fileno=fd)
    except OSError as error:
        raise _explain(address, error) from error
    try:
        if given.type != socket.SOCK_STREAM:
            raise ListenError(f"cannot listen on {address}: it is no stream socket")
        if not given.getsockname() or (given.family != socket.AF_UNIX and not given.getsockname()[1]):
            raise ListenError(f"cannot listen on {address}: it is not bound")  # listen(2) would pick a port
        listener = adopt_socket(given)
    except BaseException as error:
        given.detach()
        if isinstance(error, OSError) and error.errno == errno.EINVAL:
            what = "it is no socket that is bound and not connected"
            raise ListenError(f"cannot listen on {address}: {what}") from error
        if isinstance(error, OSError):
            raise _explain(address, error) from error
        raise
    os.set_inheritable(fd, False)  # from whoever started us, and for nobody whom we start by the way
    return listener


def _remove_stale(path: str) -> None:
    """Remove a socket's file that a server has left behind, and nothing else."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _explain(address: str, error: OSError) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return ListenError(f"cannot listen on {address}: it is in use by another program")
    if error.errno == errno.EBADF:
        return ListenError(f"cannot listen on {address}: nothing is open under that number")
    if error.errno == errno.ENOTSOCK:
        return ListenError(f"cannot listen on {address}: it is no socket")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ListenError(f"cannot listen on {address}: this user has no permission to")
    if error.errno == errno.EADDRNOTAVAIL:
        return ListenError(f"cannot listen on {address}: this machine has no such address")
    return ListenError(f"cannot listen on {address}: {_reason(error)}")


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
