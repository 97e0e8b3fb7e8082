"""distribution 3, built by Go's installer at its first use and kept in the cache folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

from bench.cache import FOLDER, PATH, PROGRAMS
from bench.errors import CannotMeasure
from bench.peers.distribution import Distribution
from bench.running import LOG_SHOWN, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

    from bench.peers.tokens import Issuer

VERSION = "v3.1.2"
SOURCE = f"github.com/distribution/distribution/v3/cmd/registry@{VERSION}"
BUILD_TIMEOUT = 1800.0
"""Seconds; a cold build takes minutes on two cores."""


class Distribution3(Distribution):
    """The program ``registry`` of that version."""

    name = "distribution3"

    def program(self) -> Path:
        """Builds it, if it is not in the cache folder yet. Raises CannotMeasure."""
        path, stamp = PROGRAMS / "registry", PROGRAMS / ".registry.version"
        if not path.exists() or not stamp.exists() or stamp.read_text().strip() != SOURCE:
            _install()
            stamp.write_text(SOURCE + "\n")
        return path

    def key_id(self, issuer: Issuer) -> str:
        """How it names the key that signs tokens."""
        return issuer.thumbprint

    def version(self) -> str:
        """``distribution3 3.1.2``: what was built, for the program itself does not know."""
        return f"{self.name} {VERSION.removeprefix('v')}"


def _install() -> None:
    go = shutil.which("go", path=PATH)
    if go is None:
        raise CannotMeasure("distribution3 is built by Go, which is not here")
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    # What it is built from is a gigabyte, and of no use after.
    with tempfile.TemporaryDirectory(prefix="go-", dir=FOLDER, ignore_cleanup_errors=True) as folder:
        environment = clean_environment() | {
            "GOBIN": str(PROGRAMS),
            "GOMODCACHE": f"{folder}/mod",
            "GOCACHE": f"{folder}/build",
            "GOFLAGS": "-modcacherw -buildvcs=false",
        }
        try:
            subprocess.run(
                [go, "install", SOURCE],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=BUILD_TIMEOUT,
                check=True,
            )
        except subprocess.CalledProcessError as reason:
            said = reason.stdout.decode(errors="replace")[-LOG_SHOWN:]
            raise CannotMeasure(f"go install {SOURCE} failed: {said}") from None
        except subprocess.TimeoutExpired:
            raise CannotMeasure(f"go install {SOURCE} took longer than {BUILD_TIMEOUT} s") from None
