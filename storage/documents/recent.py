"""The documents read since the last commit: what a busy name means is asked at every use, and read once.

One rule: nothing is given that a read begun now would not find. Whatever was committed meanwhile, by whichever process,
empties it; only what is there is kept, never that something is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enseada.storage.documents.walindex import watch

if TYPE_CHECKING:
    from enseada.storage.documents.base import Document

CACHE_BYTES = 1024 * 1024
"""Bytes of documents, serialised, that are kept; beyond it they are all forgotten."""


class Recent:
    """For one reading connection, and until it is closed."""

    def __init__(self, path: str) -> None:
        """``path``: of the database, which that connection has read already."""
        self._head = watch(path)
        self._seen = b""
        self._documents: dict[str, Document] = {}
        self._size = 0

    def get(self, id: str) -> Document | None:
        """The document with that id as the newest commit has it, if it is kept.

        What is read from the database after this, and before the next call, may be given to `add`.
        """
        if self._head is None:
            return None
        head = self._head()
        if head != self._seen:
            self._forget()
            self._seen = head
            return None
        return self._documents.get(id)

    def add(self, document: Document, size: int) -> None:
        """Keep a document that was read after `get` was called for it; ``size``: its bytes, serialised."""
        if self._head is None:
            return
        self._size += size
        if self._size > CACHE_BYTES:
            self._forget()
            self._size = size
        self._documents[document.id] = document

    def _forget(self) -> None:
        self._documents.clear()
        self._size = 0
