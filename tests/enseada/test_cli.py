"""The command line: what it prints, how it ends, and that nothing that somebody chose wrongly shows a traceback."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from click.testing import CliRunner, Result

from enseada import __version__, cli
from enseada.config import SETTINGS, Settings, load
from enseada.server import Listener
from enseada.serving import Started
from enseada.starterror import StartError
from enseada.watchdog import END_HUNG

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 30


def invoke(*arguments: str, **environ: str) -> Result:
    cleared = {name: None for name in os.environ if name.startswith("ENSEADA_")}
    return CliRunner().invoke(cli.main, arguments, env={**cleared, **environ}, catch_exceptions=False)


class TestConfig:
    def test_it_prints_what_is_in_force_and_why(self, tmp_path: Path) -> None:
        file = tmp_path / "e.toml"
        file.write_text('grace = "5s"\nanonymous = "pull"\n')
        result = invoke(
            "config", "--config", str(file), "--listen", "127.0.0.1:1", "--listen", "unix:/x", "--no-create-on-push",
            "--set", "limits.head_bytes=64KiB", ENSEADA_ANONYMOUS="push", ENSEADA_ADMIN_PASSWORD="hunter2",
        )  # fmt: skip
        assert result.exit_code == 0
        assert f'grace = "5s"  # the file {file}\n' in result.stdout
        assert 'anonymous = "push"  # the variable ENSEADA_ANONYMOUS\n' in result.stdout
        assert 'listen = ["127.0.0.1:1", "unix:/x"]  # the flag --listen\n' in result.stdout
        assert "create_on_push = false  # the flag --create-on-push\n" in result.stdout
        assert "hunter2" not in result.output
        file.write_text(result.stdout)
        again = load(file, {}, {}).settings
        assert again.limits.head_bytes == 65536
        assert again.create_on_push is False

    def test_nothing_given(self) -> None:
        result = invoke("config")
        assert tomllib.loads(result.stdout)["listen"] == ["127.0.0.1:9623"]
        assert "the " not in re.sub(r"# default", "", result.stdout)

    @pytest.mark.parametrize("command", ["config", "serve"])
    @pytest.mark.parametrize(
        ("arguments", "environ", "said"),
        [
            (["--grace", "soon"], {}, "grace = soon, from the flag --grace"),
            (["--config", "/does/not/exist"], {}, "the file /does/not/exist cannot be read"),
            ([], {"ENSEADA_LISTN": "x"}, "did you mean ENSEADA_LISTEN?"),
            ([], {"ENSEADA_ANONYMOUS": "all"}, "choose one of none, pull, push"),
            (["--set", "limits.head_byte=1"], {}, "did you mean limits.head_bytes?"),
            (["--set", "limits.head_bytes"], {}, "KEY=VALUE"),
            (["--set", "grace=3"], {}, "--grace"),
            (["--set", "admin_password=hunter2"], {}, "a secret"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(
        self, command: str, arguments: list[str], environ: dict[str, str], said: str
    ) -> None:
        result = invoke(command, *arguments, **environ)
        assert result.exit_code == cli.WRONG_SETTINGS
        assert result.stdout == ""
        assert result.stderr.startswith("enseada: ")
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
        assert "hunter2" not in result.stderr


def test_version_and_help() -> None:
    done = subprocess.run([sys.executable, "-m", "enseada", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"enseada {__version__}\n"
    shown = invoke("serve", "--help").stdout
    for setting in SETTINGS:
        assert setting.flag is None or setting.flag in shown
    assert "--admin-password" not in shown
    assert invoke("serve", "--frobnicate").exit_code == 2


ADDRESSES = ["http://0.0.0.0:1", "http://[::]:2", "unix:/run/e.sock"]
CLOSED = socket.socket()
CLOSED.close()


class Served:
    """A server that does what it was told to: `cli.run` takes any."""

    def __init__(self, *signals: int, patient: bool = False, password: str | None = None) -> None:
        self.signals = signals
        self.patient = patient
        self.password = password
        self.cancelled = False
        self.addresses = ADDRESSES

    async def __call__(
        self, settings: Settings, *, shutdown: trio.Event, task_status: trio.TaskStatus[Started]
    ) -> None:
        task_status.started(Started([Listener(CLOSED, each) for each in self.addresses], Path("/data"), self.password))
        for number in self.signals:
            os.kill(os.getpid(), number)
            await shutdown.wait()
        try:
            if self.patient:
                await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled = True
            raise


def run(served: Any, **settings: Any) -> int:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        return cli.run(Settings(log_format="text", **settings), served)
    finally:
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_first_signal_ends_gracefully(self, number: int, capsys: pytest.CaptureFixture[str]) -> None:
        served = Served(number)
        assert run(served) == 0
        assert not served.cancelled
        assert "ending: requests under way have 30 seconds" in capsys.readouterr().err

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_the_second_ends_at_once(self, number: int, capsys: pytest.CaptureFixture[str]) -> None:
        served = Served(signal.SIGTERM, number, patient=True)
        assert run(served) == 128 + number
        assert served.cancelled
        assert "ending at once" in capsys.readouterr().err

    def test_what_it_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(Served(password="s3cret")) == 0
        out, err = capsys.readouterr()
        assert out.splitlines() == [
            "listening on http://0.0.0.0:1",
            "listening on http://[::]:2",
            "listening on unix:/run/e.sock",
            "data in /data",
            "admin password: s3cret (shown once)",
            "next:",
            "  docker login 127.0.0.1:1",
            "  docker push 127.0.0.1:1/library/hello:1",
        ]
        assert err == ""

    def test_what_it_prints_where_there_is_nothing_to_say(self, capsys: pytest.CaptureFixture[str]) -> None:
        served = Served()
        served.addresses = ["unix:/run/e.sock"]
        assert run(served) == 0
        assert capsys.readouterr().out.splitlines() == ["listening on unix:/run/e.sock", "data in /data"]
        served.addresses = ["http://[::]:2"]
        assert run(served, anonymous="push") == 0
        assert capsys.readouterr().out.splitlines()[2:] == ["next:", "  docker push [::1]:2/library/hello:1"]

    @pytest.mark.parametrize(
        ("listen", "warned"),
        [
            (("127.0.0.1:0",), False),
            (("localhost:0", "[::1]:0", "unix:/x"), False),
            (("127.0.0.1:0", "0.0.0.0:0"), True),
            (("registry.example:0",), True),
        ],
    )
    def test_anonymous_push_warns_unless_on_loopback(
        self, listen: tuple[str, ...], warned: bool, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for anonymous in ("none", "pull", "push"):
            run(Served(), listen=listen, anonymous=anonymous)
            assert ("warning" in capsys.readouterr().err) is (warned and anonymous == "push")

    @pytest.mark.parametrize("depth", [0, 1, 3])
    @pytest.mark.parametrize("begun", [False, True])
    def test_a_known_failure_is_one_sentence(self, depth: int, begun: bool, capsys: pytest.CaptureFixture[str]) -> None:
        async def fail(settings: Settings, *, shutdown: trio.Event, task_status: trio.TaskStatus[Started]) -> None:
            if begun:
                task_status.started(Started([], Path("/data"), None))
            error: Exception = StartError("port 1 is taken")
            for _ in range(depth):
                error = ExceptionGroup("somewhere", [error])
            raise error

        assert run(fail) == cli.COULD_NOT_START
        assert capsys.readouterr().err == "enseada: port 1 is taken\n"

    def test_a_defect_is_not_hidden(self) -> None:
        async def fail(settings: Settings, *, shutdown: trio.Event, task_status: trio.TaskStatus[Started]) -> None:
            raise ExceptionGroup("both", [StartError("port 1 is taken"), ZeroDivisionError("a defect")])

        with pytest.raises(ExceptionGroup) as caught:
            run(fail)
        assert caught.value.subgroup(ZeroDivisionError) is not None
        assert caught.value.subgroup(StartError) is None


HANGING = """
import os, signal, sys, threading, trio
from pathlib import Path
from enseada import cli
from enseada.config import Settings
from enseada.serving import Started
from enseada.watchdog import END_HUNG

