"""Reading a manifest: what it is, and what it refers to. Its bytes are kept and served verbatim; nothing is rewritten.

Sources: image-spec 1.1 (manifest, index, descriptor), distribution-spec 1.1, Docker's image manifest v2 schema 2.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from enseada.protocols import jsonscan
from enseada.protocols.digests import Digest
from enseada.protocols.oci.errors import error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enseada.http import RegistryError

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

IMAGES = frozenset({OCI_IMAGE, DOCKER_IMAGE})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
ARTIFACTS = frozenset({OCI_ARTIFACT})
"""The artifact manifest that image-spec 1.1's release candidates had; old versions of ORAS push it."""

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_FOREIGN = "application/vnd.docker.image.rootfs.foreign."
_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable."
_MAX_SIZE = 2**63 - 1
_CONTENT_FIELDS = ("config", "layers", "manifests", "blobs", "subject", "annotations")
_FIELDS = {name.lower(): name for name in ("schemaVersion", "mediaType", "artifactType", *_CONTENT_FIELDS)}
_DESCRIPTOR_FIELDS = {name.lower(): name for name in ("mediaType", "digest", "size", "data", "urls", "platform")}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to content (image-spec, "OCI Content Descriptors"). ``size`` is in bytes."""

    media_type: str
    digest: Digest
    size: int

    @property
    def distributable(self) -> bool:
        """False for layers that are fetched from elsewhere and may be absent here."""
        return not self.media_type.startswith((_FOREIGN, _NONDISTRIBUTABLE))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest says, as far as a registry must know it."""

    media_type: str
    blobs: tuple[Descriptor, ...] = ()
    """Config and layers, those that are not distributable included."""
    manifests: tuple[Descriptor, ...] = ()
    """The members of an index."""
    subject: Descriptor | None = None
    artifact_type: str | None = None
    """As a referrers' list gives it: the manifest's own or, for an image without one, the config's media type."""
    annotations: Mapping[str, str] = field(default_factory=dict)


def parse(content: bytes, content_type: str | None, *, values: int, depth: int) -> Manifest:
    """Read a manifest that was pushed as ``content_type`` (None: its own ``mediaType`` tells).

    ``values`` and ``depth`` limit its JSON. Raises MANIFEST_INVALID (400), naming the field.
    """
    try:
        document = jsonscan.loads(content, values=values, depth=depth)
    except ValueError as reason:
        raise _invalid(f"not acceptable JSON: {reason}") from None
    if not isinstance(document, dict):
        raise _invalid("a manifest is a JSON object")
    _check_case(document, _FIELDS, "a manifest")
    media_type = _media_type(document, content_type)
    if media_type in ARTIFACTS:
        return _parse_artifact(document, media_type)
    version = document.get("schemaVersion")
    if not isinstance(version, int) or version != 2:  # 2.0 is no int to clients that are strict
        raise _invalid("schemaVersion must be 2")
    annotations = _annotations(document)
    subject = _descriptor(document["subject"], "subject") if document.get("subject") is not None else None
    artifact_type = _text(document, "artifactType")
    if media_type in INDEXES:
        # A document that can be read as an image and as an index means different things to different clients
        # (CVE-2021-41190): image-spec says to refuse it.
        _refuse_fields(document, media_type, ("config", "layers"))
        if not isinstance(document.get("manifests"), list):
            raise _invalid("manifests must be a list of descriptors")
        members = _descriptors(document, "manifests")
        return Manifest(media_type, (), members, subject, artifact_type, annotations)
    _refuse_fields(document, media_type, ("manifests",))
    if not isinstance(document.get("config"), dict):
        raise _invalid("config must be a descriptor")
    config = _descriptor(document["config"], "config")
    blobs = (config, *_descriptors(document, "layers"))
    return Manifest(media_type, blobs, (), subject, artifact_type or config.media_type, annotations)


def _parse_artifact(document: dict[str, Any], media_type: str) -> Manifest:
    subject = _descriptor(document["subject"], "subject") if document.get("subject") is not None else None
    blobs = _descriptors(document, "blobs")
    return Manifest(media_type, blobs, (), subject, _text(document, "artifactType"), _annotations(document))


def _media_type(document: dict[str, Any], content_type: str | None) -> str:
    said = _text(document, "mediaType")
    pushed = content_type.partition(";")[0].strip() if content_type else None
    if said and pushed and said != pushed:
        raise _invalid(f"pushed as {pushed}, but its mediaType is {said}")
    media_type = pushed or said
    if media_type is None:
        # image-spec: mediaType "SHOULD be used", so its absence has to be lived with.
        media_type = OCI_INDEX if "manifests" in document else OCI_IMAGE
    if media_type.startswith(_SCHEMA_1):
        raise _invalid("Docker's schema 1 manifests are obsolete and not accepted; push with a newer client")
    if media_type not in IMAGES | INDEXES | ARTIFACTS:
        raise _invalid(f"unknown media type of a manifest: {media_type[:128]}")
    return media_type


def _check_case(document: dict[str, Any], names: Mapping[str, str], where: str) -> None:
    """Refuse a field whose name is another's but for its case.

    Go's parsers, and so most clients, take ``Layers`` for ``layers``, and others do not: what the manifest says would
    depend on who reads it.
    """
    for name in document:
        known = names.get(name.lower())
        if known is not None and known != name:
            raise _invalid(f"{where} has the field {name}: is it {known}?")


def _refuse_fields(document: dict[str, Any], media_type: str, names: tuple[str, ...]) -> None:
    for name in names:
        if document.get(name) is not None:
            raise _invalid(f"a manifest of type {media_type} cannot have {name}")


def _descriptors(document: dict[str, Any], name: str) -> tuple[Descriptor, ...]:
    entries = document.get(name)
    if entries is None:  # Go's encoders write an empty list as null
        return ()
    if not isinstance(entries, list):
        raise _invalid(f"{name} must be a list of descriptors")
    return tuple(_descriptor(entry, f"{name}[{place}]") for place, entry in enumerate(entries))


def _descriptor(entry: object, where: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise _invalid(f"{where} must be a descriptor")
    _check_case(entry, _DESCRIPTOR_FIELDS, where)
    media_type, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    if not isinstance(media_type, str) or not media_type:
        raise _invalid(f"{where}.mediaType must be a media type")
    if not isinstance(digest, str):
        raise _invalid(f"{where}.digest must be a digest")
    try:
        parsed = Digest.parse(digest)
    except ValueError as reason:
        raise _invalid(f"{where}.digest: {reason}") from None
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise _invalid(f"{where}.size must be a number of bytes")
    if entry.get("data") is not None:
        _check_data(entry["data"], parsed, size, where)
    return Descriptor(media_type, parsed, size)


def _check_data(data: object, digest: Digest, size: int, where: str) -> None:
    """Embedded content must be what digest and size say (image-spec, "Embedded Content")."""
    try:
        content = base64.b64decode(data, validate=True) if isinstance(data, str) else None
    except ValueError:  # binascii.Error is one; characters beyond ASCII are another
        content = None
    if content is None:
        raise _invalid(f"{where}.data must be base64")
    if len(content) != size or hashlib.new(digest.algorithm, content).hexdigest() != digest.hex:
        raise _invalid(f"{where}.data is not the content that its digest and size tell of")


def _annotations(document: dict[str, Any]) -> Mapping[str, str]:
    annotations = document.get("annotations")
    if annotations is None:
        return {}
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise _invalid("annotations must map texts to texts")
    return annotations


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise _invalid(f"{name} must be a text")
    return value or None


def _invalid(message: str) -> RegistryError:
    return error("MANIFEST_INVALID", message)
