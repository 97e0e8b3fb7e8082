"""The list of what refers to a manifest (distribution-spec 1.1, "Listing Referrers").

A manifest that names a ``subject`` is listed from the moment it is pushed, by any client. So the lists that clients
from before 1.1 keep by themselves, under a tag made from the subject's digest (the "referrers tag schema"), are merged
without being read: what such a list names is listed here if it is here and names this subject, and not otherwise.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from enseada.protocols.oci.manifest import OCI_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enseada.protocols.digests import Digest
    from enseada.protocols.oci.manifest import Manifest


def entry(manifest: Manifest, digest: Digest, size: int) -> dict[str, Any]:
    """The descriptor under which ``manifest`` is listed; its annotations are copied."""
    descriptor: dict[str, Any] = {"mediaType": manifest.media_type, "digest": str(digest), "size": size}
    if manifest.artifact_type:
        descriptor["artifactType"] = manifest.artifact_type
    if manifest.annotations:
        descriptor["annotations"] = dict(manifest.annotations)
    return descriptor


def index(entries: Iterable[dict[str, Any]]) -> bytes:
    """The image index that answers a listing."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}).encode()
