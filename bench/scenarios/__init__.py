"""The scenarios, by name: a module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.errors import CannotMeasure
from bench.scenarios.oci_push import Push
from bench.scenarios.oci_small import Small

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.scenario import Scenario

SCENARIOS: Mapping[str, Scenario] = {each.name: each for each in (Small(), Push())}


def find(name: str) -> Scenario:
    """The scenario of that name. Raises CannotMeasure."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    raise CannotMeasure(f"there is no scenario {name}: choose one of {', '.join(SCENARIOS)}")
