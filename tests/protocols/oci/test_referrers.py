"""The list of referrers is made as distribution-spec 1.1, "Listing Referrers", says."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from enseada.protocols.digests import Digest
from enseada.protocols.oci import manifest, referrers
from enseada.protocols.oci.manifest import DOCKER_IMAGE, OCI_IMAGE, OCI_INDEX

SUBJECT = {"mediaType": OCI_IMAGE, "digest": str(Digest.of(b"subject")), "size": 7}
CONFIG = {"mediaType": "application/vnd.example.config.v1+json", "digest": str(Digest.of(b"{}")), "size": 2}


def entry(**fields: Any) -> dict[str, Any]:
    """What is listed for a manifest with those fields beside its subject."""
    document = {"schemaVersion": 2, "mediaType": OCI_IMAGE, "subject": SUBJECT, **fields}
    content = json.dumps(document).encode()
    parsed = manifest.parse(content, document["mediaType"], values=1000, depth=10)
    return referrers.entry(parsed, Digest.of(content), len(content))


def test_an_image_with_a_type_and_annotations() -> None:
    parsed = manifest.Manifest(
        OCI_IMAGE, artifact_type="application/vnd.example.sbom.v1", annotations={"org.example.sbom.format": "json"}
    )
    digest = Digest.of(b"sbom", "sha512")
    assert referrers.entry(parsed, digest, 1234) == {
        "mediaType": OCI_IMAGE,
        "size": 1234,
        "digest": str(digest),
        "artifactType": "application/vnd.example.sbom.v1",
        "annotations": {"org.example.sbom.format": "json"},
    }


def test_the_type_of_an_image_is_its_config_s_unless_it_says_one() -> None:
    assert entry(config=CONFIG)["artifactType"] == CONFIG["mediaType"]
    assert entry(config=CONFIG, artifactType="")["artifactType"] == CONFIG["mediaType"]
    assert entry(config=CONFIG, artifactType=None)["artifactType"] == CONFIG["mediaType"]
    assert entry(config=CONFIG, artifactType="a/b")["artifactType"] == "a/b"
    assert entry(mediaType=DOCKER_IMAGE, config=CONFIG)["artifactType"] == CONFIG["mediaType"]


def test_an_index_has_a_type_only_if_it_says_one() -> None:
    assert "artifactType" not in entry(mediaType=OCI_INDEX, manifests=[])
    assert "artifactType" not in entry(mediaType=OCI_INDEX, manifests=[], artifactType="")
    assert entry(mediaType=OCI_INDEX, manifests=[], artifactType="a/b")["artifactType"] == "a/b"


def test_annotations_are_copied() -> None:
    assert "annotations" not in entry(config=CONFIG)
    parsed = manifest.Manifest(OCI_IMAGE, annotations={"a": "b"})
    listed = referrers.entry(parsed, Digest.of(b""), 0)
    listed["annotations"]["a"] = "c"
    assert parsed.annotations == {"a": "b"}


def test_the_index_of_none() -> None:
    assert json.loads(referrers.index([])) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.binary(), st.text(), st.dictionaries(st.text(), st.text(), max_size=3)), max_size=4))
def test_an_index_of_any_is_a_manifest_that_names_them(pushed: list[tuple[bytes, str, dict[str, str]]]) -> None:
    entries = [
        referrers.entry(
            manifest.Manifest(OCI_IMAGE, artifact_type=artifact_type, annotations=annotations),
            Digest.of(content),
            len(content),
        )
        for content, artifact_type, annotations in pushed
    ]
    content = referrers.index(iter(entries))
    assert json.loads(content)["manifests"] == entries
    listed = manifest.parse(content, OCI_INDEX, values=1000, depth=10)
    assert [(each.media_type, each.digest, each.size) for each in listed.manifests] == [
        (OCI_IMAGE, Digest.of(each), len(each)) for each, _, _ in pushed
    ]
