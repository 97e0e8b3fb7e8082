"""The count of a JSON text is never less than what a parser builds, and costs one pass over it."""

from __future__ import annotations

import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enseada.protocols.jsonscan import MAX_DIGITS, check_structure, loads

MIB = 1024 * 1024
MANY = 10**9

# Texts that are made of what the scanner looks for.
awkward = st.text(alphabet='"\\[]{},: \nab\U0001f600é', max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | awkward,
    lambda of: st.lists(of, max_size=4) | st.dictionaries(awkward, of, max_size=4),
    max_leaves=12,
)
forms = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 1, "\t"])})


def counted(value: Any) -> int:
    """The root, and in each container its members; an empty one counts as if it had one."""
    return 1 + below(value)


def below(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    members = list(value.values() if isinstance(value, dict) else value)
    return max(len(members), 1) + sum(map(below, members))


def built(value: Any) -> int:
    """The values that a parser builds."""
    members = list(value.values() if isinstance(value, dict) else value) if isinstance(value, list | dict) else []
    return 1 + sum(map(built, members))


def nested(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(nested, value.values() if isinstance(value, dict) else value), default=0)


@settings(max_examples=300, deadline=None)
@given(values, forms)
@example('"[\\', {"ensure_ascii": True, "indent": None})
@example(["\\", '"', "\\\\", ["\\"]], {"ensure_ascii": True, "indent": None})
def test_the_exact_count_and_depth_pass_and_one_less_fails(value: Any, form: dict[str, Any]) -> None:
    text = json.dumps(value, **form).encode()
    count, depth = counted(value), nested(value)
    assert count >= built(value)
    check_structure(text, values=count, depth=depth)
    assert loads(text, values=count, depth=depth) == value
    if count > 1:
        with pytest.raises(ValueError, match=f"more than {count - 1} values"):
            check_structure(text, values=count - 1, depth=depth)
    if depth:
        with pytest.raises(ValueError, match=f"deeper than {depth - 1} levels"):
            check_structure(text, values=count, depth=depth - 1)


class Counting:
    """Builds what the standard parser builds, and counts the containers and their members as it does."""

    def __init__(self) -> None:
        self.built = 0

    def pairs(self, pairs: list[tuple[str, Any]]) -> None:
        self.built += len(pairs)

    def scalar(self, text: str) -> int:
        self.built += 1
        return 0


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet='"\\[]{},:1 u\n', max_size=24), st.integers(1, 6), st.integers(0, 3))
@example('[1,2"', 1, 3)
@example('["\\\\",1,1,1', 3, 3)
@example("]]]]][[[[[[", 6, 0)
@example("[1]]]]],1,1,1,1", 2, 1)
def test_what_passes_never_makes_a_parser_build_more(text: str, most: int, depth: int) -> None:
    """Also for a text that breaks off somewhere: the parser stops there, having built no more than was counted."""
    try:
        check_structure(text.encode(), values=most, depth=depth)
    except ValueError:
        return
    counting = Counting()
    try:
        value = json.loads(text, object_pairs_hook=counting.pairs, parse_int=counting.scalar)
    except ValueError:
        assert counting.built <= 2 * most
    else:
        assert built(value) <= most
        assert nested(value) <= depth


