"""The pytest plugin: the fixture ``enseada_registry``, and what was asked of it beside a test that fails.

One rule: until a test asks for the fixture, nothing of Enseada's is imported. The entry point bears this module's name,
so that a conftest.py which names it as well means the same plugin.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from enseada.testing.running import RunningRegistry

STRICT = "enseada_strict_faults"
"""The setting (in pytest.ini and its like) that makes a fault which no request met an error of its test."""
MARKER = "enseada"
"""``@pytest.mark.enseada(anonymous="pull")``: what `enseada.testing.registry` takes."""
_IMPLEMENTATION = "enseada.testing.running"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the setting."""
    parser.addini(STRICT, "a fault of enseada_registry's that no request met is an error", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", f"{MARKER}(**options): what enseada_registry is like: see docs/testing.md")


@pytest.fixture
def enseada_registry(request: pytest.FixtureRequest) -> Iterator[RunningRegistry]:
    """A registry for this test alone, in memory, on a free port: `enseada.testing.RunningRegistry`."""
    from enseada.testing.running import registry

    marker = request.node.get_closest_marker(MARKER)
    if marker is not None and marker.args:
        raise pytest.UsageError(f"the marker {MARKER} takes options by their names")
    options = {"strict": bool(request.config.getini(STRICT))} | ({} if marker is None else dict(marker.kwargs))
    with registry(**options) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what was asked of the registries that a failed test has used, whichever fixture made them."""
    report = yield
    if report.failed and _IMPLEMENTATION in sys.modules:
        kind = sys.modules[_IMPLEMENTATION].RunningRegistry
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, kind):
                report.sections.append((f"{name}: what was asked", value.report()))
    return report
