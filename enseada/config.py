"""The settings: what they are, what they mean, and where a value came from.

One rule: a setting is declared once, in `Settings`, with its type, default, unit and one line of help; the file, the
environment, the command line and the documentation all follow from that declaration. Sources in rising strength: the
TOML file, ``ENSEADA_…`` variables, flags. Every source is checked, also where a stronger one wins.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from enseada.limits import Limits
from enseada.values import Address, format_duration, format_size, parse_address, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "ENSEADA_"
CONFIG_VARIABLE = "ENSEADA_CONFIG"
"""Names the TOML file, where no flag does."""
TEST_PREFIX = "ENSEADA_TEST_"
"""Variables of the test suite, which no setting follows."""
MAX_PASSWORD_BYTES = 1024
"""A password's length in UTF-8; a longer one is never hashed."""
ARGON2_LANE_BYTES = 8 * 1024
"""The least memory of one lane (RFC 9106 3.1)."""
MAX_WORKERS = 1024
"""Processes that serve; each has sockets and memory of its own."""
_PUBLIC_URL = re.compile(r"https?://(?:[A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
DEFAULT = "default"
"""The source of a value that nobody gave."""

class ConfigError(Exception):
    """A setting that cannot be used. Its text names the key, where it was read, and what would be right."""


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """Text that shows itself only to who asks for it by name, never in a log, a traceback or a dump."""

    value: str

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__


def _about(help: str, unit: str = "", *, flag: bool = True, secret: bool = False) -> dict[str, Any]:
    return {"help": help, "unit": unit, "flag": flag, "secret": secret}


Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
MIB = 2**20
DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an installation chooses. Sizes are bytes, times are seconds."""

    listen: tuple[str, ...] = field(
        default=("127.0.0.1:9623",),
        metadata=_about(
            "Where to listen: HOST:PORT (port 0 picks a free one), [IPV6]:PORT, unix:PATH, or fd:NUMBER for a socket "
            "that whoever starts the command has bound. Repeatable."
        ),
    )
    data: Path = field(
        default=Path("enseada-data"),
        metadata=_about("The folder that holds everything; made with mode 700 where it is missing."),
    )
    workers: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)] | None = field(
        default=None, metadata=_about("Processes in which the command serves; none: as many as there are cores.")
    )
    anonymous: Literal["none", "pull", "push"] = field(
        default="none", metadata=_about("What may be done without logging in.")
    )
    admin_password: Secret | None = field(
        default=None,
        # No flag: a command line is there for every user of the machine to read.
        metadata=_about("The password of the account admin, at the first start only.", flag=False, secret=True),
    )
    public_url: str | None = field(
        default=None,
        metadata=_about("Scheme and host by which clients reach us through a proxy: https://registry.example."),
    )
    create_on_push: bool = field(
        default=True, metadata=_about("Make an OCI repository at the first push by one who may.")
    )
    grace: Seconds = field(
        default=30.0, metadata=_about("How long requests under way may take to finish after SIGTERM.", "seconds")
    )
    upload_expiry: Annotated[float, msgspec.Meta(ge=60)] = field(
        default=7 * DAY, metadata=_about("How old an upload session may become before it ends.", "seconds")
    )
    lease_time: Annotated[float, msgspec.Meta(ge=0.1)] = field(
        default=15.0, metadata=_about("How long one who goes on with an upload waits for another writer.", "seconds")
    )
    save_bytes: Positive = field(
        default=64 * MIB, metadata=_about("An upload's progress is saved whenever this much more is durable.", "bytes")
    )
    save_idle_bytes: Positive = field(
        default=MIB, metadata=_about("A slow upload's progress is saved when at least this much is new.", "bytes")
    )
    save_interval: Annotated[float, msgspec.Meta(ge=0.1)] = field(
        default=30.0, metadata=_about("How often slow uploads' progress is looked at.", "seconds")
    )
    max_blob_bytes: Positive | None = field(
        default=None, metadata=_about("The largest blob that is accepted; none: as large as there is room.", "bytes")
    )
    resumable_hash: Literal["auto", "never"] = field(
        default="auto",
        metadata=_about("Save the state of an upload's digest; never: read the stored bytes again to resume."),
    )
    token_lifetime: Annotated[float, msgspec.Meta(ge=60, le=DAY)] = field(
        # Clients refuse, or renew at every request, what lives shorter than a minute.
        default=300.0, metadata=_about("How long a Docker token is valid; at least 60.", "seconds")
    )
    refresh_lifetime: Annotated[float, msgspec.Meta(ge=60)] = field(
        default=90 * DAY, metadata=_about("How long a refresh token, which docker login keeps, is valid.", "seconds")
    )
    token_service: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")] = field(
        default="enseada", metadata=_about("The service that tokens are issued by and for.")
    )
    password_workers: Positive = field(
        default=2, metadata=_about("Passwords that are verified at one time.")
    )
    password_queue: Annotated[int, msgspec.Meta(ge=0)] = field(
        default=64, metadata=_about("Passwords that may wait to be verified; further ones are answered 503.")
    )
    password_memory: Seconds = field(
        default=60.0, metadata=_about("How long a right password is remembered; clients send it every time.", "seconds")
    )
    # RFC 9106 4, second recommended option, but with one lane: a verification takes one core, so that
    # password_workers is what it says.
    argon2_time: Positive = field(
        default=3, metadata=_about("Passes of argon2id over its memory, for new passwords.")
    )
    argon2_memory: Annotated[int, msgspec.Meta(ge=8192)] = field(
        default=64 * MIB, metadata=_about("Memory of one argon2id computation, for new passwords.", "bytes")
    )
    argon2_lanes: Annotated[int, msgspec.Meta(ge=1, le=64)] = field(
        default=1, metadata=_about("Threads of one argon2id computation, for new passwords.")
    )
    log_format: Literal["auto", "text", "json"] = field(
        default="auto", metadata=_about("How log lines look; auto: text on a terminal, JSON otherwise.")
    )
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=_about("The least severe log lines that are written; requests are info.")
    )
    limits: Limits = field(default_factory=Limits, metadata=_about("What a client may ask of us.", flag=False))

    @property
    def addresses(self) -> tuple[Address, ...]:
        """``listen``, parsed. Raises ValueError where `load` has not checked it."""
        return tuple(parse_address(each) for each in self.listen)

    @property
    def processes(self) -> int:
        """``workers``, or the number of cores that this process may use."""
        return self.workers or min(len(os.sched_getaffinity(0)), MAX_WORKERS)

    @property
    def documents_path(self) -> Path:
        """The SQLite file of all documents, the signing keys among them."""
        return self.data / "documents.sqlite"

    @property
    def blobs_path(self) -> Path:
        """The folder of the local blob store."""
        return self.data / "blobs"

    @property
    def lock_path(self) -> Path:
        """The file whose lock says that a server has this data folder."""
        return self.data / "lock"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting's declaration, for whoever shows or reads it."""

    key: str
    """``grace``, or ``limits.head_bytes``: the key in the file."""
    type: Any
    default: Any
    unit: str
    """``bytes``, ``seconds``, or nothing."""
    help: str
    flag: str | None
    """``--grace``; None: there is no flag of its own."""
    secret: bool

    @property
    def variable(self) -> str:
        """The environment variable: ``ENSEADA_LIMITS_HEAD_BYTES``."""
        return PREFIX + self.key.upper().replace(".", "_")

    @property
    def choices(self) -> tuple[str, ...]:
        """What may be chosen from, where that is all that is allowed."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def optional(self) -> bool:
        """True where the value may be none."""
        return types.NoneType in get_args(self.type)

    def parse(self, value: object, *, text: bool) -> Any:
        """``value`` as this setting's type; ``text``: it may be text in place of the type. Raises ValueError."""
        if self.optional and isinstance(value, str) and value.lower() == "none":
            return None
        match self.unit:
            case "bytes":
                value = parse_size(value)
            case "seconds":
                value = parse_duration(value)
        if self.key == "listen":
            return _parse_listen(value)
        if self.key == "data" and isinstance(value, str):
            if not value or "\0" in value:
                raise ValueError("a folder has a name")
            return Path(value)
        if self.secret:
            return _parse_secret(value)
        if self.key == "public_url" and not (isinstance(value, str) and _PUBLIC_URL.fullmatch(value)):
            raise ValueError("it is http:// or https:// and a host, and nothing behind it")
        try:
            return msgspec.convert(value, self.type, strict=not text)
        except msgspec.ValidationError as exc:
            if self.choices:
                raise ValueError(f"choose one of {', '.join(self.choices)}") from None
            raise ValueError(str(exc)[:1].lower() + str(exc)[1:]) from None

    def show(self, value: Any) -> str:
        """``value`` as TOML that `parse` reads back as the same. A secret is never shown."""
        if self.secret:
            return '"none"' if value is None else '"(hidden)"'
        if value is None:
            return '"none"'
        if self.unit == "bytes":
            return format_size(value)
        if self.unit == "seconds":
            return format_duration(value)
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, tuple):
            return f"[{', '.join(_quote(each) for each in value)}]"
        return str(value) if isinstance(value, int | float) else _quote(str(value))


