"""OpenSSL's digest contexts by ctypes, for the one thing that hashlib does not offer: a state that can be saved.

One rule: nothing here is used before it has proved itself. The contexts' layout (OpenSSL's ``sha.h``, ``md5.h``) is
public and has not changed since 0.9, yet it is no promise; so `load` compares every algorithm with hashlib, and gives
None where anything differs.

Importing ctypes takes 5 ms, so this module is imported by `enseada.protocols.digests` at the first use.
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any, NamedTuple

GUARD_BYTES = 256
"""Room after the context that OpenSSL knows of: a larger context than expected shows there, and harms nobody."""

PROOF_LENGTHS = (0, 1, 55, 56, 63, 64, 65, 111, 112, 119, 127, 128, 129, 300)
"""Lengths at which padding and whole blocks meet, for blocks of 64 and of 128 bytes."""


class Value(NamedTuple):
    """What a digest has become of the bytes so far. It depends on neither the library nor the machine."""

    chain: tuple[int, ...]
    """The chaining words (FIPS 180-4, 6.2; RFC 1321, 3.3)."""
    total: int
    """Bytes in all."""
    pending: bytes
    """The bytes after the last whole block."""


class _Buffer(ctypes.Structure):
    """Py_buffer (part of the stable ABI since 3.11)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_PYBUF_SIMPLE = 0


class Algorithm:
    """One digest's functions and the layout of its context."""

    def __init__(self, library: Any, name: str, prefix: str, word_bytes: int, words: int, block: int) -> None:
        """Raises AttributeError where the library lacks the functions."""
        self.name = name
        self.word_bytes = word_bytes
        self.words = words
        self.block = block
        self.size = hashlib.new(name, usedforsecurity=False).digest_size
        word = ctypes.c_uint32 if word_bytes == 4 else ctypes.c_uint64

        class Context(ctypes.Structure):
            _fields_ = (
                ("chain", word * words),
                ("low", word),
                ("high", word),
                ("pending", ctypes.c_ubyte * block),
                ("num", ctypes.c_uint),
                ("md_len", ctypes.c_uint),  # md5 and sha1 have none: there it is part of the guard
                ("guard", ctypes.c_ubyte * GUARD_BYTES),
            )

        self._context: Any = Context
        self._init = library[f"{prefix}_Init"]
        self._init.argtypes = (ctypes.c_void_p,)
        self.update = library[f"{prefix}_Update"]
        self.update.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
        self._final = library[f"{prefix}_Final"]
        self._final.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
        self._get_buffer = ctypes.pythonapi.PyObject_GetBuffer
        self._get_buffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
        self._release_buffer = ctypes.pythonapi.PyBuffer_Release
        self._release_buffer.argtypes = (ctypes.c_void_p,)
        self._release_buffer.restype = None

    def new(self) -> Any:
        """A context that no byte has gone into."""
        context = self._context()
        self._init(ctypes.byref(context))
        return context

    def copy(self, context: Any) -> Any:
        """Another context, with the same bytes in it."""
        return self._context.from_buffer_copy(context)

    def feed(self, context: Any, data: bytes | bytearray | memoryview) -> int:
        """Hash ``data`` without copying it, and return its length in bytes. Lets other threads run meanwhile.

        Raises BufferError for a memoryview that is not contiguous, TypeError for what is no buffer.
        """
        if type(data) is bytes:
            self.update(ctypes.byref(context), data, len(data))
            return len(data)
        view = _Buffer()
        self._get_buffer(data, ctypes.byref(view), _PYBUF_SIMPLE)
        try:
            if view.len:
                self.update(ctypes.byref(context), view.buf, view.len)
            return int(view.len)
        finally:
            self._release_buffer(ctypes.byref(view))

    def digest(self, context: Any) -> bytes:
        """The digest of the bytes so far; more may follow."""
        out = ctypes.create_string_buffer(self.size + GUARD_BYTES)
        self._final(out, ctypes.byref(self.copy(context)))
        return out.raw[: self.size]

    def value(self, context: Any) -> Value:
        """Take out what the context has become."""
        bits = context.high << (8 * self.word_bytes) | context.low
        return Value(tuple(context.chain), bits // 8, bytes(context.pending[: context.num]))

    def load(self, value: Value) -> Any:
        """Make a context of ``value``, whose sizes the caller has checked: ``pending`` is the rest of a block."""
        context = self.new()
        context.chain[:] = value.chain
        bits = value.total * 8
        context.high = bits >> (8 * self.word_bytes)
        context.low = bits & ((1 << (8 * self.word_bytes)) - 1)
        context.num = len(value.pending)
        context.pending[: len(value.pending)] = value.pending
        return context

    def proves_itself(self) -> bool:
        """Whether it agrees with hashlib when cut, saved and loaded at awkward lengths, with every kind of buffer."""
        whole = bytes(range(256)) * 2
        untouched = bytes(GUARD_BYTES)
        # First only look: a context of another layout, once written to, would have OpenSSL write anywhere.
        values = []
        for length in PROOF_LENGTHS:
            context = self.new()
            self.feed(context, whole[:length])
            value = self.value(context)
            pending = whole[length - length % self.block : length]
            if value.total != length or value.pending != pending or bytes(context.guard) != untouched:
                return False
            values.append(value)
        for value in values:
            context = self.load(value)
            self.feed(context, memoryview(whole)[value.total : 400])
            self.feed(context, bytearray(whole[400:]))
            if self.digest(context) != hashlib.new(self.name, whole, usedforsecurity=False).digest():
                return False
            if bytes(context.guard) != untouched:
                return False
        # The count's two words in their order, and the carry from one to the other: of bytes that nobody has to hash.
        near = (1 << (8 * self.word_bytes)) // 8 - self.block
        context = self.load(Value(self.value(self.new()).chain, near, b""))
        self.feed(context, whole[: 2 * self.block])
        return self.value(context).total == near + 2 * self.block


_KNOWN = (
    ("md5", "MD5", 4, 4, 64),
    ("sha1", "SHA1", 4, 5, 64),
    ("sha256", "SHA256", 4, 8, 64),
    ("sha512", "SHA512", 8, 8, 128),
)


def load() -> dict[str, Algorithm]:
    """The digests of the OpenSSL that hashlib itself uses, by name: those that are there and right. Takes 2 ms."""
    try:
        import _hashlib

        # The extension's own file: looking a symbol up in it looks through the libraries that it is linked with too.
        library = ctypes.CDLL(_hashlib.__file__)
    except (ImportError, AttributeError, OSError):  # no OpenSSL, or all of it linked into the interpreter
        return {}
    found = {}
    for name, prefix, word_bytes, words, block in _KNOWN:
        try:
            algorithm = Algorithm(library, name, prefix, word_bytes, words, block)
        except AttributeError:  # built without deprecated functions
            continue
        if algorithm.proves_itself():
            found[name] = algorithm
    return found
