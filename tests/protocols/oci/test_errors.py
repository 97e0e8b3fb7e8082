"""Errors have the specification's codes, each with its status, and the JSON that clients read."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enseada.http import RegistryError
from enseada.protocols.oci import errors

# distribution-spec, "Error Codes" (code-1 to code-14), and the status that goes with each
SPECIFIED = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 400,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "SIZE_INVALID": 400,
    "UNAUTHORIZED": 401,
    "DENIED": 403,
    "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429,
}
OURS = {"TAG_INVALID": 400, "PAGINATION_NUMBER_INVALID": 400, "RANGE_INVALID": 416, "UNAVAILABLE": 503}

json_values = st.recursive(
    st.booleans() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of), max_leaves=5
)


@pytest.mark.parametrize(("code", "status"), [*SPECIFIED.items(), *OURS.items()])
def test_a_code_has_its_status_and_a_sentence(code: str, status: int) -> None:
    failure = errors.error(code)
    assert (failure.status, failure.code) == (status, code)
    assert failure.message
    assert failure.detail is None
    assert failure.headers == []


def test_no_other_codes() -> None:
    assert errors.CODES.keys() == SPECIFIED.keys() | OURS.keys()
    # "containing only uppercase alphabetic characters and underscores"
    assert all(re.fullmatch("[A-Z_]+", code) for code in errors.CODES)


def test_all_of_it_can_be_said_otherwise() -> None:
    failure = errors.error("SIZE_INVALID", "too big", {"limit": 1}, status=413, headers=[("Retry-After", "5")])
    assert (failure.status, failure.code, failure.message) == (413, "SIZE_INVALID", "too big")
    assert failure.detail == {"limit": 1}
    assert failure.headers == [("Retry-After", "5")]


def test_a_code_that_does_not_exist_is_a_bug() -> None:
    with pytest.raises(KeyError):
        errors.error("NO_SUCH_CODE")


def test_rendered() -> None:
    assert json.loads(errors.render(errors.error("BLOB_UNKNOWN"))) == {
        "errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown to this name"}]
    }


@pytest.mark.parametrize("detail", [{"name": "a"}, {}, [], 0, False, "", "text"])
def test_rendered_with_its_detail(detail: object) -> None:
    [entry] = json.loads(errors.render(errors.error("NAME_INVALID", "no", detail)))["errors"]
    assert entry == {"code": "NAME_INVALID", "message": "no", "detail": detail}


@given(st.text(st.characters()), json_values)
def test_whatever_a_message_quotes_can_be_rendered_and_read(message: str, detail: object) -> None:
    rendered = errors.render(RegistryError(400, "NAME_INVALID", message, {"detail": detail}))
    assert json.loads(rendered) == {
        "errors": [{"code": "NAME_INVALID", "message": message, "detail": {"detail": detail}}]
    }


def test_half_of_a_surrogate_pair_can_be_rendered() -> None:
    """Percent-decoding and JSON's escapes can make one, and UTF-8 cannot encode it."""
    rendered = errors.render(RegistryError(400, "NAME_INVALID", "\ud800", {"name": "\udcff"}))
    assert json.loads(rendered)["errors"] == [
        {"code": "NAME_INVALID", "message": "\ud800", "detail": {"name": "\udcff"}}
    ]
