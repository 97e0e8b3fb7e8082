"""A manifest is read as image-spec says, and what cannot be one is refused with the field that is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enseada.http import RegistryError
from enseada.protocols.digests import Digest
from enseada.protocols.oci import manifest
from enseada.protocols.oci.manifest import (
    DOCKER_IMAGE,
    DOCKER_LIST,
    OCI_ARTIFACT,
    OCI_IMAGE,
    OCI_INDEX,
    Descriptor,
    Manifest,
)
from tests.protocols.oci.refusals import refused

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
MIB = 1024 * 1024


def parse(document: object, content_type: str | None = None) -> Manifest:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return manifest.parse(content, content_type, values=20_000, depth=32)


def descriptor(content: bytes = b"{}", media_type: str = LAYER_TYPE, algorithm: str = "sha256") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content, algorithm)), "size": len(content)}


def read(entry: dict[str, Any]) -> Descriptor:
    return Descriptor(entry["mediaType"], Digest.parse(entry["digest"]), entry["size"])


CONFIG = descriptor(b"config", CONFIG_TYPE)
LAYER = descriptor(b"layer")
MEMBER = descriptor(b"member", OCI_IMAGE)


def image(media_type: str | None = OCI_IMAGE, **fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media_type, "config": CONFIG, "layers": [LAYER], **fields}


def index(media_type: str | None = OCI_INDEX, **fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": [MEMBER], **fields}


def artifact(**fields: Any) -> dict[str, Any]:
    return {"mediaType": OCI_ARTIFACT, "artifactType": "application/vnd.example", "blobs": [LAYER], **fields}


EVERY = {"image": image(), "docker image": image(DOCKER_IMAGE), "index": index(), "docker list": index(DOCKER_LIST)}
every = pytest.mark.parametrize("document", [*EVERY.values(), artifact()], ids=[*EVERY, "artifact"])
images = pytest.mark.parametrize("media_type", [OCI_IMAGE, DOCKER_IMAGE])
indexes = pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])


# image-spec, manifest.md, "Example Image Manifest"
EXAMPLE_IMAGE: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7",
        "size": 7023,
    },
    "layers": [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": "sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0",
            "size": 32654,
        },
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": "sha256:3c3a4604a545cdc127456d94e421cd355bca5b528f4a9c1905b15da2eb4a4c6b",
            "size": 16724,
        },
    ],
    "subject": {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": "sha256:5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270",
        "size": 7682,
    },
    "annotations": {"com.example.key1": "value1", "com.example.key2": "value2"},
}

# image-spec, image-index.md, "Example Image Index with multiple media types"
EXAMPLE_INDEX: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": 7143,
            "digest": "sha256:e692418e4cbaf90ca69d05a66403747baa33ee08806650b51fab815ad7fc331f",
            "platform": {"architecture": "ppc64le", "os": "linux"},
        },
        {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "size": 7682,
            "digest": "sha256:601570aaff1b68a61eb9c85b8beca1644e698003e0cdb5bce960f193d265a8b7",
        },
    ],
    "annotations": {"com.example.key1": "value1", "com.example.key2": "value2"},
}

# image-spec, manifest.md, "Guidelines for Artifact Usage" and "Guidance for an Empty Descriptor"
EMPTY = {
    "mediaType": "application/vnd.oci.empty.v1+json",
    "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "size": 2,
    "data": "e30=",
}


def test_the_specification_s_image() -> None:
    assert parse(EXAMPLE_IMAGE, OCI_IMAGE) == Manifest(
        OCI_IMAGE,
        blobs=tuple(map(read, [EXAMPLE_IMAGE["config"], *EXAMPLE_IMAGE["layers"]])),
        subject=read(EXAMPLE_IMAGE["subject"]),
        artifact_type=CONFIG_TYPE,
        annotations={"com.example.key1": "value1", "com.example.key2": "value2"},
    )


def test_the_specification_s_index() -> None:
    assert parse(EXAMPLE_INDEX, OCI_INDEX) == Manifest(
        OCI_INDEX,
        manifests=tuple(map(read, EXAMPLE_INDEX["manifests"])),
        annotations={"com.example.key1": "value1", "com.example.key2": "value2"},
    )


def test_the_specification_s_empty_descriptor() -> None:
    parsed = parse(image(config=EMPTY, layers=[EMPTY], artifactType="application/vnd.example+type"))
    assert parsed.blobs == (read(EMPTY), read(EMPTY))
    assert parsed.artifact_type == "application/vnd.example+type"


@every
@pytest.mark.parametrize("parameters", ["", ";charset=utf-8", " ; charset=utf-8; a=b"])
def test_media_types(document: dict[str, Any], parameters: str) -> None:
    """The type is what both say, and parameters are ignored (distribution-spec, "Pushing Manifests")."""
    media_type = document["mediaType"]
    kept = {key: value for key, value in document.items() if key != "mediaType"}
    for said, pushed in (
        (document, media_type + parameters),
        (document, None),
        (document, ""),
        (document, parameters),
        ({**document, "mediaType": None}, media_type + parameters),
        ({**document, "mediaType": ""}, media_type + parameters),
        (kept, media_type + parameters),
    ):
        parsed = parse(said, pushed)
        assert parsed.media_type == media_type
        assert parsed == parse(document)


@every
def test_media_types_that_differ(document: dict[str, Any]) -> None:
    for other in {OCI_IMAGE, OCI_INDEX, OCI_ARTIFACT, DOCKER_IMAGE, DOCKER_LIST} - {document["mediaType"]}:
        with refused(400, "MANIFEST_INVALID", f"pushed as {other}, but its mediaType is {document['mediaType']}"):
            parse(document, other)


def test_without_any_media_type_the_fields_tell() -> None:
    assert parse(image(None)).media_type == OCI_IMAGE
    assert parse(index(None)).media_type == OCI_INDEX
    assert parse(index(None, manifests=[])).media_type == OCI_INDEX


@pytest.mark.parametrize(
    "media_type",
    [
        *["application/json", "text/plain", "application/octet-stream", CONFIG_TYPE, LAYER_TYPE, OCI_IMAGE.upper()],
        *["application/vnd.oci.image.manifest.v2+json", "x" * 4096],
    ],
    ids=lambda media_type: media_type[:60],
)
def test_other_media_types(media_type: str) -> None:
    with refused(400, "MANIFEST_INVALID", f"unknown media type of a manifest: {media_type[:128]}") as caught:
        parse(image(media_type), media_type)
    assert len(caught.value.message) < 200
    with refused(400, "MANIFEST_INVALID", "unknown media type"):
        parse(image(None), media_type)


@pytest.mark.parametrize("suffix", ["json", "prettyjws"])
def test_docker_s_first_schema(suffix: str) -> None:
    with refused(400, "MANIFEST_INVALID", "schema 1"):
        parse({"schemaVersion": 1, "fsLayers": []}, f"application/vnd.docker.distribution.manifest.v1+{suffix}")


@pytest.mark.parametrize("version", [1, 3, 0, -2, "2", 2.0, 2.5, True, None, [2], {}], ids=repr)
def test_schema_versions(version: object) -> None:
    for document in EVERY.values():
        with refused(400, "MANIFEST_INVALID", "schemaVersion must be 2"):
            parse({**document, "schemaVersion": version})
        with refused(400, "MANIFEST_INVALID", "schemaVersion must be 2"):
            parse({key: value for key, value in document.items() if key != "schemaVersion"})
    assert parse(artifact(schemaVersion=version)).media_type == OCI_ARTIFACT  # which has none


# CVE-2021-41190: a document that one client reads as an image and another as an index


@images
@pytest.mark.parametrize("members", [[], [MEMBER], {}, "x", 0, False])
def test_an_image_with_members(media_type: str, members: object) -> None:
    with refused(400, "MANIFEST_INVALID", "cannot have manifests"):
        parse(image(media_type, manifests=members))
    with refused(400, "MANIFEST_INVALID", "cannot have manifests"):
        parse(image(None, manifests=members), media_type)


@indexes
@pytest.mark.parametrize("name", ["config", "layers"])
@pytest.mark.parametrize("value", [[], [LAYER], CONFIG, {}, "x", 0, False])
def test_an_index_with_a_config_or_layers(media_type: str, name: str, value: object) -> None:
    with refused(400, "MANIFEST_INVALID", f"cannot have {name}"):
        parse(index(media_type, **{name: value}))
    with refused(400, "MANIFEST_INVALID", f"cannot have {name}"):
        parse(index(None, **{name: value}))


def test_what_is_null_is_not_there() -> None:
    assert parse(image(manifests=None)) == parse(image())
    assert parse(index(config=None, layers=None)) == parse(index())
    for name in ("subject", "annotations", "artifactType"):
        assert parse(image(**{name: None})) == parse(image())
        assert parse(index(**{name: None})) == parse(index())
    for name in ("subject", "annotations"):
        assert parse(artifact(**{name: None})) == parse(artifact())


@images
def test_blobs_of_an_image(media_type: str) -> None:
    other = descriptor(b"other", algorithm="sha512")
    assert parse(image(media_type, layers=[LAYER, other, LAYER])).blobs == tuple(
        map(read, [CONFIG, LAYER, other, LAYER])
    )
    without = {key: value for key, value in image(media_type).items() if key != "layers"}
    for document in (image(media_type, layers=[]), image(media_type, layers=None), without):
        assert parse(document).blobs == (read(CONFIG),)
    assert parse(image(media_type)).manifests == ()


@images
@pytest.mark.parametrize("config", [None, [], [CONFIG], "x", 1, True])
def test_an_image_must_have_a_config(media_type: str, config: object) -> None:
    with refused(400, "MANIFEST_INVALID", "config must be a descriptor"):
        parse(image(media_type, config=config))
    with refused(400, "MANIFEST_INVALID", "config must be a descriptor"):
        parse({key: value for key, value in image(media_type).items() if key != "config"})


@images
@pytest.mark.parametrize("layers", [{}, LAYER, "x", 1, True, False, 0, ""])
def test_layers_are_a_list(media_type: str, layers: object) -> None:
    with refused(400, "MANIFEST_INVALID", "layers must be a list"):
        parse(image(media_type, layers=layers))


@indexes
def test_members_of_an_index(media_type: str) -> None:
    nested = descriptor(b"nested", OCI_INDEX, "sha512")
    parsed = parse(index(media_type, manifests=[MEMBER, nested]))
    assert parsed.manifests == (read(MEMBER), read(nested))
    assert parsed.blobs == ()
    assert parse(index(media_type, manifests=[])).manifests == ()


@indexes
@pytest.mark.parametrize("members", [None, {}, MEMBER, "x", 1, True])
def test_an_index_must_have_a_list_of_members(media_type: str, members: object) -> None:
    with refused(400, "MANIFEST_INVALID", "manifests must be a list"):
        parse(index(media_type, manifests=members))
    with refused(400, "MANIFEST_INVALID", "manifests must be a list"):
        parse({"schemaVersion": 2, "mediaType": media_type})


def test_the_artifact_manifest() -> None:
    subject = descriptor(b"subject", OCI_IMAGE)
    assert parse(artifact(subject=subject, annotations={"a": "b"})) == Manifest(
        OCI_ARTIFACT,
        blobs=(read(LAYER),),
        subject=read(subject),
        artifact_type="application/vnd.example",
        annotations={"a": "b"},
    )
    assert parse(artifact(blobs=None)).blobs == ()
    assert parse({"mediaType": OCI_ARTIFACT}) == Manifest(OCI_ARTIFACT)
    with refused(400, "MANIFEST_INVALID", "blobs must be a list"):
        parse(artifact(blobs=LAYER))


def test_the_type_of_an_artifact() -> None:
    assert parse(image(artifactType="a/b")).artifact_type == "a/b"
    assert parse(image()).artifact_type == CONFIG_TYPE
    assert parse(image(artifactType="")).artifact_type == CONFIG_TYPE
    assert parse(index(artifactType="a/b")).artifact_type == "a/b"
    assert parse(index()).artifact_type is None
    assert parse(index(artifactType="")).artifact_type is None
    assert parse(artifact(artifactType="")).artifact_type is None


@every
@pytest.mark.parametrize("name", ["artifactType", "mediaType"])
@pytest.mark.parametrize("value", [1, 0, True, False, [], {}, ["a"]], ids=repr)
def test_texts_are_texts(document: dict[str, Any], name: str, value: object) -> None:
    with refused(400, "MANIFEST_INVALID", f"{name} must be a text"):
        parse({**document, name: value}, document["mediaType"])


@every
def test_annotations(document: dict[str, Any]) -> None:
    assert parse(document).annotations == {}
    assert parse({**document, "annotations": {}}).annotations == {}
    assert parse({**document, "annotations": {"": "", "é": "ü"}}).annotations == {"": "", "é": "ü"}
    several: list[object] = [[], ["a"], "a", 0, False, {"a": 1}, {"a": None}, {"a": "b", "c": ["d"]}, {"a": {}}]
    for wrong in several:
        with refused(400, "MANIFEST_INVALID", "annotations must map texts to texts"):
            parse({**document, "annotations": wrong})


@every
def test_subjects(document: dict[str, Any]) -> None:
    assert parse(document).subject is None
    subject = descriptor(b"subject", OCI_IMAGE, "sha512")
    assert parse({**document, "subject": subject}).subject == read(subject)
    for wrong in ([], [subject], "x", 0, False, str(Digest.of(b""))):
        with refused(400, "MANIFEST_INVALID", "subject must be a descriptor"):
            parse({**document, "subject": wrong})
    with refused(400, "MANIFEST_INVALID", "subject.size"):
        parse({**document, "subject": {**subject, "size": None}})


@every
def test_custom_fields_are_nobody_s_business(document: dict[str, Any]) -> None:
    custom = {"org.example": [1.5, -0.0, 1e300, None, {"a": [[]]}], "x": 10**300, "": {"digest": 1}}
    assert parse({**document, **custom}) == parse(document)


@pytest.mark.parametrize(
    "media_type",
    [
        *[
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
        ],
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ],
)
def test_layers_that_may_be_absent(media_type: str) -> None:
    layer = {**descriptor(media_type=media_type), "urls": ["https://example.org/layer"]}
    assert [blob.distributable for blob in parse(image(layers=[layer, LAYER])).blobs] == [True, False, True]


@pytest.mark.parametrize(
    "media_type",
    [
        *[CONFIG_TYPE, LAYER_TYPE, EMPTY_TYPE, OCI_IMAGE, "application/vnd.docker.image.rootfs.diff.tar.gzip"],
        *["application/vnd.oci.image.layer.v1.tar+zstd", "x/application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"],
        *["application/vnd.oci.image.layer.nondistributable", "application/vnd.oci.image.layer.nondistributablex"],
    ],
)
def test_layers_that_may_not(media_type: str) -> None:
    assert parse(image(layers=[descriptor(media_type=media_type)])).blobs[1].distributable


# Descriptors

PLACES: dict[str, Any] = {
    "config": lambda entry: image(config=entry),
    "layers[1]": lambda entry: image(layers=[LAYER, entry]),
    "manifests[0]": lambda entry: index(manifests=[entry, MEMBER]),
    "blobs[2]": lambda entry: artifact(blobs=[LAYER, LAYER, entry]),
    "subject": lambda entry: index(subject=entry),
}
MISSING = object()
NO_SIZES: list[object] = [MISSING, None, -1, 2**63, 10**300, True, False, "2", 2.0, 1e300, [], {}]
HEX = "0" * 64


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        *[("mediaType", value, "must be a media type") for value in (MISSING, None, "", 1, True, [], {})],
        *[("digest", value, "must be a digest") for value in (MISSING, None, 1, True, [], {})],
        ("digest", "sha256:" + "0" * 250, "is not a digest"),
        *[("digest", value, "is not a digest") for value in ("", "x", f"sha256:{HEX}0", "sha256:" + "A" * 64)],
        *[("digest", value, "is not supported") for value in ("md5:" + "0" * 32, f"blake3:{HEX}")],
        *[("size", value, "must be a number of bytes") for value in NO_SIZES],
    ],
)
def test_descriptors_of_every_wrong_shape(place: str, field: str, value: object, says: str) -> None:
    entry = {key: kept for key, kept in {**descriptor(), field: value}.items() if kept is not MISSING}
    with refused(400, "MANIFEST_INVALID", says) as caught:
        parse(PLACES[place](entry))
    assert caught.value.message.startswith(f"{place}.{field}")
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("place", ["layers[1]", "manifests[0]", "blobs[2]", "subject"])
@pytest.mark.parametrize("entry", ["x", 1, True, [], [LAYER]])
def test_what_is_no_descriptor(place: str, entry: object) -> None:
    with refused(400, "MANIFEST_INVALID", f"{place} must be a descriptor"):
        parse(PLACES[place](entry))


def test_null_in_a_list_is_no_descriptor() -> None:
    for name in ("layers", "manifests", "blobs"):
        document = {"layers": image, "manifests": index, "blobs": artifact}[name](**{name: [None]})
        with refused(400, "MANIFEST_INVALID", f"{name}[0] must be a descriptor"):
            parse(document)


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**53 + 1, 2**63 - 1])
def test_sizes(size: int) -> None:
    assert parse(image(layers=[{**LAYER, "size": size}])).blobs[1].size == size


FIELDS = [
    *["mediaType", "digest", "size", "data", "config", "layers", "manifests", "subject", "blobs", "annotations"],
    *["artifactType", "schemaVersion"],
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from([OCI_IMAGE, OCI_INDEX, OCI_ARTIFACT, DOCKER_LIST, LAYER["digest"], 2]),
    lambda of: (
        st.lists(of, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), of, max_size=6)
    ),
    max_leaves=10,
)
good_descriptors = st.builds(
    descriptor, st.binary(max_size=8), st.sampled_from([LAYER_TYPE, OCI_IMAGE]), st.sampled_from(["sha256", "sha512"])
)
nearly = st.sampled_from([image(), index(), artifact(), image(None), index(None)])


def known(document: Any) -> bool:
    """Whether a document is a manifest, by a naive reading of the rules."""
    if not isinstance(document, dict):
        return False
    said = document.get("mediaType")
    if said in (None, ""):
        said = OCI_INDEX if "manifests" in document else OCI_IMAGE
    fields = {name: document.get(name) for name in ("config", "layers", "manifests", "blobs", "subject")}
    lists = {name: value for name, value in fields.items() if name in ("layers", "manifests", "blobs")}
    version = document.get("schemaVersion")
    annotations = document.get("annotations")
    common = (
        isinstance(document.get("artifactType"), str | None)
        and (
            annotations is None
            or (isinstance(annotations, dict) and all(isinstance(v, str) for v in annotations.values()))
        )
        and (fields["subject"] is None or described(fields["subject"]))
    )
    if said == OCI_ARTIFACT:
        return common and listed(lists["blobs"])
    if type(version) is not int or version != 2:
        return False
    if said in (OCI_IMAGE, DOCKER_IMAGE):
        return common and described(fields["config"]) and listed(lists["layers"]) and lists["manifests"] is None
    if said in (OCI_INDEX, DOCKER_LIST):
        none = fields["config"] is None and lists["layers"] is None
        return common and none and lists["manifests"] is not None and listed(lists["manifests"])
    return False


def listed(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(described, value)))


def described(entry: Any) -> bool:
    if not isinstance(entry, dict) or type(entry.get("size")) is not int or not 0 <= entry["size"] < 2**63:
        return False
    if (
        not isinstance(entry.get("mediaType"), str)
        or entry["mediaType"] == ""
        or not isinstance(entry.get("digest"), str)
    ):
        return False
    algorithm, _, encoded = entry["digest"].partition(":")
    if {"sha256": 64, "sha512": 128}.get(algorithm) != len(encoded) or not set(encoded) <= set("0123456789abcdef"):
        return False
    if entry.get("data") is None:
        return True
    try:
        content = base64.b64decode(entry["data"].encode("ascii"), validate=True)
    except (AttributeError, ValueError):
        return False
    return bool(len(content) == entry["size"] and hashlib.new(algorithm, content).hexdigest() == encoded)


@settings(max_examples=400, deadline=None)
@given(json_values)
@example({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": {**LAYER, "data": "é"}})
def test_any_json_is_a_manifest_exactly_if_the_rules_say_so(document: Any) -> None:
    check(document)


@settings(max_examples=500, deadline=None)
@given(nearly, st.data())
def test_a_manifest_with_any_one_thing_changed(document: dict[str, Any], data: st.DataObject) -> None:
    changed: dict[str, Any] = json.loads(json.dumps(document))
    name = data.draw(st.sampled_from([*changed, "subject", "annotations", "artifactType", "manifests", "layers"]))
    holder, field = changed, name
    inner = changed.get(name)
    if isinstance(inner, list) and inner and data.draw(st.booleans()):
        inner = inner[0]
    if isinstance(inner, dict) and data.draw(st.booleans()):
        holder, field = inner, data.draw(st.sampled_from(["mediaType", "digest", "size", "data"]))
    holder[field] = data.draw(json_values | good_descriptors | st.lists(good_descriptors, max_size=2))
    check(changed)


def check(document: Any) -> None:
    try:
        parsed = parse(document)
    except RegistryError as refusal:
        assert not known(document), refusal.message  # noqa: PT017 (either outcome may be right)
        assert (refusal.status, refusal.code) == (400, "MANIFEST_INVALID")  # noqa: PT017
    else:
        assert known(document)
        assert parsed.media_type in (OCI_IMAGE, OCI_INDEX, OCI_ARTIFACT, DOCKER_IMAGE, DOCKER_LIST)


# Embedded content (image-spec, descriptor.md)


@given(st.binary(max_size=100), st.sampled_from(["sha256", "sha512"]))
@example(b"", "sha256")
@example(b"{}", "sha256")
def test_embedded_content(content: bytes, algorithm: str) -> None:
    entry = {**descriptor(content, algorithm=algorithm), "data": base64.b64encode(content).decode()}
    assert parse(image(layers=[entry])).blobs[1] == read(entry)


@pytest.mark.parametrize("place", PLACES)
def test_embedded_content_that_is_not_what_it_says(place: str) -> None:
    for content, size in ((b"{ ", 2), (b"{}", 3), (b"{} ", 2), (b"", 2), (b"{}{}", 2)):
        entry = {**descriptor(), "size": size, "data": base64.b64encode(content).decode()}
        with refused(400, "MANIFEST_INVALID", f"{place}.data is not the content"):
            parse(PLACES[place](entry))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "data",
    ["e30", "e30==", "e3 0=", "e30=\n", "e30=x", "e30=e30=", "=", "{}", "é30=", "e30_", "\U0001f600", 1, True, [], {}],
)
def test_embedded_content_that_is_not_base64(place: str, data: object) -> None:
    with refused(400, "MANIFEST_INVALID", f"{place}.data must be base64"):
        parse(PLACES[place]({**descriptor(), "data": data}))


def test_null_for_embedded_content_is_none() -> None:
    assert parse(image(layers=[{**LAYER, "data": None}])).blobs[1] == read(LAYER)


# JSON


@pytest.mark.parametrize("text", [b"[]", b"null", b'"x"', b"1", b"true", b"[{}]"])
def test_a_manifest_is_an_object(text: bytes) -> None:
    with refused(400, "MANIFEST_INVALID", "a JSON object"):
        parse(text, OCI_IMAGE)


def spliced(addition: bytes) -> bytes:
    """An image, with some text among its fields."""
    return b"{" + addition + json.dumps(image()).encode()[1:]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (json.dumps(image()).encode()[:-1], "Expecting"),
        (json.dumps(image()).encode() + b"{}", "Extra data"),
        (b"\xef\xbb\xbf" + json.dumps(image()).encode(), "BOM"),
        (json.dumps(image()).encode("utf-16"), "not UTF-8 at byte 0"),
        (spliced(b'"x":"\xff",'), "not UTF-8 at byte 6"),
        (spliced(b'"x":NaN,'), "NaN is not JSON"),
        (spliced(b'"x":[-Infinity],'), "-Infinity is not JSON"),
        (spliced(b'"x":"\\ud800",'), "surrogate"),
        (spliced(b'"annotations":{"a":"\\udc00"},'), "surrogate"),
        (spliced(b'"layers":[],'), "'layers' stands twice"),
        (spliced(b'"annotations":{"a":"b","a":"c"},'), "'a' stands twice"),
        (spliced(b'"x":' + b"1" * 5000 + b","), "digits"),
        (spliced(b'"x":' + b"[" * 32 + b"]" * 32 + b","), "nested deeper than 32 levels"),
        (spliced(b'"x":[' + b",".join([b"0"] * 20_001) + b"],"), "more than 20000 values"),
        (spliced(b"," * 20_001), "more than 20000 values"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_json_that_is_not_acceptable(text: bytes, says: str) -> None:
    with refused(400, "MANIFEST_INVALID", "not acceptable JSON") as caught:
        parse(text, OCI_IMAGE)
    assert says in caught.value.message
    assert len(caught.value.message) < 300


def test_the_limits_are_those_given() -> None:
    content = json.dumps(image()).encode()  # the root; four fields; config's three; layers' one, and its three
    assert manifest.parse(content, None, values=12, depth=3).media_type == OCI_IMAGE
    with refused(400, "MANIFEST_INVALID", "more than 11 values"):
        manifest.parse(content, None, values=11, depth=3)
    with refused(400, "MANIFEST_INVALID", "nested deeper than 2 levels"):
        manifest.parse(content, None, values=12, depth=2)


def test_as_many_values_and_levels_as_may_be() -> None:
    deep = b'"deep":' + b"[" * 31 + b"]" * 31 + b","
    many = b'"many":[' + b",".join([b"0"] * (20_000 - 12 - 1 - 31 - 1)) + b"],"
    assert parse(spliced(deep + many)) == parse(image())
    with refused(400, "MANIFEST_INVALID", "more than 20000 values"):
        parse(spliced(deep + many + b'"":0,'))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.none() | st.sampled_from([OCI_IMAGE, OCI_INDEX, OCI_ARTIFACT]) | st.text())
def test_any_bytes_are_refused_as_an_invalid_manifest(content: bytes, content_type: str | None) -> None:
    with refused(400, "MANIFEST_INVALID"):
        parse(content, content_type)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*EVERY.values(), artifact()]), st.data())
def test_any_byte_of_a_manifest_changed_is_a_manifest_or_refused(document: dict[str, Any], data: st.DataObject) -> None:
    content = bytearray(json.dumps(document).encode())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=2))
    try:
        parsed = parse(bytes(content))
    except RegistryError as refusal:
        assert (refusal.status, refusal.code) == (400, "MANIFEST_INVALID")  # noqa: PT017 (either outcome may be right)
    else:
        assert parsed == parse(json.loads(content))


HOSTILE = {
    "brackets": b"[" * 4 * MIB,
    "quotes": b'"' * 4 * MIB,
    "escaped quotes": b'"' + b'\\"' * (2 * MIB - 1),
    "objects": b'{"a":' * (4 * MIB // 5),
    "a digest": json.dumps(image(layers=[{**LAYER, "digest": "a+" * 2_000_000}])).encode(),
    "a digest that has no end": json.dumps(image(layers=[{**LAYER, "digest": "a" * 4_000_000}])).encode(),
    "embedded content": json.dumps(image(layers=[{**LAYER, "data": "A" * 4_000_000}])).encode(),
    "embedded nonsense": json.dumps(image(layers=[{**LAYER, "data": "-" * 4_000_000}])).encode(),
    "a media type": json.dumps(image("x" * 4_000_000)).encode(),
    "a key, twice": b'{"%b":1,"%b":1}' % (b"k" * 2_000_000, b"k" * 2_000_000),
    "a number": b'{"size":' + b"1" * 4_000_000 + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_four_hostile_megabytes(name: str) -> None:
    """Time, memory and the answer stay small: the text decoded, a copy or two of it, and no more."""
    content = HOSTILE[name]
    assert len(content) <= 4 * MIB
    started = time.perf_counter()
    with refused(400, "MANIFEST_INVALID") as caught:
        parse(content)
    assert time.perf_counter() - started < 2
    assert len(caught.value.message) < 300
    tracemalloc.start()
    try:
        with refused(400, "MANIFEST_INVALID"):
            parse(content)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(content)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "known"),
    [("Layers", "layers"), ("LAYERS", "layers"), ("Config", "config"), ("MediaType", "mediaType")],
)
def test_a_field_that_differs_from_a_known_one_in_case(field: str, known: str) -> None:
    """Go's parsers do not look at the case: what such a manifest says depends on who reads it."""
    document = {"schemaVersion": 2, "manifests": [], field: []}
    with refused(400, "MANIFEST_INVALID", f"{field}: is it {known}"):
        parse(document, OCI_INDEX)


def test_a_descriptors_field_that_differs_in_case() -> None:
    entry = {"mediaType": OCI_IMAGE, "digest": f"sha256:{'a' * 64}", "size": 1, "Digest": f"sha256:{'b' * 64}"}
    document = {"schemaVersion": 2, "manifests": [entry]}
    with refused(400, "MANIFEST_INVALID", "Digest: is it digest"):
        parse(document, OCI_INDEX)
