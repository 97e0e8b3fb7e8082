"""The scenarios, by name: a module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import CannotMeasure
from bench.scenarios.fair import Fair
from bench.scenarios.oci_idle import Idle
from bench.scenarios.oci_pull import Pull
from bench.scenarios.oci_push import Push
from bench.scenarios.oci_push_small import PushSmall
from bench.scenarios.oci_slow_uploads import SlowUploads
from bench.scenarios.oci_small import Small
from bench.scenarios.start import Start
from bench.scenarios.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.scenario import Scenario

SCENARIOS: Mapping[str, Scenario] = {
    each.name: each
    for each in (Small(), Push(), PushSmall(), Pull(), SlowUploads(), Idle(), Start(), Fair(), Workers())
}


def find(name: str) -> Scenario:
    """The scenario of that name. Raises CannotMeasure."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    raise CannotMeasure(f"there is no scenario {name}: choose one of {', '.join(SCENARIOS)}")
