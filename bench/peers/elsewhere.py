"""A registry that somebody else started on this machine: only measured, never ended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import psutil

from bench.accounts import Tree
from bench.authorize import authorization
from bench.errors import CannotMeasure
from bench.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = ("127.0.0.1", "localhost")


class Elsewhere:
    """A registry by its address and its process."""

    def __init__(self, name: str, url: str, pid: int) -> None:
        """``url``: with the name and password of an account that may push. Raises CannotMeasure."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname not in HERE or parts.port is None:
            raise CannotMeasure("the peer's URL is http://USER:PASSWORD@127.0.0.1:PORT")
        self.name = name
        self._port = parts.port
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password or "")
        self._pid = pid

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`; it runs already, with the cores and the data that it has."""
        tree = Tree(self._pid)
        if not _listens(tree, self._port):
            raise CannotMeasure(
                f"neither process {self._pid} nor one that it started listens on port {self._port}: figures would be "
                f"another's (a registry in a container needs the network of this machine)"
            )
        field = authorization(self._port, self._user, self._password)
        settings = f"as it runs on port {self._port}, process {self._pid}"
        yield Server(self.name, f"{self.name} of unknown version", self._port, tree, settings, field)


def _listens(tree: Tree, port: int) -> bool:
    """Whether one of the processes does. Raises CannotMeasure where they may not be looked at.

    It could be measured no better then: memory is not to be read either.
    """
    for each in tree.processes():
        try:
            sockets = each.net_connections("tcp")
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            raise CannotMeasure(f"the sockets of process {each.pid} are not ours to see: run as its user") from None
        if any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in sockets):
            return True
    return False
