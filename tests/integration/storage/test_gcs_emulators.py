"""GCSStorage against the two emulators; see ``tests.servers.gcs`` for what each can do."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from rindle.errors import SessionUriUnknown, StorageConflict, StorageMisconfigured, StorageNotFound
from rindle.storage.gcs import GCSStorage
from rindle.storage.gcs.compose import MAX_SOURCES
from tests.patience import PATIENCE_SECONDS
from tests.servers.gcs import GCSServer

pytestmark = pytest.mark.external

#: Pieces of a resumable session are multiples of this.
UNIT = 256 * 1024
KEY = "lesson/1/film.mp4"


@pytest.fixture
async def fake(fake_gcs: GCSServer) -> AsyncIterator[GCSStorage]:
    storage = fake_gcs.storage(fake_gcs.new_bucket())
    yield storage
    await storage.close()


@pytest.fixture
async def emulator(gcp_emulator: GCSServer) -> AsyncIterator[GCSStorage]:
    storage = gcp_emulator.storage(gcp_emulator.new_bucket())
    yield storage
    await storage.close()


async def put(uri: str, piece: bytes, start: int, total: int) -> httpx.Response:
    """Send one piece to a session URI, as a browser does."""
    span = {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{total}"}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as browser:
        return await browser.put(uri, content=piece, headers=span)


async def test_a_client_continues_a_session_after_a_break(emulator: GCSStorage, tmp_path: Path) -> None:
    body = os.urandom(2 * UNIT + 17)
    begun = await emulator.initiate_resumable_upload(KEY, len(body), content_type="video/mp4")
    uri = begun.session_uri
    assert (await put(uri.get_secret_value(), body[:UNIT], 0, len(body))).status_code == 308

    seen = await emulator.resumable_upload_status(KEY, uri, client_offset=UNIT)
    assert (seen.committed_bytes, seen.state) == (UNIT, "in_progress")
    with pytest.raises(StorageNotFound):
        await emulator.head(KEY)
    assert (await put(uri.get_secret_value(), body[UNIT:], UNIT, len(body))).status_code == 200

    head = await emulator.head(KEY)
    assert (head.size, head.content_type) == (len(body), "video/mp4")
    assert (await emulator.download(KEY, tmp_path / "copy")).read_bytes() == body
    with pytest.raises(SessionUriUnknown):  # this emulator forgets a session with its end
        await emulator.resumable_upload_status(KEY, uri)


async def test_an_unknown_session_is_unknown(emulator: GCSStorage, fake: GCSStorage) -> None:
    for storage in (emulator, fake):
        begun = await storage.initiate_resumable_upload(KEY, 5)
        uri = begun.session_uri
        forged = type(uri)(uri.get_secret_value().replace("upload_id=", "upload_id=0"))

        with pytest.raises(SessionUriUnknown):
            await storage.resumable_upload_status(KEY, forged)


async def test_a_session_creates_and_never_replaces(fake: GCSStorage, tmp_path: Path) -> None:
    begun = await fake.initiate_resumable_upload(KEY, 5)
    (tmp_path / "first").write_bytes(b"first")
    await fake.store(KEY, tmp_path / "first")

    late = await put(begun.session_uri.get_secret_value(), b"other", 0, 5)

    assert late.status_code == 412
    assert await fake.read_range(KEY, 0, 10) == b"first"


async def test_a_session_is_cancelled(fake: GCSStorage) -> None:
    begun = await fake.initiate_resumable_upload(KEY, 5)

    assert await fake.cancel_resumable_upload(KEY, begun.session_uri) is True


async def test_the_session_uri_of_an_emulator_names_the_address_for_browsers(fake_gcs: GCSServer) -> None:
    storage = fake_gcs.storage(fake_gcs.new_bucket(), public_endpoint="http://localhost:9")
    begun = await storage.initiate_resumable_upload(KEY, 5)

    assert begun.session_uri.get_secret_value().startswith("http://localhost:9/upload/")
    assert await storage.cancel_resumable_upload(KEY, begun.session_uri) is True  # at its own address
    await storage.close()


# --- joined objects ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, MAX_SOURCES, MAX_SOURCES + 3, 2 * MAX_SOURCES])
async def test_objects_are_joined_in_their_order(fake: GCSStorage, tmp_path: Path, count: int) -> None:
    keys = [f"parts/{number}" for number in range(count)]
    for number, key in enumerate(keys):
        (tmp_path / "part").write_bytes(f"<{number}>".encode())
        await fake.store(key, tmp_path / "part")
    wanted = "".join(f"<{number}>" for number in [*range(count), 0]).encode()

    made = await fake.concatenate(KEY, [*keys, keys[0]])

    assert await fake.read_range(KEY, 0, 1000) == wanted
    assert (made.size, made.etag) == (len(wanted), (await fake.head(KEY)).etag)
    assert {found.key for found in (await fake.list_keys("")).objects} == {*keys, KEY}  # nothing intermediate
    assert (await fake.concatenate(KEY, [*keys, keys[0]])).size == len(wanted)


async def test_a_failure_leaves_nothing_intermediate(fake: GCSStorage, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x")
    await fake.store("parts/1", tmp_path / "part")

    with pytest.raises(Exception, match=r"retry|nothing is stored"):  # the emulator answers 500, Google 404
        await fake.concatenate(KEY, ["parts/1"] * MAX_SOURCES + ["parts/missing"])

    assert [found.key for found in (await fake.list_keys("")).objects] == ["parts/1"]


# --- the bucket --------------------------------------------------------------------------------------------------


async def test_a_bucket_that_is_missing_is_a_mistake_of_the_configuration(fake_gcs: GCSServer) -> None:
    storage = fake_gcs.storage("no-such-bucket")

    with pytest.raises(StorageMisconfigured) as caught:
        await storage.ping()
    assert caught.value.code == "missing_bucket"
    await storage.close()


async def test_a_large_file_is_created_once(fake: GCSStorage, tmp_path: Path) -> None:
    source = tmp_path / "large"
    source.write_bytes(os.urandom(3 * 1024 * 1024))

    first = await fake.store(KEY, source, if_absent=True)
    with pytest.raises(StorageConflict):
        await fake.store(KEY, source, if_absent=True)

    assert (await fake.head(KEY)).etag == first.etag
