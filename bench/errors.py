"""The one error that ends a benchmark with an exit code."""

from __future__ import annotations


class CannotMeasure(Exception):
    """Why there is no figure: what is missing here, or what did not do as it should. Its text is one sentence."""
