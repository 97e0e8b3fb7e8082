"""What the tests of the fixture share: a plain client of the registry under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enseada.testing import RunningRegistry


@pytest.fixture
def http(enseada_registry: RunningRegistry) -> Iterator[httpx.Client]:
    """A client that is logged in at ``enseada_registry``."""
    with httpx.Client(base_url=enseada_registry.url, auth=enseada_registry.auth, trust_env=False) as client:
        yield client
