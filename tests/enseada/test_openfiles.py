"""How many connections there are files for, and the first three files.

That the limit is raised is seen on a process, in test_process.py.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from enseada.openfiles import FILES_A_CONNECTION, RESERVED_FILES, connection_limit


@pytest.mark.parametrize(
    ("files", "wanted", "possible"),
    [
        (1024, 4096, (1024 - RESERVED_FILES) // FILES_A_CONNECTION),
        (1024, 100, 100),
        (1 << 20, 4096, 4096),
        (resource.RLIM_INFINITY, 4096, 4096),
        (RESERVED_FILES, 4096, 1),
    ],
)
def test_connections_are_no_more_than_there_are_files_for(
    files: int, wanted: int, possible: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection_limit(wanted) == possible


FILES = """
import json, os, sys
from enseada.openfiles import open_standard_files

open_standard_files()
files = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(3) if os.get_inheritable(fd)}
sys.stderr.write(json.dumps([files, os.open(os.devnull, os.O_RDONLY)]))
"""


@pytest.mark.parametrize("closed", [[], [0], [1], [0, 1]])
def test_nothing_else_gets_the_number_of_a_standard_file(closed: list[int]) -> None:
    redirections = " ".join(["<&-", ">&-"][fd] for fd in closed)
    line = f'exec "$@" {redirections}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", sys.executable, "-c", FILES], capture_output=True, text=True, check=True
    )
    files, following = json.loads(done.stderr)
    assert sorted(files) == ["0", "1", "2"]
    assert all((files[str(fd)] == "/dev/null") for fd in closed)
    assert following > 2
