"""The plugin as other people's projects have it: in a pytest of its own, installed or named, used or not."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import enseada
from enseada import testing
from tests.test_floors import MODULES, imports_of

ROOT = Path(__file__).resolve().parents[3]
NAME = "enseada.testing.plugin"
TIMEOUT = 120.0
"""Seconds for a pytest of its own."""

Run: TypeAlias = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest on a file of tests with no plugin but ours, and warnings as errors."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(tests: str, *options: str, plugin: bool = True) -> pytest.RunResult:
        pytester.makepyfile(tests)
        named = ("-p", NAME) if plugin else ()
        return pytester.runpytest_subprocess(*named, "-W", "error", "--strict-markers", *options, timeout=TIMEOUT)

    return run


def test_a_fresh_registry_for_every_test(run: Run) -> None:
    tests = """
        import threading, urllib.error, urllib.request
        import pytest

        URLS = set()

        @pytest.mark.parametrize("number", range(3))
        def test_it(enseada_registry, number):
            assert enseada_registry.repositories == []
            enseada_registry.push("team/app")
            URLS.add(enseada_registry.url)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(enseada_registry.url + "/v2/")

        def test_they_are_gone():
            assert URLS
            assert [thread.name for thread in threading.enumerate() if "enseada" in thread.name] == []
    """
    run(tests).assert_outcomes(passed=4)


def test_the_marker(run: Run) -> None:
    tests = """
        import urllib.request
        import pytest

        @pytest.mark.enseada(anonymous="pull", username="ann")
        def test_options(enseada_registry):
            enseada_registry.push("team/app")
            assert enseada_registry.username == "ann"
            assert urllib.request.urlopen(enseada_registry.url + "/v2/team/app/tags/list").status == 200

        @pytest.mark.enseada("pull")
        def test_no_option(enseada_registry):
            pass

        @pytest.mark.enseada(anonymus="pull")
        def test_misspelt(enseada_registry):
            pass
    """
    result = run(tests)
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*takes options by their names*", "*unexpected keyword argument 'anonymus'*"])


UNMET = """
    import pytest

    def test_unmet(enseada_registry):
        enseada_registry.faults.on("PATCH", nth=2).refuse(503)

    @pytest.mark.enseada(strict=STRICT)
    def test_otherwise(enseada_registry):
        enseada_registry.faults.on("PATCH", nth=2).refuse(503)
"""


def test_unmet_faults_are_nothing_unless_it_is_said(run: Run) -> None:
    result = run(UNMET.replace("STRICT", "True"))
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*UnmetFaults: *PATCH, number 2: refuse with 503 (happened 0 of 1 times)"])


def test_unmet_faults_as_errors(run: Run) -> None:
    result = run(UNMET.replace("STRICT", "False"), "-o", "enseada_strict_faults=true")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["ERROR at teardown of test_unmet", "*ERROR at teardown of test_unmet*"][1:])


def test_what_was_asked_is_shown_beside_a_failure(run: Run) -> None:
    tests = """
        import urllib.request
        import pytest
        import enseada.testing

        @pytest.fixture
        def mine():
            with enseada.testing.registry(anonymous="push") as running:
                yield running

        def test_fails(enseada_registry, mine):
            enseada_registry.faults.on("PATCH").refuse(503)
            urllib.request.urlopen(mine.url + "/v2/_catalog?n=7")
            assert False

        def test_passes(mine):
            urllib.request.urlopen(mine.url + "/-/live")
    """
    result = run(tests)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- enseada_registry: what was asked -*",
            "nothing was asked",
            "fault: PATCH, number 1: refuse with 503 (happened 0 of 1 times)",
            "*- mine: what was asked -*",
            "GET /v2/_catalog?n=7 -> 200",
        ]
    )
    result.stdout.no_fnmatch_line("*/-/live*")


def test_who_does_not_use_it_pays_nothing(run: Run) -> None:
    tests = """
        import sys

        def test_what_is_imported():
            assert "enseada.testing.plugin" in sys.modules
            ours = {name for name in sys.modules if name.partition(".")[0] == "enseada"}
            assert ours == {"enseada", "enseada.testing", "enseada.testing.plugin"}
            others = {"trio", "anyio", "h11", "msgspec", "argon2", "httpx", "logging.config"}
            assert not others & sys.modules.keys()

        def test_that_fails():
            raise ZeroDivisionError
    """
    result = run(tests)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*what was asked*")


def test_only_the_plugin_needs_pytest() -> None:
    needing = set()
    for module, path in MODULES.items():
        imported = {each.target.partition(".")[0] for each in imports_of(ast.parse(path.read_text()))}
        if module.startswith("enseada") and imported & {"pytest", "_pytest"}:
            needing.add(module)
    assert needing == {NAME}
    code = "import sys, enseada; assert 'enseada.testing' not in sys.modules; import enseada.testing; "
    code += "assert 'trio' not in sys.modules; enseada.testing.registry; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=TIMEOUT)


@pytest.mark.parametrize("named", [False, True])
def test_installed(run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    """By its entry point; and a conftest.py that names it as well, as ours does, has it once."""
    installed = pytester.mkdir("site")
    (installed / "fake-1.dist-info").mkdir()
    (installed / "fake-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1\n")
    (installed / "fake-1.dist-info" / "entry_points.txt").write_text(entry_point())
    monkeypatch.setenv("PYTHONPATH", f"{installed}:{ROOT}")
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    if named:
        pytester.makeconftest(f"pytest_plugins = [{NAME!r}]")
    tests = """
        def test_it(enseada_registry, pytestconfig):
            assert enseada_registry.repositories == []
            names = [name for name, plugin in pytestconfig.pluginmanager.list_name_plugin() if "enseada" in name]
            assert names == ["enseada.testing.plugin"]
    """
    run(tests, plugin=False).assert_outcomes(passed=1)


def entry_point() -> str:
    """Ours, as setup.cfg has it, in the form of an installed package's."""
    lines = (ROOT / "setup.cfg").read_text().partition("pytest11 =\n")[2].splitlines()
    return f"[pytest11]\n{lines[0].strip()}\n"


def test_the_names_of_the_package() -> None:
    assert {name for name in dir(testing) if not name.startswith("_")} >= set(testing.__all__)
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'regsitry'"):
        getattr(testing, "regsitry")  # noqa: B009
    assert not hasattr(enseada, "no_such_name")
