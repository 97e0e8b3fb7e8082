"""What single scenarios ask of a server, as a registry sees it that remembers all."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from bench import coldness, machine
from bench.accounts import Tree
from bench.errors import CannotMeasure
from bench.scenario import Run
from bench.scenarios import oci_pull
from bench.scenarios.oci_idle import Idle
from bench.scenarios.oci_pull import Pull
from bench.server import Server
from tests.bench.registry import Registry, Seen, serving, unread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TINY = 0.003
CONNECTIONS = 8


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


def server(registry: Registry, data: Path | None = None) -> Server:
    return Server("tiny", "tiny 1", registry.port, Tree(os.getpid()), "tiny", data=data)


def test_no_layer_is_taken_twice_and_cold_is_cold(registry: Registry, tmp_path: Path) -> None:
    if machine.file_system(tmp_path) == "tmpfs":
        pytest.skip("files of a tmpfs are never cold")
    run, data = Run(tmp_path, scale=TINY), tmp_path / "data"
    data.mkdir()
    file = data / "stored"
    file.write_bytes(os.urandom(1 << 20))
    warm: list[float] = []

    def see(_: Seen) -> None:
        warm.append(coldness.warm_share(data))
        file.read_bytes()

    Pull().prepare(server(registry), run)
    registry.requests.clear()
    registry.on_request = see
    Pull().measure(server(registry, data), run, 1)
    layers = oci_pull.MANY
    rounds = [registry.requests[start : start + layers] for start in range(0, len(registry.requests), layers)]
    assert [len({seen.target for seen in each}) for each in rounds] == [layers] * len(oci_pull.KINDS)
    assert warm[::layers] == [1.0, 1.0, 0.0, 0.0]


def test_socket_buffers_of_idle_connections(registry: Registry, tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sent: list[int] = []

        def see(_: Seen) -> None:
            if len(sent) < CONNECTIONS:
                sent.append(stack.enter_context(unread(listener)))

        registry.on_request = see
        run = Run(tmp_path, scale=TINY)
        values = Idle().measure(server(registry), run, 1).values
    connections = len(registry.requests)
    each = values["memory per connection, PSS and socket buffers"] - values["memory per connection, PSS"]
    assert each * 1024 > sum(sent) / 4 / connections > 0


def test_a_download_is_checked_before_it_is_measured(registry: Registry, tmp_path: Path) -> None:
    registry.corrupt = True
    with pytest.raises(CannotMeasure, match="has other bytes"):
        Pull().prepare(server(registry), Run(tmp_path, scale=TINY))
