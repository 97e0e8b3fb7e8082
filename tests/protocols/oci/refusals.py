"""What a refusal must be: for all tests of the OCI protocol."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from enseada.http import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def refused(status: int, code: str, says: str = "") -> Iterator[pytest.ExceptionInfo[RegistryError]]:
    """The block raises `RegistryError` with that status and code, and ``says`` in its message."""
    with pytest.raises(RegistryError) as caught:
        yield caught
    assert (caught.value.status, caught.value.code) == (status, code)
    assert says in caught.value.message
