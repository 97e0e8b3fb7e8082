"""Accounts: who there is, and whether a password is right.

One rule: an account is asked of the document store at every use, and only that a password was right for one revision
of it is remembered. An account that was changed, disabled or deleted is so from the next request on.

An account is the document ``user:<name>``. A verification costs tens of milliseconds and megabytes by intent
(argon2id, RFC 9106), so it is done in a thread, few at a time, once for all who show the same secret meanwhile, and
what cannot wait is refused. Unknown, disabled and passwordless accounts cost what `ADMIN` does. A password whose hash
was made by other settings is hashed again at its next right login, by today's.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
import time
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec

from enseada.auth.documents import read_as
from enseada.auth.policy import Subject
from enseada.config import MAX_PASSWORD_BYTES
from enseada.http import unavailable
from enseada.storage.documents.base import Document, DocumentError
from enseada.storage.documents.once import get_or_create_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from argon2 import PasswordHasher

    from enseada.config import Settings
    from enseada.storage.documents.base import DocumentStore

ADMIN = "admin"
MAX_NAME_LENGTH = 64
"""Characters of an account's name."""
REMEMBERED = 4096
"""Right passwords that are remembered; above it the one unused the longest is forgotten."""
MADE_PASSWORD_LENGTH = 20
"""Characters of a password that we make: 116 bits."""

_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without what looks alike
_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_NAME_REST = _NAME_FIRST | frozenset("._@+-")
_COSTS = re.compile(r"\$argon2id\$v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+(?=\$)")  # a PHC string, up to its salt

log = logging.getLogger("enseada.auth")


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What the document ``user:<name>`` says."""

    name: str
    admin: bool = False
    disabled: bool = False
    password: str | None = None
    """In the PHC string format; None: nobody can log in with a password."""
    generation: str = ""
    """Random, and new with every change of the credentials: tokens carry it. A hash made anew is no change."""


@dataclass(slots=True)
class _Flight:
    """A verification under way, and its answer once there is one."""

    done: anyio.Event
    right: bool | None = None


def normalise(name: str) -> str | None:
    """The account's name that was meant by what a client sent, or None if no account can have such a name."""
    if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isascii():
        return None
    name = name.lower()
    return name if name[0] in _NAME_FIRST and _NAME_REST.issuperset(name) else None


def document_id(name: str) -> str:
    """The id of the document of the account with that (normalised) name."""
    return f"user:{name}"


