"""From a method and a path to a route: which one, and what is said where there is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.auth.policy import ANONYMOUS, Action
from enseada.http import BytesBody, Headers, RegistryError, Request, Response
from enseada.router import Call, Route, Table

if TYPE_CHECKING:
    from enseada.auth.policy import Subject
    from enseada.router import Params


async def answer(request: Request, params: Params, subject: Subject) -> Response:
    return Response(200, body=repr((request.method, dict(params), subject.name)).encode())


TABLE = Table(
    [
        Route("GET", re.compile("/"), answer),
        Route("GET", re.compile("/(?P<name>.+)/list"), answer, Action.READ, "x:{name}"),
        Route("GET", re.compile("/(?P<name>.+)/(?P<thing>[^/]+)"), answer, Action.READ, "x:{name}/{thing}"),
        Route("PUT", re.compile("/(?P<name>.+)/(?P<thing>[^/]+)"), answer, Action.WRITE, "x:{name}/{thing}"),
        Route("PUT", re.compile("/(?P<name>.+)/list"), answer, Action.WRITE, "x:{name}"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "params", "object"),
    [
        ("GET", "/", {}, ""),
        ("GET", "/a/list", {"name": "a"}, "x:a"),  # the first that matches
        ("GET", "/a/b/c", {"name": "a/b", "thing": "c"}, "x:a/b/c"),
        ("PUT", "/a/list", {"name": "a", "thing": "list"}, "x:a/list"),
    ],
)
async def test_the_first_route_that_matches(method: str, path: str, params: dict[str, str], object: str) -> None:
    call = TABLE.find(method, path)
    assert call.params == params
    assert call.object == object
    request = Request(method, path, "", Headers(), BytesBody())
    response = await call.route.handler(request, call.params, ANONYMOUS)
    assert response.body == repr((method, params, "anonymous")).encode()


@pytest.mark.parametrize(("path", "allow"), [("/", "GET"), ("/a/b", "GET, PUT"), ("/a/list", "GET, PUT")])
def test_another_method_would_do(path: str, allow: str) -> None:
    with pytest.raises(RegistryError) as refused:
        TABLE.find("PATCH", path)
    assert (refused.value.status, refused.value.code) == (405, "UNSUPPORTED")
    assert refused.value.headers == [("Allow", allow)]


@pytest.mark.parametrize("path", ["", "/a", "//", "/a/"])
def test_no_route_at_all(path: str) -> None:
    with pytest.raises(RegistryError) as refused:
        TABLE.find("GET", path)
    assert (refused.value.status, refused.value.code) == (404, "NOT_FOUND")


@given(
    method=st.sampled_from(["GET", "PUT", "PATCH"]),
    path=st.lists(st.sampled_from(["", "a", "list", "tags", "blobs", "b"]), max_size=5).map("/".join),
)
def test_found_by_a_segment_as_by_trying_all(method: str, path: str) -> None:
    """Saying what the last segment but one is changes nothing save the time that it takes."""

    def table(*, fixed: bool) -> Table:
        return Table(
            [
                Route("GET", re.compile("/?"), answer),
                Route("GET", re.compile("/(.+)/tags/list"), answer, next_to_last="tags" if fixed else None),
                Route("PUT", re.compile("/a/b"), answer),
                Route("PUT", re.compile("/(.+)/blobs/?"), answer),
                Route("GET", re.compile("/(.+)/blobs/([^/]+)"), answer, next_to_last="blobs" if fixed else None),
                Route("PUT", re.compile("/(.*)/tags/[^/]*"), answer, next_to_last="tags" if fixed else None),
                Route("GET", re.compile("/(.+)/"), answer),
                Route("GET", re.compile("(|.*/)/a"), answer, next_to_last="" if fixed else None),
            ]
        )

    def found(table: Table) -> object:
        try:
            return table.routes.index(table.find(method, path).route)
        except RegistryError as refused:
            return refused.status, refused.headers

    assert found(table(fixed=True)) == found(table(fixed=False))


def test_an_object_takes_its_parameters_as_they_are() -> None:
    route = Route("GET", re.compile(""), answer, Action.READ, "x:{name}")
    assert Call(route, {"name": "{thing}", "thing": "secret"}).object == "x:{thing}"
