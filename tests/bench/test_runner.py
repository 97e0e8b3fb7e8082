"""Runs from end to end, with two Enseadas for sides: what is measured, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import psutil
import pytest
from click.testing import CliRunner

from bench import records, runner
from bench.authorize import authorization
from bench.cli import main
from bench.errors import CannotMeasure
from bench.figures import KINDS
from bench.image import image
from bench.peers.elsewhere import Elsewhere
from bench.peers.enseada import Enseada
from bench.peers.floor import SINK
from bench.running import ROOT, first_status, free_port, get, program
from bench.scenario import Round, Run, Scenario
from bench.scenarios import SCENARIOS
from bench.scenarios.fair import Fair
from bench.scenarios.oci_push import Push
from bench.scenarios.start import Start
from tests.bench.registry import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.server import Server

OTHER = Enseada(name="other")
TINY = 0.002
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process of ours and no folder of data outlives a run, however it ended."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    children = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= children
    assert list(tmp_path.glob("enseada-bench-*")) == []


class Turns(Scenario):
    """Tells in which turn each side was measured; nothing is put on it."""

    name = "turns"
    about = "whose turn it is"
    goal = "each in turn"
    figures = ()
    peers = (OTHER,)

    def __init__(self, fail_at: int = 0, interrupt_at: int = 0) -> None:
        self.turns: list[tuple[str, int]] = []
        self.servers: list[Server] = []
        self._fail_at = fail_at
        self._interrupt_at = interrupt_at

    def prepare(self, server: Server, run: Run) -> None:
        """Remember it."""
        self.servers.append(server)

    def measure(self, server: Server, run: Run, number: int) -> Round:
        """Ask both whether they are up."""
        self.turns.append((server.name, number))
        for each in self.servers:
            fields = {"Authorization": each.authorization or ""}
            assert get(each.port, "/v2/", fields)[0] == 200
        if number == self._fail_at:
            raise CannotMeasure("the sky fell")
        if number == self._interrupt_at:
            raise KeyboardInterrupt
        return Round({}, 1.0, 3.0, {"turns so far": len(self.turns)})

    def settings(self, run: Run) -> str:
        """Nothing."""
        return "none"


def test_sides_take_turns() -> None:
    scenario = Turns()
    outcome = runner.run(scenario, OTHER, rounds=3)
    assert scenario.turns == [(name, number) for number in (1, 2, 3) for name in ("enseada", "other")]
    assert (outcome.scenario, outcome.beside) == ("turns", "other")
    assert [name for name, _ in outcome.about] == [
        "machine",
        "versions",
        "enseada",
        "other",
        "goal",
        "load",
        "rounds",
    ]
    assert outcome.notes == (
        "enseada: the load itself took 1.00 s of CPU a round, 25% of what both took",
        "enseada: turns so far: 3.00 (median)",
        "other: the load itself took 1.00 s of CPU a round, 25% of what both took",
        "other: turns so far: 4.00 (median)",
    )


def test_the_machine_is_described_where_the_data_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [SimpleNamespace(mountpoint="/", fstype="ext4"), SimpleNamespace(mountpoint=str(tmp_path), fstype="tmpfs")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    outcome = runner.run(Turns(), OTHER, rounds=1)
    assert ", tmpfs; load average" in dict(outcome.about)["machine"]
    assert outcome.notes[0].startswith("data is in memory")


@pytest.mark.parametrize(
    ("scenario", "error"), [(Turns(fail_at=1), CannotMeasure), (Turns(interrupt_at=2), KeyboardInterrupt)]
)
def test_all_is_ended_when_a_round_fails(scenario: Turns, error: type[BaseException]) -> None:
    with pytest.raises(error):
        runner.run(scenario, OTHER, rounds=2)
    for server in scenario.servers:
        with pytest.raises(ConnectionRefusedError):
            get(server.port, "/v2/")


class Fresh(Turns):
    """The same, with a server for each round."""

    fresh = True


def test_cores_that_are_not_the_scenarios_are_told() -> None:
    assert runner.run(Turns(), OTHER, rounds=1, workers=2).beside == "other, 2 cores"


def test_each_round_has_a_server_of_its_own() -> None:
    scenario = Fresh()
    scenario.measure = lambda server, run, number: Round({})  # type: ignore[method-assign]
    runner.run(scenario, OTHER, rounds=2)
    assert [server.name for server in scenario.servers] == ["enseada", "other"] * 2
    assert len({server.tree.pid for server in scenario.servers}) == 4


def test_a_push_beside_another_and_beside_the_floor() -> None:
    for peer in (OTHER, SINK):
        outcome = runner.run(Push(), peer, rounds=2, scale=TINY)
        assert [each.figure for each in outcome.figures] == list(Push.figures)
        assert all(len(each.ours) == len(each.theirs) == 2 for each in outcome.figures)
        assert all(min(each.ours + each.theirs) >= 0 for each in outcome.figures)


def test_starts() -> None:
    outcome = runner.run(Start(), OTHER, rounds=1, scale=TINY)
    assert [each.figure for each in outcome.figures] == list(Start.figures)
    assert all(min(each.ours + each.theirs) > 0 for each in outcome.figures)


def refusing(reason: Exception) -> Callable[..., NoReturn]:
    def refuse(*_: object) -> NoReturn:
        raise reason

    return refuse


def test_a_registry_that_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, log = free_port(), tmp_path / "log"
    data = str(tmp_path / "data")
    command = [sys.executable, "-m", "enseada", "serve", "--data", data, "--listen", f"127.0.0.1:{port}"]
    with program(command, log, environment={"ENSEADA_ADMIN_PASSWORD": "a password"}) as process:
        first_status(port, process, log)
        peer = Elsewhere("theirs", f"http://admin:a%20password@127.0.0.1:{port}", process.pid)
        for _ in range(2):  # a run does not meet what the one before has pushed
            monkeypatch.setattr("bench.image.RUN", secrets.token_hex())
            image.cache_clear()
            for scenario in (Push(), Fair()):
                outcome = runner.run(scenario, peer, rounds=2, scale=TINY)
                assert outcome.peer == "theirs"
                assert process.poll() is None
        with program([sys.executable, "-c", "import signal; signal.pause()"], log) as stranger:
            url = f"http://admin:a%20password@127.0.0.1:{port}"
            with (
                pytest.raises(CannotMeasure, match=f"neither process {stranger.pid} nor .* listens on port {port}"),
                Elsewhere("theirs", url, stranger.pid).start(tmp_path, 1),
            ):
                pass
            monkeypatch.setattr(psutil.Process, "net_connections", refusing(psutil.AccessDenied(process.pid)))
            with pytest.raises(CannotMeasure, match="are not ours to see"), peer.start(tmp_path, 1):
                pass
        with pytest.raises(CannotMeasure, match="gives no token: 401"):
            authorization(port, "admin", "wrong")
        with pytest.raises(CannotMeasure, match="wants a login"):
            authorization(port, None, "")


def test_a_registry_that_asks_for_nothing() -> None:
    with serving() as registry:
        assert authorization(registry.port, None, "") is None


@pytest.mark.parametrize("url", ["https://127.0.0.1:5000", "http://example.org:80", "http://127.0.0.1", "127.0.0.1:1"])
def test_a_registry_that_cannot_be_measured(url: str) -> None:
    with pytest.raises(CannotMeasure, match="the peer's URL is"):
        Elsewhere("peer", url, 1)


def test_every_scenario_declares_what_it_measures() -> None:
    assert list(SCENARIOS) == [
        *("oci-small", "oci-push", "oci-push-small", "oci-pull", "oci-slow-uploads", "oci-idle"),
        *("start", "fair", "workers"),
    ]
    for scenario in SCENARIOS.values():
        names = [each.name for each in scenario.figures]
        assert len(set(names)) == len(names)
        assert {name.split(" ")[0] for name in names} <= {*KINDS}
        assert scenario.peer(None) is scenario.peers[0]
        with pytest.raises(CannotMeasure, match="has no peer nobody: choose one of"):
            scenario.peer("nobody")


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_the_commands(tmp_path: Path) -> None:
    code, said = invoke("list")
    assert code == 0
    assert all(name in said for name in SCENARIOS)

    file, page = tmp_path / "push.json", tmp_path / "benchmarks.md"
    run = ["run", "oci-push", "--peer", "floor", "--rounds", "1", "--scale", str(TINY), "--json", str(file)]
    code, said = invoke(*run)
    assert code == 0, said
    assert said.startswith("oci-push: enseada and floor\n")
    figures = json.loads(file.read_text())
    assert [each["figure"] for each in figures] == [each.name for each in Push.figures]
    assert {*figures[0]} == {"scenario", "figure", "unit", "ours", "theirs", "ratio", "better"}

    again = f"python -m bench run oci-push --peer floor --rounds 1 --scale {TINY}"
    assert said.endswith(f"\nagain: {again}\n")
    (outcome,) = records.read(file)
    assert ("again", again) in outcome.about

    code, said = invoke("report", "--page", str(page), *map(str, sorted(tmp_path.glob("push*.json"))))
    assert code == 0, said
    assert said.splitlines() == [str(page), str(tmp_path / "benchmarks" / "oci-push-floor.svg")]


def test_the_command_of_a_run_has_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCENARIOS, "turns", Turns())
    with serving() as registry:
        url = f"http://me:secret@127.0.0.1:{registry.port}"
        _, said = invoke("run", "turns", "--peer-url", url, "--peer-pid", str(os.getpid()), "--workers", "2")
    assert "\nagain: python -m bench run turns --peer-url URL --peer-pid PID --workers 2\n" in said
    assert "secret" not in said


def test_a_file_that_cannot_be_written_costs_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Turns()
    monkeypatch.setitem(SCENARIOS, "turns", scenario)
    code, said = invoke("run", "turns", "--json", "/nowhere/at/all.json")
    assert code == 1
    assert "/nowhere/at/all.json: No such file" in said
    assert scenario.servers == []


def test_a_run_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old.json"
    old.write_text("old")
    for name in ("old.json", "new.json"):
        monkeypatch.setitem(SCENARIOS, "turns", Turns(fail_at=1))
        code, said = invoke("run", "turns", "--json", str(tmp_path / name))
        assert (code, "the sky fell" in said) == (1, True)
    assert list(tmp_path.glob("*.json")) == [old]
    assert old.read_text() == "old"


def test_a_table_is_shown_before_its_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def measure(server: Server, run: Run, number: int) -> Round:
        shutil.rmtree(folder, ignore_errors=True)
        return Round({})

    scenario = Turns()
    scenario.measure = measure  # type: ignore[method-assign]
    monkeypatch.setitem(SCENARIOS, "turns", scenario)
    code, said = invoke("run", "turns", "--rounds", "1", "--json", str(folder / "some.json"))
    assert code == 1
    assert said.index("turns: enseada and other") < said.index("No such file or directory")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "nothing"], 1, "could not measure: there is no scenario nothing"),
        (["run", "start", "--peer", "floor"], 1, "could not measure: start has no peer floor"),
        (["run", "start", "--peer-url", "http://127.0.0.1:1"], 2, "are given together"),
        (["run", "start", "--peer-url", "http://127.0.0.1:1", "--peer-pid", "4194305"], 1, "there is no process"),
        (["run", "start", "--json", "/nowhere/at/all.json", "--rounds", "0"], 2, "0 is not in the range"),
        (["report", __file__], 1, "holds no figures"),
    ],
)
def test_what_goes_wrong_is_a_sentence_and_a_code(arguments: list[str], code: int, said: str) -> None:
    found, text = invoke(*arguments)
    assert (found, "Traceback" in text) == (code, False)
    assert said in text


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [("psutil", ["list"]), ("jwt", ["list"]), ("matplotlib", ["report", __file__]), ("click", ["list"])],
)
def test_without_the_extra_a_sentence_says_so(missing: str, arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('no', name={missing!r})\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"bench: {missing} is not here: pip install '.[bench]'\n"


def test_a_module_of_our_own_that_is_missing_is_no_matter_of_extras(tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("import bench.nothing\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "bench", "list"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'bench.nothing'\n")


def is_gone(process: psutil.Process) -> bool:
    """Whether it ends soon. What has no parent any more may stay listed until the system's first process looks."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
    return False


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_that_was_started(sign: signal.Signals, tmp_path: Path) -> None:
    # Whoever runs the tests may have it ignore some, as nohup does.
    heeding = ["env", "--default-signal=INT,TERM,HUP"]
    command = [*heeding, sys.executable, "-m", "bench", "run", "start", "--peer", "distribution", "--rounds", "1000"]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + DEADLINE
        started: list[psutil.Process] = []
        while not started:
            assert process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(psutil.NoSuchProcess):
                started = [each for each in psutil.Process(process.pid).children() if "--listen" in each.cmdline()]
        process.send_signal(sign)
        out, _ = process.communicate(timeout=DEADLINE)
        assert process.returncode != 0
        assert b"Traceback" not in out
        assert all(map(is_gone, started))
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_as_a_program_starts_ends_it_too(
    sign: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    really = subprocess.Popen

    def start(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(really(*arguments, **more))
        os.kill(os.getpid(), sign)
        return started[-1]

    def end(*_: object) -> NoReturn:
        raise SystemExit

    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.signal(sign, end)
    try:
        with pytest.raises(SystemExit), program([sys.executable, "-c", "input()"], tmp_path / "log"):
            pass
        (process,) = started
        assert process.returncode is not None
    finally:
        signal.signal(sign, before)
        for each in started:
            each.kill()
            each.wait()


def test_a_hangup_that_nobody_wants_stays_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []

    def measure(server: Server, run: Run, number: int) -> Round:
        heard.append(signal.getsignal(signal.SIGHUP))
        return Round({})

    scenario = Turns()
    scenario.measure = measure  # type: ignore[method-assign]
    monkeypatch.setitem(SCENARIOS, "turns", scenario)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        invoke("run", "turns", "--rounds", "1")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIG_IGN] * 2


def test_what_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.running.STOP_TIMEOUT", 0.2)
    source = "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
    helper = "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); signal.pause()"
    log = tmp_path / "log"
    with program([sys.executable, "-c", f"{source}; {helper}"], log) as process:
        while b"up" not in log.read_bytes() or not psutil.Process(process.pid).children():
            assert process.poll() is None
        (child,) = psutil.Process(process.pid).children()
    assert process.returncode == -signal.SIGKILL
    assert is_gone(child)


def test_a_server_that_ends_at_once_tells_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        program([sys.executable, "-c", "raise SystemExit('no disk')"], log) as process,
        pytest.raises(CannotMeasure, match="does not answer on port 1:\nno disk"),
    ):
        first_status(1, process, log)
    with pytest.raises(CannotMeasure, match="no-such-program is not here"), program(["no-such-program"], log):
        pass
