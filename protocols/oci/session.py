"""The id of an upload session: signed, so that beginning one needs no document.

It says when the session began, with which digest algorithm, and holds for one name only. It is no secret: every request
with it is authorised like any other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import time
from dataclasses import dataclass

NONCE_BYTES = 12
_MAC_BYTES = 15
_HEAD = struct.Struct(">IB")
_ALGORITHMS = ("sha256", "sha512")


@dataclass(frozen=True, slots=True)
class Session:
    """One upload to ``name``, begun at ``created`` (whole seconds since 1970)."""

    name: str
    created: int
    algorithm: str
    nonce: bytes

    @property
    def document_id(self) -> str:
        """Where the session is saved. It carries its month: what lives shortly is dropped whole, by period."""
        return f"upload:{time.strftime('%Y-%m', time.gmtime(self.created))}:{self.nonce.hex()}"

    def sign(self, secret: bytes) -> str:
        """The id, of characters that need no quoting in a path."""
        head = _HEAD.pack(self.created, _ALGORITHMS.index(self.algorithm)) + self.nonce
        return base64.urlsafe_b64encode(head + _mac(secret, head, self.name)).rstrip(b"=").decode("ascii")


def verify(text: str, name: str, secret: bytes) -> Session | None:
    """The session that was signed as ``text`` for ``name``, or None if none was."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(raw) != _HEAD.size + NONCE_BYTES + _MAC_BYTES:
        return None
    created, algorithm = _HEAD.unpack_from(raw)
    if algorithm >= len(_ALGORITHMS):
        return None
    session = Session(name, created, _ALGORITHMS[algorithm], raw[_HEAD.size : -_MAC_BYTES])
    # Compared as texts: base64 can write the same bytes in several ways, and a session has one id.
    return session if hmac.compare_digest(session.sign(secret), text) else None


def _mac(secret: bytes, head: bytes, name: str) -> bytes:
    return hmac.new(secret, head + name.encode(), hashlib.sha256).digest()[:_MAC_BYTES]
