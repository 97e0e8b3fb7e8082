"""For tests of programs that speak to a registry: one in memory, in milliseconds, with faults on demand.

    with enseada.testing.registry() as running:
        running.faults.on("PATCH", nth=2).refuse(503, retry_after=1)
        push_with_the_client_under_test(running.host, running.username, running.password)

pytest has it as the fixture ``enseada_registry``. One rule: what is imported here is imported when it is asked for, so
that a project which has the plugin and does not use it pays nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enseada.testing.faults import Fault, Faults, HeldFault, Occasion, UnmetFaults
    from enseada.testing.images import PushedImage, digest_of
    from enseada.testing.inside import StoredManifest
    from enseada.testing.records import RecordedRequest
    from enseada.testing.rules import Operation
    from enseada.testing.running import RunningRegistry, registry

__all__ = [
    "Fault",
    "Faults",
    "HeldFault",
    "Occasion",
    "Operation",
    "PushedImage",
    "RecordedRequest",
    "RunningRegistry",
    "StoredManifest",
    "UnmetFaults",
    "digest_of",
    "registry",
]

_WHERE = {
    "Fault": "faults",
    "Faults": "faults",
    "HeldFault": "faults",
    "Occasion": "faults",
    "Operation": "rules",
    "PushedImage": "images",
    "RecordedRequest": "records",
    "RunningRegistry": "running",
    "StoredManifest": "inside",
    "UnmetFaults": "faults",
    "digest_of": "images",
    "registry": "running",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
