"""Names, tags and references are what the specification's grammar says, told by another reading of it."""

from __future__ import annotations

import hashlib
from itertools import groupby, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enseada.protocols.digests import Digest
from enseada.protocols.oci import names
from tests.protocols.oci.refusals import refused

LOWER = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
MEGABYTE = 1_000_000

# distribution-spec, "Pulling manifests", as it stands there
SPEC_NAME = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
SPEC_TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"


def looks_like_name(text: str) -> bool:
    """The grammar, read by hand: words with one separator between them, in components with a slash between them."""
    return len(text) <= 255 and all(looks_like_component(component) for component in text.split("/"))


def looks_like_component(text: str) -> bool:
    runs = ["".join(run) for _, run in groupby(text, lambda char: char in LOWER + DIGITS)]
    words, separators = runs[::2], runs[1::2]
    return (
        len(words) == len(separators) + 1
        and all(char in LOWER + DIGITS for char in "".join(words))
        and all(run in (".", "_", "__") or set(run) == {"-"} for run in separators)
    )


def looks_like_tag(text: str) -> bool:
    allowed = LOWER + LOWER.upper() + DIGITS + "_"
    return 1 <= len(text) <= 128 and text[0] in allowed and all(char in allowed + ".-" for char in text)


def test_every_short_text_is_a_name_exactly_if_the_grammar_says_so() -> None:
    found = 0
    for length in range(6):
        for chars in product("a0._-/A", repeat=length):
            text = "".join(chars)
            assert names.is_name(text) == looks_like_name(text), text
            found += names.is_name(text)
    assert found == 506


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="az09._-/:@A é\n\0", max_size=40) | st.text())
@example("a\n")
@example("á")
@example("١")
@example("ﬁ")
def test_any_text_is_a_name_exactly_if_the_grammar_says_so(text: str) -> None:
    assert names.is_name(text) == looks_like_name(text)


@settings(max_examples=50, deadline=None)
@given(st.from_regex(SPEC_NAME, fullmatch=True))
def test_what_the_specification_s_expression_makes_is_a_name(text: str) -> None:
    assert names.is_name(text) == (len(text) <= names.MAX_NAME)


@pytest.mark.parametrize(
    "name", ["a", "0", "library/ubuntu", "a.b_c__d-e--f", "a---------b", "team/api/base", "a/b/c/d/e/f/g", "x" * 255]
)
def test_names(name: str) -> None:
    assert names.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *["", "/", "a/", "/a", "a//b", "A", "aB", "a..b", "a___b", "a._b", "a-_b", "-a", "a-", ".a", "a.", "_a", "a_"],
        *["a/-b", "a-/b", "a b", " a", "a:b", "a@b", "a%2fb", "a\n", "a\0", "é", ".", "..", "a/..", "a/../b"],
        *["x" * 256, "a/" * 127 + "bc"],
    ],
)
def test_no_names(name: str) -> None:
    with refused(400, "NAME_INVALID", "255") as caught:
        names.check_name(name)
    assert caught.value.detail == {"name": name}


@pytest.mark.parametrize("end", ["", "!"])
@pytest.mark.parametrize("part", ["a", "a-", "-", "a/", "/", "a__", "_", "-a", "a.", "a+", "é", "\0"])
def test_a_megabyte_is_refused_and_not_repeated_to_the_client(part: str, end: str) -> None:
    hostile = part * (MEGABYTE // len(part)) + end
    for check, code in [
        (names.check_name, "NAME_INVALID"),
        (names.check_tag, "TAG_INVALID"),
        (names.check_digest, "DIGEST_INVALID"),
        (names.check_reference, "TAG_INVALID"),
    ]:
        with refused(400, code) as caught:
            check(hostile)
        assert len(str(caught.value.detail)) + len(caught.value.message) < 2500


def test_the_grammar_of_a_name_does_not_go_back_again_and_again() -> None:
    """As long as a name may be, and wrong at its end: a nested repetition would not end in this universe."""
    for part in ("a", "-a", "--a", "__a", ".a", "/a", "a-", "a--"):
        text = "a" + part * ((names.MAX_NAME - 2) // len(part)) + "!"
        assert not names.is_name(text)


@pytest.mark.parametrize(
    ("name", "repository"), [("a", "a"), ("a/b", "a"), ("team/api/base", "team"), ("a.b-c/d", "a.b-c")]
)
def test_the_repository_is_the_first_component(name: str, repository: str) -> None:
    assert names.repository_of(name) == repository


def test_every_short_text_is_a_tag_exactly_if_the_grammar_says_so() -> None:
    for length in range(5):
        for chars in product("a0Z_.-:/+é\n", repeat=length):
            text = "".join(chars)
            assert names.is_tag(text) == looks_like_tag(text), text


@settings(max_examples=300, deadline=None)
@given(st.text() | st.from_regex(SPEC_TAG, fullmatch=True) | st.from_regex(SPEC_TAG + "..?", fullmatch=True))
@example("١")
@example("a\n")
def test_any_text_is_a_tag_exactly_if_the_grammar_says_so(text: str) -> None:
    assert names.is_tag(text) == looks_like_tag(text)
    if looks_like_tag(text):
        assert names.check_tag(text) == text
        assert names.check_reference(text) == text
    else:
        with refused(400, "TAG_INVALID", "128") as caught:
            names.check_tag(text)
        assert caught.value.detail == {"tag": text}


def test_a_tag_has_at_most_128_characters() -> None:
    assert names.is_tag("v" * 128)
    assert not names.is_tag("v" * 129)


@given(st.binary(), st.sampled_from(["sha256", "sha512"]))
def test_digests_go_round(content: bytes, algorithm: str) -> None:
    text = f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"
    assert str(names.check_digest(text)) == text
    assert names.check_reference(text) == Digest.of(content, algorithm)


@pytest.mark.parametrize(
    "text",
    [
        *["", ":", "sha256", "sha256:", "sha256:abc", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 65],
        *["sha512:" + "a" * 64, "SHA256:" + "a" * 64, "md5:" + "a" * 32, "blake3:" + "a" * 64, "sha256:" + "g" * 64],
        *[" sha256:" + "a" * 64, "sha256:" + "a" * 64 + "\n", "sha256::" + "a" * 64],
    ],
)
def test_no_digests(text: str) -> None:
    with refused(400, "DIGEST_INVALID") as caught:
        names.check_digest(text)
    assert caught.value.detail == {"digest": text}


@pytest.mark.parametrize("text", ["sha256:latest", ":", "a:b", "sha256:" + "a" * 63])
def test_a_reference_with_a_colon_can_only_be_a_digest(text: str) -> None:
    with refused(400, "DIGEST_INVALID"):
        names.check_reference(text)


@pytest.mark.parametrize("text", ["", "a b", ".a", "-a", "a/b", "v" * 129])
def test_a_reference_without_one_can_only_be_a_tag(text: str) -> None:
    with refused(400, "TAG_INVALID"):
        names.check_reference(text)
