"""Paging: how many were asked for, and the link to what follows (distribution-spec, "Listing Tags"; RFC 8288)."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enseada.protocols.oci import paging
from tests.protocols.oci.refusals import refused


def test_all_that_may_be_given_unless_asked_otherwise() -> None:
    assert paging.parse_count(None, 1000) == 1000


@given(st.integers(0, 10**60), st.integers(0, 60), st.integers(1, 10**6))
@example(0, 0, 1000)
@example(0, 50, 1000)
@example(7, 50, 1000)
@example(999, 0, 1000)
@example(1000, 0, 1000)
@example(1001, 0, 1000)
@example(10_000, 0, 9999)
def test_as_many_as_asked_for_but_no_more_than_may_be(count: int, zeros: int, most: int) -> None:
    assert paging.parse_count("0" * zeros + str(count), most) == min(count, most)


@pytest.mark.parametrize("digit", ["1", "0"])
def test_a_number_of_a_million_digits(digit: str) -> None:
    assert paging.parse_count(digit * 1_000_000, 1000) == (1000 if digit == "1" else 0)


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x10", "1_000", "abc", "١", "²", "1\n"])
def test_no_number(text: str) -> None:
    with refused(400, "PAGINATION_NUMBER_INVALID") as caught:
        paging.parse_count(text, 1000)
    assert caught.value.detail == {"n": text}


def test_a_long_nonsense_is_not_repeated_to_the_client() -> None:
    with refused(400, "PAGINATION_NUMBER_INVALID") as caught:
        paging.parse_count("x" * 1_000_000, 1000)
    assert len(str(caught.value.detail)) < 100


def test_the_link_has_the_form_that_clients_follow() -> None:
    link = paging.next_link("/v2/library/ubuntu/tags/list", n=50, last="24.04_a-b")
    assert link == '</v2/library/ubuntu/tags/list?n=50&last=24.04_a-b>; rel="next"'


def test_parameters_that_are_not_there_are_left_out() -> None:
    assert paging.next_link("/v2/_catalog", n=None, last="a") == '</v2/_catalog?last=a>; rel="next"'
    assert paging.next_link("/v2/_catalog", n=0, last="") == '</v2/_catalog?n=0&last=>; rel="next"'


@given(st.integers(0, 10**6), st.text())
@example(1, 'a>; rel="prev", </evil')
@example(1, "a&n=9#b?c+d e\r\nSet-Cookie: x")
def test_the_link_carries_any_text_and_nothing_breaks_out_of_it(n: int, text: str) -> None:
    link = paging.next_link("/v2/a/referrers/x", n=n, artifactType=text)
    match = re.fullmatch(r'<([!#-;=?-~]+)\?([!#-;=?-~]+)>; rel="next"', link)
    assert match is not None
    assert match[1] == "/v2/a/referrers/x"
    assert parse_qsl(match[2], keep_blank_values=True) == [("n", str(n)), ("artifactType", text)]
