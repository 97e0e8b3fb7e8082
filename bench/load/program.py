"""A load program of our own: told by one line of JSON what to do, and answering by another.

One rule: it is a process of its own that tells its own times, so that neither Python's start nor the harness's threads
are in a figure. What holds connections open says when it is ready, and goes on until its standard input is closed.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import CannotMeasure
from bench.load.client import BadAnswer
from bench.load.loop import Readable, Stalled
from bench.running import LOG_SHOWN, child, clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.load.loop import Task

DEADLINE = 1800.0
"""Seconds that a load may take."""
STDIN = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What a load tells when it has ended."""

    wall: float
    """Seconds from its first byte to the last answer."""
    cpu: float
    """CPU seconds that it took itself."""
    more: Mapping[str, Any]
    """What else it found out."""


class Held:
    """A load that goes on until it is told to end."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self._name = name
        self._process = process

    def end(self, deadline: float = DEADLINE) -> Told:
        """Let it end, and give what it tells. Raises CannotMeasure."""
        try:
            out, said = self._process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            raise CannotMeasure(f"the load {self._name} did not end in {deadline} s") from None
        if self._process.returncode:
            text = said.decode(errors="replace").strip()[-LOG_SHOWN:]
            raise CannotMeasure(f"the load {self._name} failed: {text}")
        told = json.loads(out)
        return Told(told.pop("wall"), told.pop("cpu"), told)


def run(name: str, orders: Mapping[str, Any], deadline: float = DEADLINE) -> Told:
    """Run the program ``bench.load.<name>`` to its end. Raises CannotMeasure."""
    with _started(name, orders) as load:
        return load.end(deadline)


@contextmanager
def holding(name: str, orders: Mapping[str, Any]) -> Iterator[Held]:
    """Run a program that says when it is ready, from then on; killed if the block ends without `Held.end`.

    Raises CannotMeasure.
    """
    with _started(name, orders) as load:
        assert load._process.stdout is not None
        if load._process.stdout.readline() != b"ready\n":
            load.end()
            raise CannotMeasure(f"the load {name} was never ready")
        yield load


@contextmanager
def _started(name: str, orders: Mapping[str, Any]) -> Iterator[Held]:
    with child(
        [sys.executable, "-m", f"bench.load.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        patience=0,
    ) as process:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(orders).encode() + b"\n")
            process.stdin.flush()
        yield Held(name, process)


def main(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """What such a program does: ``work`` gets the orders, and what it returns is told with its times.

    Where ``work`` tells a ``wall`` of its own, that counts.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    orders = json.loads(sys.stdin.buffer.readline())
    began = time.perf_counter()
    cpu = time.process_time()
    try:
        told = dict(work(orders))
    except (BadAnswer, Stalled, OSError) as reason:
        sys.exit(f"{type(reason).__name__}: {reason}")
    told.setdefault("wall", time.perf_counter() - began)
    told["cpu"] = time.process_time() - cpu
    json.dump(told, sys.stdout)


def say_ready() -> None:
    """Tell the harness that all is up."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def until_told(then: Callable[[], None]) -> Task[None]:
    """Wait until standard input is closed, and call ``then``."""
    yield Readable(STDIN)
    then()
