"""Keys of blobs: a bucket of two hexadecimal digits and 128 random bits, ``7f/0123...``, the same on every store.

One rule: a key is checked before anything is made of it, be it a path or a URL.
"""

from __future__ import annotations

import os
import re

BUCKETS = tuple(f"{number:02x}" for number in range(256))
"""The first component of keys: on a local disk, folders that are made ahead."""

KEYS_PER_BUCKET = 1024
"""Keys made in one bucket before another is taken. Uploads that are under way together then share a folder or two, and
so share the fsyncs of it; and no folder of a million blobs holds more than some thousand of them."""

RANDOM_BYTES = 16

_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")


def check_key(key: str) -> str:
    """Return ``key`` if `KeyMaker` could have made it. Raises ValueError otherwise."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(f"this is no blob's key: {key[:80]!r}")
    return key


class KeyMaker:
    """Makes random keys, in one bucket at a time."""

    def __init__(self) -> None:
        self._bucket = BUCKETS[0]
        self._left = 0

    def new(self) -> str:
        """A key that nothing has ever had."""
        if not self._left:
            self._bucket = os.urandom(1).hex()
            self._left = KEYS_PER_BUCKET
        self._left -= 1
        return f"{self._bucket}/{os.urandom(RANDOM_BYTES).hex()}"
