"""How many connections there are files for. That the limit is raised is seen on a process, in test_process.py."""

from __future__ import annotations

import resource

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
