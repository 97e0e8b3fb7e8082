"""What is kept of a manifest that refers to another, so that lists need not read the manifest itself.

One rule: a referrer's document says enough to leave it out of a list. The entry under which the manifest is listed
stands in it, but for annotations and a type so long that a document cannot hold them: they are read where they are
shown, out of the manifest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from enseada.protocols.oci import referrers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enseada.protocols.digests import Digest
    from enseada.protocols.oci.manifest import Manifest

KEPT_ANNOTATIONS = 8 * 1024
"""Characters of annotations that are kept: documents stay under 64 KiB, also when JSON escapes make six of each."""
KEPT_TYPE = 1024
"""Characters of an artifactType that are kept. A media type has 255 at most (RFC 6838, 4.2)."""
_PUNCTUATION = len('"": "", ')


def kept(manifest: Manifest, digest: Digest, size: int) -> dict[str, Any]:
    """The data of a referrer's document, but for the life of the manifest that it belongs to."""
    short = manifest
    if sum(len(key) + len(value) + _PUNCTUATION for key, value in manifest.annotations.items()) > KEPT_ANNOTATIONS:
        short = replace(short, annotations={})
    if len(manifest.artifact_type or "") > KEPT_TYPE:
        short = replace(short, artifact_type=None)
    return {"entry": referrers.entry(short, digest, size), "whole": short is manifest}


def may_be_of_type(data: Mapping[str, Any], wanted: str | None) -> bool:
    """Whether a list of what is of the artifactType ``wanted`` (None: of all) may have the referrer with that data.

    Exact where the type is kept.
    """
    artifact_type = data["entry"].get("artifactType")
    if wanted is None or artifact_type == wanted:
        return True
    return artifact_type is None and not data["whole"] and len(wanted) > KEPT_TYPE
