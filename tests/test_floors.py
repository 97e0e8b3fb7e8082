"""Imports go only downwards, and what is called pure is pure: read off the source of every module.

The building has floors (`FLOORS`); a module imports from its own floor and from those below. protocols/ does no I/O,
has no clock and no randomness; storage/ runs under any event loop, so it never imports trio; only the modules that own
sockets do. The checker is itself tested here, on small sources that break each rule.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]

FLOORS: Mapping[str, int] = {
    "enseada.http": 0,
    "enseada.limits": 0,
    "enseada.config": 0,
    "enseada.values": 0,
    "enseada.logs": 0,
    "enseada.protocols": 1,
    "enseada.storage": 1,
    "enseada.blobs": 2,
    "enseada.ingest": 2,
    "enseada.upload": 2,
    "enseada.uploaddocument": 2,
    "enseada.uploads": 2,
    "enseada.auth": 2,
    "enseada.events": 2,
    "enseada.formats": 3,
    "enseada.api": 3,
    "enseada.router": 3,  # formats write their tables of routes in its terms; it knows no format
    "enseada.app": 4,
    "enseada.transport": 5,
    "enseada.connection": 5,
    "enseada.requestbody": 5,
    "enseada.answer": 5,
    "enseada.exchange": 5,
    "enseada.wire": 5,
    "enseada.streamlistener": 5,
    "enseada.listeners": 5,
    "enseada.openfiles": 5,
    "enseada.server": 5,
    "enseada.websocket": 5,
    "enseada.asgiapp": 5,
    "enseada.starterror": 6,
    "enseada.datafolder": 6,
    "enseada.build": 6,
    "enseada.embedding": 6,
    "enseada.serving": 6,
    "enseada.watchdog": 6,
    "enseada.shares": 6,
    "enseada.orders": 6,
    "enseada.worker": 6,
    "enseada.workerprocess": 6,
    "enseada.supervisor": 6,
    "enseada.cli": 6,
    "enseada.testing": 6,
    "enseada.__main__": 6,
}
"""The floor of a module, or of a package and all that it holds. The package `enseada` itself is a façade: it imports
nothing when it is imported, and looks its public names up, wherever they are, when they are asked for."""

MAY_IMPORT_TRIO = (
    *(
        f"enseada.{name}"
        for name in ("transport", "connection", "streamlistener", "server", "websocket", "serving", "worker", "cli")
    ),
    *(f"enseada.testing.{name}" for name in ("acts", "loopthread", "running")),
)
TRIO = ("trio", "trio_websocket", "trio_typing", "outcome")

PURE_MAY_USE = ("enseada.http", "enseada.limits", "enseada.protocols")
"""What of ours protocols/ may import: the vocabulary, the names of limits, and itself."""
IMPURE = (
    *("anyio", "asyncio", "sniffio", *TRIO),
    *("socket", "ssl", "select", "selectors", "socketserver", "http.client", "http.server", "urllib.request", "httpx"),
    *("os", "io.open", "pathlib", "shutil", "tempfile", "glob", "fileinput", "mmap", "fcntl", "sqlite3", "dbm"),
    *("subprocess", "multiprocessing", "threading", "_thread", "concurrent", "queue", "signal", "sched"),
    *("random", "secrets", "uuid", "getpass", "locale", "platform", "logging", "warnings"),
)
"""What protocols/ may not import: whatever does I/O, tells the time, draws lots, waits, or depends on the machine."""
IMPURE_CALLS = ("open", "input", "print", "breakpoint", "exec", "eval", "__import__")
IMPURE_METHODS = ("now", "utcnow", "today")
TIME_PARTS: Mapping[str, int] = {"time.gmtime": 1, "time.strftime": 2, "time.struct_time": 1}
"""Of the module time, what only reckons, if it is given so many arguments: without them it looks at the clock."""


@dataclass(frozen=True, slots=True)
class Import:
    """One name that a module imports."""

    target: str
    """Dotted, as far as the source tells: for ``from a import b`` it is ``a.b``."""
    line: int
    typing_only: bool
    """It stands under ``if TYPE_CHECKING``."""
    lazy: bool
    """It stands in a function."""


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import of a module, wherever it stands, and every `importlib.import_module` of a constant."""
    yield from _walk(tree, typing_only=False, lazy=False)


def _walk(node: ast.AST, *, typing_only: bool, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, typing_only, lazy)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            yield Import(f"{base}.{alias.name}" if node.module else base + alias.name, node.lineno, typing_only, lazy)
    elif isinstance(node, ast.Call) and _name(node.func) in ("importlib.import_module", "import_module", "__import__"):
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            yield Import(node.args[0].value, node.lineno, typing_only, lazy)
    elif isinstance(node, ast.If) and _name(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for statement in node.body:
            yield from _walk(statement, typing_only=True, lazy=lazy)
        for statement in node.orelse:
            yield from _walk(statement, typing_only=typing_only, lazy=lazy)
        return
    lazy = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, typing_only=typing_only, lazy=lazy)


