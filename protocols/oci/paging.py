"""Paging by ``n`` and ``last``, and the Link header that leads on (distribution-spec, "Listing Tags"; RFC 8288)."""

from __future__ import annotations

from urllib.parse import urlencode

from enseada.protocols.oci.errors import error


def parse_count(text: str | None, most: int) -> int:
    """How many results to give: ``n`` as asked for, at most ``most``. Raises PAGINATION_NUMBER_INVALID (400)."""
    if text is None:
        return most
    if not (text.isascii() and text.isdigit()):
        raise error("PAGINATION_NUMBER_INVALID", "n must be a whole number", {"n": text[:32]})
    # Compared by length first: a number of a million digits is not worth converting.
    digits = text.lstrip("0") or "0"
    return most if len(digits) > len(str(most)) else min(int(digits), most)


def next_link(path: str, **params: str | int | None) -> str:
    """The value of a Link header to the next page; parameters that are None are left out."""
    query = urlencode({name: value for name, value in params.items() if value is not None})
    return f'<{path}?{query}>; rel="next"'
