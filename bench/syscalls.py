"""How often a tree of processes calls the kernel for something: counted by strace, in a run of its own.

A traced process is many times slower, so nothing else is measured meanwhile.
"""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import CannotMeasure
from bench.running import POLL, program, scratch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from bench.accounts import Tree

SYNCS = ("fsync", "fdatasync", "sync_file_range", "syncfs", "msync")
LINE = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)$", re.MULTILINE)
ATTACH_TIMEOUT = 15.0


@contextmanager
def counting(tree: Tree, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """Count the system calls ``names`` of ``tree`` while the block runs; filled in when it ends.

    Raises CannotMeasure where strace is not here, or may not trace.
    """
    counts: dict[str, int] = {}
    with scratch() as folder:
        summary, log = folder / "summary", folder / "log"
        attach = [argument for each in tree.processes() for argument in ("-p", str(each.pid))]
        with program(["strace", "-f", "-c", "-o", summary, "-e", f"trace={','.join(names)}", *attach], log) as process:
            _wait_until_traced(process, tree, log)
            yield counts
        if not summary.exists():
            raise CannotMeasure(f"strace told nothing: {log.read_text(errors='replace')}")
        counts.update(parse(summary.read_text()))


def parse(summary: str) -> dict[str, int]:
    """The calls in a summary of ``strace -c``."""
    return {name: int(calls) for calls, name in LINE.findall(summary) if name != "total"}


def _wait_until_traced(process: subprocess.Popen[bytes], tree: Tree, log: Path) -> None:
    deadline = time.monotonic() + ATTACH_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotMeasure(f"strace may not trace: {log.read_text(errors='replace').strip()}")
        if all(_is_traced(each.pid) for each in tree.processes()):
            return
        time.sleep(POLL)
    raise CannotMeasure(f"strace did not attach in {ATTACH_TIMEOUT} s")


def _is_traced(pid: int) -> bool:
    # Every thread: strace takes them one by one.
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            lines = status.read_text().splitlines()
        except OSError:
            continue
        if "TracerPid:\t0" in lines:
            return False
    return True
