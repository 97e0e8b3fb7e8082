"""What looks at files and at system calls: against files and calls that are known."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import psutil
import pytest

from bench import coldness, machine
from bench.accounts import Tree
from bench.cache import PATH, blobs
from bench.errors import CannotMeasure
from bench.floors import spin
from bench.floors.alone import hash_seconds, write_seconds
from bench.scenarios.fair import dirty_limit
from bench.syscalls import counting, parse

if TYPE_CHECKING:
    from pathlib import Path

SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 97.10    0.011342          28       400           fdatasync
  2.90    0.000339          16        21         1 fsync
------ ----------- ----------- --------- --------- ----------------
100.00    0.011681          27       421         1 total
"""


def test_cold_files_are_cold(tmp_path: Path) -> None:
    if machine.file_system(tmp_path) == "tmpfs":
        pytest.skip("files of a tmpfs are never cold")
    (tmp_path / "deep").mkdir()
    for path in (tmp_path / "one", tmp_path / "deep" / "two"):
        path.write_bytes(os.urandom(1 << 20))
    (tmp_path / "small").write_bytes(b"small")
    assert coldness.warm_share(tmp_path) == 1.0
    coldness.make_cold(tmp_path)
    assert coldness.warm_share(tmp_path) == 0.0
    (tmp_path / "one").read_bytes()
    assert coldness.warm_share(tmp_path) == 0.5


def test_what_stays_warm_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: None)
    with pytest.raises(CannotMeasure, match="100% of the bytes in"):
        coldness.make_cold(tmp_path)
    with pytest.raises(CannotMeasure, match="no large files"):
        coldness.warm_share(tmp_path / "none")


def test_a_summary_of_calls() -> None:
    assert parse(SUMMARY) == {"fdatasync": 400, "fsync": 21}
    assert parse("") == {}


def test_calls_are_counted(tmp_path: Path) -> None:
    if shutil.which("strace", path=PATH) is None:
        pytest.skip("strace is not here")
    source = """
import os, sys, threading
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
def sync():
    for _ in range(3):
        os.fsync(file)
sync()
print(flush=True)
input()
thread = threading.Thread(target=sync)
thread.start()
thread.join()
os.fdatasync(file)
print(flush=True)
input()
"""
    command = [sys.executable, "-c", source, str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            try:
                with counting(Tree(process.pid), ("fsync", "fdatasync")) as calls:
                    process.stdin.write(b"\n")
                    process.stdin.flush()
                    process.stdout.readline()
            except CannotMeasure as reason:
                pytest.skip(str(reason))  # not everybody may trace
            assert calls == {"fsync": 3, "fdatasync": 1}
        finally:
            process.kill()


def test_the_dirty_limit(tmp_path: Path) -> None:
    assert 0 < dirty_limit() < 1 << 45
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_dirty 1\nnr_dirty_threshold 250\nnr_dirty_background_threshold 99\n")
    assert dirty_limit(vmstat) == 250 * os.sysconf("SC_PAGE_SIZE")
    vmstat.write_text("nr_dirty 1\n")
    with pytest.raises(CannotMeasure, match="does not tell"):
        dirty_limit(vmstat)


def test_several_processes_do_more_or_less_than_one() -> None:
    assert 0 < spin.gain(2, 0.1) < 100


def test_steps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    really = os.fsync

    def fsync(file: int) -> None:
        really(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    made = blobs("alone", 2, 2 << 20, tmp_path / "cache")
    assert hash_seconds(made) > 0
    assert write_seconds(made, tmp_path) > 0
    assert synced == [each.size for each in made]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_machine(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: A Fast One\n")
    assert machine.processor(cpuinfo) == "A Fast One"
    assert f"{machine.cores()} cores" in machine.describe(tmp_path)


def test_the_file_system_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [("/", "xfs"), (str(tmp_path), "ext4"), (str(tmp_path / "fast"), "xfs"), (str(tmp_path / "fast"), "tmpfs")]
    found = [SimpleNamespace(mountpoint=folder, fstype=kind) for folder, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    (tmp_path / "link").symlink_to(tmp_path / "fast")
    assert machine.describe(tmp_path / "some").endswith(", ext4")
    assert machine.caveats(tmp_path / "some") == []
    assert machine.describe(tmp_path / "link" / "some").endswith(", tmpfs")
    (caveat,) = machine.caveats(tmp_path / "fast" / "some")
    assert caveat.startswith("data is in memory (tmpfs): fsync costs nothing")