grace, *signals = map(float, sys.argv[1:])
cli.LAST_MOMENTS = 0.3

async def serve(settings, *, shutdown, task_status):
    task_status.started(Started([], Path("/data"), None))
    for number in signals:
        os.kill(os.getpid(), int(number))
        await shutdown.wait()
    await trio.to_thread.run_sync(threading.Event().wait)

sys.exit(cli.run(Settings(log_format="text", grace=grace), serve))
"""


class TestAnEndThatHangs:
    """A thread that waits for a disk for ever: no cancellation reaches it."""

    @pytest.mark.parametrize(("grace", "signals"), [(0.1, [signal.SIGTERM]), (3600, [signal.SIGTERM, signal.SIGINT])])
    def test_it_is_cut(self, grace: float, signals: list[int]) -> None:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", HANGING, str(grace), *(str(int(each)) for each in signals)],
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert done.returncode == END_HUNG
        assert done.stderr.splitlines()[-1].endswith("cut")
        assert ("ending at once" in done.stderr) is (len(signals) > 1)

    def test_an_end_in_time_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = threading.enumerate()
        timers: list[threading.Timer] = []
        start = threading.Timer.start

        def started(timer: threading.Timer) -> None:
            timers.append(timer)
            start(timer)

        monkeypatch.setattr(threading.Timer, "start", started)
        assert run(Served(signal.SIGTERM, signal.SIGTERM, patient=True)) == 128 + signal.SIGTERM
        for timer in timers:
            timer.join(TIMEOUT)  # at once, since it was cancelled
        assert len(timers) == 2
        assert set(threading.enumerate()) <= set(before)


@contextmanager
def serving(data: Path, *arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The real command, and the lines that it prints when it listens."""
    command = [sys.executable, "-W", "error", "-m", "enseada", "serve", "--data", str(data), *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ENSEADA_")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**clean, **environ}
    ) as process:
        assert process.stdout is not None
        try:
            lines: list[str] = []
            while not lines or "docker push" not in lines[-1]:
                lines.append(process.stdout.readline().removesuffix("\n"))
                assert lines[-1], process.communicate(timeout=TIMEOUT)
            yield process, lines
        finally:
            process.kill()


