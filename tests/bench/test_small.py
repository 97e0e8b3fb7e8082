"""What wrk and hey write, and that they do what they are told."""

from __future__ import annotations

import shutil

import pytest

from bench.cache import PATH
from bench.errors import CannotMeasure
from bench.load import small
from tests.bench.registry import serving

HEY = """
Summary:
  Total:	1.0052 secs
  Slowest:	0.0421 secs
  Requests/sec:	1873.1

Latency distribution:
  50% in 0.0081 secs
  99% in 0.0190 secs

Status code distribution:
  [200]	1880 responses
  [404]	3 responses

Error distribution:
  [2]	Head "http://127.0.0.1:1/v2/": EOF
"""


def test_what_hey_writes() -> None:
    told = small.parse_hey(HEY)
    assert told == {"requests": 1883, "wall": 1.0052, "failed": 5}


def test_what_wrk_writes() -> None:
    told = small.parse_wrk('Running 1s test\nbench: {"requests": 7, "wall": 1.0, "failed": 0}\n')
    assert told == {"requests": 7, "wall": 1.0, "failed": 0}


@pytest.mark.parametrize("parse", [small.parse_hey, small.parse_wrk])
def test_what_neither_writes(parse: object) -> None:
    assert callable(parse)
    with pytest.raises(CannotMeasure, match="told nothing"):
        parse("unable to connect to 127.0.0.1:1 Connection refused\n")


@pytest.mark.parametrize(("program", "method"), [("wrk", "GET"), ("hey", "HEAD")])
def test_the_programs(program: str, method: str) -> None:
    if shutil.which(program, path=PATH) is None:
        pytest.skip(f"{program} is not here")
    fields = [("Host", "registry.test"), ("Authorization", 'Bearer "quoted\\"')]
    with serving() as registry:
        told = small.run(small.Requests(method, "/v2/", fields), registry.port, seconds=1, connections=2)
        assert told.more["requests"] > 0
        assert told.wall == pytest.approx(1, abs=0.5)
        assert told.cpu > 0
        seen = registry.requests[0]
        assert (seen.method, seen.target) == (method, "/v2/")
        assert [(name, seen.headers[name]) for name, _ in fields] == fields
        with pytest.raises(CannotMeasure, match=f"{method} /v2/none: [1-9]"):
            small.run(small.Requests(method, "/v2/none", fields), registry.port, seconds=1, connections=2)
