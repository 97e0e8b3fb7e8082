"""The official OCI conformance suite against `enseada serve`: nothing fails, and nothing is skipped.

The suite is pinned in tests/clients/install. It runs for the specification as released and for its main branch, with a
login and without one; and against the registry as an ASGI application under uvicorn, on asyncio.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.clients.harness import Shell, need, serving
from tests.conformance.report import parse_junit, parse_results

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 300.0
"""Seconds for a run, which takes under ten."""

DISABLED = {
    # Manifests that name what was never pushed are refused: whoever pulls them would fail instead.
    "1.1": {"Sparse Manifests", "Tag Param", "Tag Param sha512", "Manifest put with tag params"},
    "dev": {"Sparse Manifests"},
}
"""What the suite leaves out of itself for that version of the specification. Nothing else may be left out."""


SERVE = (sys.executable, "-m", "enseada")
UVICORN = (sys.executable, "-m", "tests.hosts", "uvicorn", "none", "/")


@pytest.mark.parametrize(
    ("program", "version", "login"),
    [
        pytest.param(SERVE, "1.1", True, id="1.1-login"),
        pytest.param(SERVE, "1.1", False, id="1.1-anonymous"),
        pytest.param(SERVE, "dev", True, id="dev-login"),
        pytest.param(SERVE, "dev", False, id="dev-anonymous"),
        pytest.param(UVICORN, "1.1", True, id="1.1-login-uvicorn"),
        pytest.param(UVICORN, "dev", False, id="dev-anonymous-uvicorn"),
    ],
)
def test_conformance(
    program: tuple[str, ...],
    version: str,
    login: bool,
    tmp_path: Path,
    counts: list[str],
    request: pytest.FixtureRequest,
) -> None:
    need("conformance")
    options = () if login else ("--anonymous", "push")
    results = tmp_path / "results"
    with serving(tmp_path / "registry", *options, login=login, program=program) as registry:
        shell = Shell.at(
            tmp_path,
            OCI_REGISTRY=registry.host,
            OCI_TLS="disabled",
            OCI_REPO1="conformance/one",
            OCI_REPO2="conformance/two",
            OCI_VERSION=version,
            OCI_USERNAME=registry.user or "",
            OCI_PASSWORD=registry.password or "",
            # All that may be asked for of the released specification as well, though it leaves it open.
            OCI_API_BLOBS_UPLOAD_CANCEL="true",
            OCI_API_BLOBS_DIGEST_HEADER="true",
            OCI_API_MANIFESTS_DIGEST_HEADER="true",
            OCI_RESULTS_DIR=str(results),
        )
        ended = shell.ends("conformance", timeout=TIMEOUT)
        # It ends with 0, and writes nothing, where it could not even begin.
        assert (results / "junit.xml").exists(), str(ended)
        report = parse_junit((results / "junit.xml").read_text())
        summary = parse_results((results / "results.yaml").read_text())
    counts.append(f"conformance {request.node.callspec.id}: {report}")

    assert not report.failures, "failed:\n" + "\n".join(report.failures)
    assert not report.skips, "skipped:\n" + "\n".join(report.skips)
    assert (report.failed, report.skipped) == (0, 0)
    left = {name: result for name, result in summary.items() if result != "Pass"}
    assert left == dict.fromkeys(DISABLED[version], "Disabled")
    assert ended.code == 0, str(ended)
