"""docs/testing.md is kept true: what it shows is run, and what it lists is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from enseada.testing import HeldFault, Occasion, Operation, RunningRegistry
from tests.clients.harness import PATH
from tests.enseada.testing.test_plugin import NAME, ROOT, TIMEOUT

if TYPE_CHECKING:
    import pytest

PAGE = (ROOT / "docs" / "testing.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_example(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is a file of tests, and the settings are those that it shows; so faults that it arms are met."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    tests = 0
    for number, block in enumerate(blocks("python")):
        Path(f"test_{number}.py").write_text(block)
        tests += len(re.findall("^def test_", block, re.MULTILINE))
    [settings] = blocks("ini")
    Path("pytest.ini").write_text(settings)
    assert tests >= 8
    result = pytester.runpytest_subprocess("-p", NAME, "-W", "error", "--strict-markers", timeout=TIMEOUT)
    outcomes = result.parseoutcomes()
    missing = outcomes.pop("skipped", 0)
    assert missing <= 1, "only crane may not be here"
    assert outcomes == {"passed": tests - missing}


def table(heading: str) -> list[str]:
    """The names in the first column of the table in which it has that heading."""
    rows = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [name for row in rows for name in re.findall(r"`(\w+)", row.split("|")[1])]


def test_the_tables_name_all_there_is() -> None:
    there = {name for name in dir(RunningRegistry) if not name.startswith("_")}
    # What an instance has besides, and what pytest shows by itself.
    assert {*table("attribute")} == there - {"report"} | {"url", "host", "username", "password", "faults"}
    assert {*table("fault")} == {name for name in dir(Occasion) if not name.startswith("_")} - {"rule", "arm"}
    assert hasattr(HeldFault, "release")
    for operation in get_args(Operation):
        assert f"`{operation}`" in PAGE
