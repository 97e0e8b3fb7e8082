"""docker against a registry that is mounted in a FastAPI application: Docker's clients ask for nothing but /v2/."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients import images
from tests.clients.harness import PASSWORD, WRONG_PASSWORD, Served, Shell, assert_refused, serving
from tests.clients.test_docker import build, content_of, forget
from tests.hosts import HELLO

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["/", "/v2"])
def mounted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry in a FastAPI application under uvicorn."""
    program = (sys.executable, "-m", "tests.hosts", "uvicorn-httptools", "fastapi", request.param)
    with serving(tmp_path_factory.mktemp("mounted"), program=program) as served:
        yield served


def test_login_push_pull(docker: Shell, mounted: Served) -> None:
    login = ("docker", "login", "-u", str(mounted.user), "--password-stdin", mounted.host)
    assert_refused(docker.fails(*login, input=WRONG_PASSWORD.encode()))
    docker.run(*login, input=PASSWORD.encode())
    name = mounted.name("team/app") + ":1"
    data = bytes(range(256)) * 40_000
    image_id = build(docker, name, {"hello": images.static_program("hello\n")}, {"data": data})
    docker.run("docker", "push", name)
    assert mounted.manifest("team/app", "1").json()["config"]["digest"] == image_id
    forget(docker, name)
    docker.run("docker", "pull", name)
    assert docker.run("docker", "image", "inspect", "--format", "{{.Id}}", name).text == image_id
    assert content_of(docker, name, "/data") == data
    assert mounted.http.get("/hello").text == HELLO
