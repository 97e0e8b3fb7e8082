"""Counting the structure of a JSON text before it is parsed.

A parser builds an object for every value: four hostile megabytes cost it half a second and half a gigabyte. One scan
by a regular expression costs nothing to speak of and stops at the limit. Of what is no JSON it need not count all, but
never less than a parser builds before it finds out.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

MAX_DIGITS = 400
"""Digits of an integer: reading one takes time that grows with their square, and no field needs more than 19."""

# A string without escapes, closed or running into the end (so that an unclosed one is scanned once and not from each of
# its quotes), or a character that opens, closes or separates values.
_TOKEN = re.compile(rb'"[^"]*"?|[\[\]{},]')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_structure(text: bytes, *, values: int, depth: int) -> None:
    """Raise ValueError if ``text`` holds more than ``values`` values or nests deeper than ``depth``.

    A container counts as one more value than it shows when it is empty.
    """
    # Taken out beforehand: a regular expression that repeats a group for each escape remembers them all, 70 bytes each.
    text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    count, level, strings = 1, 0, 0
    for match in _TOKEN.finditer(text):
        token = text[match.start()]
        if token in b"[{":
            level += 1
            count += 1
            if level > depth:
                raise ValueError(f"nested deeper than {depth} levels")
        elif token in b"]}":
            level -= 1
            if level < 0:
                raise ValueError(f"{chr(token)} closes what was not opened")
        elif token == 0x2C:
            count += 1
        else:
            strings += 1  # each is a value or the key of one
        if count > values or strings > 2 * values:
            raise ValueError(f"more than {values} values")


def loads(text: bytes, *, values: int, depth: int) -> Any:
    """Parse ``text`` strictly: UTF-8, no key twice in an object (parsers differ in which one they see), no NaN, and no
    half of a surrogate pair, which could not be written again (RFC 7493, 2.1 and 2.3).

    Raises ValueError with a sentence for people.
    """
    check_structure(text, values=values, depth=depth)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise ValueError(f"not UTF-8 at byte {reason.start}") from None
    value = json.loads(decoded, object_pairs_hook=_unique, parse_int=_integer, parse_constant=_refuse_constant)
    if _SURROGATE.search(decoded):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("an escape is half of a surrogate pair") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:64]!r} stands twice in one object")
            seen.add(key)
    return result


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return int(text)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
