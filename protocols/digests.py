"""Digests: hashes whose state can be saved and loaded, and the digest as OCI writes it.

One rule: no byte is hashed twice. An upload's hash goes on where it was saved, in another request, another process or
on another machine: a saved state names its algorithm and holds what FIPS 180-4 (RFC 1321 for md5) defines, big-endian,
and nothing of the library that made it.

Where the platform does not give us OpenSSL's contexts (a Python that is linked statically), hashlib does the work and
`Hasher.state` is None.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from enseada.protocols.openssl import Algorithm

DIGEST_BYTES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
"""The algorithms, and how long their digests are."""

OCI_ALGORITHMS = ("sha256", "sha512")
"""The registered algorithms of image-spec, descriptor.md, that we take (blake3 is registered too: hashlib lacks it)."""

STATE_VERSION = b"enseada-hash-1\n"
"""How a saved state begins. It goes on: the algorithm's name padded with NUL to 8 bytes; one byte each for a word's
bytes, the number of words, a block's bytes; the count of bytes hashed (8 bytes); the chaining words; the bytes after
the last whole block. Numbers are big-endian."""

_NAME_BYTES = 8
_COUNT_BYTES = 8
_MAX_COUNT = 1 << 61  # the count of bits that md5, sha1 and sha256 pad with has 64 bits


class Hasher(Protocol):
    """A hash under way. Not safe for use by two threads at once."""

    algorithm: str
    count: int
    """Bytes fed."""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Feed ``data``, without copying it. Raises BufferError for a memoryview that is not contiguous."""
        ...

    def digest(self) -> bytes:
        """The digest of the bytes so far; more may follow."""
        ...

    def hexdigest(self) -> str:
        """The same in lower-case hexadecimal."""
        ...

    def copy(self) -> Hasher:
        """Another hash that has been fed the same bytes."""
        ...

    def state(self) -> bytes | None:
        """What `restore` goes on from (at most 230 bytes), or None where it cannot be had."""
        ...


class _Resumable:
    """A hash on OpenSSL's own context."""

    __slots__ = ("_context", "_openssl", "algorithm", "count")

    def __init__(self, openssl: Algorithm, context: Any, count: int = 0) -> None:
        self.algorithm = openssl.name
        self.count = count
        self._openssl = openssl
        self._context = context

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self.count += self._openssl.feed(self._context, data)

    def digest(self) -> bytes:
        return self._openssl.digest(self._context)

    def hexdigest(self) -> str:
        return self.digest().hex()

    def copy(self) -> Hasher:
        return _Resumable(self._openssl, self._openssl.copy(self._context), self.count)

    def state(self) -> bytes | None:
        openssl = self._openssl
        value = openssl.value(self._context)
        return b"".join(
            (
                _head(openssl),
                value.total.to_bytes(_COUNT_BYTES, "big"),
                *(word.to_bytes(openssl.word_bytes, "big") for word in value.chain),
                value.pending,
            )
        )


class _Plain:
    """A hash of hashlib's, whose state stays inside."""

    __slots__ = ("_hash", "algorithm", "count")

    def __init__(self, algorithm: str, hash_: Any, count: int = 0) -> None:
        self.algorithm = algorithm
        self.count = count
        self._hash = hash_

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(data)
        self.count += data.nbytes if isinstance(data, memoryview) else len(data)

    def digest(self) -> bytes:
        return bytes(self._hash.digest())

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())

    def copy(self) -> Hasher:
        return _Plain(self.algorithm, self._hash.copy(), self.count)

    def state(self) -> bytes | None:
        return None


@cache
def _openssl() -> dict[str, Algorithm]:
    from enseada.protocols import openssl  # ctypes takes 5 ms to import

    return openssl.load()


