"""What all tests have in common: plugins, how hypothesis draws, and that the run says at its end what was skipped."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import pytest

# How long an example takes says how busy the machine is. What CI's own profile sets is kept.
settings.register_profile("enseada", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("enseada")
# The first is installed with the package too; here it is the checkout's, installed or not.
pytest_plugins = ["enseada.testing.plugin", "pytester"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        where_and_why = report.longrepr
        reason = where_and_why[2] if isinstance(where_and_why, tuple) else str(where_and_why)
        reasons[reason.removeprefix("Skipped: ")].append(report.nodeid)
    terminalreporter.section("what was skipped")
    if not reasons:
        terminalreporter.write_line("nothing was skipped")
        return
    terminalreporter.write_line(f"skipped: {sum(len(tests) for tests in reasons.values())}")
    for reason, tests in sorted(reasons.items()):
        terminalreporter.write_line(f"  {reason} ({len(tests)})")
        for test in tests:
            terminalreporter.write_line(f"    {test}")
