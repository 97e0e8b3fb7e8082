"""The vocabulary of an exchange: what may be a field, and what becomes of those that there are."""

from __future__ import annotations

import pytest

from enseada.http import Headers

FIELDS = [("Content-Type", "text/plain"), ("Link", "</a>"), ("link", "</b>")]


def test_fields() -> None:
    headers = Headers.of(FIELDS)
    assert (headers.get("content-type"), headers.get("LINK"), headers.get("X")) == ("text/plain", "</a>", None)
    assert headers.get_all("Link") == ["</a>", "</b>"]
    headers.set("LINK", "</c>")
    assert list(headers) == [("content-type", "text/plain"), ("link", "</c>")]


@pytest.mark.parametrize("value", ["", "a b", "a\tb", " é\xa0\x80ÿ "])
def test_values(value: str) -> None:
    headers = Headers.of({"X": value})
    headers.add("X", value)
    headers.set("Y", value)
    assert headers.raw == [(b"x", value.encode("latin-1"))] * 2 + [(b"y", value.encode("latin-1"))]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("Link", f"a{chr(code)}b") for code in (*range(0x20), 0x7F, 0x100) if code != 0x09),
        *(("Link", value) for value in ("a\n", "\r", "a\r\nX: b")),
        *((name, "v") for name in ("", "a b", "a:", "a\r\nb", "a\n", "é", "a\0")),
    ],
)
def test_what_is_no_field_is_refused(name: str, value: str) -> None:
    """RFC 9110 5.1, 5.5. What was there stays."""
    headers = Headers.of(FIELDS)
    before = list(headers.raw)
    for change in (headers.add, headers.set, lambda name, value: Headers.of({name: value})):
        with pytest.raises(ValueError, match=r"."):
            change(name, value)
    assert headers.raw == before


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\0"])
def test_what_is_no_name_is_not_there(name: str) -> None:
    headers = Headers.of(FIELDS)
    assert (headers.get(name), headers.get_all(name), name in headers) == (None, [], False)
