"""The documents read since the last commit: what a busy name means is asked at every use, and read once.

One rule: nothing is given that a read begun now would not find. Whatever was committed meanwhile, by whichever process,
empties it; only what is there is kept, never that something is not.
"""

from __future__ import annotations

from typing import TypeAlias

from enseada.storage.documents.walindex import watch

Row: TypeAlias = tuple[str, bytes]
"""A document as the file has it: its revision, and its data, serialised, so that nobody changes what others get."""

CACHE_BYTES = 1024 * 1024
"""Bytes of memory for documents that are kept; beyond it they are all forgotten."""
ROW_BYTES = 300
"""What the objects of one take, beside what they hold: two texts, bytes, a tuple, and room in a dictionary."""


class Recent:
    """For one reading connection, and until it is closed."""

    def __init__(self, path: str) -> None:
        """``path``: of the database, which that connection has read already."""
        self._head = watch(path)
        self._seen = b""
        self._rows: dict[str, Row] = {}
        self._size = 0

    def get(self, id: str) -> Row | None:
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
        return self._rows.get(id)

    def add(self, id: str, row: Row) -> None:
        """Keep a document that was read after `get` was called for it."""
        if self._head is None:
            return
        size = len(id) + len(row[0]) + len(row[1]) + ROW_BYTES
        if self._size + size > CACHE_BYTES:
            self._forget()
        self._size += size
        self._rows[id] = row

    def _forget(self) -> None:
        self._rows.clear()
        self._size = 0