def _name(node: ast.AST) -> str:
    """``a.b.c`` for an expression of that form, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        value = _name(node.value)
        return f"{value}.{node.attr}" if value else ""
    return ""


def within(target: str, package: str) -> bool:
    """Whether ``target`` is ``package``, or something in it."""
    return target == package or target.startswith(package + ".")


def floor_of(module: str) -> int | None:
    """The floor of a module, or of what is imported from one; None where `FLOORS` does not know it."""
    return next((floor for name, floor in FLOORS.items() if within(module, name)), None)


def violations(module: str, source: str) -> list[str]:
    """What in ``source``, the text of ``module`` (dotted), breaks a rule: one sentence each."""
    tree = ast.parse(source)
    ours = within(module, "enseada")
    floor = floor_of(module)
    found = []
    if ours and module != "enseada" and floor is None:
        found.append(f"{module} is on no floor: add it to FLOORS")
    for imported in imports_of(tree):
        where = f"{module}:{imported.line} imports {imported.target}"
        if imported.target.startswith("."):
            found.append(f"{where}: imports are absolute")
        if any(within(imported.target, name) for name in ("protocols", "storage")):
            found.append(f"{where}: a host program may have a module of that name")
        if not ours:
            continue
        if any(within(imported.target, name) for name in TRIO) and module not in MAY_IMPORT_TRIO:
            found.append(f"{where}: only {', '.join(MAY_IMPORT_TRIO)} may")
        found += _upward(module, floor, imported, where)
    if within(module, "enseada.protocols"):
        found += _impure(module, tree)
    return found


def _upward(module: str, floor: int | None, imported: Import, where: str) -> Iterator[str]:
    """Whether one import goes upwards, or aside between the two packages of floor 1."""
    if imported.typing_only or not within(imported.target, "enseada"):
        return
    target = floor_of(imported.target)
    if module == "enseada":
        if not imported.lazy:
            yield f"{where}: the package imports nothing when it is imported"
    elif target is None:
        # `from enseada import __version__` is the façade's own, and anybody's.
        if imported.target != "enseada" and not imported.target.startswith("enseada.__"):
            yield f"{where}: it is on no floor"
    elif floor is not None and target > floor:
        yield f"{where}: that is upwards, from floor {floor} to floor {target}"
    elif within(module, "enseada.protocols") and not any(within(imported.target, name) for name in PURE_MAY_USE):
        yield f"{where}: protocols/ may use only {', '.join(PURE_MAY_USE)}"


def _impure(module: str, tree: ast.Module) -> Iterator[str]:
    """What in a module of protocols/ waits, does I/O, tells the time or draws lots. Types are no excuse."""
    for imported in imports_of(tree):
        from_time = within(imported.target, "time") and imported.target not in ("time", *TIME_PARTS)
        if from_time or any(within(imported.target, name) for name in IMPURE):
            yield f"{module}:{imported.line} imports {imported.target}: protocols/ is pure"
    for node in ast.walk(tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)) or (
            isinstance(node, ast.comprehension) and node.is_async
        ):
            line = getattr(node, "lineno", 0)
            yield f"{module}:{line} is asynchronous: protocols/ waits for nothing"
        elif isinstance(node, ast.Attribute) and _name(node.value) == "time" and _name(node) not in TIME_PARTS:
            yield f"{module}:{node.lineno} uses {_name(node)}: protocols/ has no clock"
        elif isinstance(node, ast.Call):
            called = _name(node.func)
            if len(node.args) < next((n for part, n in TIME_PARTS.items() if called in (part, part[5:])), 0):
                yield f"{module}:{node.lineno} calls {called}() without a time: protocols/ has no clock"
            if called in IMPURE_CALLS or called.rpartition(".")[2] in IMPURE_METHODS:
                yield f"{module}:{node.lineno} calls {called}(): protocols/ is pure"


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The circles in ``graph`` (module: what it imports when it is imported), each once, as the walk meets them."""
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


