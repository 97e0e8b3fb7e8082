"""What supervisor and worker say to each other comes across whole, however it is cut."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.config import Secret, Settings, load
from enseada.orders import Failed, Lines, Order, Passed, Ready, decode_answer, decode_order, encode


def order(settings: Settings) -> Order:
    return Order(settings=settings, number=2, listeners=(Passed(7, "http://127.0.0.1:9623"),), turn=5)


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name), st.text(min_size=1).filter(str.isprintable))
def test_settings_come_across_whole(name: bytes, password: str) -> None:
    """Also where a folder's name is no Unicode."""
    given = replace(Settings(), data=Path(os.fsdecode(name)), admin_password=Secret(password))
    line = encode(order(given))
    assert line.count(b"\n") == 1
    assert decode_order(line.rstrip(b"\n")) == order(given)


def test_settings_of_all_kinds_come_across_whole() -> None:
    flags = {"public_url": "https://h", "max_blob_bytes": "1GiB", "limits.json_depth": "7", "grace": "1.5s"}
    loaded = load(None, {}, flags).settings
    assert decode_order(encode(order(loaded)).rstrip(b"\n")) == order(loaded)


@pytest.mark.parametrize("answer", [Ready(None), Ready("s3cret"), Failed("the disk is\n\U0001f4a5")])
def test_answers_come_across_whole(answer: Ready | Failed) -> None:
    line = encode(answer)
    assert line.count(b"\n") == 1
    assert decode_answer(line.rstrip(b"\n")) == answer


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"type":"Ready"}', b'{"type":"Done"}'])
def test_what_is_no_answer_is_refused(line: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_answer(line)


@given(st.lists(st.binary().filter(lambda line: b"\n" not in line)), st.binary(), st.data())
def test_lines_however_they_are_cut(said: list[bytes], rest: bytes, data: st.DataObject) -> None:
    rest = rest.replace(b"\n", b"")
    stream = b"".join(line + b"\n" for line in said) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    lines = Lines()
    heard: list[bytes] = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        heard += lines.feed(stream[start:stop])
    assert heard == said
    assert list(lines.feed(b"\n")) == [rest]
