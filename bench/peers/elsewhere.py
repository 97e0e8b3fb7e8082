"""A registry that somebody else started on this machine: only measured, never ended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

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
        field = authorization(self._port, self._user, self._password)
        settings = f"as it runs on port {self._port}, process {self._pid}"
        yield Server(self.name, f"{self.name} of unknown version", self._port, tree, settings, field)
