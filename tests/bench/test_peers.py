"""Peers are given the cores that they may use, and no more."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from bench.cache import PATH
from bench.peers import DISTRIBUTION, NGINX
from bench.peers.enseada import Enseada
from bench.scenarios.workers import Workers

if TYPE_CHECKING:
    from pathlib import Path

    from bench.server import Server

DEADLINE = 30.0


def need(program: str) -> None:
    if shutil.which(program, path=PATH) is None:
        pytest.skip(f"{program} is not here")


def flag(server: Server, name: str) -> str:
    """The value of a flag of the process itself."""
    words = psutil.Process(server.tree.pid).cmdline()
    return words[words.index(name) + 1]


@pytest.mark.parametrize("cores", [1, 3])
def test_distribution_gets_its_cores(cores: int, tmp_path: Path) -> None:
    need("docker-registry")
    with DISTRIBUTION.start(tmp_path, cores) as server:
        assert psutil.Process(server.tree.pid).environ()["GOMAXPROCS"] == str(cores)
        assert server.launch is not None
        assert server.launch.environment["GOMAXPROCS"] == str(cores)


@pytest.mark.parametrize("cores", [1, 2])
def test_enseada_gets_its_workers(cores: int, tmp_path: Path) -> None:
    with Enseada().start(tmp_path, cores) as server:
        assert flag(server, "--workers") == str(cores)
        assert server.settings.startswith(f"{cores} worker")
        assert server.launch is not None
        assert str(cores) in server.launch.command


def test_one_worker_is_one_whatever_the_run_says(tmp_path: Path) -> None:
    one = Workers.peers[0]
    assert one.name == "one-worker"
    with one.start(tmp_path, 2) as server:
        assert flag(server, "--workers") == "1"


def test_nginx_gets_its_workers(tmp_path: Path) -> None:
    need("nginx")
    with NGINX.start(tmp_path, 2) as server:
        deadline = time.monotonic() + DEADLINE
        while len(psutil.Process(server.tree.pid).children()) < 2:  # the first to be there answers
            assert time.monotonic() < deadline
        assert len(psutil.Process(server.tree.pid).children()) == 2
