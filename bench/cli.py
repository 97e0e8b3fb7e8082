"""The command line: ``list``, ``run`` and ``report``.

One rule: the exit code says only whether it could be measured, never how good a figure is.
"""

from __future__ import annotations

import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from bench import records, runner, scenarios, table
from bench.errors import CannotMeasure, end_without
from bench.peers.elsewhere import Elsewhere
from bench.running import ROOT
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from bench.server import Peer

COULD_NOT_MEASURE = 1
ROUNDS = 3
SCALE = 1.0
ENDING = (signal.SIGTERM, signal.SIGHUP)
PAGE = ROOT / "docs" / "benchmarks.md"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Measure Enseada beside what people run today."""


@main.command("list")
def list_() -> None:
    """Name the scenarios, what each must reach, and its peers."""
    width = max(map(len, SCENARIOS))
    for each in SCENARIOS.values():
        click.echo(f"{each.name:{width}}  {each.about}")
        click.echo(f"{'':{width}}  goal: {each.goal}; beside {', '.join(peer.name for peer in each.peers)}")


@main.command()
@click.argument("scenario")
@click.option("--peer", metavar="NAME", help="What to measure beside: see list.  [default: the scenario's first]")
@click.option(
    "--peer-url", metavar="URL", help="Any other OCI registry that runs: http://USER:PASSWORD@127.0.0.1:PORT."
)
@click.option("--peer-pid", metavar="PID", type=click.IntRange(min=1), help="The process of that registry.")
@click.option("--rounds", type=click.IntRange(min=1), default=ROUNDS, show_default=True, help="Rounds of each side.")
@click.option("--workers", type=click.IntRange(min=1), help="Cores for each side.  [default: the scenario's]")
@click.option("--scale", type=click.FloatRange(0, 10, min_open=True), default=SCALE, help="For a quick look: below 1.")
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures there.")
def run(
    scenario: str,
    peer: str | None,
    peer_url: str | None,
    peer_pid: int | None,
    rounds: int,
    workers: int | None,
    scale: float,
    file: Path | None,
) -> None:
    """Run one scenario and print its table."""
    if (peer_url is None) != (peer_pid is None):
        raise click.UsageError("--peer-url and --peer-pid are given together")
    before = {each: signal.getsignal(each) for each in ENDING}
    for each in ENDING:
        if before[each] is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(each, _end)
    try:
        if file is not None:
            records.check(file)
        found = scenarios.find(scenario)
        if peer_url is not None and peer_pid is not None:
            beside: Peer = Elsewhere(peer or "peer", peer_url, peer_pid)
        else:
            beside = found.peer(peer)
        cores = workers or found.workers
        again = _again(scenario, peer, rounds, workers, scale, elsewhere=peer_url is not None)
        outcome = runner.run(found, beside, rounds=rounds, workers=cores, scale=scale, command=again, tell=_tell)
        try:
            if file is not None:
                records.write(outcome, file)
        finally:  # whichever of the two cannot be written, the other has the figures
            click.echo(table.render(outcome), nl=False)
    except CannotMeasure as reason:
        _fail(str(reason))
    except OSError as reason:
        _fail(f"{reason.filename or 'the machine'}: {reason.strerror}")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--page", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, show_default=True, help="To write."
)
def report(files: tuple[Path, ...], page: Path) -> None:
    """Turn JSON files of runs into docs/benchmarks.md, with plots beside it."""
    try:
        from bench import report as pages  # matplotlib takes a second to import, and only this command draws
    except ModuleNotFoundError as reason:
        end_without(reason)

    try:
        outcomes = [outcome for file in files for outcome in records.read(file)]
        for path in pages.write(outcomes, page):
            click.echo(path)
    except CannotMeasure as reason:
        _fail(str(reason))
    except OSError as reason:
        _fail(f"{reason.filename or page}: {reason.strerror}")


def _again(
    scenario: str, peer: str | None, rounds: int, workers: int | None, scale: float, *, elsewhere: bool
) -> str:
    """The command that measures the same again, as far as it is not what is done anyway; never with a password."""
    words = ["python", "-m", "bench", "run", scenario]
    if peer is not None:
        words += ["--peer", shlex.quote(peer)]
    if elsewhere:
        words += ["--peer-url", "URL", "--peer-pid", "PID"]
    if rounds != ROUNDS:
        words += ["--rounds", str(rounds)]
    if workers is not None:
        words += ["--workers", str(workers)]
    if scale != SCALE:
        words += ["--scale", f"{scale:g}"]
    return " ".join(words)


def _end(number: int, frame: object) -> NoReturn:
    """End as by ctrl-C, so that what was started is ended too."""
    sys.exit(128 + number)


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        click.echo(line, err=True)


def _fail(sentence: str) -> NoReturn:
    click.echo(f"bench: could not measure: {sentence}", err=True)
    sys.exit(COULD_NOT_MEASURE)
