"""Our side: `enseada serve` from this checkout, with accounts and rights as it comes."""

from __future__ import annotations

import secrets
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from bench.accounts import Tree
from bench.authorize import authorization
from bench.errors import CannotMeasure
from bench.running import first_status, free_port, output_of, program
from bench.server import Launch, Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SERVE = (sys.executable, "-m", "enseada", "serve")
TOKEN_LIFETIME = "24h"
"""More than any run takes."""


class Enseada:
    """`enseada serve`."""

    def __init__(self, options: Sequence[str] = (), name: str = "enseada", workers: int | None = None) -> None:
        """``options``: more flags. ``workers``: so many, whatever the run says."""
        self.name = name
        self._options = tuple(options)
        self._workers = workers

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`."""
        workers = self._workers or workers
        port, password, data = free_port(), secrets.token_urlsafe(), folder / "data"
        flags: list[str | Path] = [
            "--data",
            data,
            "--listen",
            f"127.0.0.1:{port}",
            "--token-lifetime",
            TOKEN_LIFETIME,
            "--workers",
            str(workers),
            *self._options,
        ]
        launch = Launch([*SERVE, *flags], {"ENSEADA_ADMIN_PASSWORD": password}, folder / "log")
        began = time.perf_counter()
        with program(launch.command, launch.log, environment=launch.environment) as process:
            first_status(port, process, launch.log)
            seconds = time.perf_counter() - began
            yield Server(
                self.name,
                version(),
                port,
                Tree(process.pid),
                self._settings(workers),
                authorization(port, "admin", password),
                data,
                start_seconds=seconds,
                launch=launch,
                documents=lambda: written_documents(data),
            )

    def _settings(self, workers: int) -> str:
        processes = f"{workers} worker{'s' * (workers > 1)}"
        more = f", {' '.join(self._options)}" if self._options else ""
        return (
            f"{processes}, SQLite, local disk, a bearer token read and its right decided at each request (a signature "
            f"that was right is remembered), one log line a request into a file{more}"
        )


def written_documents(data: Path) -> int:
    """How many changes the document store of a data folder has seen. Raises CannotMeasure."""
    path = data / "documents.sqlite"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            (changes,) = connection.execute("SELECT seq FROM state").fetchone()
            return int(changes)
    except sqlite3.Error as reason:
        raise CannotMeasure(f"{path} does not tell how many documents were written: {reason}") from None


@cache
def version() -> str:
    """``enseada 0.1.0 (Python 3.11.7)``."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"enseada {output_of(*SERVE[:-1], '--version').split()[-1]} (Python {python})"
