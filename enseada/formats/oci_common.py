"""What the OCI handlers share: the ids of their documents, and the form of their answers.

The documents, one a fact (CLUSTER: ranges list them, nothing is decided by a range):

    repository:oci:<repository>                       a repository and its policy
    oci-image:<name>                                  a name under which a manifest was pushed
    oci-link:<digest>@<name>                          that name has that blob
    oci-manifest:<name>@<digest>                      that name has that manifest
    oci-manifest-content:<digest>                     a manifest's bytes if they are few; else they are a blob
    oci-manifest-link:<digest>@<name>                 that name needs them: the sweeper asks for it by its id
    oci-tag:<name>:<tag>                              which manifest the tag is on
    oci-referrer:<name>@<subject>@<digest>            that manifest names that subject

No name, tag or digest can hold a separator that would make two ids one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enseada.http import Headers, Response, unavailable
from enseada.protocols.oci import errors, names
from enseada.storage.documents.base import Conflict, Document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from enseada.blobs import Blobs
    from enseada.http import ResponseBody
    from enseada.limits import Limits
    from enseada.protocols.digests import Digest
    from enseada.storage.documents.base import DocumentStore
    from enseada.uploads import Uploads

_ALWAYS = ((b"docker-distribution-api-version", b"registry/2.0"), (b"x-content-type-options", b"nosniff"))
TRIES = 8
"""Times that something is done again that somebody else was faster with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OCIStores:
    """What the handlers work on."""

    documents: DocumentStore
    blobs: Blobs
    uploads: Uploads
    limits: Limits
    upload_secret: bytes
    """Signs the ids of upload sessions; the same for all processes of a registry."""
    create_on_push: bool
    """Whether a push by one who may makes the repository that it needs."""
    clock: Callable[[], float]
    """Seconds since 1970."""


def repository_id(name: str) -> str:
    return f"repository:oci:{names.repository_of(name)}"


def image_id(name: str) -> str:
    return f"oci-image:{name}"


def link_id(name: str, digest: Digest) -> str:
    """Digest first: who has a blob is asked when it is mounted from anywhere, and when it is collected."""
    return f"oci-link:{digest}@{name}"


def manifest_id(name: str, digest: Digest | str) -> str:
    return f"oci-manifest:{name}@{digest}"


def content_id(digest: Digest) -> str:
    return f"oci-manifest-content:{digest}"


def manifest_link_id(name: str, digest: Digest) -> str:
    """Digest first, as in `link_id`. It is no such link: by that one a name would have the manifest as a blob."""
    return f"oci-manifest-link:{digest}@{name}"


def tag_id(name: str, tag: str) -> str:
    return f"oci-tag:{name}:{tag}"


def referrer_id(name: str, subject: Digest, digest: Digest | str) -> str:
    """With "" for the digest: what all referrers' ids begin with."""
    return f"oci-referrer:{name}@{subject}@{digest}"


def repository_document(name: str) -> Document:
    """The repository that a first push makes."""
    data = {"format": "oci", "name": names.repository_of(name), "visibility": "private", "policy": {}}
    return Document(repository_id(name), data)


def link_document(stores: OCIStores, name: str, digest: Digest) -> Document:
    """That ``name`` has the blob ``digest``, since now."""
    return Document(link_id(name, digest), {"created": int(stores.clock())})


async def check_repository(stores: OCIStores, name: str) -> None:
    """Raise NAME_UNKNOWN (404) if a push to ``name`` needs a repository that is not there and may not be made."""
    if not stores.create_on_push and await stores.documents.get(repository_id(name)) is None:
        repository = names.repository_of(name)
        raise errors.error(
            "NAME_UNKNOWN", f"there is no repository {repository}, and pushing does not make one here", {"name": name}
        )


async def delete_found(documents: DocumentStore, find: Callable[[], Awaitable[Document]]) -> Document:
    """Delete what ``find`` finds, also if others change it meanwhile; return what was deleted.

    Raises what ``find`` raises when there is nothing, and 503 when others never stop changing it.
    """
    for _ in range(TRIES):
        document = await find()
        with suppress(Conflict):
            await documents.delete(document)
            return document
    raise unavailable("others keep changing it")


def reply(
    status: int,
    fields: Iterable[tuple[str, str]] = (),
    body: ResponseBody = b"",
    content_type: str | None = None,
    *,
    length: int | None = None,
) -> Response:
    """An answer, with what is in every answer of this format."""
    headers = Headers.of(fields)
    headers.raw += _ALWAYS
    if content_type is not None:
        headers.add("Content-Type", content_type)
    return Response(status, headers, body, length)
