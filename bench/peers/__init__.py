"""What Enseada is measured beside: a module a peer, found by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers.distribution import Distribution
from bench.peers.distribution3 import Distribution3
from bench.peers.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.server import Peer

DISTRIBUTION = Distribution()
DISTRIBUTION3 = Distribution3()
NGINX = Nginx()
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in (DISTRIBUTION, DISTRIBUTION3, NGINX)}
REGISTRIES: tuple[Peer, ...] = (DISTRIBUTION, DISTRIBUTION3)
