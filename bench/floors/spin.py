"""The floor of several workers: how much more several processes do at one time than one does alone.

``python -m bench.floors.spin SECONDS`` hashes small blocks for so long and prints how many it did. Cores may share what
they are made of, and others may be at work on them: then two of them are not twice one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from contextlib import ExitStack

from bench.errors import CannotMeasure
from bench.running import child, clean_environment

SECONDS = 1.0
BLOCK = bytes(1024)
BATCH = 100
"""Blocks between two looks at the clock."""


def gain(processes: int, seconds: float = SECONDS) -> float:
    """What so many processes do at one time, divided by what one does alone. Raises CannotMeasure."""
    alone, together = _spin(1, seconds), _spin(processes, seconds)
    return together / alone


def _spin(processes: int, seconds: float) -> int:
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                child(
                    [sys.executable, "-m", "bench.floors.spin", str(seconds)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=clean_environment(),
                    patience=0,
                )
            )
            for _ in range(processes)
        ]
        done = [process.communicate()[0] for process in started]
    if not all(each.strip().isdigit() for each in done):
        raise CannotMeasure("the processes that show what the cores can do have failed")
    return sum(map(int, done))


def main(seconds: float) -> int:
    """Hash for ``seconds``; how many blocks."""
    done, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        for _ in range(BATCH):
            hashlib.sha256(BLOCK).digest()
        done += BATCH
    return done


if __name__ == "__main__":
    print(main(float(sys.argv[1])))
