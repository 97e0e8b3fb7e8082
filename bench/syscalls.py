"""How often a tree of processes calls the kernel for something: counted by strace, in a run of its own.

A traced process is many times slower, so nothing else is measured meanwhile.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import CannotMeasure
from bench.running import POLL, STOP_TIMEOUT, clean_environment

if TYPE_CHECKING:
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
    pids = [str(each.pid) for each in tree.processes()]
    with tempfile.TemporaryDirectory(prefix="enseada-strace-") as folder:
        summary = Path(folder) / "summary"
        attach = [argument for pid in pids for argument in ("-p", pid)]
        command = ["strace", "-f", "-c", "-o", str(summary), "-e", f"trace={','.join(names)}", *attach]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=clean_environment(), text=True
            )
        except FileNotFoundError:
            raise CannotMeasure("strace, which counts system calls, is not here") from None
        try:
            _wait_until_traced(process, tree)
            yield counts
        finally:
            process.send_signal(signal.SIGINT)
            try:
                _, said = process.communicate(timeout=STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                _, said = process.communicate()
        if not summary.exists():
            raise CannotMeasure(f"strace told nothing: {said.strip()}")
        counts.update(parse(summary.read_text()))


def parse(summary: str) -> dict[str, int]:
    """The calls in a summary of ``strace -c``."""
    return {name: int(calls) for calls, name in LINE.findall(summary) if name != "total"}


def _wait_until_traced(process: subprocess.Popen[str], tree: Tree) -> None:
    deadline = time.monotonic() + ATTACH_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            assert process.stderr is not None
            raise CannotMeasure(f"strace may not trace: {process.stderr.read().strip()}")
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
