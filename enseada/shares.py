"""A worker's share of what is the whole server's.

One rule: what is bounded for the server as a whole, and kept count of by each process for itself, is divided here, so
that all shares together are the whole. Nobody's share is nothing: then the whole is as much as there are workers.

Files that may be open are not divided: the system counts them for each process (see `enseada.openfiles`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from enseada.storage.blobs.localwriter import DIRTY_BYTES, WRITEBACK_BYTES

if TYPE_CHECKING:
    from enseada.config import Settings


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker may have."""

    settings: Settings
    most_dirty: int
    """Bytes of uploads that are not on the local disk yet."""


def share_of(settings: Settings, number: int) -> Share:
    """The share of the ``number``-th, from 1, of ``settings.processes``."""

    def part(whole: int, least: int) -> int:
        each, rest = divmod(whole, settings.processes)
        return max(least, each + (number <= rest))

    limits = replace(settings.limits, connections=part(settings.limits.connections, 1))
    mine = replace(
        settings,
        limits=limits,
        password_workers=part(settings.password_workers, 1),
        password_queue=part(settings.password_queue, 0),
    )
    # The kernel is told to write bytes out when they are so many: to wait for fewer would be to wait for nothing else.
    return Share(mine, part(DIRTY_BYTES, WRITEBACK_BYTES))
