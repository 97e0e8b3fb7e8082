"""Scopes as clients send them, merged and bounded, and the challenges that ask for them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.protocols.oci import scopes
from enseada.protocols.oci.scopes import Access, ScopeError, parse, repository

NAMES = st.sampled_from(["team/api", "a", "library/hello", "team/api/base", "x-y/z__w", "a.b/c"])
ACTIONS = st.sets(st.sampled_from(["pull", "push", "delete", "*"]), min_size=1)
ACCESSES = st.lists(st.builds(lambda name, actions: repository(name, *actions), NAMES, ACTIONS))


def texts(*sent: str) -> list[str]:
    return [str(access) for access in parse(sent)]


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (["repository:team/api:pull,push"], ["repository:team/api:pull,push"]),
        (["repository:team/api:push,pull"], ["repository:team/api:pull,push"]),
        (["repository(plugin):team/api:pull"], ["repository:team/api:pull"]),
        (["repository:localhost:5000/team/api:pull"], ["repository:team/api:pull"]),
        (["repository:[::1]:9623/a:pull"], ["repository:a:pull"]),
        (["repository:a.example/b:pull"], ["repository:a.example/b:pull"]),
        (["repository:a:pull repository:b:pull"], ["repository:a:pull", "repository:b:pull"]),
        (["repository:a:pull", "repository:b:delete"], ["repository:a:pull", "repository:b:delete"]),
        (["repository:a:pull", "repository:a:push"], ["repository:a:pull,push"]),
        (["repository:a:*"], ["repository:a:*"]),
        (["repository:a:pull,fly"], ["repository:a:pull"]),
        (["registry:catalog:*"], ["registry:catalog:*"]),
        (["", "  "], []),
    ],
)
def test_what_clients_send(sent: list[str], read: list[str]) -> None:
    assert texts(*sent) == read


@pytest.mark.parametrize(
    "scope",
    [
        "repository", "repository:", "repository:a", "repository:a:", "repository:a:fly", ":a:pull", "repository::pull",
        "volume:a:pull", "registry:other:*", "registry:catalog:pull", "REPOSITORY:a:pull", "repository():a:pull",
        "repository:A/b:pull", "repository:../x:pull", "repository:a/:pull", "repository:a:b:pull",
        "repository:localhost:5000/:pull", "repository:" + "a" * 256 + ":pull", "repository:a:" + "x" * 1100 + ",pull",
    ],
)  # fmt: skip
def test_what_is_not_understood_is_left_out(scope: str) -> None:
    assert texts(scope, "repository:b:pull") == ["repository:b:pull"]


def test_there_is_an_end_to_different_names_but_not_to_repeated_ones() -> None:
    most = [f"repository:team/n{n}:pull" for n in range(scopes.MAX_SCOPES)]
    assert len(parse([*most, *most])) == scopes.MAX_SCOPES
    with pytest.raises(ScopeError):
        parse([*most, "repository:team/another:pull"])


@given(ACCESSES)
def test_what_is_written_is_read_back(accesses: list[Access]) -> None:
    wanted: dict[str, frozenset[str]] = {}
    for access in accesses:
        wanted[access.name] = wanted.get(access.name, frozenset()) | access.actions
    read = parse([scopes.format_scopes(accesses)])
    assert [(access.name, access.actions) for access in read] == list(wanted.items())
    assert parse(str(access) for access in accesses) == read


@given(st.lists(st.text(max_size=60), max_size=5))
def test_no_text_breaks_the_parser(sent: list[str]) -> None:
    once = parse(sent)
    assert parse(map(str, once)) == once


def parameters(challenge: str) -> dict[str, str]:
    """A challenge's parameters as a strict client reads them (RFC 9110 11.2)."""
    pairs = re.fullmatch(r'(\w+=".*?(?<!\\)(?:\\\\)*"(?:,|$))+', challenge.partition(" ")[2])
    assert pairs is not None
    found = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', challenge)
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in found}


def test_a_challenge_of_a_mount_names_both_scopes() -> None:
    made = scopes.bearer_challenge(
        "http://127.0.0.1:9623/v2/_token", "enseada", [repository("a", "push", "pull"), repository("b", "pull")]
    )
    assert made == (
        'Bearer realm="http://127.0.0.1:9623/v2/_token",service="enseada",'
        'scope="repository:a:pull,push repository:b:pull"'
    )


def test_a_challenge_may_have_no_scope_and_an_error() -> None:
    made = scopes.bearer_challenge("http://h/", "s", error="invalid_token")
    assert made == 'Bearer realm="http://h/",service="s",error="invalid_token"'


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_quoting_is_undone_by_who_reads(text: str) -> None:
    assert parameters(scopes.bearer_challenge(text, "s")) == {"realm": text, "service": "s"}


@pytest.mark.parametrize("text", ["a\r\nb", "a\0b", "é", "\x7f"])
def test_what_no_header_may_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="header"):
        scopes.quote(text)


def test_basic_asks_for_utf8() -> None:
    assert scopes.basic_challenge("Enseada") == 'Basic realm="Enseada",charset="UTF-8"'
