"""What every document store demands of ids and of data, so that all of them refuse the same ones.

One rule: what one store would refuse, all refuse, before anything happens, with ValueError: it is the caller's mistake.
"""

from __future__ import annotations

from os import urandom
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enseada.storage.documents.base import Document

DOCUMENT_BYTES = 1024 * 1024
"""The longest data of one document, serialised. Head documents may be so long; others keep under 64 KiB."""

ID_BYTES = 4096
"""The longest id, in UTF-8."""

REVISION_BYTES = 12
"""Random bytes in a revision: so many that none is ever made twice."""

decode = msgspec.json.Decoder(dict[str, Any]).decode
"""The data of a document from its serialised form (bytes)."""

_encode = msgspec.json.Encoder().encode


def check_id(id: str) -> None:
    """Raises ValueError for an id that no store takes."""
    if not id or id[0] == "_":
        raise ValueError(f"an id is not empty and does not begin with an underscore: {id!r}")
    if len(id) * 4 > ID_BYTES and len(id.encode()) > ID_BYTES:
        raise ValueError(f"an id has at most {ID_BYTES} bytes: {id[:100]!r}...")
    if not id.isprintable() and not _is_text(id):
        raise ValueError(f"an id is text without NUL and lone surrogates: {id!r}")


def check_different(docs: Sequence[Document]) -> None:
    """Raises ValueError if two of the documents have one id."""
    if len({doc.id for doc in docs}) != len(docs):
        raise ValueError(f"ids must differ: {[doc.id for doc in docs]}")


def encode(data: Mapping[str, Any]) -> bytes:
    """Serialise the data of a document. Raises ValueError for what is not JSON, too long, or has a key of CouchDB's."""
    for key in data:
        if key.startswith("_"):
            raise ValueError(f"a key of a document's data does not begin with an underscore: {key!r}")
    try:
        body = _encode(data)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"a document's data is JSON: {error}") from error
    if len(body) > DOCUMENT_BYTES:
        raise ValueError(f"a document's data has at most {DOCUMENT_BYTES} bytes, not {len(body)}")
    return body


def new_token() -> str:
    """A random value that nobody else has made: for revisions, and to tell writers apart."""
    return urandom(REVISION_BYTES).hex()


def _is_text(id: str) -> bool:
    return "\0" not in id and not any("\ud800" <= character <= "\udfff" for character in id)
