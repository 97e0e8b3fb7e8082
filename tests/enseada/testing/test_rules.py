"""Which requests meet a fault."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.protocols.oci.names import is_name
from enseada.testing.rules import Operation, Rule, operation_of

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST = "sha256:" + "0" * 64
PATHS: Mapping[str, list[str]] = {
    "tags": ["tags/list"],
    "referrers": [f"referrers/{DIGEST}"],
    "manifest": ["manifests/latest", f"manifests/{DIGEST}", "manifests/sha256%3A00"],
    "upload": ["blobs/uploads", "blobs/uploads/", "blobs/uploads/an-id"],
    "blob": [f"blobs/{DIGEST}"],
}
# Components that a name may have, and that are words of the protocol too.
COMPONENTS = ("a", "team", "blobs", "uploads", "manifests", "tags", "list", "referrers", "v2")


@given(
    name=st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=5).map("/".join),
    operation=st.sampled_from(sorted(PATHS)),
    data=st.data(),
)
def test_every_path_of_an_image_is_of_one_operation(name: str, operation: str, data: st.DataObject) -> None:
    assert is_name(name)
    assert operation_of(f"/v2/{name}/{data.draw(st.sampled_from(PATHS[operation]))}") == operation


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("/v2", "ping"),
        ("/v2/", "ping"),
        ("/v2/_token", "token"),
        ("/v2/_catalog", "catalog"),
        ("/", None),
        ("/-/live", None),
        ("/v2/team", None),
        ("/v20/", None),
        ("/v2//manifests/a", None),
        ("/npm/main/manifests/a", None),
    ],
)
def test_other_paths(path: str, operation: Operation | None) -> None:
    assert operation_of(path) == operation


def test_all_operations_are_tried() -> None:
    assert {*PATHS, "ping", "token", "catalog"} == set(get_args(Operation))


@given(
    nth=st.integers(1, 5),
    times=st.none() | st.integers(1, 4),
    method=st.sampled_from([None, "GET", "PATCH"]),
    operation=st.sampled_from([None, "blob", "manifest"]),
    path=st.sampled_from([None, "team/app", "^/v2/other/"]),
    requests=st.lists(
        st.tuples(
            st.sampled_from(["GET", "PATCH", "HEAD"]),
            st.sampled_from(["team/app", "other/app"]),
            st.sampled_from(["blobs/sha256:00", "manifests/1"]),
        ),
        max_size=20,
    ),
)
def test_who_meets_a_fault(
    nth: int,
    times: int | None,
    method: str | None,
    operation: Operation | None,
    path: str | None,
    requests: list[tuple[str, str, str]],
) -> None:
    rule = Rule(method, operation, None if path is None else re.compile(path), nth, times)
    matching = [
        number
        for number, (asked, name, what) in enumerate(requests)
        if method in (None, asked)
        and (operation is None or what.startswith(operation))
        and (path is None or path.strip("^/v2").rstrip("/") in name)
    ]
    assert [
        number for number, (asked, name, what) in enumerate(requests) if rule.matches(asked, f"/v2/{name}/{what}")
    ] == matching
    # Where it can happen to every second request alone, it happens to as many, later.
    for able in (set(matching), set(matching[::2])):
        happened: list[int] = []
        for count, number in enumerate(matching, 1):
            if rule.is_due(count, len(happened)) and number in able:
                happened.append(number)
        assert happened == [number for number in matching[nth - 1 :] if number in able][:times]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "patch"}, "did you mean 'PATCH'"),
        ({"method": "manifest"}, "did you mean operation='manifest'"),
        ({"operation": "layer"}, "choose one of ping, token"),
        ({"nth": 0}, "number 1"),
        ({"times": 0}, "once at least"),
    ],
)
def test_what_no_request_can_be(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rule(**fields)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(), "any request, number 1"),
        (Rule("PATCH", "upload", nth=2), "PATCH upload, number 2"),
        (Rule("GET", path=re.compile("team"), nth=2, times=3), "GET of team, number 2 and on"),
        (Rule(operation="blob", times=None), "any request blob, number 1 and on"),
    ],
)
def test_how_it_reads(rule: Rule, text: str) -> None:
    assert str(rule) == text
