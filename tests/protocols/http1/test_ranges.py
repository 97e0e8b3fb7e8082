"""Ranges and conditions are answered as RFC 9110, sections 13 and 14, says."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enseada.http import Headers
from enseada.protocols.http1.ranges import Selection, select

TAG = "sha256:0123"
HUGE = "9" * 5000


def answer(*fields: tuple[str, str], method: str = "GET", etag: str = TAG, size: int = 10_000) -> Selection:
    received = Headers((name.lower().encode(), value.encode("latin-1")) for name, value in fields)
    return select(method, received, etag, size)


WHOLE = Selection(200, 0, 10_000)


def test_without_conditions_the_whole() -> None:
    assert answer() == WHOLE
    assert answer(method="HEAD") == WHOLE
    assert answer(size=0) == Selection(200, 0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # RFC 9110, 14.1.2, for a representation of 10000 bytes
        ("bytes=0-499", Selection(206, 0, 500)),
        ("bytes=500-999", Selection(206, 500, 1000)),
        ("bytes=-500", Selection(206, 9500, 10_000)),
        ("bytes=9500-", Selection(206, 9500, 10_000)),
        ("bytes=0-0,-1", WHOLE),
        ("bytes= 0-999, 4500-5499, -1000", WHOLE),
        ("bytes=500-600,601-999", WHOLE),
        ("bytes=500-700,601-999", WHOLE),
        # "If the last-pos value is absent, or ... greater than or equal to the current length"
        ("bytes=0-", Selection(206, 0, 10_000)),
        ("bytes=0-9999", Selection(206, 0, 10_000)),
        ("bytes=0-10000", Selection(206, 0, 10_000)),
        (f"bytes=9999-{HUGE}", Selection(206, 9999, 10_000)),
        # "If the selected representation is shorter than the specified suffix-length, the entire ... is used"
        ("bytes=-10000", Selection(206, 0, 10_000)),
        (f"bytes=-{HUGE}", Selection(206, 0, 10_000)),
        ("bytes=-1", Selection(206, 9999, 10_000)),
        ("bytes=-0", Selection(416)),
        ("bytes=10000-", Selection(416)),
        ("bytes=10000-20000", Selection(416)),
        (f"bytes={HUGE}-", Selection(416)),
        (f"bytes={HUGE}-{HUGE}", Selection(416)),
        ("bytes=18446744073709551616-", Selection(416)),
        ("bytes=" + "0" * 5000 + "7-" + "0" * 5000 + "8", Selection(206, 7, 9)),
        # invalid: the last position is before the first (14.1.1); it may be rejected (14.2), as OCI's suite wants it
        ("bytes=1-0", Selection(416)),
        ("bytes=20000-10000", Selection(416)),
        (f"bytes={HUGE}0-{HUGE}", Selection(416)),
        # 14.1: names of units compare without case; blanks as lists may have them (5.6.1)
        ("Bytes=0-1", Selection(206, 0, 2)),
        ("bytes= \t0-1 \t", Selection(206, 0, 2)),
        # what is not ours, or nonsense, is ignored (14.2)
        ("seconds=0-1", WHOLE),
        ("bytes=-", WHOLE),
        ("bytes=", WHOLE),
        ("bytes", WHOLE),
        ("", WHOLE),
        ("bytes:0-1", WHOLE),
        ("bytes 0-1", WHOLE),
        ("bytes=0 - 1", WHOLE),
        ("bytes=0-1-2", WHOLE),
        ("bytes=--1", WHOLE),
        ("bytes=+0-1", WHOLE),
        ("bytes=0x0-1", WHOLE),
        ("bytes=a-b", WHOLE),
        ("bytes=1.0-2", WHOLE),
        ("bytes=\u00b2-\u00b3", WHOLE),
        ("xbytes=0-1", WHOLE),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ranges(text: str, expected: Selection) -> None:
    assert answer(("Range", text)) == expected


def test_every_small_range_against_the_positions_that_it_names() -> None:
    numbers = ["", *map(str, range(7))]
    for size, first, last in product(range(6), numbers, numbers):
        positions = range(size)
        if first == last == "":
            expected = Selection(200, 0, size)  # no range
        elif first == "":
            chosen = positions[-int(last) :] if int(last) else range(0)
            # 14.1.2: satisfiable also where there is nothing, which 206 cannot say
            expected = Selection(206, chosen[0], chosen[-1] + 1) if chosen else Selection(416)
            if size == 0 and int(last):
                expected = Selection(200, 0, 0)
        else:
            chosen = positions[int(first) : int(last) + 1 if last else None]
            expected = Selection(206, chosen[0], chosen[-1] + 1) if chosen else Selection(416)
        assert answer(("Range", f"bytes={first}-{last}"), size=size) == expected, (size, first, last)


@settings(max_examples=300)
@given(st.text(st.characters(max_codepoint=255)), st.integers(0, 2**63))
@example("bytes=0-" + "1" * 5000, 2**63)
def test_any_range_is_answered_with_bytes_that_are_there(text: str, size: int) -> None:
    for value in (text, f"bytes={text}"):
        selection = answer(("Range", value), size=size)
        assert selection.status in (200, 206, 416)
        if selection.status == 206:
            assert 0 <= selection.start < selection.stop <= size
        elif selection.status == 200:
            assert selection == Selection(200, 0, size)


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.integers(1, 2**63))
@example(0, 10**19, 1)
@example(10**19 - 1, 10**19, 2**63)
@example(2**63 - 1, 2**64, 2**63)
def test_large_numbers(first: int, last: int, size: int) -> None:
    expected = Selection(206, first, min(last + 1, size)) if first < size else Selection(416)
    if last < first:
        expected = Selection(416)
    assert answer(("Range", f"bytes={first}-{last}"), size=size) == expected


def test_several_range_fields_are_ignored() -> None:
    assert answer(("Range", "bytes=0-1"), ("Range", "bytes=0-1")) == WHOLE
    assert answer(("Range", "bytes=0-1"), ("Range", "bytes=99999-")) == WHOLE


def test_a_range_is_only_for_get() -> None:
    assert answer(("Range", "bytes=0-1"), method="HEAD") == WHOLE
    assert answer(("Range", "bytes=99999-"), method="HEAD") == WHOLE


def tags(weak: str, strong: str) -> list[tuple[str, bool, bool]]:
    """Conditions on the tag "1", and whether they match by the weak and by the strong comparison."""
    return [
        # RFC 9110, 8.8.3.2 (with "1" as the tag that is ours)
        (weak, True, False),
        (strong, True, True),
        ('W/"2"', False, False),
        ('"2"', False, False),
        # lists
        (f'"2", {strong}', True, True),
        (f'{strong}, "2"', True, True),
        (f'"2",{strong},"3"', True, True),
        (f'"2" ,\t{weak} , "3"', True, False),
        ('"2", W/"3"', False, False),
        (f'W/"2", {strong}, W/"3"', True, True),
        ("*", True, True),
        (" * ", True, True),
        # tags are compared whole, with case, and a quoted asterisk is a tag
        ('"11"', False, False),
        ('"1 "', False, False),
        ('""', False, False),
        ('"*"', False, False),
        ('"2,1"', False, False),
        ('"2,"', False, False),
        ("1", False, False),
        ('"1', False, False),
    ]


@pytest.mark.parametrize(("condition", "weakly", "strongly"), tags('W/"1"', '"1"'))
def test_if_none_match_is_weak_and_if_match_is_strong(condition: str, weakly: bool, strongly: bool) -> None:
    whole = Selection(200, 0, 10)
    for method in ("GET", "HEAD"):
        none_match = answer(("If-None-Match", condition), method=method, etag="1", size=10)
        assert none_match == (Selection(304) if weakly else whole)
        match = answer(("If-Match", condition), method=method, etag="1", size=10)
        assert match == (whole if strongly else Selection(412))


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ('"1"', True),
        (' "1"\t', True),
        # 13.1.5: strong comparison; one validator, and neither a list nor an asterisk
        ('W/"1"', False),
        ('"2"', False),
        ("*", False),
        ('"1", "1"', False),
        ('"2", "1"', False),
        ("1", False),
        ("", False),
        # there is no Last-Modified that a date could be
        ("Tue, 15 Nov 1994 08:12:31 GMT", False),
    ],
)
def test_if_range(condition: str, holds: bool) -> None:
    fields = [("Range", "bytes=2-3"), ("If-Range", condition)]
    assert answer(*fields, etag="1", size=10) == (Selection(206, 2, 4) if holds else Selection(200, 0, 10))
    # Where it fails, a range that cannot be had is ignored as well.
    fields[0] = ("Range", "bytes=10-")
    assert answer(*fields, etag="1", size=10) == (Selection(416) if holds else Selection(200, 0, 10))
    # Without a range it means nothing.
    assert answer(fields[1], etag="1", size=10) == Selection(200, 0, 10)


def test_two_if_range_fields_are_not_one_validator() -> None:
    fields = [("Range", "bytes=2-3"), ("If-Range", '"1"'), ("If-Range", '"2"')]
    assert answer(*fields, etag="1", size=10) == Selection(200, 0, 10)
    assert answer(*fields[::-1], etag="1", size=10) == Selection(200, 0, 10)


def test_fields_that_are_repeated_are_one_list() -> None:
    ours = ("If-None-Match", f'"{TAG}"')
    other = ("If-None-Match", '"other"')
    assert answer(other, ours).status == answer(ours, other).status == 304
    assert answer(other, other).status == 200
    ours, other = ("If-Match", f'"{TAG}"'), ("If-Match", '"other"')
    assert answer(other, ours).status == answer(ours, other).status == 200
    assert answer(other, other).status == 412


def test_the_order_of_conditions() -> None:
    """RFC 9110, 13.2.2: If-Match, then If-None-Match, then Range with If-Range."""
    match, none_match = ("If-Match", f'"{TAG}"'), ("If-None-Match", f'"{TAG}"')
    no_match, other = ("If-Match", '"other"'), ("If-None-Match", '"other"')
    part, beyond = ("Range", "bytes=0-1"), ("Range", "bytes=99999-")
    assert answer(no_match, none_match, part) == Selection(412)
    assert answer(match, none_match, part) == Selection(304)
    assert answer(none_match, beyond) == Selection(304)
    assert answer(no_match, beyond) == Selection(412)
    assert answer(match, other, part) == Selection(206, 0, 2)
    assert answer(match, other, beyond) == Selection(416)
    assert answer(match, other, part, ("If-Range", '"other"')) == WHOLE
    assert answer(none_match, part, ("If-Range", '"other"')) == Selection(304)


def test_conditions_on_dates_are_ignored() -> None:
    date = "Tue, 15 Nov 1994 08:12:31 GMT"
    assert answer(("If-Modified-Since", date), ("If-Unmodified-Since", date)) == WHOLE


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.booleans(), st.text(alphabet="1a:!#*\xff,", max_size=3)), min_size=1, max_size=4),
    st.sampled_from([", ", ",", " ,\t"]),
    st.text(alphabet="1a:!#*\xff", max_size=3),
)
def test_any_list_of_tags(listed: list[tuple[bool, str]], comma: str, etag: str) -> None:
    condition = comma.join(f'{"W/" if weak else ""}"{tag}"' for weak, tag in listed)
    weakly = any(tag == etag for _, tag in listed)
    strongly = any(tag == etag and not weak for weak, tag in listed)
    assert answer(("If-None-Match", condition), etag=etag).status == (304 if weakly else 200)
    assert answer(("If-Match", condition), etag=etag).status == (200 if strongly else 412)


@pytest.mark.parametrize("part", ['"', '"a', '"a" ', 'W/"', "W/", ",", '""', "a", '"\xff'])
def test_hostile_lists_of_tags_are_read_once(part: str) -> None:
    condition = part * (1_000_000 // len(part))
    assert answer(("If-None-Match", condition), etag="x") == WHOLE
    assert answer(("If-Match", condition), etag="x") == Selection(412)
