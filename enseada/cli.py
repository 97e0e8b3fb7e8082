"""The command line: ``enseada serve``, ``enseada config``.

One rule: what can go wrong by somebody's choice ends with one sentence on standard error and an exit code, never with
a traceback. 0: ended as asked; 1: it could not start, or its workers could not; 2: the settings or the command line
are wrong; 3: it was asked to end, could not, and was cut; 128 + N: a second signal N ended it at once. Flags follow
from the declarations in `enseada.config`. What is expensive to import is imported by the command that needs it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import urlsplit

import click

from enseada import __version__, logs
from enseada.config import SETTINGS, ConfigError, Loaded, load
from enseada.openfiles import open_standard_files, raise_file_limit
from enseada.starterror import StartError, sentences
from enseada.watchdog import LAST_MOMENTS, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import trio

    from enseada.config import Setting, Settings
    from enseada.serving import Started

COULD_NOT_START = 1
WRONG_SETTINGS = 2
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # to listen on, and what to type for it on this machine

log = logging.getLogger("enseada.cli")


class Serve(Protocol):
    """`enseada.serving.serve`: serves until ``shutdown``, reports `Started`, raises StartError."""

    async def __call__(
        self, settings: Settings, *, shutdown: trio.Event, task_status: trio.TaskStatus[Started]
    ) -> None: ...


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Enseada: a package registry for the people who run their own."""


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--config``, a flag for every setting that has one, and ``--set`` for the others."""
    for setting in reversed(SETTINGS):
        if setting.flag is not None:
            command = click.option(*_flag(setting), help=_help(setting), **_flag_options(setting))(command)
    others = "A setting without a flag of its own, such as limits.head_bytes=64KiB. Repeatable."
    command = click.option("--set", "others", metavar="KEY=VALUE", multiple=True, help=others)(command)
    file = "A TOML file of settings; ENSEADA_CONFIG names one too."
    return click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), help=file)(command)


def _flag(setting: Setting) -> tuple[str, ...]:
    assert setting.flag is not None
    if setting.type is bool:
        return f"{setting.flag}/--no-{setting.flag.removeprefix('--')}", setting.key
    return setting.flag, setting.key


def _flag_options(setting: Setting) -> dict[str, Any]:
    # Values are taken as text and checked where those of all sources are, so that all are told of in one way.
    if setting.type is bool:
        return {"default": None}
    if setting.key == "listen":
        return {"multiple": True, "metavar": "ADDRESS"}
    if setting.choices:
        return {"metavar": "|".join(setting.choices)}
    if setting.unit:
        return {"metavar": {"bytes": "SIZE", "seconds": "TIME"}[setting.unit]}
    if isinstance(setting.default, int) or setting.key == "workers":
        return {"metavar": "N"}
    return {"metavar": "FOLDER" if setting.key == "data" else "TEXT"}


def _help(setting: Setting) -> str:
    shown = setting.show(setting.default).replace('"', "").strip("[]")
    return f"{setting.help}  [default: {shown}]"


def _load(file: Path | None, others: Iterable[str], flags: Mapping[str, Any]) -> Loaded:
    """The settings, or the end of the process."""
    given = {key: value for key, value in flags.items() if value not in (None, ())}
    with_flag = {setting.key: setting.flag for setting in SETTINGS if setting.flag is not None}
    try:
        for pair in others:
            key, equals, value = pair.partition("=")
            if not equals:
                raise ConfigError(f"the flag --set wants KEY=VALUE, not {pair}")
            if key in with_flag:
                raise ConfigError(f"{key} has a flag of its own: {with_flag[key]}")
            if any(setting.key == key and setting.secret for setting in SETTINGS):
                raise ConfigError(f"{key} is a secret, and a command line is none: use a file or a variable")
            given[key] = value
        return load(file, os.environ, given)
    except ConfigError as reason:
        _fail(str(reason), WRONG_SETTINGS)


def _fail(sentence: str, code: int) -> NoReturn:
    click.echo(f"enseada: {sentence}", err=True)
    sys.exit(code)


@main.command()
@_with_settings
def config(file: Path | None, others: tuple[str, ...], **flags: Any) -> None:
    """Print the effective settings as TOML, each with its source; secrets are hidden."""
    click.echo(_load(file, others, flags).toml(), nl=False)


@main.command()
@_with_settings
def serve(file: Path | None, others: tuple[str, ...], **flags: Any) -> None:
    """Serve until SIGTERM or ctrl-C; a second one ends at once."""
    settings = _load(file, others, flags).settings
    open_standard_files()
    raise_file_limit()
    if settings.processes > 1:
        sys.exit(run_workers(settings))
    from enseada import serving

    sys.exit(run(settings, serving.serve))


def run_workers(settings: Settings) -> int:
    """Serve with several processes until a signal ends it, and return the exit code. For the main thread."""
    from enseada.supervisor import supervise

    def announce(addresses: Sequence[str], admin_password: str | None) -> None:
        _tell("\n".join(_announcement(settings, addresses, settings.data.absolute(), admin_password)) + "\n")

    _warn(settings)
    turn = logs.make_turn()
    with logs.configure(settings.log_format, settings.log_level, sys.stderr, turn=turn):
        try:
            return supervise(settings, turn, announce)
        except StartError as reason:
            sentence = str(reason)
    click.echo(f"enseada: {sentence}", err=True)
    return COULD_NOT_START


def run(settings: Settings, serve: Serve) -> int:
    """Run ``serve`` until a signal ends it, and return the exit code. For the main thread: it handles signals."""
    import trio

    _warn(settings)
    failures: list[str] = []
    code = COULD_NOT_START
    with logs.configure(settings.log_format, settings.log_level, sys.stderr):
        try:
            code = trio.run(_until_ended, settings, serve)
        except* StartError as group:
            failures = sentences(group)
    for sentence in failures:
        click.echo(f"enseada: {sentence}", err=True)
    return code


def _warn(settings: Settings) -> None:
    if settings.anonymous == "push" and not all(address.loopback for address in settings.addresses):
        click.echo("enseada: warning: anybody who reaches this address may push, overwrite and delete", err=True)


async def _until_ended(settings: Settings, serve: Serve) -> int:
    """Serve; the first signal begins the graceful end, the second cancels what is left, the third is the system's."""
    import trio

    shutdown = trio.Event()
    code = 0
    watchdog = Watchdog()

    async def watch(signals: Any) -> None:
        nonlocal code
        async for number in signals:
            if not shutdown.is_set():
                log.info("ending: requests under way have %g seconds", settings.grace)
                watchdog.start(settings.grace + LAST_MOMENTS)
                shutdown.set()
                continue
            log.warning("ending at once")
            watchdog.start(LAST_MOMENTS)
            code = 128 + number
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
            everything.cancel_scope.cancel()

    with watchdog, trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as everything:
            everything.start_soon(watch, signals)
            async with trio.open_nursery() as serving:
                started: Started = await serving.start(partial(serve, settings, shutdown=shutdown))
                said = _announcement(settings, started.addresses, started.data, started.admin_password)
                _tell("\n".join(said) + "\n")
            everything.cancel_scope.cancel()
    return code


def _tell(text: str) -> None:
    """Print on standard output or, where that cannot be written, on standard error: the password is told only once."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                try:
                    stream.write(text)
                except UnicodeEncodeError:  # the data folder's name may be any bytes
                    stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
                stream.flush()
                return
        except OSError:
            # Python would flush it once more at the end, and fail with a traceback.
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _announcement(
    settings: Settings, addresses: Sequence[str], data: Path, admin_password: str | None
) -> Iterator[str]:
    """What is printed once it listens: where, on what, and what to type next."""
    for address in addresses:
        yield f"listening on {address}"
    yield f"data in {data}"
    if admin_password is not None:
        yield f"admin password: {admin_password} (shown once)"
    host = next((urlsplit(each).netloc for each in addresses if each.startswith("http")), None)
    if host is None:
        return
    name, colon, port = host.rpartition(":")
    host = EVERYWHERE.get(name, name) + colon + port
    yield "next:"
    if settings.anonymous != "push":
        yield f"  docker login {host}"
    yield f"  docker push {host}/library/hello:1"