class Accounts:
    """The accounts of one document store. For one event loop; what it remembers ends with the process."""

    def __init__(
        self, documents: DocumentStore, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` gives monotonic seconds, for how long a right password is remembered."""
        self._documents = documents
        self._settings = settings
        self._clock = clock
        self._limiter = anyio.CapacityLimiter(settings.password_workers)
        self._under_way = 0
        self._flights: dict[bytes, _Flight] = {}
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        self._key = secrets.token_bytes(32)
        self._hasher: PasswordHasher | None = None

    async def ensure_admin(self, password: str | None) -> str | None:
        """Make the account ``admin`` if there is none; return its password if it had to be made up.

        ``password`` counts at the first start only, so that one left in the environment never undoes a change. Of
        several processes that start at once, one makes the account. Raises UnusableDocument, Conflict, Unavailable and
        Unknown. Cancelled: the account may be there, with a password that nobody saw, if none was given.
        """
        chosen = password
        if chosen is None:
            chosen = "".join(secrets.choice(_ALPHABET) for _ in range(MADE_PASSWORD_LENGTH))

        async def account() -> Mapping[str, Any]:
            hashed, generation = await self.hash(chosen), secrets.token_hex(8)
            made: dict[str, Any] = msgspec.to_builtins(
                Account(name=ADMIN, admin=True, password=hashed, generation=generation)
            )
            return made

        document, is_ours = await get_or_create_once(self._documents, document_id(ADMIN), account)
        read_as(document, Account)
        if not is_ours and password is not None:
            log.info("the account %s exists, so the password given for its first start was ignored", ADMIN)
        return chosen if is_ours and password is None else None

    async def hash(self, password: str) -> str:
        """The argon2id hash of a new password, by today's settings. Raises ValueError for one that is too long."""
        secret = _encode(password)
        if secret is None:
            raise ValueError(f"a password is UTF-8 and no longer than {MAX_PASSWORD_BYTES} bytes")
        return await anyio.to_thread.run_sync(partial(self._argon2, secret), limiter=self._limiter)

    async def lookup(self, name: str) -> Subject | None:
        """The subject of an account that exists and is not disabled, as of now, by its exact name.

        Raises UnusableDocument and Unavailable.
        """
        document = await self._documents.get(document_id(name))
        return None if document is None else _subject(read_as(document, Account))

    async def known(self, name: str) -> str | None:
        """The name of the account that a client meant by ``name``, disabled or not; None if there is none.

        For logs: a name that no account has may be a password in the wrong field. Raises Unavailable.
        """
        known = normalise(name)
        if known is None or await self._documents.get(document_id(known)) is None:
            return None
        return known

    async def verify(self, name: str, password: str) -> Subject | None:
        """The subject whose name and password these are, or None.

        Raises RegistryError (503) when too many wait already, and what the document store raises. Cancelled while the
        password is being verified: returns when that is done; others who wait for the same answer still get it.
        """
        secret = _encode(password)
        if secret is None:
            return None  # for every name alike, so its cost tells nothing
        known = normalise(name)
        who = name if known is None else known
        while True:
            document = await self._documents.get(document_id(known)) if known is not None else None
            account = None if document is None else read_as(document, Account)
            rev = "" if document is None else document.rev or ""
            digest = self._digest(who, rev, secret)
            if not self._remembers(digest):
                # A disabled account's password is not looked at, lest it be remembered and answered faster.
                stored = None if account is None or account.disabled else account.password
                # Read for every name alike, so that this tells nothing either.
                dummy = self._unmatchable(await self._documents.get(document_id(ADMIN)))
                right, fresh = await self._verify_once(digest, secret, stored or dummy)
                if not right:
                    return None
                # It took a while: what was right then may be a changed or disabled account by now.
                newer = await self._documents.get(document_id(known)) if known is not None else None
                if newer is None or newer.rev != rev:
                    continue
                if fresh is not None:
                    newer = await self._replace_hash(newer, fresh)
                    digest = self._digest(who, newer.rev or "", secret)
                self._remember(digest)
            return None if account is None else _subject(account)

    def _digest(self, name: str, rev: str, secret: bytes) -> bytes:
        """Names a secret without holding it: useless outside this process, and void once the account's revision is."""
        keyed = hashlib.blake2b(key=self._key, digest_size=32)
        for part in (name.encode("utf-8", "surrogatepass"), rev.encode(), secret):
            keyed.update(len(part).to_bytes(4, "big"))
            keyed.update(part)
        return keyed.digest()

    def _remembers(self, digest: bytes) -> bool:
        until = self._remembered.get(digest)
        if until is None:
            return False
        if until <= self._clock():
            del self._remembered[digest]
            return False
        self._remembered.move_to_end(digest)
        return True

    def _remember(self, digest: bytes) -> None:
        self._remembered[digest] = self._clock() + self._settings.password_memory
        self._remembered.move_to_end(digest)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)

    async def _replace_hash(self, document: Document, fresh: str) -> Document:
        """Store an account with a hash made anew; return it as it is now. Nothing depends on whether it succeeds."""
        try:
            data = {**document.data, "password": fresh}
            stored = await self._documents.put(Document(document.id, data, document.rev))
        except DocumentError as failure:
            # Also Conflict: somebody changed the account meanwhile, or did the same. A later login tries again.
            log.info("a hash by today's settings was not stored: %s", failure)
            return document
        log.info("the password of %s was hashed again, by today's settings", document.id)
        return stored

    async def _verify_once(self, digest: bytes, secret: bytes, stored: str) -> tuple[bool, str | None]:
        """Whether ``secret`` is ``stored``'s, computed once for all who ask with the same digest meanwhile.

        One of them gets beside it a hash of ``secret`` that is to be stored, where ``stored`` is not by our settings.
        """
        while (flight := self._flights.get(digest)) is not None:
            await flight.done.wait()
            if flight.right is not None:
                return flight.right, None
            # Who computed it was cancelled while it waited for a thread: the first to come back here takes over.
        if self._under_way >= self._settings.password_workers + self._settings.password_queue:
            raise unavailable("too many passwords are being verified")
        flight = self._flights[digest] = _Flight(anyio.Event())
        self._under_way += 1
        try:
            check = partial(self._matches, stored, secret)
            right, fresh = await anyio.to_thread.run_sync(check, limiter=self._limiter)
            flight.right = right
            return right, fresh
        finally:
            self._under_way -= 1
            del self._flights[digest]
            flight.done.set()

    def _argon2(self, secret: bytes) -> str:
        return self._password_hasher().hash(secret)

    def _matches(self, stored: str, secret: bytes) -> tuple[bool, str | None]:
        """Whether ``secret`` is ``stored``'s, and then its hash by our settings, if ``stored`` is by others."""
        from argon2.exceptions import HashingError, InvalidHashError, VerificationError

        hasher = self._password_hasher()
        try:
            hasher.verify(stored, secret)
        except VerificationError:
            return False, None
        except InvalidHashError:
            log.error("an account's stored password is not an argon2 hash")
            return False, None
        if not hasher.check_needs_rehash(stored):
            return True, None
        try:
            return True, hasher.hash(secret)
        except HashingError as failure:  # there is not the memory for it
            log.error("a password could not be hashed by today's settings: %s", failure)
            return True, None

    def _unmatchable(self, model: Document | None) -> str:
        """A hash that costs as much as that of ``model``, an account, and is of no password, since its tag was drawn.

        Not as much as today's settings say: what is stored was made by those of its time. (RFC 9106; PHC format.)
        """
        stored = None if model is None else model.data.get("password")
        match = _COSTS.match(stored) if isinstance(stored, str) else None
        settings = self._settings
        costs = f"$argon2id$v=19$m={settings.argon2_memory // 1024},t={settings.argon2_time},p={settings.argon2_lanes}"
        if match is not None:
            costs = match[0]
        return f"{costs}${_drawn(16)}${_drawn(32)}"

    def _password_hasher(self) -> PasswordHasher:
        # In the thread, because the import alone takes 33 ms. Two threads that make it at once do no harm.
        if self._hasher is None:
            from argon2 import PasswordHasher

            self._hasher = PasswordHasher(
                time_cost=self._settings.argon2_time,
                memory_cost=self._settings.argon2_memory // 1024,
                parallelism=self._settings.argon2_lanes,
            )
        return self._hasher


def _drawn(length: int) -> str:
    """That many random bytes, as the PHC format writes salts and tags."""
    return base64.b64encode(secrets.token_bytes(length)).decode().rstrip("=")


def _encode(password: str) -> bytes | None:
    """The bytes that are hashed (RFC 8265 4.2: NFC), or None for what nobody's password can be."""
    if len(password) > MAX_PASSWORD_BYTES:
        return None
    try:
        secret = unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        return None
    return secret if len(secret) <= MAX_PASSWORD_BYTES else None


def _subject(account: Account) -> Subject | None:
    if account.disabled:
        return None
    return Subject(account.name, "user", admin=account.admin, generation=account.generation)
