"""Prints the counts of each run of the conformance suite at the end."""

from __future__ import annotations

import pytest

COUNTS = pytest.StashKey[list[str]]()


@pytest.fixture
def counts(pytestconfig: pytest.Config) -> list[str]:
    """Lines for the end of the run."""
    return pytestconfig.stash.setdefault(COUNTS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(COUNTS, [])
    if lines:
        terminalreporter.section("OCI conformance")
        for line in lines:
            terminalreporter.write_line(line)
