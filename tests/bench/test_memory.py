"""Free memory that a hypervisor takes back: found by what the kernel tells of the balloon, and filled step by step."""

from __future__ import annotations

import mmap
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from bench import memory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

STEP = memory.STEP
KEPT = 100 << 20


@pytest.mark.parametrize(
    ("devices", "taken"),
    [
        ({}, False),
        ({"virtio0": ("0x0005", "0110010000"), "virtio1": ("0x0002", "0010001001")}, True),
        ({"virtio0": ("0x0005", "0110000000"), "virtio1": ("0x0002", "0010011001")}, False),
        ({"virtio0": ("0x0005", "011")}, False),
    ],
)
def test_what_the_balloon_does(devices: dict[str, tuple[str, str]], taken: bool, tmp_path: Path) -> None:
    for name, (number, features) in devices.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "device").write_text(f"{number}\n")
        (tmp_path / name / "features").write_text(f"{features}\n")
    assert memory.is_taken_back(tmp_path) is taken
    assert memory.is_taken_back(tmp_path / "nowhere") is False


ZONES = """\
Node 0, zone      DMA
  pages free     3840
        min      10
        high     16
        managed  3840
        protection: (0, 3019, 24090)
  pagesets
    cpu: 0
              high:     0
              high_min: 6
Node 0, zone   Normal
        high     25557
        managed  5394266
        protection: (0, 0, 0)
"""


def test_what_the_kernel_keeps_free(tmp_path: Path) -> None:
    (tmp_path / "zoneinfo").write_text(ZONES)
    assert memory.kept_free(tmp_path / "zoneinfo") == (3840 + 25557) * mmap.PAGESIZE


class Machine:
    """Memory of which so much is free whenever somebody looks; and what is read meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, free: Iterable[int]) -> None:
        self.read: list[int] = []
        looks = iter(free)
        really = os.preadv

        def read(file: int, buffers: list[bytearray], position: int) -> int:
            self.read.append(position)
            return really(file, buffers, position)

        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total, free=next(looks)))
        monkeypatch.setattr(os, "preadv", read)


def test_memory_is_filled_until_little_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "kept_free", lambda: KEPT)
    low = KEPT + memory.MARGIN
    # The first look is for the total.
    machine = Machine(monkeypatch, 10 * STEP, [0, low + 2 * STEP, low + STEP, low, low + 1, low, low])
    with memory.cache(tmp_path) as fill:
        assert list(tmp_path.iterdir()) == []
        fill()
        assert machine.read == list(range(0, 2 * STEP, memory.READ_BYTES))
        fill()
        assert machine.read[-1] == 3 * STEP - memory.READ_BYTES  # pages that are not there yet
        fill()
        assert len(machine.read) == 3 * STEP // memory.READ_BYTES


def test_it_ends_where_reading_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "kept_free", lambda: KEPT)
    machine = Machine(monkeypatch, 2 * STEP, [KEPT + memory.MARGIN + 1] * 5)
    with memory.cache(tmp_path) as fill:
        fill()
        fill()
    assert machine.read == list(range(0, 2 * STEP, memory.READ_BYTES)) * 2
