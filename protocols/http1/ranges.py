"""Ranges and conditions of a GET (RFC 9110, sections 13 and 14), for content that has a strong entity tag."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from enseada.http import Headers

_RANGE = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_MAX_DIGITS = 19
"""Digits of an offset: more of them are beyond any content."""


class Selection(NamedTuple):
    """What to answer: ``status`` 200, 206, 304, 412 or 416, and for 200 and 206 the bytes from start up to stop."""

    status: int
    start: int = 0
    stop: int = 0


def select(method: str, headers: Headers, etag: str, size: int) -> Selection:
    """Decide what a GET or HEAD of content with that entity tag (without quotes) and size in bytes gets.

    Conditions on dates are ignored: there is no Last-Modified to compare them with (RFC 9110, 13.1.3 and 13.1.4).
    """
    if_match = ", ".join(headers.get_all("if-match"))
    if if_match and not _matches(if_match, etag, weak=False):
        return Selection(412)
    if_none_match = ", ".join(headers.get_all("if-none-match"))
    if if_none_match and _matches(if_none_match, etag, weak=True):
        return Selection(304)
    ranges = headers.get_all("range")
    if len(ranges) != 1 or method != "GET":  # RFC 9110, 14.2: Range is only defined for GET
        return Selection(200, 0, size)
    # RFC 9110, 13.1.5: one validator, compared strongly; a date, a list or ``*`` is none that matches.
    if_range = headers.get_all("if-range")
    if if_range and [value.strip(" \t") for value in if_range] != [f'"{etag}"']:
        return Selection(200, 0, size)
    return _select_range(ranges[0], size)


def _select_range(text: str, size: int) -> Selection:
    match = _RANGE.fullmatch(text)
    if match is None or match[1] == match[2] == "":
        # Another unit, several ranges, or nonsense: a server may ignore the field (RFC 9110, 14.2).
        return Selection(200, 0, size)
    first, last = match[1], match[2]
    if first == "":  # the last so many bytes
        count = _number(last)
        if count and not size:
            return Selection(200, 0, size)  # satisfiable (RFC 9110, 14.1.2), but no Content-Range can say so
        return Selection(206, max(0, size - count), size) if count else Selection(416)
    start = _number(first)
    stop = _number(last) + 1 if last else size
    if stop <= start and last:
        return Selection(416)  # invalid; it may be rejected, and the OCI conformance suite wants that (RFC 9110, 14.2)
    return Selection(206, start, min(stop, size)) if start < size else Selection(416)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"  # int() refuses thousands of digits, zeros included
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _matches(condition: str, etag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags names ``etag``, by the weak or by the strong comparison (RFC 9110, 8.8.3.2)."""
    if condition.strip() == "*":
        return True
    return any(tag == etag and (weak or not prefix) for prefix, tag in _TAG.findall(condition))
