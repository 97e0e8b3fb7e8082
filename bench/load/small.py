"""Small requests, one kind again and again, by programs that are not the limit.

wrk sends what has a body in its answer. It never understands the answer to a HEAD (it waits for the body that the
Content-Length names), so hey sends those: it takes more of the CPU itself, as the note under the table shows.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.errors import CannotMeasure
from bench.load.program import Told
from bench.running import clean_environment, output_of

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "bench: "
GRACE = 30.0
"""Seconds that a program may take longer than it was told."""
SCRIPT = """
wrk.method = %s
%s
function done(summary)
  local errors = summary.errors
  io.write(string.format('bench: {"requests": %%d, "wall": %%f, "failed": %%d}\\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Requests:
    """One kind of small request."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]


def run(requests: Requests, port: int, *, seconds: float, connections: int) -> Told:
    """Send for ``seconds`` on keep-alive connections, from one thread.

    ``more`` has the number of ``requests``. Raises CannotMeasure, also where a single answer was not 200.
    """
    duration = max(1, round(seconds))  # both count in whole seconds
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ask = _hey if requests.method == "HEAD" else _wrk
    told = ask(requests, f"http://127.0.0.1:{port}{requests.target}", duration, connections)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if told["failed"] or not told["requests"]:
        raise CannotMeasure(f"{requests.method} {requests.target}: {told['failed']} of {told['requests']} failed")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Told(told.pop("wall"), cpu, told)


def _wrk(requests: Requests, url: str, duration: int, connections: int) -> dict[str, Any]:
    fields = "\n".join(f"wrk.headers[{_lua(name)}] = {_lua(value)}" for name, value in requests.headers)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT % (_lua(requests.method), fields))
        script.flush()
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{duration}s", "-s", script.name, url]
        return parse_wrk(output_of(*command, timeout=duration + GRACE))


def _hey(requests: Requests, url: str, duration: int, connections: int) -> dict[str, Any]:
    command = ["hey", "-cpus", "1", "-c", str(connections), "-z", f"{duration}s", "-m", requests.method]
    for name, value in requests.headers:
        command += ["-host", value] if name == "Host" else ["-H", f"{name}: {value}"]
    return parse_hey(output_of(*command, url, timeout=duration + GRACE))


def parse_wrk(said: str) -> dict[str, Any]:
    """What our script made wrk write. Raises CannotMeasure."""
    line = next((line for line in said.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise CannotMeasure(f"wrk told nothing:\n{said}")
    told: dict[str, Any] = json.loads(line.removeprefix(MARK))
    return told


def parse_hey(said: str) -> dict[str, Any]:
    """The report that hey writes. Raises CannotMeasure."""
    total = re.search(r"^\s*Total:\s+([\d.]+) secs$", said, re.MULTILINE)
    statuses = dict(re.findall(r"^\s*\[(\d+)\]\s+(\d+) responses$", said, re.MULTILINE))
    failures = re.findall(r"^\s*\[(\d+)\]\s+(?!\d+ responses$).+$", said, re.MULTILINE)
    if total is None or not statuses:
        raise CannotMeasure(f"hey told nothing:\n{said}")
    return {
        "requests": sum(map(int, statuses.values())),
        "wall": float(total[1]),
        "failed": sum(int(count) for status, count in statuses.items() if status != "200") + sum(map(int, failures)),
    }


@cache
def wrk_version() -> str:
    """``wrk 4.1.0``. What sends HEADs, hey, does not tell its version."""
    done = subprocess.run(["wrk", "-v"], env=clean_environment(), capture_output=True, text=True, check=False)
    words = done.stdout.split()
    return f"wrk {words[1].rpartition('/')[2]}" if len(words) > 1 else "wrk"


def _lua(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'
