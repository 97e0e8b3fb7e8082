"""What is the whole server's, divided: all shares together are the whole, and nobody's is nothing."""

from __future__ import annotations

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from enseada.config import Settings
from enseada.limits import Limits
from enseada.shares import share_of
from enseada.storage.blobs.localwriter import DIRTY_BYTES, WRITEBACK_BYTES

COUNTS = st.integers(1, 200)


def split(whole: int, workers: int, parts: list[int], least: int) -> None:
    """Assert that ``parts`` are a fair split of ``whole``."""
    assert len(parts) == workers
    if whole >= least * workers:
        assert sum(parts) == whole
        assert max(parts) - min(parts) <= 1
    else:
        assert parts == [least] * workers


@given(COUNTS, COUNTS, COUNTS, st.integers(0, 200))
def test_all_shares_are_the_whole(workers: int, connections: int, passwords: int, queue: int) -> None:
    settings = Settings(
        workers=workers,
        limits=Limits(connections=connections),
        password_workers=passwords,
        password_queue=queue,
    )
    shares = [share_of(settings, number) for number in range(1, workers + 1)]
    split(connections, workers, [share.settings.limits.connections for share in shares], 1)
    split(passwords, workers, [share.settings.password_workers for share in shares], 1)
    split(queue, workers, [share.settings.password_queue for share in shares], 0)
    split(DIRTY_BYTES, workers, [share.most_dirty for share in shares], WRITEBACK_BYTES)


def test_what_is_not_the_whole_servers_is_everybodys() -> None:
    settings = Settings(workers=2)
    share = share_of(settings, 2)
    others = {each.name for each in fields(Settings)} - {"limits", "password_workers", "password_queue"}
    assert all(getattr(share.settings, name) == getattr(settings, name) for name in others)
    others = {each.name for each in fields(Limits)} - {"connections"}
    assert all(getattr(share.settings.limits, name) == getattr(settings.limits, name) for name in others)


def test_one_worker_has_it_all() -> None:
    settings = Settings(workers=1)
    share = share_of(settings, 1)
    assert share.settings == settings
    assert share.most_dirty == DIRTY_BYTES
