"""A registry behind listeners of its own, from settings: what `enseada serve` runs, and a host's nursery may."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from enseada.build import open_stores, start_registry
from enseada.listeners import close_all
from enseada.logs import log_exchange
from enseada.server import ListenError, open_listeners, serve_listeners
from enseada.starterror import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from enseada.config import Settings
    from enseada.server import Listener
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore


@dataclass(frozen=True, slots=True)
class Started:
    """What a start made: the printable addresses, the data folder, and the password of ``admin`` if one was made."""

    addresses: list[str]
    data: Path
    admin_password: str | None


async def serve(
    settings: Settings,
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[Started] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until ``shutdown`` is set, then end gracefully; reports `Started`. Raises StartError.

    Cancelled: requests are cancelled, uploads under way are saved, and everything is closed.
    """
    async with open_stores(settings) as (documents, store):
        # The addresses first: the first start makes the password of ``admin``, and must live to tell it.
        try:
            listeners = await open_listeners(settings.listen)
        except ListenError as reason:
            raise StartError(str(reason)) from reason
        await serve_over(settings, documents, store, listeners, shutdown=shutdown, task_status=task_status)


async def serve_over(
    settings: Settings,
    documents: DocumentStore,
    store: BlobStore,
    listeners: Sequence[Listener],
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[Started] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, over stores and listeners that are open; the listeners are closed at the end."""
    try:
        opened = await start_registry(settings, documents, store)
        async with opened.registry.running(), trio.open_nursery() as nursery:
            await nursery.start(
                partial(
                    serve_listeners,
                    opened.registry,
                    listeners,
                    limits=settings.limits,
                    grace=settings.grace,
                    shutdown=shutdown,
                    on_exchange=log_exchange,
                )
            )
            addresses = [listener.address for listener in listeners]
            task_status.started(Started(addresses, settings.data.absolute(), opened.admin_password))
    finally:
        close_all(listeners)
