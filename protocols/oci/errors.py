"""The errors of the OCI distribution protocol: codes, their statuses, and the JSON in which clients read them.

Source: distribution-spec, "Error Codes"; statuses as its text and conformance suite ask for them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from enseada.http import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable

CODES: dict[str, tuple[int, str]] = {
    "BLOB_UNKNOWN": (404, "blob unknown to this name"),
    "BLOB_UPLOAD_INVALID": (400, "blob upload invalid"),
    "BLOB_UPLOAD_UNKNOWN": (404, "blob upload unknown to this name"),
    "DIGEST_INVALID": (400, "the digest given is not that of the content"),
    "MANIFEST_BLOB_UNKNOWN": (404, "the manifest names content that is unknown to this name"),
    "MANIFEST_INVALID": (400, "manifest invalid"),
    "MANIFEST_UNKNOWN": (404, "manifest unknown to this name"),
    "NAME_INVALID": (400, "invalid repository name"),
    "NAME_UNKNOWN": (404, "repository name not known to this registry"),
    "SIZE_INVALID": (400, "the length given is not that of the content"),
    "UNAUTHORIZED": (401, "authentication required"),
    "DENIED": (403, "access denied"),
    "UNSUPPORTED": (405, "the operation is not supported"),
    "TOOMANYREQUESTS": (429, "too many requests"),
    # Not in the specification, and named in its style: what clients of every registry may meet.
    "TAG_INVALID": (400, "invalid tag"),
    "PAGINATION_NUMBER_INVALID": (400, "invalid number of results requested"),
    "RANGE_INVALID": (416, "invalid content range"),
    "UNAVAILABLE": (503, "the service is not available for now"),
}


def error(
    code: str,
    message: str | None = None,
    detail: object = None,
    *,
    status: int | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> RegistryError:
    """The error of that code, with the specification's status and message unless others are given."""
    usual_status, usual_message = CODES[code]
    return RegistryError(status or usual_status, code, message or usual_message, detail, headers)


def render(failure: RegistryError) -> bytes:
    """The body of an answer that tells of ``failure`` (distribution-spec, "Error Codes")."""
    entry: dict[str, object] = {"code": failure.code, "message": failure.message}
    if failure.detail is not None:
        entry["detail"] = failure.detail
    # As ASCII: messages quote what clients sent, and not all of it can be encoded otherwise.
    return json.dumps({"errors": [entry]}).encode("ascii")