def hasher(algorithm: str, *, resumable: bool = True) -> Hasher:
    """A new hash; ``resumable=False`` is for what nobody will save, and spares the loading of ctypes.

    Raises ValueError for an algorithm that is not in `DIGEST_BYTES`.
    """
    if algorithm not in DIGEST_BYTES:
        raise ValueError(f"no digest algorithm is called {_shown(algorithm)}; there are {', '.join(DIGEST_BYTES)}")
    if resumable and (openssl := _openssl().get(algorithm)) is not None:
        return _Resumable(openssl, openssl.new())
    return _Plain(algorithm, hashlib.new(algorithm, usedforsecurity=False))


def resumable(algorithm: str) -> bool:
    """Whether a hash of this algorithm can be saved on this platform."""
    return algorithm in _openssl()


def restore(state: bytes) -> Hasher:
    """Go on with a hash from what `Hasher.state` gave, here or elsewhere.

    Raises ValueError for what is no such state, and where this platform cannot load it.
    """
    if not state.startswith(STATE_VERSION):
        raise ValueError("this is not the saved state of a hash, or it is of another version")
    name = state[len(STATE_VERSION) : len(STATE_VERSION) + _NAME_BYTES].rstrip(b"\0").decode("latin-1")
    if name not in DIGEST_BYTES:
        raise ValueError(f"the saved state of a hash names no algorithm that is known: {_shown(name)}")
    openssl = _openssl().get(name)
    if openssl is None:
        raise ValueError(f"this platform cannot load the saved state of a {name} hash")
    head = _head(openssl)
    if not state.startswith(head):
        raise ValueError(f"the saved state of a {name} hash is laid out in another way")
    words_at = len(head) + _COUNT_BYTES
    pending_at = words_at + openssl.word_bytes * openssl.words
    count = int.from_bytes(state[len(head) : words_at], "big")
    # OpenSSL trusts its context: a wrong length here would have it write outside of its block.
    if len(state) != pending_at + count % openssl.block or count >= _MAX_COUNT:
        raise ValueError(f"the saved state of a {name} hash is cut off, too long, or counts wrongly")
    chain = tuple(
        int.from_bytes(state[at : at + openssl.word_bytes], "big")
        for at in range(words_at, pending_at, openssl.word_bytes)
    )
    from enseada.protocols.openssl import Value

    return _Resumable(openssl, openssl.load(Value(chain, count, state[pending_at:])), count)


def _head(openssl: Algorithm) -> bytes:
    sizes = bytes((openssl.word_bytes, openssl.words, openssl.block))
    return STATE_VERSION + openssl.name.encode("ascii").ljust(_NAME_BYTES, b"\0") + sizes


_MAX_TEXT = 256  # characters; matching a longer text only costs
# image-spec, descriptor.md, "Digests"
_GRAMMAR = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)")
_HEX = {name: re.compile(f"[0-9a-f]{{{2 * DIGEST_BYTES[name]}}}") for name in OCI_ALGORITHMS}


@dataclass(frozen=True, slots=True)
class Digest:
    """Content's name by what it is: an algorithm and the digest in lower-case hexadecimal. ``str()`` joins them."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:...`` or ``sha512:...``. Raises ValueError with a sentence for the client."""
        match = _GRAMMAR.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if match is None:
            raise ValueError(f"{_shown(text)} is not a digest: it must be like sha256:<64 hexadecimal digits>")
        algorithm, encoded = match.groups()
        if algorithm not in _HEX:
            raise ValueError(_unsupported(algorithm))
        if _HEX[algorithm].fullmatch(encoded) is None:
            raise ValueError(
                f"{_shown(text)} is not a digest: {algorithm} has {2 * DIGEST_BYTES[algorithm]} lower-case hexadecimal"
                f" digits"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """The digest of ``data``. Raises ValueError for an algorithm that is not in `OCI_ALGORITHMS`."""
        if algorithm not in OCI_ALGORITHMS:
            raise ValueError(_unsupported(algorithm))
        return cls(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def _unsupported(algorithm: str) -> str:
    return f"digest algorithm {_shown(algorithm)} is not supported: use {' or '.join(OCI_ALGORITHMS)}"


_SHOWN_CHARS = 160


def _shown(text: str) -> str:
    """``text`` for an error's sentence: quoted, and not longer than anybody reads."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
