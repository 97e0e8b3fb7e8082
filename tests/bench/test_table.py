"""The table: exactly what is printed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import table
from tests.bench.outcomes import OUTCOME

EXPECTED = """\
oci-small: enseada and distribution

figure              unit                minimum  median  maximum  ratio  so ours is
------------------  ----  ------------  -------  ------  -------  -----  --------------
CPU per GET /v2/    us    enseada          19.5    20.0     21.0  0.200  5.0 times less
                          distribution     90.0     100      110
rate of GET /v2/    1/s   enseada        12,000  12,172   12,345   9.61  9.6 times more
                          distribution    1,234   1,267    1,300
memory at the peak  MiB   enseada          33.3    33.3     33.3      -
                          distribution        -       -        -

ratio: the median of ours divided by the median of theirs
note: enseada: the load itself took 1 s
machine: two cores
versions: enseada 1; distribution 2
again: python -m bench run oci-small --rounds 5
"""


def test_the_table() -> None:
    assert table.render(OUTCOME) == EXPECTED


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.000123456, "0.000123"),
        (0.5, "0.500"),
        (1, "1.00"),
        (12.34, "12.3"),
        (99.96, "100.0"),
        (100, "100"),
        (1234567.8, "1,234,568"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert table.number(value) == text


@given(st.floats(1e-9, 1e15))
def test_a_number_keeps_three_digits(value: float) -> None:
    text = table.number(value)
    assert re.fullmatch(r"[\d,]+(\.\d+)?", text)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.005)
