"""Reads what the official OCI conformance suite wrote about a run.

Its junit.xml is odd: how a case ended stands only in the attribute ``status`` (passed, failure, skipped, error), and
there are no ``<failure>`` elements, so that ordinary readers see nothing but success. Beside the cases, which are the
leaves of its tree, the suite counts every check, and those counts are the larger ones. Both are read, and anything that
neither passed nor is known here is a failure.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSED = "passed"
SKIPPED = "skipped"
ERRORS_SHOWN = 300
"""Characters of what the suite says about one failed case."""


class UnreadableReportError(Exception):
    """The report is not one of the suite's, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Report:
    """One run's outcome. The counts are the suite's own, of checks; the cases are named as it names them."""

    passed: int
    failed: int
    skipped: int
    failures: Sequence[str]
    """The cases that failed or ended in an error, each with what the suite said."""
    skips: Sequence[str]
    """The cases that were skipped, or disabled, each with what the suite said."""

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def parse_junit(text: str) -> Report:
    """Read a junit.xml. Raises `UnreadableReportError` where it is none, or holds no case at all."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UnreadableReportError(f"not XML: {error}") from None
    if root.tag != "testsuites":
        raise UnreadableReportError(f"the root is <{root.tag}>, not <testsuites>")
    failures, skips, passed = [], [], 0
    for case in root.iter("testcase"):
        status = case.get("status", "without a status")
        said = " ".join((case.findtext("system-out") or "").split())[:ERRORS_SHOWN]
        label = f"{case.get('name')}: {status}" + (f": {said}" if said else "")
        # Were the suite mended to write what other programs write, that would have to count too.
        if status not in (PASSED, SKIPPED) or case.find("failure") is not None or case.find("error") is not None:
            failures.append(label)
        elif status == SKIPPED or case.find("skipped") is not None:
            skips.append(label)
        else:
            passed += 1

    total = _count(root, "tests", required=True)
    failed = _count(root, "failures") + _count(root, "errors")
    skipped = _count(root, "skipped") + _count(root, "disabled")
    if total == 0 or passed + len(failures) + len(skips) == 0:
        raise UnreadableReportError("not one test was run")
    if bool(failed) != bool(failures):
        raise UnreadableReportError(f"{failed} checks failed by its counts, {len(failures)} cases by its list")
    return Report(total - failed - skipped, failed, skipped, failures, skips)


def _count(root: ElementTree.Element, name: str, *, required: bool = False) -> int:
    value = root.get(name)
    if value is None and not required:
        return 0  # the suite leaves out what is zero
    try:
        return int(value or "")
    except ValueError:
        raise UnreadableReportError(f"{name}={value!r} is no count") from None


def parse_results(text: str) -> dict[str, str]:
    """Read the two tables of a results.yaml: what each API and each kind of data came to (Pass, FAIL, Skip, Disabled).

    Raises `UnreadableReportError` where there are none. It is no YAML reader: the suite writes one pair a line.
    """
    results: dict[str, str] = {}
    table = ""
    for line in text.splitlines():
        if line and not line[0].isspace():
            table = line.strip().removesuffix(":")
        elif table in ("apis", "data") and ":" in line:
            name, _, result = line.strip().rpartition(":")
            results[name.strip('"')] = result.strip()
    if not results:
        raise UnreadableReportError("no table of results")
    return results
