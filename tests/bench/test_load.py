"""The load programs, as processes, against a registry that remembers what they sent."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.accounts import Tree
from bench.cache import PATH, blobs
from bench.errors import CannotMeasure
from bench.image import Image, blob_path, config, push, push_orders
from bench.load import program
from bench.load.client import Client
from bench.load.loop import Loop
from bench.load.pace import Prober
from bench.peers.floor import SINK, SOURCE
from bench.server import REPOSITORY, Server
from bench.syscalls import counting
from tests.bench.registry import Registry, Seen, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 300_000
TOKEN = "Bearer token"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as registry:
        yield registry


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image("one", config("one"), tuple(blobs("test", 5, SIZE, tmp_path)))


def server(registry: Registry) -> Server:
    return Server("tiny", "tiny 1", registry.port, Tree(1), "tiny", TOKEN)


def orders(registry: Registry, **more: Any) -> dict[str, Any]:
    return {"port": registry.port, "fields": [["Host", "x"], ["Authorization", TOKEN]], **more}


def test_a_push(registry: Registry, image: Image) -> None:
    told = push(server(registry), [image], 3)
    assert registry.blobs == {each.digest: each.content() for each in (*image.layers, image.config)}
    assert registry.manifests == {"one": image.manifest}
    assert 1 <= registry.most_at_once <= 3
    assert {seen.headers["Authorization"] for seen in registry.requests} == {TOKEN}
    first = [seen.method for seen in registry.requests if image.layers[0].digest[7:] in seen.target]
    assert first == ["HEAD", "PUT"]
    assert registry.requests[-1].target == f"/v2/{REPOSITORY}/manifests/one"
    assert told.wall > 0
    assert told.cpu > 0


def test_no_two_blobs_are_alike_and_the_same_label_gives_the_same(tmp_path: Path) -> None:
    made = [*blobs("a", 4, SIZE, tmp_path), *blobs("b", 4, SIZE, tmp_path)]
    assert len({each.digest for each in made}) == 8
    assert [each.size for each in made] == [SIZE] * 8
    assert [each.digest for each in blobs("a", 4, SIZE, tmp_path)] == [each.digest for each in made[:4]]
    assert [each.size for each in blobs("small", 3, 100, tmp_path)] == [100] * 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"answer_to_patch": 500}, r"500 in place of \(202,\)"), ({"chunked": True}, "length is not told")],
)
def test_a_push_that_fails_gives_no_figure(
    registry: Registry, image: Image, fault: dict[str, Any], reason: str
) -> None:
    for name, value in fault.items():
        setattr(registry, name, value)
    with pytest.raises(CannotMeasure, match=reason):
        push(server(registry), [image], 2)


def test_a_blob_that_is_there_is_not_pushed_again(registry: Registry, image: Image) -> None:
    registry.blobs[image.layers[2].digest] = b"old"
    with pytest.raises(CannotMeasure, match=r"200 in place of \(404,\)"):
        push(server(registry), [image], 1)


def test_nobody_listens(registry: Registry, image: Image) -> None:
    told = push_orders(server(registry), [image], 1)
    with pytest.raises(CannotMeasure, match="ConnectionRefused"):
        program.run("push", {**told, "port": 1})


def pull_orders(registry: Registry, image: Image, check: bool) -> dict[str, Any]:
    for each in image.layers:
        registry.blobs[each.digest] = each.content()
    downloads = [{"target": blob_path(each.digest), "digest": each.digest} for each in image.layers]
    return orders(registry, connections=3, check=check, downloads=downloads)


@pytest.mark.parametrize("check", [True, False])
def test_a_pull(registry: Registry, image: Image, check: bool) -> None:
    program.run("pull", pull_orders(registry, image, check))
    assert sorted(seen.target for seen in registry.requests) == sorted(blob_path(each.digest) for each in image.layers)


def test_a_wrong_download_is_seen(registry: Registry, image: Image) -> None:
    registry.corrupt = True
    with pytest.raises(CannotMeasure, match="has other bytes"):
        program.run("pull", pull_orders(registry, image, True))
    registry.blobs.clear()
    with pytest.raises(CannotMeasure, match="404 for"):
        program.run("pull", {**pull_orders(registry, image, True), "downloads": [{"target": "/none", "digest": ""}]})


def test_slow_uploads_keep_their_pace(registry: Registry) -> None:
    pace = {"connections": 4, "piece": 1024, "interval": 0.05, "pieces": 8, "ramp": 0.1}
    told = program.run("slow", orders(registry, repository=REPOSITORY, **pace))
    assert [len(content) for content in registry.uploads.values()] == [8 * 1024] * 4
    assert registry.most_at_once == 4
    assert told.wall >= 8 * 0.05


def test_idle_connections_are_open_until_the_end(registry: Registry) -> None:
    with program.holding("idle", orders(registry, connections=70)) as load:
        assert len(registry.requests) == 70
        assert load.end().more["connections"] == 70


def test_idle_connections_that_the_server_closes_are_seen(tmp_path: Path) -> None:
    with SOURCE.start(tmp_path, 1) as source:
        fields = {"port": source.port, "fields": [["Host", "x"]], "connections": 3}
        with program.holding("idle", fields) as load:
            [process, *_] = source.tree.processes()
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # has closed its files, and is still to be reaped
            with pytest.raises(CannotMeasure, match="closed 3 of 3 idle connections"):
                load.end()


@pytest.mark.parametrize("rate", [200, None])
def test_requests_at_a_pace_and_without_one(registry: Registry, rate: int | None) -> None:
    target = "/v2/x/manifests/{unique}"
    told = orders(registry, connections=4, rate=rate, method="PUT", target=target, body="{}")
    with program.holding("pace", told) as load:
        registry.wait_for_manifests(20)
        waits = load.end().more["waits"]
    assert len(waits) == len(registry.manifests) == len(registry.requests)
    assert all(0 < wait < 10 for wait in waits)


def test_a_wait_counts_from_when_it_was_due(registry: Registry) -> None:
    # A connection that is five seconds late, as after an answer that took so long.
    prober = Prober({"method": "GET", "target": "/v2/", "body": ""})

    def see(_: Seen) -> None:
        if len(registry.requests) == 3:
            prober.end()

    registry.on_request = see
    loop, began = Loop(), time.perf_counter()
    loop.spawn(prober.probe(Client(loop, registry.port, [("Host", "x")]), "one", began - 5.0, 1.0))
    loop.run()
    took = time.perf_counter() - began
    assert len(prober.waits) == 3
    for number, wait in enumerate(prober.waits):
        assert 5.0 - number <= wait <= 5.0 - number + took


def test_slow_readers_hang_on(registry: Registry, image: Image) -> None:
    registry.blobs["large"] = bytes(8 << 20)
    told = orders(registry, connections=3, target="/v2/x/blobs/large", rate=100_000)
    with program.holding("slowread", told) as load:
        assert [seen.target for seen in registry.requests] == ["/v2/x/blobs/large"] * 3
        load.end()


def test_the_floor_of_uploads(tmp_path: Path, image: Image) -> None:
    folder = tmp_path / "sink"
    folder.mkdir()
    with SINK.start(folder, 1) as sink:
        push(sink, [image], 3)
        push(sink, [image], 3)
        assert sink.data is not None
        stored = [path.read_bytes() for path in sink.data.iterdir()]
    assert sorted(stored) == sorted([each.content() for each in (*image.layers, image.config)] * 2)


def test_the_floor_of_uploads_is_on_the_disk(tmp_path: Path, image: Image) -> None:
    if shutil.which("strace", path=PATH) is None:
        pytest.skip("strace is not here")
    with SINK.start(tmp_path, 1) as sink:
        try:
            with counting(sink.tree, ("fsync",)) as calls:
                push(sink, [image], 3)
        except CannotMeasure as reason:
            if "may not trace" in str(reason):
                pytest.skip(str(reason))
            raise
    assert calls == {"fsync": len(image.layers) + 1}


def test_the_floor_of_downloads(tmp_path: Path, image: Image) -> None:
    with SOURCE.start(tmp_path, 1) as source:
        assert source.data is not None
        (source.data / "blob").write_bytes(image.layers[0].content())
        download = {"target": "/blob", "digest": image.layers[0].digest}
        told = {"port": source.port, "fields": [], "connections": 4, "check": True, "downloads": [download] * 12}
        program.run("pull", told)
        program.run("pull", {**told, "check": False})
