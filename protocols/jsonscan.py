"""Counting the structure of a JSON text before it is parsed.

A parser builds an object for every value: four hostile megabytes cost it half a second and half a gigabyte. One scan
by a regular expression costs nothing to speak of and stops at the limit.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# A string, closed or running into the end (so that an unclosed one is scanned once and not from each of its quotes),
# or a character that opens, closes or separates values.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{},]', re.DOTALL)


def check_structure(text: bytes, *, values: int, depth: int) -> None:
    """Raise ValueError if ``text`` holds more than ``values`` values or nests deeper than ``depth``."""
    count, level = 1, 0
    for match in _TOKEN.finditer(text):
        token = text[match.start()]
        if token in b"[{":
            level += 1
            count += 1
            if level > depth:
                raise ValueError(f"nested deeper than {depth} levels")
        elif token in b"]}":
            level -= 1
        elif token == 0x2C:
            count += 1
        if count > values:
            raise ValueError(f"more than {values} values")


def loads(text: bytes, *, values: int, depth: int) -> Any:
    """Parse ``text`` strictly: UTF-8, no key twice in an object (parsers differ in which one they see), no NaN.

    Raises ValueError with a sentence for people.
    """
    check_structure(text, values=values, depth=depth)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise ValueError(f"not UTF-8 at byte {reason.start}") from None
    return json.loads(decoded, object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:64]!r} stands twice in one object")
            seen.add(key)
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
