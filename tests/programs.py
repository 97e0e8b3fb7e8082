"""Runs programs that serve until they are ended: examples, and what the documentation shows.

One rule: they are run as a reader would run them, in a folder of their own, and warnings are errors.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.harness import PASSWORD, Log

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 60.0
"""Seconds for a start, and for an end."""
_ADDRESS = re.compile(r"https?://127\.0\.0\.1:[0-9]+")


def environment(folder: Path, password: str | None = PASSWORD) -> dict[str, str]:
    """Where our packages are found, which password admin has (None: the first start makes one), and where data go."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ENSEADA_", "PYTHON"))}
    given = {} if password is None else {"ENSEADA_ADMIN_PASSWORD": password}
    return env | {
        "ENSEADA_DATA": str(folder / "data"),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        **given,
    }


@contextmanager
def running(folder: Path, *arguments: str | Path, password: str | None = PASSWORD) -> Iterator[str]:
    """Run Python with ``arguments`` in ``folder``; the first address that it says it listens on.

    What it has printed is in the file ``log`` afterwards.
    """
    log = Log(folder / "log")
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=environment(folder, password),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=log.fill, args=(process.stdout,))
        reader.start()
        try:
            match = _ADDRESS.search(log.wait_for(b"://127.0.0.1:", TIMEOUT).decode())
            assert match is not None, log.path.read_text()
            yield match[0]
            assert process.poll() is None, log.path.read_text()
        finally:
            process.terminate()
            process.wait(TIMEOUT)
            reader.join()
    assert "Traceback" not in log.path.read_text(), log.path.read_text()
