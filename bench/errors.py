"""What ends a benchmark with an exit code, and in one sentence."""

from __future__ import annotations

import sys
from typing import NoReturn


class CannotMeasure(Exception):
    """Why there is no figure: what is missing here, or what did not do as it should. Its text is one sentence."""


OURS = ("bench", "enseada")
CANNOT_RUN = 1


def end_without(reason: ModuleNotFoundError) -> NoReturn:
    """Say what is missing and how it comes here, and end; where it is a module of ours, raise ``reason``."""
    missing = (reason.name or "").partition(".")[0]
    if not missing or missing in OURS:
        raise reason
    print(f"bench: {missing} is not here: pip install '.[bench]'", file=sys.stderr)
    sys.exit(CANNOT_RUN)
