"""Reading the documents that accounts and keys are kept in.

One rule: a document that does not say what this release expects of it is refused under its own name, and nothing that
it holds is quoted: it may be a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from enseada.storage.documents.base import DocumentError

if TYPE_CHECKING:
    from enseada.storage.documents.base import Document

T = TypeVar("T", bound=msgspec.Struct)


class UnusableDocument(DocumentError):
    """A document is there and is of no use: it is damaged, or another release wrote it. It stays so until mended."""

    def __init__(self, id: str, why: str) -> None:
        super().__init__(id, why)
        self.why = why


def read_as(document: Document, type: type[T]) -> T:
    """The document's data as ``type``. Raises UnusableDocument."""
    try:
        return msgspec.convert(document.data, type)
    except msgspec.ValidationError as reason:
        # What msgspec says names types and fields, and of values none but those of enumerations and tags.
        raise UnusableDocument(document.id, f"it is not what this release expects: {reason}") from None
