"""The reference part of docs/library.md, made from the sources: signatures, docstrings, and the table of settings.

    python -m tests.docs.reference          writes it into the page

The rule: the page says nothing of a public name that its docstring does not say.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import enseada
from enseada.config import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE = Path(__file__).resolve().parents[2] / "docs" / "library.md"
BEGIN = "<!-- What follows is made by `python -m tests.docs.reference` from the docstrings: change those. -->\n"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Registries": ("serve", "Started", "Registry", "memory_stores", "asgi", "StartError"),
    "Settings": ("Settings", "load_settings", "Secret", "ConfigError", "Limits"),
    "Serving": (
        *("serve_http", "open_listeners", "Listener", "ListenError", "serve_connection"),
        *("Exchange", "log_exchange"),
    ),
    "Requests and answers": ("Handler", "Request", "Response", "Headers", "Body", "BodyError", "RegistryError"),
    "Stores": ("DocumentStore", "BlobStore"),
}
WIDTH = 100
"""Characters of a signature on one line."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """The part, as Markdown."""
    parts = [BEGIN]
    for title, names in GROUPS.items():
        parts.append(f"### {title}\n")
        for name in names:
            parts += _entry(name)
    return "\n".join(parts)


def _entry(name: str) -> Iterator[str]:
    found = _definition(enseada._WHERE[name], name)
    yield f"#### `enseada.{name}`\n"
    if isinstance(found, ast.ClassDef):
        yield _text(ast.get_docstring(found))
        yield from (_settings() if name == "Settings" else _members(found))
    elif isinstance(found, Function):
        yield _signature(found)
        yield _text(ast.get_docstring(found))
    else:
        assignment, doc = found
        assert assignment.value is not None
        yield f"```python\n{name} = {ast.unparse(assignment.value)}\n```\n"
        yield _text(doc)


def _definition(module: str, name: str) -> ast.ClassDef | Function | tuple[ast.AnnAssign, str]:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    body = ast.parse(Path(spec.origin).read_text()).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | Function) and node.name == name:
            return node
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            return node, _string(following)
    raise LookupError(f"{module}.{name} is not defined")


def _members(of: ast.ClassDef) -> Iterator[str]:
    attributes: list[str] = []
    methods: list[str] = []
    for node in of.body:
        if isinstance(node, Function):
            doc = ast.get_docstring(node)
            if node.name == "__init__":
                attributes += _attributes(node.body)
                methods.append(_signature(node, of.name) + (f"\n{_text(doc)}" if doc else ""))
            elif any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
                assert node.returns is not None
                attributes.append(_attribute(f"{node.name}: {ast.unparse(node.returns)}", doc or ""))
            elif doc and (not node.name.startswith("_") or node.name in ("__call__", "__aiter__")):
                methods.append(f"{_signature(node)}\n{_text(doc)}")
    attributes = _attributes(of.body) + attributes
    if attributes:
        yield "\n".join(attributes) + "\n"
    yield from methods


def _attributes(body: list[ast.stmt]) -> list[str]:
    """Those that are annotated in a class, and those that have a docstring in ``__init__``."""
    found = []
    for node, following in zip(body, [*body[1:], None], strict=True):
        target: ast.expr
        if isinstance(node, ast.AnnAssign):
            target, kind = node.target, f": {ast.unparse(node.annotation)}"
        elif isinstance(node, ast.Assign) and _string(following):
            target, kind = node.targets[0], ""
        else:
            continue
        name = target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
        if not name.startswith("_") and (isinstance(target, ast.Name) or _string(following)):
            found.append(_attribute(name + kind, _string(following)))
    return found


def _attribute(declared: str, doc: str) -> str:
    return f"- `{declared}`" + (f": {_inline(doc)}" if doc else "")


def _string(node: ast.stmt | None) -> str:
    """A docstring that stands where ``node`` is."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""


def _signature(node: Function, name: str | None = None) -> str:
    is_manager = any(isinstance(each, ast.Name) and each.id == "asynccontextmanager" for each in node.decorator_list)
    word = "async with " if is_manager else "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
    if name is not None:
        word = "class "
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    arguments = re.sub(r"(: [^=]+?)=", r"\1 = ", arguments)
    returns = "" if node.returns is None or name is not None else f" -> {ast.unparse(node.returns)}"
    line = f"{word}{name or node.name}({arguments}){returns}"
    if len(line) > WIDTH:
        # At the commas that are in no brackets.
        parts = re.split(r", (?![^\[\(]*[\]\)])", arguments)
        line = f"{word}{name or node.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"
    return f"```python\n{line}\n```\n"


def _text(doc: str | None) -> str:
    assert doc, "a public name without a docstring"
    return re.sub(r"``([^`]+)``", r"`\1`", doc) + "\n"


def _inline(doc: str) -> str:
    return " ".join(_text(doc).split())


def _settings() -> Iterator[str]:
    rows = ["| setting | default | what |", "|---|---|---|"]
    for each in SETTINGS:
        if not each.key.startswith("limits."):
            unit = f" ({each.unit})" if each.unit else ""
            rows.append(f"| `{each.key}`{unit} | `{each.show(each.default)}` | {each.help} |")
    rows.append("| `limits` | `Limits()` | What a client may ask of us. |")
    yield "\n".join(rows) + "\n"


def updated(page: str) -> str:
    """``page`` with the part as it should be."""
    before, begin, _ = page.partition(BEGIN)
    assert begin, f"{PAGE} has lost the line {BEGIN!r}"
    return before + reference()


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
