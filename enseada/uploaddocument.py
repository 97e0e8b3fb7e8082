"""The document of an upload session, as one request knows it: what is saved, and whether that is certain.

One rule: only a full yes is a yes. A write whose answer was lost, or that was cancelled, leaves a doubt, and the doubt
is settled by a write that replaces the same revision: after it, the other cannot happen any more. Of another process's
session nobody knows whether it is in doubt: so who takes one over settles it, before the first byte.

Its states: ``open``, with what is ``saved``, the ``base`` where a PUT began, and whether it is ``whole`` (all bytes of
the PUT have come, and may have become final); ``done``, with the ``digest``; ``ended``, cancelled or refused.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enseada.protocols.oci.errors import error
from enseada.storage.documents.base import Conflict, Document, Unavailable, Unknown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enseada.protocols.digests import Digest
    from enseada.protocols.oci.session import Session
    from enseada.storage.documents.base import DocumentStore


@dataclass(frozen=True, slots=True)
class Saved:
    """What a session's document says of one offset: from here an upload goes on."""

    offset: int
    algorithm: str
    hash: bytes | None
    writer: bytes

    def encode(self) -> dict[str, object]:
        return {
            "offset": self.offset,
            "algorithm": self.algorithm,
            "hash": None if self.hash is None else base64.b64encode(self.hash).decode("ascii"),
            "writer": base64.b64encode(self.writer).decode("ascii"),
        }

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> Saved:
        state = None if data["hash"] is None else base64.b64decode(data["hash"])
        return cls(data["offset"], data["algorithm"], state, base64.b64decode(data["writer"]))


class UploadDocument:
    """A session's document in one request, which is its only writer while it has the upload's bytes to itself."""

    def __init__(self, documents: DocumentStore, session: Session, process: str, in_doubt: set[str]) -> None:
        """``process``: names this process among all; ``in_doubt``: the ids that its earlier requests left unsure."""
        self.id = session.document_id
        self.known: Document | None = None
        """As it was read or written last; None: no document says that the session began."""
        self.unsure = False
        """Whether a write of ours has happened, or may yet happen, that `known` does not tell of."""
        self._documents = documents
        self._name = session.name
        self._process = process
        self._in_doubt = in_doubt
        self._holder = f"{process}:{secrets.token_hex(8)}"

    @property
    def data(self) -> Mapping[str, Any]:
        """What `known`, which is there, says."""
        assert self.known is not None
        return self.known.data

    def is_at(self, newest: Document) -> bool:
        """Whether nobody has written since we read or wrote."""
        return newest.rev == self._rev

    async def settle(self) -> None:
        """Make it certain that no write of an earlier request can happen any more.

        Costs nothing where the last one was this process's own and was answered. Raises Conflict, Unavailable, Unknown.
        """
        if self.known is None:
            return
        ours = str(self.data["holder"]).partition(":")[0] == self._process
        if not ours or self.id in self._in_doubt:
            await self._put(self.data)

    async def save(self, data: Mapping[str, object]) -> None:
        """Write ``data``, as open. Raises BLOB_UPLOAD_UNKNOWN (404) if the session was cancelled meanwhile, Conflict
        if another request has taken it over, Unavailable, Unknown. Cancelled: unsure.
        """
        try:
            await self._put(data)
        except (Conflict, Unknown):
            found = await self._documents.get(self.id)
            if found is not None and found.data["state"] == "ended":
                raise error("BLOB_UPLOAD_UNKNOWN", "this upload was cancelled") from None
            nothing_happened = self._rev == (None if found is None else found.rev)
            if not nothing_happened and (found is None or found.data.get("holder") != self._holder):
                raise
            # Else it was our own write, whose answer was lost or cancelled.
            self.known = found
            await self._put(data)

    def end(self, state: str, digest: Digest | None = None) -> list[Document]:
        """The document, to be written, that says that the session is over; none where none said that it began.

        It keeps the key, so that the sweeper finds what could not be removed.
        """
        if self.known is None:
            return []
        data = {"state": state, "name": self._name, "key": self.data["key"]}
        if digest is not None:
            data["digest"] = str(digest)
        return [Document(self.id, data, self._rev)]

    def leave(self) -> None:
        """The request is over: what it is unsure of, the next one has to settle."""
        if self.unsure:
            self._in_doubt.add(self.id)

    @property
    def _rev(self) -> str | None:
        return None if self.known is None else self.known.rev

    async def _put(self, data: Mapping[str, object]) -> None:
        data = {**data, "state": "open", "name": self._name, "holder": self._holder}
        unsure, self.unsure = self.unsure, True
        try:
            self.known = await self._documents.put(Document(self.id, data, self._rev))
        except (Conflict, Unavailable):
            self.unsure = unsure  # nothing happened now
            raise
        self.unsure = False
        self._in_doubt.discard(self.id)
