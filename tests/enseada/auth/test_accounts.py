"""Accounts: the first start, and passwords verified once, few at a time, and never after a change."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import argon2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from enseada.auth import accounts as module
from enseada.auth.accounts import Accounts, normalise
from enseada.auth.documents import UnusableDocument
from enseada.config import Settings
from enseada.http import RegistryError
from enseada.storage.documents.base import Conflict, Document, DocumentError, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore
from enseada.storage.documents.memorycluster import ClusterMemoryStore
from tests.cancel import cancel_at_every_checkpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.enseada.auth.conftest import Clock

PASSWORD = "correct horse"


@pytest.fixture
def accounts(documents: MemoryStore, settings: Settings, clock: Clock) -> Accounts:
    return Accounts(documents, settings, clock)


@asynccontextmanager
async def no_thread(accounts: Accounts) -> AsyncIterator[anyio.CapacityLimiter]:
    """Keep all threads for passwords busy, so that who needs one is seen to wait for it."""
    limiter, holder = accounts._limiter, object()
    await limiter.acquire_on_behalf_of(holder)
    try:
        yield limiter
    finally:
        limiter.release_on_behalf_of(holder)


async def change(documents: MemoryStore, name: str, **fields: Any) -> None:
    document = await documents.get(f"user:{name}")
    assert document is not None
    await documents.put(Document(document.id, {**document.data, **fields}, document.rev))


async def add(documents: MemoryStore, accounts: Accounts, name: str, **fields: Any) -> None:
    data = {"name": name, "password": await accounts.hash(PASSWORD), "generation": "g1", **fields}
    await documents.put(Document(f"user:{name}", data))


async def test_the_first_start_makes_a_password_up(accounts: Accounts, documents: MemoryStore) -> None:
    made = await accounts.ensure_admin(None)
    assert made is not None
    assert len(made) == module.MADE_PASSWORD_LENGTH
    admin = await accounts.verify("admin", made)
    assert admin is not None
    assert (admin.name, admin.kind, admin.admin, admin.scopes) == ("admin", "user", True, None)
    assert admin.generation
    document = await documents.get("user:admin")
    assert document is not None
    assert document.data["password"].startswith("$argon2id$v=19$m=8,t=1,p=1$")
    assert made not in str(document.data)
    assert await Accounts(documents, Settings()).ensure_admin(None) is None


async def test_a_given_password_counts_at_the_first_start_only(
    accounts: Accounts, documents: MemoryStore, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await accounts.ensure_admin(PASSWORD) is None
    later = Accounts(documents, settings)
    assert await later.ensure_admin("another one") is None
    assert await later.verify("admin", PASSWORD) is not None
    assert await later.verify("admin", "another one") is None
    assert "was ignored" in caplog.text
    assert "another one" not in caplog.text


async def test_of_two_first_starts_one_makes_the_account(documents: MemoryStore, settings: Settings) -> None:
    made: list[str | None] = []

    async def start() -> None:
        made.append(await Accounts(documents, settings).ensure_admin(None))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        nursery.start_soon(start)
    [password] = [each for each in made if each is not None]
    assert len(made) == 2
    assert await Accounts(documents, settings).verify("admin", password) is not None


async def test_a_lost_answer_at_the_first_start(accounts: Accounts, documents: MemoryStore) -> None:
    documents.fail("create_once", "user:", Unknown, applied=True)
    made = await accounts.ensure_admin(None)
    assert made is not None
    assert await accounts.verify("admin", made) is not None


async def test_a_first_start_that_may_not_have_been(accounts: Accounts, documents: MemoryStore) -> None:
    documents.fail("create_once", "user:", Unknown)
    with pytest.raises(Unknown):
        await accounts.ensure_admin(None)
    assert await accounts.ensure_admin(None) is not None


DAMAGED = [{}, {"name": 1}, {"name": "admin", "admin": "yes"}, {"name": "admin", "password": ["s3cret"]}]


@pytest.mark.parametrize("data", DAMAGED)
async def test_an_account_that_is_damaged_is_refused_by_name(
    data: dict[str, Any], accounts: Accounts, documents: MemoryStore
) -> None:
    await documents.put(Document("user:admin", data))
    for call in (accounts.ensure_admin(None), accounts.lookup("admin"), accounts.verify("admin", PASSWORD)):
        with pytest.raises(UnusableDocument) as caught:
            await call
        assert caught.value.id == "user:admin"
        assert str(caught.value) == f"user:admin: {caught.value.why}"
        assert "s3cret" not in str(caught.value)
    assert await accounts.verify("ann", PASSWORD) is None  # the others are not harmed


async def test_an_account_of_a_newer_release_may_say_more(accounts: Accounts, documents: MemoryStore) -> None:
    await add(documents, accounts, "admin", passkeys=[{"id": 1}])
    assert await accounts.ensure_admin(None) is None
    assert await accounts.verify("admin", PASSWORD) is not None


async def test_right_and_wrong(accounts: Accounts, documents: MemoryStore) -> None:
    await add(documents, accounts, "ann")
    subject = await accounts.verify("Ann", PASSWORD)
    assert subject is not None
    assert (subject.name, subject.admin, subject.generation) == ("ann", False, "g1")
    for name, password in [
        ("ann", "wrong"), ("ann", ""), ("ann", PASSWORD + " "), ("bob", PASSWORD), ("", PASSWORD), ("ann/", PASSWORD),
        ("ann", "x" * 1025), ("ann", "é" * 600), ("ann", "\udcff"), ("a" * 65, PASSWORD),
        ("\udcff", PASSWORD), ("\ud800", PASSWORD),
    ]:  # fmt: skip
        assert await accounts.verify(name, password) is None


async def test_passwords_are_compared_in_one_normal_form(accounts: Accounts) -> None:
    await accounts.ensure_admin("caf\u00e9")
    assert await accounts.verify("admin", "cafe\u0301") is not None


async def test_a_right_password_is_remembered_for_a_while(accounts: Accounts, clock: Clock) -> None:
    await accounts.ensure_admin(PASSWORD)
    assert await accounts.verify("admin", PASSWORD) is not None
    async with no_thread(accounts) as limiter, trio.open_nursery() as nursery:
        clock.now += 59
        with trio.fail_after(5):
            assert await accounts.verify("admin", PASSWORD) is not None
        clock.now += 1
        nursery.start_soon(accounts.verify, "admin", PASSWORD)
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
        nursery.cancel_scope.cancel()


async def test_a_wrong_password_is_not_remembered(accounts: Accounts) -> None:
    await accounts.ensure_admin(PASSWORD)
    assert await accounts.verify("admin", "wrong") is None
    async with no_thread(accounts) as limiter, trio.open_nursery() as nursery:
        nursery.start_soon(accounts.verify, "admin", "wrong")
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["disabled", "password", "deleted"])
async def test_a_change_counts_at_once(kind: str, accounts: Accounts, documents: MemoryStore) -> None:
    await add(documents, accounts, "ann")
    assert await accounts.verify("ann", PASSWORD) is not None
    if kind == "disabled":
        await change(documents, "ann", disabled=True)
    elif kind == "password":
        await change(documents, "ann", password=await accounts.hash("new one"), generation="g2")
    else:
        document = await documents.get("user:ann")
        assert document is not None
        await documents.delete(document)
    assert await accounts.verify("ann", PASSWORD) is None
    found = await accounts.lookup("ann")
    assert (None if found is None else found.generation) == ("g2" if kind == "password" else None)


async def test_a_change_while_the_password_is_verified_counts(accounts: Accounts, documents: MemoryStore) -> None:
    await add(documents, accounts, "ann")
    answers: list[object] = []

    async def ask() -> None:
        answers.append(await accounts.verify("ann", PASSWORD))

    async with trio.open_nursery() as nursery, no_thread(accounts):
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await change(documents, "ann", disabled=True)
    assert answers == [None]


async def test_an_unimportant_change_meanwhile_does_not_refuse(accounts: Accounts, documents: MemoryStore) -> None:
    await add(documents, accounts, "ann")
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await accounts.verify("ann", PASSWORD) is not None)

    async with trio.open_nursery() as nursery, no_thread(accounts):
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        await change(documents, "ann", email="ann@example.org")
    assert answers == [True]


async def test_the_same_secret_is_verified_once_for_all_who_wait(accounts: Accounts) -> None:
    await accounts.ensure_admin(PASSWORD)
    answers: list[bool] = []

    async def ask(password: str) -> None:
        answers.append(await accounts.verify("admin", password) is not None)

    async with trio.open_nursery() as nursery, no_thread(accounts) as limiter:
        for password in [PASSWORD] * 20 + ["wrong"] * 20:
            nursery.start_soon(ask, password)
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 2
    assert sorted(answers) == [False] * 20 + [True] * 20


async def test_a_full_queue_is_503(accounts: Accounts) -> None:
    await accounts.ensure_admin(PASSWORD)
    async with no_thread(accounts), trio.open_nursery() as nursery:
        for number in range(3):  # one worker and a queue of two
            nursery.start_soon(accounts.verify, "admin", f"wrong {number}")
        await wait_all_tasks_blocked()
        with pytest.raises(RegistryError) as caught:
            await accounts.verify("admin", PASSWORD)
        assert caught.value.status == 503
        assert dict(caught.value.headers)["Retry-After"].isdigit()
        nursery.cancel_scope.cancel()
    assert await accounts.verify("admin", PASSWORD) is not None


async def test_the_one_who_verifies_for_others_may_be_cancelled(accounts: Accounts) -> None:
    await accounts.ensure_admin(PASSWORD)
    answers: list[bool] = []
    first = trio.CancelScope()

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            answers.append(await accounts.verify("admin", PASSWORD) is not None)

    async with trio.open_nursery() as nursery, no_thread(accounts) as limiter:
        nursery.start_soon(ask, first)
        await wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(ask, trio.CancelScope())
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
    assert answers == [True] * 3


async def test_a_cancellation_leaves_nothing_anywhere(accounts: Accounts) -> None:
    await accounts.ensure_admin(PASSWORD)

    async def fresh() -> None:
        accounts._remembered.clear()
        await accounts.verify("admin", PASSWORD)

    async def after() -> None:
        assert not accounts._flights
        assert accounts._under_way == 0
        assert await accounts.verify("admin", PASSWORD) is not None

    assert await cancel_at_every_checkpoint(fresh, after) > 3


@pytest.mark.parametrize("who", ["unknown", "disabled", "without a password"])
async def test_who_cannot_log_in_costs_the_same(who: str, accounts: Accounts, documents: MemoryStore) -> None:
    if who == "disabled":
        await add(documents, accounts, "ann", disabled=True)
    elif who == "without a password":
        await add(documents, accounts, "ann", password=None)
    await accounts.ensure_admin(PASSWORD)
    assert await accounts.verify("ann", PASSWORD) is None
    async with no_thread(accounts) as limiter, trio.open_nursery() as nursery:
        nursery.start_soon(accounts.verify, "ann", PASSWORD)
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
        nursery.cancel_scope.cancel()


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[argon2.Parameters]:
    """What each verification cost, as it is done."""
    verified: list[argon2.Parameters] = []
    verify = argon2.PasswordHasher.verify

    def recorded(self: argon2.PasswordHasher, hash: str, password: bytes) -> bool:
        verified.append(argon2.extract_parameters(hash))
        return verify(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", recorded)
    return verified


@pytest.mark.parametrize("who", ["unknown", "disabled", "without a password", "no name at all/"])
async def test_who_cannot_log_in_costs_the_same_after_other_settings(
    who: str, documents: MemoryStore, settings: Settings, costs: list[argon2.Parameters]
) -> None:
    old = Accounts(documents, settings)
    await old.ensure_admin(PASSWORD)
    if who == "disabled":
        await add(documents, old, who, disabled=True)
    elif who == "without a password":
        who = "without"
        await add(documents, old, who, password=None)
    accounts = Accounts(documents, replace(settings, argon2_time=2))
    for name in ("admin", who):
        assert await accounts.verify(name, "wrong") is None
    assert [each.time_cost for each in costs] == [1, 1]
    assert costs[0] == costs[1]
    assert await accounts.verify("admin", PASSWORD) is not None
    costs.clear()
    for name in ("admin", who):
        assert await accounts.verify(name, "wrong") is None
    assert [each.time_cost for each in costs] == [2, 2]
    assert costs[0] == costs[1]


async def test_without_an_admins_hash_it_costs_what_the_settings_say(
    accounts: Accounts, documents: MemoryStore, costs: list[argon2.Parameters]
) -> None:
    for document in (None, {"name": "admin"}, {"name": "admin", "password": "plain"}, {"password": 1}):
        if document is not None:
            found = await documents.get("user:admin")
            await documents.put(Document("user:admin", document, None if found is None else found.rev))
        assert await accounts.verify("ann", PASSWORD) is None
    assert [(each.time_cost, each.memory_cost, each.parallelism) for each in costs] == [(1, 8, 1)] * 4


async def time_cost(documents: MemoryStore, name: str) -> int:
    document = await documents.get(f"user:{name}")
    assert document is not None
    return argon2.extract_parameters(document.data["password"]).time_cost


async def test_a_right_login_renews_a_hash_of_other_settings(documents: MemoryStore, settings: Settings) -> None:
    await add(documents, Accounts(documents, settings), "ann", email="ann@example.org")
    before = await documents.get("user:ann")
    accounts = Accounts(documents, replace(settings, argon2_time=2))
    assert await accounts.verify("ann", "wrong") is None
    assert await documents.get("user:ann") == before
    subject = await accounts.verify("ann", PASSWORD)
    after = await documents.get("user:ann")
    assert before is not None
    assert after is not None
    assert await time_cost(documents, "ann") == 2
    # Tokens stay valid, and so does all else that the account says.
    assert {**after.data, "password": None} == {**before.data, "password": None}
    assert subject is not None
    assert subject.generation == "g1"
    async with no_thread(accounts):
        with trio.fail_after(5):
            assert await accounts.verify("ann", PASSWORD) == subject  # it is remembered for what is stored now
    later = Accounts(documents, accounts._settings)
    assert await later.verify("ann", PASSWORD) == subject
    assert await later.verify("ann", "wrong") is None
    assert await documents.get("user:ann") == after


async def test_many_who_log_in_at_once_renew_a_hash_once(
    documents: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(documents, Accounts(documents, settings), "ann")
    accounts = Accounts(documents, replace(settings, argon2_time=2))
    answers: list[bool] = []
    hashed: list[bytes] = []
    hash = argon2.PasswordHasher.hash

    def recorded(self: argon2.PasswordHasher, password: bytes) -> str:
        hashed.append(password)
        return hash(self, password)

    monkeypatch.setattr(argon2.PasswordHasher, "hash", recorded)

    async def ask() -> None:
        answers.append(await accounts.verify("ann", PASSWORD) is not None)

    async with trio.open_nursery() as nursery, no_thread(accounts):
        for _ in range(20):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
    assert answers == [True] * 20
    assert hashed == [PASSWORD.encode()]


@pytest.mark.parametrize("error", [Conflict, Unavailable, Unknown])
async def test_a_right_login_is_right_if_its_hash_cannot_be_renewed(
    error: type[DocumentError], documents: MemoryStore, settings: Settings
) -> None:
    await add(documents, Accounts(documents, settings), "ann")
    accounts = Accounts(documents, replace(settings, argon2_time=2))
    documents.fail("put", "user:ann", error, applied=error is Unknown)
    assert await accounts.verify("ann", PASSWORD) is not None
    assert await time_cost(documents, "ann") == (2 if error is Unknown else 1)
    assert await Accounts(documents, accounts._settings).verify("ann", PASSWORD) is not None
    assert await time_cost(documents, "ann") == 2


async def test_a_right_login_is_right_if_there_is_no_memory_for_a_new_hash(
    documents: MemoryStore, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await add(documents, Accounts(documents, settings), "ann")
    accounts = Accounts(documents, replace(settings, argon2_time=2))

    def refused(self: argon2.PasswordHasher, password: bytes) -> str:
        raise argon2.exceptions.HashingError("Memory allocation error")

    monkeypatch.setattr(argon2.PasswordHasher, "hash", refused)
    assert await accounts.verify("ann", PASSWORD) is not None
    assert await time_cost(documents, "ann") == 1
    assert "Memory allocation error" in caplog.text


async def test_a_renewed_hash_never_undoes_a_change(documents: MemoryStore, settings: Settings) -> None:
    """The account is disabled just before its new hash is stored."""
    await add(documents, Accounts(documents, settings), "ann")
    accounts = Accounts(documents, replace(settings, argon2_time=2))
    gets = 0
    get = documents.get

    async def disabled_after_the_last_look(id: str) -> Document | None:
        nonlocal gets
        found = await get(id)
        gets += id == "user:ann"
        if gets == 2:
            gets += 1
            assert found is not None
            await documents.put(Document(found.id, {**found.data, "disabled": True}, found.rev))
        return found

    documents.get = disabled_after_the_last_look  # type: ignore[method-assign]
    assert await accounts.verify("ann", PASSWORD) is not None  # it was right at that moment
    assert gets == 3
    assert await accounts.verify("ann", PASSWORD) is None
    assert await accounts.lookup("ann") is None
    assert await time_cost(documents, "ann") == 1


async def test_a_login_that_renews_a_hash_may_be_cancelled(documents: MemoryStore, settings: Settings) -> None:
    old = Accounts(documents, settings)
    await add(documents, old, "ann")
    accounts = Accounts(documents, replace(settings, argon2_time=2))

    async def login() -> None:
        accounts._remembered.clear()
        await change(documents, "ann", password=await old.hash(PASSWORD))
        await accounts.verify("ann", PASSWORD)

    async def after() -> None:
        assert not accounts._flights
        assert await accounts.verify("ann", PASSWORD) is not None
        assert await accounts.verify("ann", "wrong") is None

    assert await cancel_at_every_checkpoint(login, after) > 5
    assert await time_cost(documents, "ann") == 2


async def test_a_hash_is_renewed_on_copies_too(settings: Settings) -> None:
    cluster = ClusterMemoryStore()
    await Accounts(cluster, settings).ensure_admin(PASSWORD)
    later = replace(settings, argon2_time=2)
    before = await Accounts(cluster, settings).lookup("admin")
    assert before is not None
    assert await Accounts(cluster, later).verify("admin", PASSWORD) == before
    await cluster.settle()
    document = await cluster.get("user:admin")
    assert document is not None
    assert "t=2" in document.data["password"]
    assert await Accounts(cluster, later).ensure_admin("another") is None
    assert await Accounts(cluster, later).verify("admin", PASSWORD) == before


async def test_a_hash_that_is_none_refuses(
    accounts: Accounts, documents: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await add(documents, accounts, "ann", password="plain")
    assert await accounts.verify("ann", "plain") is None
    assert "not an argon2 hash" in caplog.text


async def test_what_is_remembered_is_bounded(
    accounts: Accounts, documents: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    for name in ("ann", "bob", "cyd"):
        await add(documents, accounts, name)
    for name in ("ann", "bob", "ann", "cyd"):
        assert await accounts.verify(name, PASSWORD) is not None
    assert len(accounts._remembered) == 2
    async with no_thread(accounts) as limiter, trio.open_nursery() as nursery:
        with trio.fail_after(5):
            assert await accounts.verify("ann", PASSWORD) is not None  # used last before cyd came
        nursery.start_soon(accounts.verify, "bob", PASSWORD)
        await wait_all_tasks_blocked()
        assert limiter.statistics().tasks_waiting == 1
        nursery.cancel_scope.cancel()


async def test_a_store_that_does_not_answer_is_no_wrong_password(accounts: Accounts, documents: MemoryStore) -> None:
    documents.fail("get", "user:")
    with pytest.raises(Unavailable):
        await accounts.verify("admin", PASSWORD)


async def test_a_new_password_has_a_longest(accounts: Accounts) -> None:
    with pytest.raises(ValueError, match="1024"):
        await accounts.hash("x" * 1025)


def test_it_runs_under_asyncio_too(settings: Settings) -> None:
    async def scenario() -> None:
        accounts = Accounts(MemoryStore(), settings)
        made = await accounts.ensure_admin(None)
        assert made is not None
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(accounts.verify, "admin", made)
        assert await accounts.verify("admin", made) is not None
        assert await accounts.verify("admin", "wrong") is None

    anyio.run(scenario, backend="asyncio")


@given(st.text(max_size=70))
def test_names(text: str) -> None:
    name = normalise(text)
    if name is not None:
        assert normalise(name) == name == text.lower()
        assert name.isascii()
        assert not set(name) & set(":/* \0")
