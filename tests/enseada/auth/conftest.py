"""Settings whose passwords are cheap, and a clock that stands still."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from enseada.config import Settings
from enseada.storage.documents.memory import MemoryStore


@dataclass
class Clock:
    """A clock that is moved by hand."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings() -> Settings:
    return Settings(argon2_time=1, argon2_memory=8192, password_workers=1, password_queue=2)


@pytest.fixture
def documents() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()
