"""An outcome to show: figures with a peer, one without, and what is told beside them."""

from __future__ import annotations

from bench.figures import Compared, Figure, Outcome

OUTCOME = Outcome(
    "oci-small",
    "distribution",
    (
        Compared(Figure("CPU per GET /v2/", "us"), (21.0, 19.5, 20.0), (110.0, 90.0, 100.0)),
        Compared(Figure("rate of GET /v2/", "1/s", "higher"), (12345.0, 12000.0), (1234.0, 1300.0)),
        Compared(Figure("memory at the peak", "MiB"), (33.333,), ()),
    ),
    (
        ("machine", "two cores"),
        ("versions", "enseada 1; distribution 2"),
        ("again", "python -m bench run oci-small --rounds 5"),
    ),
    ("enseada: the load itself took 1 s",),
)