# --- what is here -----------------------------------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every module of the checkout by its dotted name: ours, and those that use ours."""
    found = {}
    folders = {"enseada": "enseada", "protocols": "enseada.protocols", "storage": "enseada.storage"}
    folders |= {name: name for name in ("tests", "bench", "examples") if (ROOT / name).is_dir()}
    for folder, package in folders.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inside = path.relative_to(ROOT / folder)
            if folder == "enseada" and inside.parts[0] in ("protocols", "storage"):
                continue  # the links to the folders at the top
            parts = [package, *inside.with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def test_that_there_is_something_to_check() -> None:
    for module in ("enseada", "enseada.http", "enseada.protocols", "enseada.storage.blobs.base", "tests.test_floors"):
        assert module in MODULES


@pytest.mark.parametrize("module", MODULES)
def test_module(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


def test_no_circles() -> None:
    graph = {}
    for module, path in MODULES.items():
        targets = set()
        for imported in imports_of(ast.parse(path.read_text())):
            if not imported.typing_only and not imported.lazy:
                # What is imported from a module is not one itself: then the module is meant.
                target = imported.target if imported.target in MODULES else imported.target.rpartition(".")[0]
                targets |= {target} & MODULES.keys()
        graph[module] = targets - {module}
    assert cycles(graph) == []


# --- the checker ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("enseada.http", "import enseada.ingest", "upwards"),
        ("enseada.http", "from enseada import ingest", "upwards"),
        ("enseada.ingest", "def f():\n    from enseada.app import Application", "upwards"),
        ("enseada.formats.oci", "import importlib\nx = importlib.import_module('enseada.server')", "upwards"),
        ("enseada.storage.blobs.local", "from enseada.uploads import Uploads", "upwards"),
        ("enseada.protocols.oci.names", "from enseada.storage.blobs import base", "may use only"),
        ("enseada.protocols.oci.names", "from enseada.config import Config", "may use only"),
        ("enseada.protocols.oci.names", "async def f(): pass", "asynchronous"),
        ("enseada.protocols.oci.names", "def f(x): return [y async for y in x]", "asynchronous"),
        ("enseada.protocols.oci.names", "from time import monotonic", "pure"),
        ("enseada.protocols.oci.names", "import time\nclock = time.time", "no clock"),
        ("enseada.protocols.oci.names", "import time\nx = time.gmtime()", "no clock"),
        ("enseada.protocols.oci.names", "from time import strftime\nx = strftime('%Y')", "no clock"),
        ("enseada.protocols.oci.names", "from os import urandom", "pure"),
        (
            "enseada.protocols.oci.names",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import socket",
            "pure",
        ),
        ("enseada.protocols.oci.names", "def f():\n    import random", "pure"),
        ("enseada.protocols.oci.names", "import datetime\nx = datetime.datetime.now()", "pure"),
        ("enseada.protocols.oci.names", "x = open('f')", "pure"),
        ("enseada.protocols.oci.names", "import anyio", "pure"),
        ("enseada.storage.blobs.local", "import trio", "only"),
        ("enseada.storage.blobs.local", "def f():\n    from trio import Event", "only"),
        ("enseada.__main__", "import trio", "only"),
        ("enseada.app", "import trio.lowlevel", "only"),
        ("enseada.app", "from protocols.oci import names", "host program"),
        ("tests.test_it", "import storage", "host program"),
        ("enseada.app", "from . import http", "absolute"),
        ("enseada.app", "from enseada import nowhere", "on no floor"),
        ("enseada.newcomer", "", "add it to FLOORS"),
        ("enseada", "from enseada.server import serve", "nothing when it is imported"),
    ],
)
def test_what_breaks_a_rule_is_found(module: str, source: str, complaint: str) -> None:
    found = violations(module, source)
    assert len(found) >= 1
    assert any(complaint in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("enseada.http", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from enseada import app"),
        ("enseada.app", "from enseada import __version__\nfrom enseada.http import Request\nimport anyio"),
        ("enseada.protocols.oci.names", "import re, json, hashlib, struct\nfrom enseada.protocols import digests"),
        ("enseada.protocols.oci.names", "import time\nx = time.strftime('%Y', time.gmtime(0.0))"),
        ("enseada.storage.blobs.local", "import os, anyio\nfrom enseada.protocols import digests"),
        ("enseada.server", "import trio\nfrom enseada import connection"),
        ("enseada", "def __getattr__(name):\n    from enseada.server import serve\n    return serve"),
        ("tests.test_it", "import trio\nfrom enseada.server import serve"),
        ("enseada.storage.documents.sqlite", "import storage_of_another_kind"),
    ],
)
def test_what_is_right_is_left_alone(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_circles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c", "b"]]
    assert cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_architecture_page_has_every_module_on_its_floor() -> None:
    """docs/architecture.md is kept true: its table names each module that there is, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = {int(line.split("|")[1]): line for line in page.splitlines() if re.match(r"\| \d \|", line)}
    told = {floor: set(re.findall(r"`(?:enseada/)?([a-z_]+)(?:\.py|/)`", row)) for floor, row in rows.items()}
    there = {floor: set[str]() for floor in rows}
    for module, floor in FLOORS.items():
        name = module.removeprefix("enseada.")
        path = ROOT / "enseada" / name
        if name != "__main__" and (path.is_dir() or path.with_suffix(".py").exists()):
            there[floor].add(name)
    assert told == there
