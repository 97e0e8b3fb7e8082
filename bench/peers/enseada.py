"""Our side: `enseada serve` from this checkout, with accounts and rights as it comes."""

from __future__ import annotations

import secrets
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from bench.accounts import Tree
from bench.authorize import authorization
from bench.running import free_port, output_of, program, wait_until_up
from bench.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SERVE = (sys.executable, "-m", "enseada", "serve")


class Enseada:
    """`enseada serve`."""

    name = "enseada"

    def __init__(self, options: Sequence[str] = ()) -> None:
        """``options``: more flags."""
        self._options = tuple(options)

    @contextmanager
    def start(self, folder: Path, workers: int) -> Iterator[Server]:
        """See `bench.server.Peer`."""
        log, port, password = folder / "log", free_port(), secrets.token_urlsafe()
        flags = self.flags(folder, port, workers)
        with program([*SERVE, *flags], log, environment=variables(password)) as process:
            wait_until_up(port, process, log)
            many = "" if has_workers() or workers == 1 else " (it knows no --workers: one process)"
            yield Server(
                self.name,
                version(),
                port,
                Tree(process.pid),
                f"{workers} worker{'s' * (workers > 1)}{many}, SQLite, local disk, a bearer token read and its right "
                f"decided at each request (a signature is remembered), one log line a request into a file",
                authorization(port, "admin", password),
                folder / "data",
            )

    def flags(self, folder: Path, port: int, workers: int) -> list[str]:
        """What follows ``enseada serve``."""
        flags = ["--data", str(folder / "data"), "--listen", f"127.0.0.1:{port}", "--token-lifetime", "24h"]
        return [*flags, *(["--workers", str(workers)] if has_workers() else []), *self._options]


def variables(password: str) -> dict[str, str]:
    """The environment that a start wants beside the flags."""
    return {"ENSEADA_ADMIN_PASSWORD": password}


@cache
def has_workers() -> bool:
    """Whether this Enseada can be told how many processes to run."""
    return "--workers" in output_of(*SERVE, "--help")


@cache
def version() -> str:
    """``enseada 0.1.0 (Python 3.11.7)``."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"enseada {output_of(*SERVE[:-1], '--version').split()[-1]} (Python {python})"
