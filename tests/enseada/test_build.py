"""From settings to a running registry: the data folder, what a first start makes, and why a start is refused."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from enseada.build import UPLOAD_SECRET_ID, open_data, open_registry
from enseada.starterror import StartError
from enseada.storage.blobs.memory import MemoryStore as MemoryBlobs
from enseada.storage.documents.base import Document, Unavailable, Unknown
from enseada.storage.documents.memory import MemoryStore as MemoryDocuments
from enseada.storage.documents.sqlite import SQLiteStore
from tests.cancel import cancel_at_every_checkpoint
from tests.enseada.oci_client import PASSWORD, Client, basic, cheap_settings, client_of
from tests.enseada.oci_steps import Gate, Interruption

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enseada.config import Settings

FIRST_START = ("user:admin", "key:tokens", UPLOAD_SECRET_ID)


def settings_for(folder: Path) -> Settings:
    return cheap_settings(data=folder)


async def sentence(folder: Path) -> str:
    """Why it does not start on that folder."""
    with pytest.raises(StartError) as refused:
        async with open_data(settings_for(folder)):
            pass
    text = str(refused.value)
    assert "\n" not in text
    assert str(folder) in text
    return text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The data folder


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
async def test_what_a_first_start_makes_is_for_us_alone(umask: int, tmp_path: Path) -> None:
    folder = tmp_path / "above" / "data"
    before = os.umask(umask)
    try:
        async with open_data(settings_for(folder)) as opened:
            assert opened.admin_password is None  # it was given
            assert mode(folder) == 0o700
            for path in folder.iterdir():
                assert mode(path) & 0o077 == 0, path
    finally:
        os.umask(before)


async def test_a_folder_that_is_there_is_used_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    (folder / "mine.txt").write_text("mine")
    async with open_data(settings_for(folder)):
        assert mode(folder) == 0o755
    assert (folder / "mine.txt").read_text() == "mine"


async def test_a_link_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to("real")
    async with open_data(settings_for(tmp_path / "data")):
        assert (tmp_path / "real" / "documents.sqlite").exists()


async def test_one_server_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with open_data(settings_for(folder)) as opened:
        text = await sentence(folder)
        assert f"process {os.getpid()}" in text
        assert "--data" in text
        async with open_data(settings_for(tmp_path / "other")):
            pass
        # Who was refused has taken nothing from who was first.
        assert await sentence(folder) == text
        assert opened.registry is not None
    async with open_data(settings_for(folder)):
        pass


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("a file")
    assert "is not a folder" in await sentence(path)
    assert path.read_text() == "a file"


async def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    assert "cannot be made" in await sentence(tmp_path / "file" / "data")


async def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "gone" / "far")
    assert "is not a folder" in await sentence(tmp_path / "data")


@pytest.mark.parametrize("name", ["blobs", "documents.sqlite", "lock"])
async def test_something_in_the_way(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if name == "blobs":
        (folder / name).write_text("a file")
    else:
        (folder / name).mkdir()
    assert str(folder / name) in await sentence(folder)


async def test_documents_that_are_none(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "documents.sqlite").write_bytes(b"not a database, and long enough to be seen as none" * 100)
    assert "documents.sqlite" in await sentence(folder)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing can be made, whoever runs the tests."""
    folder = tmp_path / "data"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    chattr = shutil.which("chattr")
    if chattr is None or subprocess.run([chattr, "+i", folder], capture_output=True, check=False).returncode:
        pytest.skip("root can write everywhere, and chattr +i is not to be had here")
    yield folder
    subprocess.run([chattr, "-i", folder], check=True)


async def test_a_folder_that_may_not_be_written(unwritable: Path) -> None:
    text = await sentence(unwritable)
    assert "may not be written" in text or "cannot be opened" in text
    assert os.listdir(unwritable) == []


async def test_documents_that_cannot_be_written_at_the_start(tmp_path: Path) -> None:
    """A sentence, not a traceback."""
    folder = tmp_path / "data"
    async with open_data(settings_for(folder)):
        pass
    with closing(sqlite3.connect(folder / "documents.sqlite")) as database, database:
        database.execute("DELETE FROM documents")
        database.execute("CREATE TRIGGER full BEFORE INSERT ON documents BEGIN SELECT RAISE(ABORT, 'no room'); END")
    assert "no room" in await sentence(folder)


# What a first start makes, and later ones find


async def test_what_survives_a_restart(tmp_path: Path) -> None:
    """Images, tokens, and uploads that are under way."""
    settings = settings_for(tmp_path / "data")

    async def client() -> Client:
        return Client(opened.registry, MemoryDocuments(), MemoryBlobs(), basic("admin"))

    async with open_data(settings) as opened:
        first = await client()
        image = await first.push_image("team/api")
        token = await first.with_token("repository:team/api:pull")
        location = (await first.patch(await first.begin("team/api"), b"half ")).location
        empty = await first.begin("team/api")
    async with open_data(settings) as opened:
        second = await client()
        shown = await replace(second, authorization=token.authorization).get("/v2/team/api/manifests/latest")
        assert shown.body == image.manifest
        assert (await second.get(location)).header("range") == "0-4"
        assert (await second.get(empty)).status == 204
        assert opened.admin_password is None


