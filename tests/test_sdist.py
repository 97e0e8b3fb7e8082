"""The built packages: the wheel and the sdist hold every module once, install into a bare environment, and serve.

Builds from a copy of the checkout, and so leaves nothing in it and takes nothing in that an earlier build has left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests.clients.harness import ROOT, serving, sha256
from tests.docs.test_library import PROGRAMS

TIMEOUT = 600.0
"""Seconds for a build or an install, which may download what they depend on."""
LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", ".tox", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "enseada-data"
)


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program that must end with ``code``, away from the checkout; what it wrote."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ENSEADA_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == code, f"$ {' '.join(map(str, command))}\n{output}"
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel and an sdist, by kind. The wheel is built from the sdist, as pip would."""
    pytest.importorskip("build", reason="the package build is not here: run tox -e sdist")
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=LEFT_BEHIND)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source", cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def modules_of_the_checkout() -> set[str]:
    """Where each module must be in a wheel."""
    found = set()
    for folder, place in (("enseada", "enseada"), ("protocols", "enseada/protocols"), ("storage", "enseada/storage")):
        for path in (ROOT / folder).rglob("*.py"):
            inside = path.relative_to(ROOT / folder)
            if folder != "enseada" or inside.parts[0] not in ("protocols", "storage"):
                found.add(f"{place}/{inside.as_posix()}")
    return found


def test_wheel(built: dict[str, Path]) -> None:
    with zipfile.ZipFile(built["wheel"]) as archive:
        names = archive.namelist()
    assert [name for name, count in Counter(names).items() if count > 1] == []
    assert {name for name in names if name.endswith(".py")} == modules_of_the_checkout()
    assert "enseada/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"enseada", f"enseada-{version(built)}.dist-info"}


def test_sdist(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert [name for name, count in Counter(names).items() if count > 1] == []
    for name in ("setup.cfg", "tox.ini", "README.md", "CHANGELOG.md", "LICENSE", "tests/test_sdist.py", "bench/cli.py"):
        assert name in names
    assert "protocols/__init__.py" in names
    assert "storage/__init__.py" in names
    # The links are not followed: each module is there once.
    assert [name for name in names if name.startswith(("enseada/protocols/", "enseada/storage/"))] == []


def version(built: dict[str, Path]) -> str:
    """The version, as the wheel's name has it."""
    return built["wheel"].name.split("-")[1]


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installs_and_serves(kind: str, built: dict[str, Path], tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python, enseada = (tmp_path / "venv" / "bin" / name for name in ("python", "enseada"))
    run(python, "-m", "pip", "install", "-q", built[kind], cwd=tmp_path)

    assert version(built) in run(enseada, "--version", cwd=tmp_path)
    names = "enseada.protocols.oci, enseada.storage.blobs, enseada.storage.documents"
    where = run(python, "-c", f"import {names}; print(enseada.protocols.oci.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")

    with serving(tmp_path / "run", program=[enseada], cwd=tmp_path) as registry:
        assert registry.http.get("/v2/").status_code == 200
        data = os.urandom(100_000)
        location = registry.http.post("/v2/app/blobs/uploads/").headers["Location"]
        joint = "&" if "?" in location else "?"
        answer = registry.http.put(f"{location}{joint}digest={sha256(data)}", content=data)
        assert answer.status_code == 201, answer.text
        assert registry.blob("app", sha256(data)) == data
        assert registry.http.get("/v2/", auth=("admin", "wrong")).status_code == 401

    run(python, "-m", "pip", "install", "-q", "pytest", cwd=tmp_path)
    (tmp_path / "test_it.py").write_text(
        "def test_it(enseada_registry):\n"
        "    image = enseada_registry.push('team/app', '1')\n"
        "    assert enseada_registry.manifest('team/app', '1').digest == image.digest\n"
    )
    options = ("-W", "error", "-p", "no:cacheprovider", "--strict-markers")
    assert "1 passed" in run(python, "-m", "pytest", *options, tmp_path / "test_it.py", cwd=tmp_path)

WRONG = """
import enseada

enseada.nothing
enseada.Settings(data="a text")
enseada.asgi("no registry")
"""


def test_the_public_names_are_typed_as_installed(built: dict[str, Path], tmp_path: Path) -> None:
    """What docs/library.md and examples/ show is right by mypy's strict mode, and what is wrong is not."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", built["wheel"], "mypy", "fastapi", cwd=tmp_path)
    programs = tmp_path / "programs"
    shutil.copytree(ROOT / "examples", programs, ignore=LEFT_BEHIND)
    for number, program in enumerate(PROGRAMS):
        (programs / f"program{number}.py").write_text(program.source)
    mypy = (python, "-m", "mypy", "--strict", "--config-file", "")
    count = len(list(programs.glob("*.py")))
    assert f"no issues found in {count} source files" in run(*mypy, programs, cwd=tmp_path)

    (tmp_path / "wrong.py").write_text(WRONG)
    said = run(*mypy, "wrong.py", cwd=tmp_path, code=1)
    for complaint in ('has no attribute "nothing"', '"data" to "Settings"', '"asgi" has incompatible type'):
        assert complaint in said
