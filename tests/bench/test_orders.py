"""What single scenarios ask of a server, as a registry sees it that remembers all."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from bench import coldness, machine
from bench.accounts import Tree
from bench.cache import PATH
from bench.errors import CannotMeasure
from bench.image import blob_path, check_manifest, hold, image, manifest_path, small_image
from bench.scenario import Run, Scenario
from bench.scenarios import fair, oci_pull, oci_small
from bench.scenarios.fair import Fair
from bench.scenarios.oci_idle import Idle
from bench.scenarios.oci_pull import Pull
from bench.scenarios.oci_slow_uploads import LEAST_SECONDS, SlowUploads
from bench.scenarios.oci_small import Small, requests_of
from bench.scenarios.workers import Workers
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


def need(*programs: str) -> None:
    for each in programs:
        if shutil.which(each, path=PATH) is None:
            pytest.skip(f"{each} is not here")


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
    _, *rounds = rounds  # the first only makes it warm
    del warm[:layers]
    assert [len({seen.target for seen in each}) for each in rounds] == [layers] * len(oci_pull.KINDS)
    assert warm[: 2 * layers : layers] == [1.0, 1.0]
    assert max(warm[2 * layers :: layers]) <= coldness.WARM_SHARE


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


@pytest.mark.parametrize("scenario", [Small(), Fair(), Workers()], ids=lambda scenario: scenario.name)
def test_manifests_are_checked_before_they_are_measured(
    scenario: Scenario, registry: Registry, tmp_path: Path
) -> None:
    registry.corrupt = True
    with pytest.raises(CannotMeasure, match="answers other bytes than it should to /v2/bench/image/manifests/"):
        scenario.prepare(server(registry), Run(tmp_path, scale=TINY))


def test_the_load_is_told_by_the_programs_that_make_it(tmp_path: Path) -> None:
    need("wrk")
    assert "HEAD, hey" in Small().settings(Run(tmp_path))
    told = Workers().settings(Run(tmp_path))
    assert told.startswith("wrk")
    assert "hey" not in told


def test_every_kind_of_small_request_is_warmed(registry: Registry, tmp_path: Path) -> None:
    need("wrk", "hey")
    Small().prepare(server(registry), Run(tmp_path, scale=TINY))
    seen = Counter((seen.method, seen.target) for seen in registry.requests)
    kinds = [requests_of(kind, server(registry)) for kind in oci_small.KINDS]
    assert min(seen[kind.method, kind.target] for kind in kinds) > oci_small.CONNECTIONS


@pytest.mark.parametrize(("limit", "pushed"), [(1.0, 2.0), (5.0, 5.5), (1000.0, 8.0)])
def test_more_is_pushed_than_may_be_dirty(
    limit: float, pushed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair, "dirty_limit", lambda: int(limit * 2**30))
    run = Run(tmp_path)
    assert fair._bytes(run) == pushed * 2**30
    assert f"{pushed:.2f} GiB pushed on 8 connections, while {limit:.2f} GiB may be dirty" in Fair().settings(run)


def test_readers_hang_on_while_layers_are_pushed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair, "dirty_limit", lambda: 1 << 30)
    run, held = Run(tmp_path, scale=TINY), image("held", 1, 8 << 20)
    monkeypatch.setattr(fair, "_held", lambda: held)
    hold(server(registry), [held])
    registry.requests.clear()
    Fair().measure(server(registry), run, 1)
    wanted = [(seen.method, seen.target) for seen in registry.requests]
    reader, push = ("GET", blob_path(held.layers[0].digest)), [each for each, _ in wanted].index("POST")
    assert wanted.count(reader) == wanted[:push].count(reader) == 64
    assert registry.most_at_once > 1


def test_manifests_are_asked_for_by_tag_and_by_digest(registry: Registry) -> None:
    held = small_image("held", 1)
    hold(server(registry), [held])
    registry.requests.clear()
    check_manifest(server(registry), held)
    assert [seen.target for seen in registry.requests] == [manifest_path(held.tag), manifest_path(held.digest)]
    registry.manifests.clear()
    with pytest.raises(CannotMeasure, match="tiny answers 404 to"):
        check_manifest(server(registry), held)


def test_the_rate_of_slow_uploads(registry: Registry, tmp_path: Path) -> None:
    began = time.perf_counter()
    values = SlowUploads().measure(server(registry), Run(tmp_path, scale=TINY), 1).values
    wall = time.perf_counter() - began
    received = sum(len(content) for content in registry.uploads.values()) / 2**20
    assert received / wall <= values["rate of receiving"] <= received / LEAST_SECONDS


def test_a_download_is_checked_before_it_is_measured(registry: Registry, tmp_path: Path) -> None:
    registry.corrupt = True
    with pytest.raises(CannotMeasure, match="has other bytes"):
        Pull().prepare(server(registry), Run(tmp_path, scale=TINY))