def ended(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, err


class TestTheRealCommand:
    def test_it_starts_and_ends_and_keeps_its_password(self, tmp_path: Path) -> None:
        data = tmp_path / "new" / "data"
        with serving(data, "--listen", "127.0.0.1:0") as (process, lines):
            assert re.fullmatch(r"listening on http://127\.0\.0\.1:[1-9]\d+", lines[0])
            assert lines[1] == f"data in {data}"
            assert re.fullmatch(r"admin password: \w{20} \(shown once\)", lines[2])
            host = lines[0].removeprefix("listening on http://")
            assert lines[3:] == ["next:", f"  docker login {host}", f"  docker push {host}/library/hello:1"]
            assert data.stat().st_mode & 0o777 == 0o700
            with socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2]))) as client:
                client.sendall(b"GET /v2/?token=hunter2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 401")
            code, err = ended(process)
        assert code == 0
        assert "hunter2" not in err
        assert "Traceback" not in err
        assert any('"target":"/v2/?token=***"' in line for line in err.splitlines())
        with serving(data, "--listen", "127.0.0.1:0") as (process, lines):
            assert not any("password" in line for line in lines)
            assert ended(process, signal.SIGINT)[0] == 0

    def test_it_is_not_started_twice_nor_where_it_cannot_be(self, tmp_path: Path) -> None:
        with serving(tmp_path / "a", "--listen", "127.0.0.1:0", ENSEADA_ADMIN_PASSWORD="hunter2") as (process, lines):
            assert not any("hunter2" in line or "password" in line for line in lines)
            taken = lines[0].rpartition("/")[2]
            file = tmp_path / "file"
            file.touch()
            for data, listen in [(tmp_path / "a", "127.0.0.1:0"), (tmp_path / "b", taken), (file, "127.0.0.1:0")]:
                second = subprocess.run(
                    [sys.executable, "-m", "enseada", "serve", "--data", str(data), "--listen", listen],
                    capture_output=True, text=True, timeout=TIMEOUT, check=False,
                )  # fmt: skip
                assert second.returncode == cli.COULD_NOT_START
                assert second.stdout == ""
                assert second.stderr.startswith("enseada: ")
                assert second.stderr.count("\n") == 1
            assert ended(process)[0] == 0


def test_the_flags_follow_the_settings(tmp_path: Path) -> None:
    """What one flag sets, and only that, differs from the defaults."""
    values = {"listen": "h:1", "data": "/d", "anonymous": "pull", "resumable_hash": "never", "token_service": "s",
              "log_format": "json", "log_level": "debug", "public_url": "https://h:1"}  # fmt: skip
    for setting in SETTINGS:
        if setting.flag is None:
            continue
        if setting.type is bool:
            arguments, value = [f"--no-{setting.flag.removeprefix('--')}"], "false"
        else:
            value = values.get(setting.key, "123456")
            value = "5" if setting.key in ("argon2_lanes",) else value
            value = "123" if setting.key == "workers" else value
            value = "600" if setting.unit == "seconds" else value
            arguments = [setting.flag, value]
        result = invoke("config", *arguments)
        assert result.exit_code == 0, result.output
        file = tmp_path / "e.toml"
        file.write_text(result.stdout)
        expected = replace(Settings(), **{setting.key: setting.parse(value, text=True)})
        assert load(file, {}, {}).settings == expected
        assert expected != Settings()
