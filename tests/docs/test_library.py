"""docs/library.md is kept true: its programs run, and its reference is what the code says.

That mypy is content with them is the question of tests/test_sdist.py, which has the installed package.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

import enseada
from tests.docs.reference import GROUPS, PAGE, updated
from tests.enseada.certificate import make_certificate
from tests.programs import TIMEOUT, environment, running

if TYPE_CHECKING:
    from pathlib import Path

_PROGRAM = re.compile(r"<!-- run: ([a-z]+) ?(\S*) ?([0-9]*) -->\n```python\n(.*?)```\n", re.DOTALL)


@dataclass(frozen=True)
class Program:
    """A program on the page, and what is to come of it."""

    how: str
    """``ends``; ``serves``, until it is ended; or ``uvicorn``, which serves its ``app``."""
    path: str
    status: str
    source: str


PROGRAMS = [Program(*match) for match in _PROGRAM.findall(PAGE.read_text())]


def test_every_program_is_run() -> None:
    """A program without a word on how to run it would not be."""
    prose = PAGE.read_text().partition("## Reference")[0]
    assert len(PROGRAMS) == prose.count("```python") == 8


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_program(number: int, tmp_path: Path) -> None:
    program = PROGRAMS[number]
    (tmp_path / "program.py").write_text(program.source)
    make_certificate(tmp_path)  # what the page calls cert.pem and key.pem
    if program.how == "ends":
        subprocess.run(
            [sys.executable, "program.py"], cwd=tmp_path, env=environment(tmp_path), timeout=TIMEOUT, check=True
        )
        return
    command: tuple[str, ...] = ("program.py",)
    if program.how == "uvicorn":
        command = ("-m", "uvicorn", "--app-dir", ".", "--port", "0", "--lifespan", "on", "program:app")
    with running(tmp_path, *command, password=None) as address:
        answer = httpx.get(address + program.path, verify=False, timeout=TIMEOUT, trust_env=False)
        assert str(answer.status_code) == program.status
    # What the first start makes is told once, and without it nobody gets in.
    told = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("admin password: ")]
    assert len(told) == ("settings(" in program.source.lower())


def test_every_public_name_is_in_the_reference() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == enseada.__all__


def test_the_reference_is_what_the_code_says() -> None:
    page = PAGE.read_text()
    assert page == updated(page), "docs/library.md is out of date: run `python -m tests.docs.reference`"
