"""Being somebody who is not root, for tests of what may not be done."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
"""A user without rights, on every Linux."""


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of somebody who is not root, and the rights of nobody else."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() != 0:
        try:
            yield folder
        finally:
            shutil.rmtree(folder)
        return
    os.chown(folder, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)
