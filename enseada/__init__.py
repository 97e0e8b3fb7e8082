"""Enseada: a package registry for the people who run their own, and a library for programs that serve packages.

What is listed in ``__all__`` is public, and docs/library.md describes it; so is that of `enseada.testing`, for tests of
programs that speak to a registry. Everything else may change with any release.
The names are looked up when they are asked for, because importing what they need takes longer than this module may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enseada.asgiapp import asgi
    from enseada.config import ConfigError, Secret, Settings, load_settings
    from enseada.connection import serve_connection
    from enseada.embedding import Registry, memory_stores
    from enseada.exchange import Exchange
    from enseada.http import Body, BodyError, Handler, Headers, RegistryError, Request, Response
    from enseada.limits import Limits
    from enseada.listeners import Listener, ListenError
    from enseada.logs import log_exchange
    from enseada.server import open_listeners, serve_http
    from enseada.serving import Started, serve
    from enseada.starterror import StartError
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore

__version__ = "0.1.0"

__all__ = [
    "BlobStore",
    "Body",
    "BodyError",
    "ConfigError",
    "DocumentStore",
    "Exchange",
    "Handler",
    "Headers",
    "Limits",
    "ListenError",
    "Listener",
    "Registry",
    "RegistryError",
    "Request",
    "Response",
    "Secret",
    "Settings",
    "StartError",
    "Started",
    "asgi",
    "load_settings",
    "log_exchange",
    "memory_stores",
    "open_listeners",
    "serve",
    "serve_connection",
    "serve_http",
]

_WHERE = {
    "BlobStore": "enseada.storage.blobs.base",
    "Body": "enseada.http",
    "BodyError": "enseada.http",
    "ConfigError": "enseada.config",
    "DocumentStore": "enseada.storage.documents.base",
    "Exchange": "enseada.exchange",
    "Handler": "enseada.http",
    "Headers": "enseada.http",
    "Limits": "enseada.limits",
    "ListenError": "enseada.listeners",
    "Listener": "enseada.listeners",
    "Registry": "enseada.embedding",
    "RegistryError": "enseada.http",
    "Request": "enseada.http",
    "Response": "enseada.http",
    "Secret": "enseada.config",
    "Settings": "enseada.config",
    "StartError": "enseada.starterror",
    "Started": "enseada.serving",
    "asgi": "enseada.asgiapp",
    "load_settings": "enseada.config",
    "log_exchange": "enseada.logs",
    "memory_stores": "enseada.embedding",
    "open_listeners": "enseada.server",
    "serve": "enseada.serving",
    "serve_connection": "enseada.connection",
    "serve_http": "enseada.server",
}
"""The module of each public name."""

if not TYPE_CHECKING:  # a type checker would take it for a promise of any name

    def __getattr__(name):
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_WHERE[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
