"""A load program of our own: told by one JSON document what to do, and answering by another.

One rule: it is a process of its own, started before the measured moment where it matters and telling its own times, so
that neither Python's start nor the harness's threads are in a figure.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import CannotMeasure
from bench.load.client import BadAnswer
from bench.load.loop import Stalled
from bench.running import LOG_SHOWN, ROOT, clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEADLINE = 1800.0
"""Seconds that a load may take."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a load tells when it has ended."""

    wall: float
    """Seconds from its first byte to the last answer."""
    cpu: float
    """CPU seconds that it took itself."""
    more: Mapping[str, Any]
    """What else it found out."""


def run(name: str, orders: Mapping[str, Any], deadline: float = DEADLINE) -> Told:
    """Run the program ``bench.load.<name>`` to its end. Raises CannotMeasure."""
    with subprocess.Popen(
        [sys.executable, "-m", f"bench.load.{name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=clean_environment(),
        start_new_session=True,
    ) as process:
        try:
            out, said = process.communicate(json.dumps(orders).encode(), deadline)
        except subprocess.TimeoutExpired:
            raise CannotMeasure(f"the load {name} did not end in {deadline} s") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    if process.returncode:
        raise CannotMeasure(f"the load {name} failed: {said.decode(errors='replace').strip()[-LOG_SHOWN:]}")
    told = json.loads(out)
    return Told(told.pop("wall"), told.pop("cpu"), told)


def main(work: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """What such a program does: ``work`` gets the orders, and what it returns is told with its times.

    Where ``work`` tells a ``wall`` of its own, that counts.
    """
    orders = json.load(sys.stdin)
    began = time.perf_counter()
    cpu = time.process_time()
    try:
        told = dict(work(orders))
    except (BadAnswer, Stalled, OSError) as reason:
        sys.exit(f"{type(reason).__name__}: {reason}")
    told.setdefault("wall", time.perf_counter() - began)
    told["cpu"] = time.process_time() - cpu
    told["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    json.dump(told, sys.stdout)