HOSTILE = {
    "brackets": b"[" * 4 * MIB,
    "closing brackets": b"]" * 4 * MIB,
    "braces": b"{" * 4 * MIB,
    "brackets in turn": b"[]" * 2 * MIB,
    "quotes": b'"' * 4 * MIB,
    "an odd number of quotes": b'"' * (4 * MIB - 1),
    "escaped quotes": b'"' + b'\\"' * 2 * MIB,
    "escaped quotes, closed": b'"' + b'\\"' * 2 * MIB + b'"',
    "escaped quotes, from without": b'\\"' * 2 * MIB,
    "backslashes": b'"' + b"\\" * 4 * MIB,
    "an odd number of backslashes": b'"' + b"\\" * (4 * MIB - 1) + b'"',
    "objects": b'{"a":' * (4 * MIB // 5),
    "commas": b"," * 4 * MIB,
    "colons": b":" * 4 * MIB,
    "texts without a comma": b"[" + b'""' * 2 * MIB,
    "keys": b"{" + b'"":"",' * (4 * MIB // 6),
    "one text": b'"' + b"a" * 4 * MIB + b'"',
    "one text, not closed": b'"' + b"a" * 4 * MIB,
    "one number": b"1" * 4 * MIB,
    "one fraction": b"0." + b"1" * 4 * MIB,
    "blanks": b" " * 4 * MIB,
    "zeros": bytes(4 * MIB),
    "no UTF-8": b"\xff" * 4 * MIB,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_four_hostile_megabytes_cost_one_scan(name: str) -> None:
    started = time.perf_counter()
    outcome = outcome_of(HOSTILE[name])
    assert time.perf_counter() - started < 2
    assert (outcome == "read") == (name in ("one text", "one fraction", "escaped quotes, closed"))
    assert len(outcome) < 200


def outcome_of(text: bytes) -> str:
    try:
        loads(text, values=20_000, depth=32)
    except ValueError as reason:
        return str(reason)
    return "read"


@pytest.mark.parametrize("name", HOSTILE)
def test_four_hostile_megabytes_are_held_at_most_three_times(name: str) -> None:
    text = HOSTILE[name]
    tracemalloc.start()
    try:
        with suppress(ValueError):
            check_structure(text, values=20_000, depth=32)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(text) + MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [1, 32])
def test_the_depth(depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        text = opening * (depth - 1) + "[]" + closing * (depth - 1)
        check_structure(text.encode(), values=MANY, depth=depth)
        with pytest.raises(ValueError, match=f"nested deeper than {depth} levels"):
            check_structure(f"[{text}]".encode(), values=MANY, depth=depth)
        check_structure(f"[{','.join([text] * 3)}]".encode(), values=MANY, depth=depth + 1)


def test_twenty_thousand_values_and_one_more() -> None:
    loads(b"[" + b",".join([b"1"] * 19_999) + b"]", values=20_000, depth=32)
    for text in (
        b"[" + b",".join([b"1"] * 20_000) + b"]",
        b"{" + b",".join(b'"%d":1' % key for key in range(20_000)) + b"}",
        b"[" * 1 + b",".join([b"[]"] * 10_000) + b"]",
        b"[" + b'""' * 40_001,
    ):
        with pytest.raises(ValueError, match="more than 20000 values"):
            loads(text, values=20_000, depth=32)


@pytest.mark.parametrize("text", [b"]", b"}", b"[]]", b'{"a":1}}[', b"1}"])
def test_what_closes_more_than_was_opened_is_refused_at_once(text: bytes) -> None:
    with pytest.raises(ValueError, match="closes what was not opened"):
        check_structure(text, values=10, depth=10)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a":1,"a":1}', "the key 'a' stands twice"),
        (b'{"a":1,"b":2,"a":3}', "the key 'a' stands twice"),
        (b'{"b":1,"a":2,"a":3}', "the key 'a' stands twice"),
        (b'[{"x":{"a":1,"\\u0061":2}}]', "the key 'a' stands twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b'{"a":-Infinity}', "-Infinity is not JSON"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'"\xc0\xaf"', "not UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8 at byte 1"),
        ("[]".encode("utf-16"), "not UTF-8 at byte 0"),
        ("[]".encode("utf-16-be"), "Expecting value"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDFFF":1}', "surrogate"),
        (b'["\\ude00\\ud83d"]', "surrogate"),
        (b"1" * (MAX_DIGITS + 1), f"more than {MAX_DIGITS} digits"),
        (b"[-" + b"1" * 100_000 + b"]", f"more than {MAX_DIGITS} digits"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b"{'a':1}", "Expecting property name"),
        (b"[1,]", "Expecting value|trailing comma"),
        (b'"\n"', "control character"),
        (b'"\\x"', "escape"),
        (b"01", "Extra data"),
        (b"// a\n1", "Expecting value"),
    ],
)
def test_what_is_not_strict_json_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loads(text, values=100, depth=10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b" null\n", None),
        (b'"\\ud83d\\ude00\\u0000"', "\U0001f600\0"),
        (b'"\\\\ud800"', "\\ud800"),
        (b'{"a":{"a":{"a":[]}}}', {"a": {"a": {"a": []}}}),
        (b'[{"a":1},{"a":2}]', [{"a": 1}, {"a": 2}]),
        (b"-0", 0),
        (b"1" * MAX_DIGITS, int("1" * MAX_DIGITS)),
        (b"1.5e3", 1500.0),
        ('"é"'.encode(), "é"),
    ],
)
def test_what_is_strict_json_is_read(text: bytes, value: object) -> None:
    assert loads(text, values=100, depth=10) == value


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | st.text(alphabet='"\\[]{},:0 duD8-.eNa\n', max_size=20).map(str.encode))
def test_any_bytes_are_read_as_the_standard_parser_reads_them_or_refused(text: bytes) -> None:
    try:
        value = loads(text, values=100, depth=32)
    except ValueError:
        return
    assert value == json.loads(text.decode())
    json.dumps(value, ensure_ascii=False).encode()
