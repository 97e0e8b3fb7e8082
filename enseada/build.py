"""From settings to a running registry: opens the data folder, makes what a first start needs, puts the parts together.

What fails here fails before anything is served, with a sentence for people (`StartError`).
"""

from __future__ import annotations

import base64
import logging
import secrets
import time
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from enseada.auth.documents import UnusableDocument
from enseada.datafolder import hold
from enseada.starterror import StartError
from enseada.storage.documents.base import DocumentError
from enseada.storage.documents.once import get_or_create_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from enseada.app import Application
    from enseada.auth.policy import Authorizer
    from enseada.config import Settings
    from enseada.storage.blobs.base import BlobStore
    from enseada.storage.documents.base import DocumentStore

_log = logging.getLogger(__name__)

UPLOAD_SECRET_ID = "secret:uploads"
_SECRET_BYTES = 32
CLOSE_TIMEOUT = 30.0
"""Seconds for closing a store behind a shield: it may have to wait for the disk."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A registry whose stores are open, and the password of ``admin`` if one was made."""

    registry: Application
    admin_password: str | None


@asynccontextmanager
async def open_data(settings: Settings) -> AsyncIterator[Opened]:
    """The registry that keeps everything in the folder ``settings.data``: SQLite and the local disk.

    Raises StartError: the folder cannot be used, or another server has it.
    """
    async with open_stores(settings) as (documents, store):
        yield await start_registry(settings, documents, store)


@asynccontextmanager
async def open_stores(
    settings: Settings, *, held: bool = False, most_dirty: int | None = None
) -> AsyncIterator[tuple[DocumentStore, BlobStore]]:
    """The stores in the folder ``settings.data``, which is ours alone while the block runs. Raises StartError.

    ``held``: it is ours already. ``most_dirty``: see `LocalStore`; None is the whole budget.
    """
    from enseada.storage.blobs.base import BlobUnavailable
    from enseada.storage.blobs.local import LocalStore
    from enseada.storage.blobs.localwriter import DIRTY_BYTES
    from enseada.storage.documents.sqlite import SQLiteStore
    from enseada.storage.documents.sqlitefile import UnusableFile

    with nullcontext() if held else hold(settings):
        try:
            documents = await SQLiteStore.open(settings.documents_path)
        except (UnusableFile, OSError) as reason:
            raise StartError(f"the documents in {settings.documents_path} cannot be opened: {reason}") from reason
        try:
            try:
                store = await LocalStore.at(settings.blobs_path, most_dirty=most_dirty or DIRTY_BYTES)
            except BlobUnavailable as reason:
                raise StartError(str(reason)) from reason
            try:
                yield documents, store
            finally:
                with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    await store.aclose()
        finally:
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await documents.aclose()


async def start_registry(settings: Settings, documents: DocumentStore, store: BlobStore) -> Opened:
    """As `open_registry`, at the start of a server: stores that cannot be used are a StartError."""
    try:
        return await open_registry(settings, documents, store)
    except UnusableDocument as reason:
        raise StartError(
            f"the document {reason.id} in {settings.documents_path} cannot be used: {reason.why}; "
            "was it written by a newer release?"
        ) from reason
    except DocumentError as reason:
        raise StartError(
            f"the documents in {settings.documents_path} can be opened, and not used: {reason}"
        ) from reason


async def open_registry(
    settings: Settings, documents: DocumentStore, store: BlobStore, authorizer: Authorizer | None = None
) -> Opened:
    """Put a registry together over stores that are open; makes ``admin`` and the keys at the first start.

    ``authorizer``: who may do what; None: as the settings say. Raises what ``documents`` raises.
    """
    from enseada.app import Application
    from enseada.auth.accounts import Accounts
    from enseada.auth.authenticate import Authenticator
    from enseada.auth.policy import Authorizer
    from enseada.auth.tokens import TokenSigner
    from enseada.blobs import Blobs
    from enseada.formats.docker_token import TokenEndpoint
    from enseada.formats.oci import OCI
    from enseada.formats.oci_common import OCIStores
    from enseada.protocols import digests
    from enseada.uploads import UploadPolicy, Uploads

    accounts = Accounts(documents, settings)
    signer = await TokenSigner.load(documents, settings.token_service)
    authenticator = Authenticator(accounts, signer)
    if authorizer is None:
        authorizer = Authorizer(settings.anonymous)
    blobs = Blobs(documents, store)
    policy = UploadPolicy(
        save_bytes=settings.save_bytes,
        save_idle_bytes=settings.save_idle_bytes,
        save_interval=settings.save_interval,
        lease_time=settings.lease_time,
        expiry=settings.upload_expiry,
        limit=settings.max_blob_bytes,
        resumable_hash=settings.resumable_hash == "auto",
    )
    uploads = Uploads(documents, blobs, policy)
    if policy.resumable_hash and not all(digests.resumable(algorithm) for algorithm in digests.OCI_ALGORITHMS):
        _log.warning("this Python cannot save the state of a hash: resumed uploads will be read again")
    stores = OCIStores(
        documents=documents,
        blobs=blobs,
        uploads=uploads,
        limits=settings.limits,
        upload_secret=await _secret(documents, UPLOAD_SECRET_ID),
        create_on_push=settings.create_on_push,
        clock=time.time,
    )
    tokens = TokenEndpoint(authenticator, authorizer, signer, settings)
    # Last, since whoever made the account must live to tell its password.
    given = settings.admin_password
    made = await accounts.ensure_admin(None if given is None else given.value)
    formats = [OCI(stores, authorizer, tokens)]
    return Opened(Application(formats, authenticator, authorizer, uploads, settings.public_url), made)


async def _secret(documents: DocumentStore, id: str) -> bytes:
    """Random bytes, made at the first start and the same for every process. Raises UnusableDocument."""

    async def make() -> dict[str, str]:
        return {"secret": base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode("ascii")}

    document, _ = await get_or_create_once(documents, id, make)
    try:
        secret = base64.b64decode(document.data["secret"], validate=True)
    except (KeyError, TypeError, ValueError):
        secret = b""
    if len(secret) != _SECRET_BYTES:
        raise UnusableDocument(id, "it is not what this release expects")
    return secret
