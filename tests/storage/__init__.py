"""Tests of the stores. The suites that all of them share are asserted with pytest's explanations too."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.storage.document_suite", "tests.storage.blob_suite")