def _declared() -> Iterator[Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    for each in dataclasses.fields(Settings):
        if each.name == "limits":
            continue
        flag = "--" + each.name.replace("_", "-") if each.metadata["flag"] else None
        about = each.metadata
        yield Setting(each.name, hints[each.name], each.default, about["unit"], about["help"], flag, about["secret"])
    for name, hint in get_type_hints(Limits).items():
        unit = "bytes" if name.endswith("_bytes") else "seconds" if hint is float else ""
        help = f"Limit: {name.removesuffix('_bytes').replace('_', ' ')}."
        yield Setting(f"limits.{name}", hint, getattr(Limits(), name), unit, help, None, False)


SETTINGS: tuple[Setting, ...] = tuple(_declared())
"""Every setting, in the order of declaration."""

_BY_KEY = {each.key: each for each in SETTINGS}
_BY_VARIABLE = {each.variable: each for each in SETTINGS}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective settings, and where each value came from: a file's path, a variable, a flag, or `DEFAULT`."""

    settings: Settings
    sources: Mapping[str, str]

    def toml(self) -> str:
        """The settings as a TOML file with their sources as comments, secrets hidden."""
        lines: list[str] = []
        for each in SETTINGS:
            group, dot, name = each.key.rpartition(".")
            value = getattr(self.settings.limits if dot else self.settings, name)
            if dot and not any(line == f"[{group}]" for line in lines):
                lines += ["", f"[{group}]"]
            hidden = "# " if each.secret else ""  # commented out: what is shown is not the value
            lines.append(f"{hidden}{name} = {each.show(value)}  # {_comment(self.sources[each.key])}")
        return "\n".join(lines) + "\n"


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Loaded:
    """Read the settings: ``file`` (or the one that ENSEADA_CONFIG names), ``environ``, and ``flags`` by key.

    A flag whose value is None was not given. Reads the file and nothing else. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    sources = {each.key: DEFAULT for each in SETTINGS}

    def take(setting: Setting, value: object, source: str, *, text: bool) -> None:
        try:
            values[setting.key] = setting.parse(value, text=text)
        except ValueError as exc:
            shown = "" if setting.secret else f" = {_short(value)}"
            raise ConfigError(f"{setting.key}{shown}, from {source}, cannot be used: {exc}") from None
        sources[setting.key] = source

    if file is None and CONFIG_VARIABLE in environ:
        file = Path(environ[CONFIG_VARIABLE])
    if file is not None:
        for key, value in _flatten(_read(file)):
            take(_known(key, _BY_KEY, f"the file {file}"), value, f"the file {file}", text=False)
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE and not name.startswith(TEST_PREFIX):
            take(_known(name, _BY_VARIABLE, "the environment"), value, f"the variable {name}", text=True)
    for key, value in flags.items():
        if value is not None:
            setting = _known(key, _BY_KEY, "the command line")
            take(setting, value, f"the flag {setting.flag or '--set ' + key}", text=True)

    limits = {key.removeprefix("limits."): value for key, value in values.items() if key.startswith("limits.")}
    others = {key: value for key, value in values.items() if not key.startswith("limits.")}
    try:
        checked = Limits(**limits)
    except ValueError as exc:
        bad = next((f"limits.{name}" for name in limits if name in str(exc).split()), "limits")
        raise ConfigError(f"{bad}, from {sources.get(bad, DEFAULT)}, cannot be used: {exc}") from None
    settings = Settings(**others, limits=checked)
    if settings.argon2_memory < ARGON2_LANE_BYTES * settings.argon2_lanes:
        bad = "argon2_lanes" if sources["argon2_memory"] == DEFAULT else "argon2_memory"
        raise ConfigError(f"{bad}, from {sources[bad]}, cannot be used: each lane of argon2 needs 8 KiB of memory")
    return Loaded(settings, sources)


def load_settings(file: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings as the command does: from a TOML file, and from variables named ``ENSEADA_…``.

    ``file``: its path; None: the one that ENSEADA_CONFIG names, if it names one. ``environ``: the variables; None:
    those of this process. What a program decides by itself it puts in with `dataclasses.replace`. Raises ConfigError.
    """
    return load(None if file is None else Path(file), os.environ if environ is None else environ, {}).settings


def _known(name: str, known: Mapping[str, Setting], where: str) -> Setting:
    if name in known:
        return known[name]
    if len(name) > 200:
        near = []  # difflib's work grows with the product of the lengths
    else:
        import difflib  # here, since only mistakes need it, and every start would wait for it

        near = difflib.get_close_matches(name, [*known, *([CONFIG_VARIABLE] if known is _BY_VARIABLE else [])], n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{_short(name)}, in {where}, is no setting of Enseada's{hint}")


def _read(file: Path) -> dict[str, Any]:
    import tomllib  # here, since many installations have no file

    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as exc:
        raise ConfigError(f"the file {file} cannot be read: {exc.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"the file {file} is not TOML: {exc}") from None


def _flatten(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if key == "limits" and isinstance(value, dict):
            for name, limit in value.items():
                yield f"limits.{name}", limit
        else:
            yield key, value


def _parse_listen(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(each, str) for each in parts):
        raise ValueError("it is an address, or a list of them")
    addresses = tuple(each.strip() for each in parts)
    if not addresses:
        raise ValueError("at least one address is needed")
    for each in addresses:
        parse_address(each)
    return addresses


def _parse_secret(value: object) -> Secret:
    if not isinstance(value, str) or not value:
        raise ValueError("it must be text, and not empty")
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("it holds a control character (RFC 7617 2), perhaps the line break of a file")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("it is not UTF-8") from None
    if length > MAX_PASSWORD_BYTES:
        raise ValueError(f"it is longer than {MAX_PASSWORD_BYTES} bytes")
    return Secret(value)


def _quote(text: str) -> str:
    # JSON's escapes are TOML's too; DEL, which JSON leaves as it is, TOML does not allow.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 80 else text[:77] + "..."