async def test_the_admins_password_is_made_up_and_told_once(tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path / "data"), admin_password=None)
    async with open_data(settings) as opened:
        password = opened.admin_password
        assert password is not None
        assert len(password) >= 16
        client = Client(opened.registry, MemoryDocuments(), MemoryBlobs(), basic("admin", password))
        assert (await client.get("/v2/")).status == 200
    async with open_data(settings) as opened:
        assert opened.admin_password is None
        client = replace(client, registry=opened.registry)
        assert (await client.get("/v2/")).status == 200


async def test_the_given_password_counts_at_the_first_start_only(tmp_path: Path) -> None:
    async with open_data(settings_for(tmp_path / "data")) as opened:
        assert opened.admin_password is None
    later = replace(settings_for(tmp_path / "data"), admin_password=None)
    async with open_data(later) as opened:
        client = Client(opened.registry, MemoryDocuments(), MemoryBlobs(), basic("admin", PASSWORD))
        assert (await client.get("/v2/")).status == 200
        assert (await replace(client, authorization=basic("admin", "other")).get("/v2/")).status == 401


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_two_processes_that_start_at_once_make_one_of_each(number: int) -> None:
    """The other one is faster with the document that this one is about to create, its ``number``-th."""
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    gate = Gate(documents)
    others: list[Client] = []

    async def start_other() -> None:
        others.append(await client_of(documents, blobs))

    Interruption(gate, number, start_other, "create_once")
    client = await client_of(gate, blobs)
    [other] = others
    assert (await client.get("/v2/")).status == 200
    token = await other.with_token("repository:team/api:pull,push")
    location = await token.begin("team/api")
    for reader in (client, other):
        shown = replace(reader, authorization=token.authorization)
        assert (await shown.get(location)).status == 204


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("id", FIRST_START)
async def test_a_first_start_whose_write_is_in_doubt(id: str, applied: bool) -> None:
    """It goes on if the write happened, and else fails; started again, it works."""
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    documents.fail("create_once", id, Unknown, applied=applied)
    if applied:
        await client_of(documents, blobs)
    else:
        with pytest.raises(Unknown):
            await client_of(documents, blobs)
    client = await client_of(documents, blobs)
    assert (await client.get("/v2/")).status == 200
    for each in FIRST_START:
        assert await documents.get(each) is not None


@pytest.mark.parametrize("operation", ["get", "create_once"])
@pytest.mark.parametrize("id", FIRST_START)
async def test_a_first_start_without_documents(operation: str, id: str) -> None:
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    documents.fail(operation, id, Unavailable)
    with pytest.raises(Unavailable):
        await client_of(documents, blobs)
    assert (await (await client_of(documents, blobs)).get("/v2/")).status == 200


async def test_a_first_start_that_is_cancelled() -> None:
    blobs = MemoryBlobs()
    documents = MemoryDocuments()

    async def start() -> None:
        nonlocal documents
        documents = MemoryDocuments()
        await open_registry(cheap_settings(), documents, blobs)

    async def after() -> None:
        assert (await (await client_of(documents, blobs)).get("/v2/")).status == 200

    assert await cancel_at_every_checkpoint(start, after) > 3


async def test_an_opening_that_is_cancelled_gives_the_folder_back(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")

    async def start() -> None:
        async with open_data(settings):
            pass

    async def after() -> None:
        async with open_data(settings) as opened:
            client = Client(opened.registry, MemoryDocuments(), MemoryBlobs(), basic("admin"))
            assert (await client.get("/v2/")).status == 200

    assert await cancel_at_every_checkpoint(start, after) > 3


@pytest.mark.parametrize(
    ("id", "data"),
    [
        (UPLOAD_SECRET_ID, {"secret": "not base64"}),
        (UPLOAD_SECRET_ID, {"secret": "c2hvcnQ="}),
        (UPLOAD_SECRET_ID, {"other": 1}),
        ("key:tokens", {"kid": "1", "algorithm": "of a newer release", "private": ""}),
        ("user:admin", {"name": 1}),
    ],
)
async def test_documents_of_another_release_are_a_sentence(tmp_path: Path, id: str, data: dict[str, object]) -> None:
    """Not a traceback, and nothing of what they hold is in it."""
    settings = settings_for(tmp_path / "data")
    async with open_data(settings):
        pass
    async with await SQLiteStore.open(settings.documents_path) as documents:
        known = await documents.get(id)
        assert known is not None
        await documents.put(Document(id, data, known.rev))
    with pytest.raises(StartError, match=f"the document {id} in .* cannot be used") as refusal:
        async with open_data(settings):
            pass
    assert "not base64" not in str(refusal.value)


@pytest.mark.parametrize("id", ["key:tokens", UPLOAD_SECRET_ID])
async def test_a_first_start_that_fails_has_made_no_password_that_nobody_saw(id: str) -> None:
    documents, blobs = MemoryDocuments(), MemoryBlobs()
    settings = replace(cheap_settings(), admin_password=None)
    documents.fail("create_once", id, Unavailable)
    with pytest.raises(Unavailable):
        await open_registry(settings, documents, blobs)
    assert (await open_registry(settings, documents, blobs)).admin_password is not None
