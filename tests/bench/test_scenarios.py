"""Every scenario measures what it declares, on a scale on which it says nothing; and every peer holds what it must."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from bench import runner
from bench.cache import PATH
from bench.errors import CannotMeasure
from bench.image import blob_path, hold, image, manifest_path
from bench.load import program
from bench.peers import DISTRIBUTION, DISTRIBUTION3, NGINX
from bench.peers.enseada import Enseada
from bench.peers.floor import SOURCE
from bench.runner import SHARED_BUFFERS
from bench.running import get
from bench.scenarios import SCENARIOS
from bench.server import header_lines

if TYPE_CHECKING:
    from pathlib import Path

    from bench.server import Peer

TINY = 0.003
NEEDS = {
    "oci-small": ("wrk", "hey"),
    "oci-push": (),
    "oci-push-small": ("strace",),
    "oci-pull": (),
    "oci-slow-uploads": (),
    "oci-idle": (),
    "start": (),
    "fair": (),
    "workers": ("wrk",),
}


def need(*programs: str) -> None:
    for each in programs:
        if shutil.which(each, path=PATH) is None:
            pytest.skip(f"{each} is not here")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_measures_what_it_declares(name: str) -> None:
    need(*NEEDS[name])
    scenario = SCENARIOS[name]
    try:
        outcome = runner.run(scenario, Enseada(name="other"), rounds=1, workers=scenario.workers, scale=TINY)
    except CannotMeasure as reason:
        if "strace may not trace" in str(reason):
            pytest.skip(str(reason))
        raise
    assert [each.figure for each in outcome.figures] == list(scenario.figures)
    names = {each.figure.name for each in outcome.figures}
    assert ("memory at the peak" in names) == ("memory at the peak, PSS" in names)
    assert (SHARED_BUFFERS in outcome.notes) == (name != "start")
    for each in outcome.figures:
        assert len(each.ours) == len(each.theirs) == 1
        assert min(each.ours + each.theirs) >= 0 or each.figure.name.startswith("memory per"), each


@pytest.mark.parametrize("peer", [DISTRIBUTION, DISTRIBUTION3, NGINX, SOURCE], ids=lambda peer: peer.name)
def test_a_peer_holds_what_it_must(peer: Peer, tmp_path: Path) -> None:
    need(
        {"distribution": "docker-registry", "distribution3": "registry"}.get(
            peer.name, peer.name.replace("floor", "sh")
        )
    )
    held = image("held", 2, 5000)
    with peer.start(tmp_path, 1) as server:
        hold(server, [held])
        fields = dict(header_lines(server, [("Accept", "application/vnd.oci.image.manifest.v1+json")]))
        assert get(server.port, "/v2/", fields)[0] == 200
        for reference in (held.tag, held.digest):
            status, _, content = get(server.port, manifest_path(reference), fields)
            assert (status, content) == (200, held.manifest)
        downloads = [{"target": blob_path(each.digest), "digest": each.digest} for each in held.layers]
        orders = {"port": server.port, "fields": header_lines(server), "connections": 2, "check": True}
        program.run("pull", {**orders, "downloads": downloads})
        assert server.version.split(" ")[0].rstrip(":") == peer.name
        assert server.tree.pss() > 0
        if server.kind == "registry":
            assert get(server.port, "/v2/")[0] == 401
            assert get(server.port, "/v2/", {"Authorization": "Bearer wrong"})[0] == 401
            assert server.documents is not None
            assert server.documents() >= 4
