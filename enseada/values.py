"""How a setting's value is written: sizes, durations and addresses, as people write them and as we show them."""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_TIMES = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_FIRST_FD = 3
"""Those before it are the standard files; systemd, too, hands in sockets from here on (sd_listen_fds(3))."""
_LAST_FD = 2**31 - 1
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: ``host`` and ``port``, the ``path`` of a unix socket, or the ``fd`` of a bound socket."""

    host: str = ""
    port: int = 0
    path: str | None = None
    fd: int | None = None

    @property
    def loopback(self) -> bool:
        """True where only this machine can connect."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name, and where it leads is known only when it is bound

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        if self.fd is not None:
            return f"fd:{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``HOST:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` or ``fd:NUMBER``. Port 0 picks a free one. Raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError("unix: wants the path of a socket behind it")
        return Address(path=path)
    if text.startswith("fd:"):
        number = text.removeprefix("fd:")
        if not (number.isascii() and number.isdigit() and _FIRST_FD <= int(number) <= _LAST_FD):
            raise ValueError(f"fd: wants the number of a descriptor behind it, from {_FIRST_FD} on")
        return Address(fd=int(number))
    host, colon, digits = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host) != bracketed or any(c.isspace() or c in "/[]" for c in host):
        raise ValueError("an address is HOST:PORT, [IPV6]:PORT, unix:PATH or fd:NUMBER")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise ValueError("a port is a number from 0 to 65535")
    return Address(host, int(digits))


def _amount(value: object, units: Mapping[str, float], fold: str, what: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number: float = value
    elif isinstance(value, str) and (match := _AMOUNT.fullmatch(value.strip())):
        unit = match[2].upper() if fold == "upper" else match[2]
        if unit not in units:
            raise ValueError(f"{match[2]} is no unit of {what}")
        amount = int(match[1]) if match[1].isdigit() else float(match[1])
        number = amount * units[unit]
    else:
        raise ValueError(f"it is not {what}")
    if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f"it is not {what}")
    if number < 0:
        raise ValueError("it is less than zero")
    return number


def parse_size(value: object) -> int:
    """Bytes: a number, or text such as ``64MiB`` or ``1.5GB``. Raises ValueError."""
    number = _amount(value, _SIZES, "upper", "a size such as 64MiB")
    if number != int(number):
        raise ValueError("it is not a whole number of bytes")
    return int(number)


def parse_duration(value: object) -> float:
    """Seconds: a number, or text such as ``30s``, ``500ms``, ``5m``, ``7d``. Raises ValueError."""
    try:
        return float(_amount(value, _TIMES, "", "a time such as 30s or 7d"))
    except OverflowError:
        raise ValueError("it is longer than time") from None


def format_size(value: int) -> str:
    """Bytes as TOML that `parse_size` reads: the largest unit that divides them."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        size = _SIZES[unit.upper()]
        if value and value % size == 0:
            return f'"{value // size}{unit}"'
    return str(value)


def format_duration(value: float) -> str:
    """Seconds as TOML that `parse_duration` reads: the largest unit that divides them."""
    for unit in ("d", "h", "m", "s"):
        size = _TIMES[unit]
        if value and value % size == 0:
            return f'"{int(value // size)}{unit}"'
    return str(value)
