"""A registry behind listeners of its own, from settings: what `enseada serve` runs, and a host's nursery may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, overload

import trio

from enseada.build import open_stores, start_registry
from enseada.logs import log_exchange
from enseada.server import ListenError, adopt_all, close_listeners, open_listeners, serve_http
from enseada.starterror import StartError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from enseada.config import Settings
    from enseada.server import AnyListener, Listener
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore
    from enseada.streamlistener import StreamListener


@dataclass(frozen=True, slots=True)
class Started(Sequence["Listener | StreamListener"]):
    """What a start made: a sequence of its listeners, each with its ``address``, and what else is to be told."""

    listeners: Sequence[Listener | StreamListener]
    data: Path
    """The data folder."""
    admin_password: str | None
    """The password of ``admin``, if one was made: it is told nowhere else, and never again."""

    @property
    def addresses(self) -> list[str]:
        """Where clients find it: ``http://127.0.0.1:9623``, or ``http+unix:///run/enseada.sock``."""
        return [listener.address for listener in self.listeners]

    @overload
    def __getitem__(self, index: int) -> Listener | StreamListener: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Listener | StreamListener]: ...

    def __getitem__(self, index: int | slice) -> Listener | StreamListener | Sequence[Listener | StreamListener]:
        return self.listeners[index]

    def __len__(self) -> int:
        return len(self.listeners)


async def serve(
    settings: Settings,
    *,
    listeners: Iterable[AnyListener] | None = None,
    shutdown: trio.Event | None = None,
    task_status: trio.TaskStatus[Started] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a registry in this process until ``shutdown`` is set or it is cancelled, and leave nothing behind.

    It keeps everything in the folder ``settings.data`` and listens on ``settings.listen``, unless ``listeners`` are
    given (see `serve_http`), which it then owns. ``await nursery.start(enseada.serve, settings)`` returns when clients
    can connect, with a sequence of the listeners (`Started`). Raises StartError.

    Either way it ends gracefully: requests under way have ``settings.grace`` seconds to finish, and are cancelled then;
    uploads that were cancelled are saved, and their clients can go on with them after the next start.
    """
    # What is handed in is ours from the first moment, so that it is closed also where the start fails.
    try:
        given = None if listeners is None else await adopt_all(listeners)
    except OSError as reason:
        raise StartError(f"cannot listen on a socket that was handed in: {reason.strerror or reason}") from reason
    try:
        async with open_stores(settings) as (documents, store):
            if given is None:
                # Before the registry: the first start makes the password of ``admin``, and must live to tell it.
                try:
                    given = [*await open_listeners(settings.listen)]
                except ListenError as reason:
                    raise StartError(str(reason)) from reason
            await serve_over(settings, documents, store, given, shutdown=shutdown, task_status=task_status)
    finally:
        await close_listeners(given or ())


async def serve_over(
    settings: Settings,
    documents: DocumentStore,
    store: BlobStore,
    listeners: Iterable[Listener | StreamListener],
    *,
    shutdown: trio.Event | None = None,
    task_status: trio.TaskStatus[Started] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As `serve`, over stores that are open."""
    opened = await start_registry(settings, documents, store)
    async with opened.registry.running(), trio.open_nursery() as nursery:
        started: Sequence[Listener | StreamListener] = await nursery.start(
            partial(
                serve_http,
                opened.registry,
                listeners,
                limits=settings.limits,
                grace=settings.grace,
                shutdown=shutdown,
                on_exchange=log_exchange,
            )
        )
        task_status.started(Started(started, settings.data.absolute(), opened.admin_password))
