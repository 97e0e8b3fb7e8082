"""Tests of the benchmark harness; never of how fast anything is."""

import pytest

pytest.importorskip("psutil", reason="the extra bench is not here: run tox -e bench")
pytest.importorskip("matplotlib", reason="the extra bench is not here: run tox -e bench")
