"""The public names: few, listed once and for all in `enseada/__init__.py`, and looked up when they are asked for."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import enseada

SOURCE = Path(enseada.__file__)
HEAVY = ("trio", "anyio", "asyncio", "msgspec", "h11", "ssl", "sqlite3", "argon2", "jwt", "cryptography", "click")


def modules_after(program: str) -> set[str]:
    """What is imported in a fresh Python after ``program``."""
    command = [sys.executable, "-c", f"{program}\nimport json, sys; print(json.dumps(list(sys.modules)))"]
    return set(json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout))


def test_importing_it_imports_next_to_nothing() -> None:
    imported = modules_after("import enseada")
    assert {name for name in imported if name.split(".")[0] == "enseada"} == {"enseada"}
    assert not imported & set(HEAVY)


def test_a_registry_for_asgi_imports_no_trio() -> None:
    """Under asyncio trio is not needed, nor is a server."""
    imported = modules_after("import enseada; enseada.asgi(enseada.Registry(enseada.Settings()))")
    assert not imported & {"trio", "h11", "enseada.server", "enseada.connection", "enseada.serving"}


def test_the_lists_agree() -> None:
    """What type checkers see, what is looked up, and ``__all__``."""
    tree = ast.parse(SOURCE.read_text())
    seen: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("enseada."):
            seen |= {alias.asname or alias.name: node.module for alias in node.names}
    assert seen == enseada._WHERE
    assert sorted(seen) == enseada.__all__


@pytest.mark.parametrize("name", enseada.__all__)
def test_name(name: str) -> None:
    found = getattr(enseada, name)
    assert name in dir(enseada)
    if inspect.isclass(found) or isinstance(found, FunctionType):
        assert found.__name__ == name
        assert inspect.getdoc(found)
    if isinstance(found, FunctionType):
        assert not SOURCE.with_name(f"{name}.py").exists(), "importing the module would hide the function"


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        enseada.nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        from enseada import nothing  # type: ignore[attr-defined]  # noqa: F401
