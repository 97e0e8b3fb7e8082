"""The reader of the suite's reports: a failure must never look like success."""

from __future__ import annotations

import pytest

from tests.conformance.report import UnreadableReportError, parse_junit, parse_results

# As the suite writes it, shortened: a case fails, one is skipped, and there is no <failure> anywhere.
SAMPLE = """<testsuites time="6.735760" tests="5" failures="2" skipped="1">
  <testsuite name="OCI Conformance Test" tests="5" failures="2" errors="0" skipped="1" time="6.735760">
    <properties><property name="Config" value="registry: 127.0.0.1:5555&#xA;"></property></properties>
    <testcase name="OCI Conformance Test/ping" classname="" time="0.005710" status="passed">
      <system-err>~~~ REQUEST ~~~&#xA;Method: GET</system-err>
    </testcase>
    <testcase name="OCI Conformance Test/sha512/blob push" classname="" time="0.01" status="failure">
      <system-out>unexpected status code:&#xA;  expected 201, received 400</system-out>
    </testcase>
    <testcase name="OCI Conformance Test/blob mount" classname="" time="0.01" status="skipped"></testcase>
  </testsuite>
</testsuites>
"""
GOOD = """<testsuites time="1.0" tests="2"><testsuite name="OCI Conformance Test" tests="2" failures="0" errors="0">
<testcase name="a" classname="" status="passed"></testcase><testcase name="b" status="passed"></testcase>
</testsuite></testsuites>"""
RESULTS = """config:
  registry: 127.0.0.1:5555
  apis:
    ping: true
apis:
  Blob chunked: FAIL
  Ping: Pass
data:
  Image: Pass
  Sparse Manifests: Disabled
"""


def test_a_failure_and_a_skip() -> None:
    report = parse_junit(SAMPLE)
    assert (report.passed, report.failed, report.skipped) == (2, 2, 1)
    assert report.failures == [
        "OCI Conformance Test/sha512/blob push: failure: unexpected status code: expected 201, received 400"
    ]
    assert report.skips == ["OCI Conformance Test/blob mount: skipped"]
    assert str(report) == "2 passed, 2 failed, 1 skipped"


def test_success() -> None:
    report = parse_junit(GOOD)
    assert (report.passed, report.failed, report.skipped, report.failures, report.skips) == (2, 0, 0, [], [])


@pytest.mark.parametrize("status", ["failure", "error", "disabled", "Unknown", ""])
def test_whatever_did_not_pass_failed(status: str) -> None:
    text = GOOD.replace('"b" status="passed"', f'"b" status="{status}"').replace(
        'tests="2">', 'tests="2" failures="1">'
    )
    assert len(parse_junit(text).failures) == 1


def test_no_status_is_a_failure() -> None:
    text = GOOD.replace('"b" status="passed"', '"b"').replace('tests="2">', 'tests="2" errors="1">')
    assert parse_junit(text).failures == ["b: without a status"]


def test_an_ordinary_failure_element_counts() -> None:
    text = GOOD.replace('"b" status="passed">', '"b" status="passed"><failure message="no"/>')
    assert parse_junit(text.replace('tests="2">', 'tests="2" failures="1">')).failures == ["b: passed"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html></html>",
        '<testsuites time="0"></testsuites>',
        '<testsuites tests="0"><testsuite tests="0"></testsuite></testsuites>',
        '<testsuites tests="4"><testsuite tests="4"></testsuite></testsuites>',
        SAMPLE.replace('failures="2"', ""),  # the counts say that nothing failed
        GOOD.replace('tests="2">', 'tests="2" failures="1">'),  # the list does
        GOOD.replace('tests="2"', 'tests="many"'),
    ],
)
def test_a_report_that_cannot_be_is_none(text: str) -> None:
    with pytest.raises(UnreadableReportError):
        parse_junit(text)


def test_results() -> None:
    assert parse_results(RESULTS) == {
        "Blob chunked": "FAIL",
        "Ping": "Pass",
        "Image": "Pass",
        "Sparse Manifests": "Disabled",
    }


@pytest.mark.parametrize("text", ["", "config:\n  a: b\n", "<html>"])
def test_no_results(text: str) -> None:
    with pytest.raises(UnreadableReportError):
        parse_results(text)
