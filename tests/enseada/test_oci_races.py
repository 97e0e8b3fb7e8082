"""Several at once: what comes of a race is what comes of some order of the racers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from enseada.protocols.oci.manifest import OCI_IMAGE
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.memorycluster import ClusterMemoryStore, Faults
from tests.enseada.oci_client import PieceBody, client_of, descriptor, digest_of, image_manifest, on_disk
from tests.enseada.oci_steps import CHANGES, NAME, READS, Interruption, gate_of, prepare, state, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from enseada.storage.documents.base import DocumentStore
    from tests.enseada.oci_client import Answer, Client
    from tests.enseada.oci_steps import World

T = TypeVar("T")
Outcome = tuple[object, ...]

SEQUENCES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in CHANGES},
    "move latest away, delete one": ("latest to two", "delete one"),
    "delete one, push it again": ("delete one", "fresh to one"),
    "delete one, tag it again": ("delete one", "latest to one"),
    "delete kept, push it again": ("delete kept", "push kept"),
    "delete referrer, push it again": ("delete referrer", "refer"),
    "refer, and delete it": ("refer", "delete referrer"),
    "move latest twice": ("latest to two", "latest to one"),
}
OPERATIONS = READS | CHANGES


async def all_orders(world: World, operation: str, others: Sequence[str], *, doubtful: bool) -> list[Outcome]:
    """The outcome of every order in which ``operation`` can fall among the others, which keep theirs.

    ``doubtful``: also with a 503 that leaves open whether it has happened.
    """
    outcomes: list[Outcome] = []
    orders = [[*others[:place], operation, *others[place:]] for place in range(len(others) + 1)]
    for place, steps in enumerate([*orders, list(others)] if doubtful else orders):
        client = await world.fresh()
        answers = [told(await OPERATIONS[step](client)) for step in steps]
        mine = answers.pop(place) if len(answers) > len(others) else (503, None)
        left = await state(client)
        outcomes.append((mine, *answers, left))
        if doubtful:
            outcomes.append(((503, None), *answers, left))
    return outcomes


async def stopped_at(
    world: World, number: int, operation: str, others: Sequence[str], store: DocumentStore
) -> Outcome | None:
    """The outcome if the others run while ``operation`` is about to make its ``number``-th call of the documents.

    None: it makes fewer.
    """
    client = await world.fresh(store)
    answers: list[object] = []

    async def run_others() -> None:
        answers.extend([told(await OPERATIONS[other](client)) for other in others])

    stop = Interruption(gate_of(client), number, run_others)
    mine = told(await OPERATIONS[operation](client))
    if not stop.met:
        return None
    if isinstance(store, ClusterMemoryStore):
        await store.settle()  # lists may lag, and nothing else
    return mine, *answers, await state(client)


async def check_every_stop(
    world: World, operation: str, others: Sequence[str], store: Callable[[], DocumentStore]
) -> int:
    expected = await all_orders(world, operation, others, doubtful=isinstance(store(), ClusterMemoryStore))
    number = 1
    while (outcome := await stopped_at(world, number, operation, others, store())) is not None:
        assert outcome in expected, f"{operation}, stopped before its call {number} by {others}"
        number += 1
    return number - 1


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_whatever_happens_between_two_calls(operation: str) -> None:
    world = await prepare()
    for others in SEQUENCES.values():
        assert await check_every_stop(world, operation, others, MemoryDocuments)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_the_same_on_a_cluster(operation: str) -> None:
    """Where a batch is no transaction, a list lags, a copy is behind, and a write may end in doubt."""
    world = await prepare()
    random = Random(operation)
    for others in random.sample(sorted(SEQUENCES.values()), 4):
        await check_every_stop(world, operation, others, lambda: ClusterMemoryStore(random))


# Many at once

STORES = ["memory", "sqlite", "cluster", "late cluster"]
MANY = 24


@asynccontextmanager
async def crowded(kind: str, folder: Path) -> AsyncIterator[Client]:
    """A client for everybody, over the stores of that kind; an empty config is there."""
    if kind == "sqlite":
        async with on_disk(folder, anonymous="push") as client:
            await client.push_blob(NAME, b"{}")
            yield client.anonymous
    else:
        documents = MemoryDocuments() if kind == "memory" else ClusterMemoryStore(Random(7))
        client = await client_of(documents, MemoryBlobs(), anonymous="push")
        await client.push_blob(NAME, b"{}")
        if isinstance(documents, ClusterMemoryStore) and kind == "late cluster":
            documents.faults = Faults(late=0.3)
        yield client.anonymous


async def all_at_once(*calls: Callable[[], Awaitable[T]]) -> list[T]:
    """What the calls return, made by a task each."""
    results: dict[int, T] = {}

    async def run(number: int, call: Callable[[], Awaitable[T]]) -> None:
        results[number] = await call()

    async with trio.open_nursery() as nursery:
        for number, call in enumerate(calls):
            nursery.start_soon(run, number, call)
    return [results[number] for number in range(len(calls))]


async def settled(client: Client) -> None:
    """The trouble is over, and every copy has heard of everything."""
    if isinstance(client.documents, ClusterMemoryStore):
        client.documents.faults = Faults(lag=0)
        await client.documents.settle()


def check_done(client: Client, answers: Sequence[Answer], status: int = 201) -> list[bool]:
    """Which were acknowledged: all, save that a cluster may be in doubt."""
    assert {answer.status for answer in answers} <= (
        {status, 503} if isinstance(client.documents, ClusterMemoryStore) else {status}
    )
    return [answer.status == status for answer in answers]


@pytest.mark.parametrize("kind", STORES)
async def test_one_tag_pushed_by_many(kind: str, tmp_path: Path) -> None:
    contents = [image_manifest(b"{}", x=number) for number in range(MANY)]
    async with crowded(kind, tmp_path) as client:
        answers = await all_at_once(*(partial(client.put_manifest, NAME, "latest", content) for content in contents))
        done = check_done(client, answers)
        assert any(done)
        await settled(client)
        assert await client.tags(NAME) == ["latest"]
        assert (await client.get(f"/v2/{NAME}/manifests/latest")).body in contents
        for content, acknowledged in zip(contents, done, strict=True):
            if acknowledged:
                assert (await client.get(f"/v2/{NAME}/manifests/{digest_of(content)}")).body == content


@pytest.mark.parametrize("kind", STORES)
async def test_one_manifest_pushed_by_many_under_many_tags(kind: str, tmp_path: Path) -> None:
    """The first push of a name, by all at once: they make the same repository, image, manifest and referrer."""
    content = image_manifest(b"{}", subject=descriptor(b"the subject", OCI_IMAGE))
    tags = [f"t{number:02}" for number in range(MANY)]
    async with crowded(kind, tmp_path) as client:
        answers = await all_at_once(*(partial(client.put_manifest, NAME, tag, content) for tag in tags))
        done = check_done(client, answers)
        await settled(client)
        listed = await client.tags(NAME)
        for tag, acknowledged in zip(tags, done, strict=True):
            if acknowledged:
                assert tag in listed
                assert (await client.get(f"/v2/{NAME}/manifests/{tag}")).body == content
        assert any(done)
        [entry] = await client.referrers(NAME, digest_of(b"the subject"))
        assert entry["digest"] == digest_of(content)


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("size", [0, 100_000])
async def test_one_blob_pushed_by_many(kind: str, size: int, tmp_path: Path) -> None:
    content = b"x" * size
    digest = digest_of(content)
    async with crowded(kind, tmp_path) as client:

        async def push(number: int) -> Answer:
            name = f"team/{number % 3}"
            if number % 2:
                return await client.post(f"/v2/{name}/blobs/uploads/?digest={digest}", content)
            pieces = PieceBody([content[at : at + 30_000] for at in range(0, size, 30_000)])
            patched = await client.patch(await client.begin(name), pieces)
            return await client.put(f"{patched.location}?digest={digest}") if patched.status == 202 else patched

        answers = await all_at_once(*(partial(push, number) for number in range(MANY)))
        done = check_done(client, answers)
        await settled(client)
        for number, acknowledged in enumerate(done):
            if acknowledged:
                assert (await client.get(f"/v2/team/{number % 3}/blobs/{digest}")).body == content
        assert any(done)
        if kind == "memory":
            # Of those who lost, nothing is left that the first to link had not already finished.
            stored = await client.documents.get(f"blob:{digest}")
            assert stored is not None
            assert isinstance(client.blobs, MemoryBlobs)
            assert stored.data["key"] in client.blobs.keys


@pytest.mark.parametrize("kind", STORES)
async def test_deletes_against_pushes(kind: str, tmp_path: Path) -> None:
    """A tag and what it is on come and go together, whoever is faster."""
    random = Random(3)
    contents = [image_manifest(b"{}", x=number) for number in range(3)]
    async with crowded(kind, tmp_path) as client:

        async def push(number: int) -> Answer:
            return await client.put_manifest(NAME, f"t{number % 4}", contents[number % 3])

        async def delete(number: int) -> Answer:
            return await client.delete(f"/v2/{NAME}/manifests/{digest_of(contents[number % 3])}")

        async def untag(number: int) -> Answer:
            return await client.delete(f"/v2/{NAME}/manifests/t{number % 4}")

        async def pull(number: int) -> Answer:
            return await client.get(f"/v2/{NAME}/manifests/t{number % 4}")

        calls = [partial(call, number) for number in range(MANY // 2) for call in (push, push, delete, untag, pull)]
        random.shuffle(calls)
        for answer in await all_at_once(*calls):
            assert answer.status in {200, 201, 202, 404} | ({503} if "cluster" in kind else set())
        await settled(client)
        for number in range(4):
            tagged = await pull(number)
            assert (tagged.status == 200) == (f"t{number}" in await client.tags(NAME))
            if tagged.status == 200:
                digest = tagged.header("docker-content-digest")
                assert (await client.get(f"/v2/{NAME}/manifests/{digest}")).body == tagged.body
        # And all of it can be pushed, and deleted, as ever.
        for number in range(12):
            assert (await push(number)).status == 201
        await settled(client)
        assert await client.tags(NAME) == ["t0", "t1", "t2", "t3"]
        for number in range(3):
            assert (await delete(number)).status == 202
        await settled(client)
        assert await client.tags(NAME) == []


async def test_what_a_failing_cluster_acknowledged_is_there() -> None:
    """Copies are late, coordinators die, requests are refused: a 503 leaves all open, a yes is a yes."""
    assert sum([await acknowledged_by_a_failing_cluster(seed) for seed in range(6)])


async def acknowledged_by_a_failing_cluster(seed: int) -> int:
    """How many pushes were, all of which are there in the end."""
    documents = ClusterMemoryStore(Random(seed))
    client = (await client_of(documents, MemoryBlobs(), anonymous="push")).anonymous
    await client.push_blob(NAME, b"{}")
    documents.faults = Faults(late=0.2, lost=0.05, refused=0.05)
    subject = descriptor(b"the subject", OCI_IMAGE)

    async def push(number: int) -> list[Answer]:
        layer = str(number).encode()
        blob = await client.post(f"/v2/{NAME}/blobs/uploads/?digest={digest_of(layer)}", layer)
        if blob.status != 201:
            return [blob]
        return [blob, await client.put_manifest(NAME, f"t{number}", image_manifest(b"{}", [layer], subject=subject))]

    pushed = await all_at_once(*(partial(push, number) for number in range(MANY)))
    await settled(client)
    tags = await client.tags(NAME)
    referring = {entry["digest"] for entry in await client.referrers(NAME, digest_of(b"the subject"))}
    count = 0
    for number, answers in enumerate(pushed):
        check_done(client, answers)
        layer = str(number).encode()
        if answers[0].status == 201:
            assert (await client.get(f"/v2/{NAME}/blobs/{digest_of(layer)}")).body == layer
        if answers[-1].status == 201:
            count += 1
            digest = answers[-1].header("docker-content-digest")
            assert f"t{number}" in tags
            assert digest in referring
            assert (await client.head(f"/v2/{NAME}/manifests/t{number}")).header("docker-content-digest") == digest
    return count
