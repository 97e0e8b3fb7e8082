"""What Enseada is measured beside: a module a peer, found by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import CannotMeasure
from bench.peers.distribution import Distribution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.server import Peer

PEERS: Mapping[str, Peer] = {peer.name: peer for peer in (Distribution(),)}
FLOOR = "floor"
"""No server: what the machine itself needs for the same bytes. Each scenario that has one brings its own."""


def find(name: str) -> Peer:
    """The peer of that name. Raises CannotMeasure."""
    if name in PEERS:
        return PEERS[name]
    raise CannotMeasure(f"there is no peer {name}: choose one of {', '.join([*PEERS, FLOOR])}")
