"""The servers that the client tests share, and a shell of its own for each test."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.clients import images
from tests.clients.harness import PASSWORD, Log, Served, Shell, docker_engine, need, need_root, serving

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from enseada.testing import RunningRegistry

LOG_START = pytest.StashKey[dict[Log, int]]()
LOG_SHOWN = 20_000
"""Bytes of a registry's log that are shown beside a test that failed."""


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry that wants a login. ENSEADA_TEST_REGISTRY=http://USER:PASSWORD@HOST:PORT names one that runs already:
    to see whether a failure is the client's or ours."""
    elsewhere = os.environ.get("ENSEADA_TEST_REGISTRY")
    if elsewhere:
        url = urlsplit(elsewhere)
        served = Served(f"{url.hostname}:{url.port}", url.username, url.password, None)
        with served.http:
            yield served
    else:
        with serving(tmp_path_factory.mktemp("registry")) as served:
            yield served


@pytest.fixture(scope="session")
def anonymous_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry into which anybody may push."""
    with serving(tmp_path_factory.mktemp("anonymous"), "--anonymous", "push", login=False) as served:
        yield served


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """A Docker engine of our own; its DOCKER_HOST."""
    need("dockerd", "docker")
    need_root("a Docker engine")
    folder = Path(tempfile.mkdtemp(prefix="enseada-docker-"))
    try:
        with docker_engine(folder) as address:
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A shell in a fresh home."""
    return Shell.at(tmp_path)


@pytest.fixture
def logged_in(shell: Shell, enseada_registry: RunningRegistry) -> Shell:
    """A shell in which all clients are logged in at ``enseada_registry``: the one to see what a client asks for."""
    for file in (shell.home / ".docker" / "config.json", shell.home / "auth.json"):
        file.write_text(enseada_registry.docker_config)
    return shell


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: podman's may have 50 characters."""
    folder = Path(tempfile.mkdtemp(prefix="enseada-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def docker(tmp_path: Path, engine: str) -> Shell:
    """A shell in which docker talks to our engine."""
    return Shell.at(tmp_path, DOCKER_HOST=engine)


@pytest.fixture
def repo(request: pytest.FixtureRequest) -> str:
    """An image name that no other test uses: the client's module, then the test."""
    module = request.node.module.__name__.rpartition(".")[2].removeprefix("test_")
    test = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removeprefix("test_")).strip("-")
    return f"{module}/{test}"


@pytest.fixture
def image(repo: str) -> images.Image:
    """An image of two layers that prints a line when it runs.

    No two tests share a layer: skopeo, podman and buildah remember, for all who run as root, what the same files were
    when some other test had pushed them otherwise compressed, and would mount that instead of pushing these bytes.
    """
    unique = {"of": repo.encode()}
    program = images.static_program("hello from nothing\n")
    return images.image({"hello": program} | unique, {"data": bytes(range(256)) * 64} | unique)


@pytest.fixture
def multi_arch(repo: str) -> images.Index:
    """An index of two images; see ``image``."""
    return images.index(
        *(
            images.image({"which": architecture.encode(), "of": repo.encode()}, architecture=architecture)
            for architecture in ("amd64", "arm64")
        )
    )


@pytest.fixture
def layout(tmp_path: Path, image: images.Image) -> Path:
    """An OCI layout that holds ``image`` under the tag ``1``."""
    folder = tmp_path / "layout"
    images.write_layout(folder, "1", image)
    return folder


@pytest.fixture
def multi_layout(tmp_path: Path, multi_arch: images.Index) -> Path:
    """An OCI layout that holds ``multi_arch`` under the tag ``1``."""
    folder = tmp_path / "multi"
    images.write_layout(folder, "1", multi_arch)
    return folder


@pytest.fixture
def password(registry: Served) -> str:
    """The administrator's."""
    return registry.password or PASSWORD


# --- the registry's log beside a test that failed ---------------------------------------------------------------------


def _registries(item: pytest.Item) -> list[Served]:
    found = getattr(item, "funcargs", {}).values()
    return [served for served in found if isinstance(served, Served)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[LOG_START] = {served.log: served.log_size() for served in _registries(item) if served.log}
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for served in _registries(item):
            if served.log is not None:
                start = item.stash.get(LOG_START, {}).get(served.log, 0)
                log = served.log.path.read_bytes()[start:][-LOG_SHOWN:].decode(errors="replace")
                report.sections.append((f"log of the registry at {served.host}", log))
    return report
