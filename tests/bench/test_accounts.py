"""Accounts of real processes: known work, children that end, orphans, memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from bench.accounts import Tree, socket_buffers
from bench.errors import CannotMeasure
from bench.measure import Usage, measuring, peaks
from tests.bench.registry import unread

if TYPE_CHECKING:
    from collections.abc import Iterator

BURN = """
import time
def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
"""
CONNECTIONS = 8
TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds: in such steps the kernel tells CPU times, one step for each of user and system and each process."""


@contextmanager
def child(source: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python that runs ``source``, which writes a line when it is ready, and ends with the block."""
    with subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def go_on(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def test_cpu_that_was_burnt() -> None:
    with child(f"{BURN}print(flush=True); input(); burn(0.3); print(flush=True); input()") as process:
        ready(process)
        with measuring(Tree(process.pid)) as usage:
            go_on(process)
            ready(process)
    assert 0.3 - 2 * TICK <= usage.cpu <= 0.3 + 10 * TICK
    assert usage.wall >= 0.3


def test_cpu_of_less_than_a_tick() -> None:
    work = "thread = threading.Thread(target=burn, args=[0.004]); thread.start(); thread.join()"
    source = f"import threading{BURN}print(flush=True); input(); {work}; print(flush=True); input()"
    with child(source) as process:
        ready(process)
        with measuring(Tree(process.pid), memory=False) as usage:
            go_on(process)
            ready(process)
    assert 0.004 <= usage.cpu < 0.1
    assert usage.cpu / TICK != pytest.approx(round(usage.cpu / TICK), abs=1e-7)


@pytest.mark.parametrize(
    "start",
    [
        "subprocess.run(burner)",
        "subprocess.run([sys.executable, '-c', f'import subprocess; subprocess.run({burner!r})'])",
        "child = subprocess.Popen(burner); os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)",
    ],
    ids=["waited for", "by a child that ended too", "not waited for"],
)
def test_children_that_ended_are_counted_once(start: str) -> None:
    source = f"import os, subprocess, sys; burner = [sys.executable, '-c', {BURN + 'burn(0.4)'!r}]"
    with child(f"{source}; print(flush=True); input(); {start}; print(flush=True); input()") as process:
        ready(process)
        with measuring(Tree(process.pid)) as usage:
            go_on(process)
            ready(process)
    # Beside what was burnt there is the start of one or two Pythons.
    assert 0.4 - 2 * TICK <= usage.cpu < 0.8


def test_an_orphan_stays_known() -> None:
    orphan = "print(flush=True); input(); x = b'x' * (64 << 20); print(flush=True); input()"
    parent = f"import signal, subprocess, sys; subprocess.Popen([sys.executable, '-c', {orphan!r}]); signal.pause()"
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {parent!r}]); print(flush=True); input()"
    with child(source) as process:
        ready(process)
        tree = Tree(process.pid)
        _, between, last = tree.processes()
        before = last.memory_full_info().pss
        between.terminate()
        ready(process)
        assert tree.processes() == [tree.processes()[0], last]
        go_on(process)
        ready(process)
        assert tree.pss() >= before + (64 << 20)
        last.kill()


def test_memory_at_its_peak() -> None:
    work = "x = b'x' * (64 << 20); burn(0.5); del x"
    with child(f"{BURN}print(flush=True); input(); {work}; print(flush=True); input()") as process:
        ready(process)
        tree = Tree(process.pid)
        small = tree.pss()
        with measuring(tree) as usage:
            go_on(process)
            ready(process)
        assert usage.memory_before == pytest.approx(small, rel=0.2)
        # What it shares with other Pythons is divided by how many there are, and they come and go.
        assert 0.8 * small + (64 << 20) <= usage.pss <= usage.memory
        assert tree.pss() < 64 << 20


def test_socket_buffers_grow_with_what_nobody_reads() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        before = socket_buffers()
        sent = sum(stack.enter_context(unread(listener)) for _ in range(CONNECTIONS))
        # The kernel tells the sum of all programs on this machine: others may give some back meanwhile.
        assert socket_buffers() - before > sent / 4 > 0


def test_memory_at_its_peak_counts_socket_buffers_beside_pss() -> None:
    with child("print(flush=True); input()") as process, ExitStack() as stack:
        ready(process)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        with measuring(Tree(process.pid)) as usage:
            sent = sum(stack.enter_context(unread(listener)) for _ in range(CONNECTIONS))
    assert usage.memory - usage.pss > sent / 4 > 0
    values = peaks(Usage(memory=3 << 20, pss=1 << 20), Usage(memory=2 << 20, pss=2 << 20))
    assert values == {"memory at the peak": 3.0, "memory at the peak, PSS": 2.0}


def test_what_has_ended_cannot_be_measured() -> None:
    with child("print(flush=True); input()") as process:
        ready(process)
        tree = Tree(process.pid)
        process.kill()
        process.wait()
        with pytest.raises(CannotMeasure, match="has ended"):
            tree.cpu()
    with pytest.raises(CannotMeasure, match="no process"):
        Tree(process.pid)
