"""Resumable sessions of the store against the emulators of Google Cloud Storage: from the URI to the finished asset."""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import func, select

from rindle import MediaAsset, MediaUploadSession
from rindle.db import purge
from rindle.db import resumable as rows
from rindle.db.models import utc_now
from rindle.errors import (
    CapabilityUnsupported,
    InvalidArgument,
    InvalidTransition,
    NotFound,
    OffsetMismatch,
    SessionUriUnknown,
    StateConflict,
    StorageNotFound,
    StorageObjectMissing,
    StorageTransient,
    UploadAlreadyCompleted,
    UploadCancelled,
    UploadRejected,
    UploadSessionExpired,
)
from rindle.operations.maintenance.abort_incomplete_uploads import abort_incomplete_uploads
from rindle.storage.gcs import GCSStorage
from rindle.testing.flaky import FlakyStorage
from tests.application import storage
from tests.integration.uploads.conftest import change, large_photo, let_expire, released, wake
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.gcs import GCSServer
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged

pytestmark = pytest.mark.external

UNIT = 256 * 1024
#: Where nothing listens.
CLOSED_ADDRESS = "http://127.0.0.1:1"


def environment_of(server: GCSServer, **more: str) -> dict[str, str]:
    """Variables of an application whose store is a fresh bucket of an emulator."""
    return {"APP_STORAGE": "gcs", "APP_BUCKET": server.new_bucket(), "APP_ENDPOINT": server.address, **more}


@pytest.fixture
async def gcs_stage(
    tmp_path: Path, database_url: str, temporal_server: TemporalServer, fake_gcs: GCSServer
) -> AsyncIterator[Stage]:
    """The application on both databases, with fake-gcs-server."""
    async with staged(tmp_path, database_url, temporal_server.target, environment_of(fake_gcs)) as ready:
        yield ready


@pytest.fixture
async def lite_gcs_stage(tmp_path: Path, temporal_server: TemporalServer, fake_gcs: GCSServer) -> AsyncIterator[Stage]:
    """The same on SQLite alone."""
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, environment_of(fake_gcs)) as ready:
        yield ready


@pytest.fixture
async def flaky_gcs_stage(tmp_path: Path, temporal_server: TemporalServer, fake_gcs: GCSServer) -> AsyncIterator[Stage]:
    """The same with a store that fails on command; its members run in this process."""
    url, environment = f"sqlite+aiosqlite:///{tmp_path}/stage.db", environment_of(fake_gcs)
    store = FlakyStorage(storage(environment))
    async with staged(tmp_path, url, temporal_server.target, environment, store=store) as ready:
        yield ready


@pytest.fixture
async def status_stage(
    tmp_path: Path, database_url: str, temporal_server: TemporalServer, gcp_emulator: GCSServer
) -> AsyncIterator[Stage]:
    """The application on both databases, with the emulator that knows the status of sessions."""
    async with staged(tmp_path, database_url, temporal_server.target, environment_of(gcp_emulator)) as ready:
        yield ready


async def begin(stage: Stage, size: int | None = None, **options: Any) -> tuple[str, SecretStr]:
    """Open a session; returns its id and URI."""
    opened = await stage.rindle.initiate_resumable_session("plain", filename="film.bin", size=size, **options)
    return opened.session.id, opened.resumable.session_uri


async def put(uri: SecretStr, piece: bytes, start: int, total: int) -> int:
    """Send one piece to a session URI, as a browser does; returns the status."""
    span = {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{total}"}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as browser:
        return (await browser.put(uri.get_secret_value(), content=piece, headers=span)).status_code


def store_of(stage: Stage) -> GCSStorage:
    """Return the bucket of a stage, past any double around it."""
    found = getattr(stage.storage, "inner", stage.storage)
    assert isinstance(found, GCSStorage)
    return found


def double_of(stage: Stage) -> FlakyStorage:
    """Return the store that fails on command."""
    assert isinstance(stage.storage, FlakyStorage)
    return stage.storage


async def count_rows(stage: Stage) -> int:
    """Return how many assets and sessions there are."""
    return await stage.rindle.database.read(
        lambda session: sum(
            session.scalar(select(func.count()).select_from(table)) or 0 for table in (MediaAsset, MediaUploadSession)
        )
    )


async def test_a_photo_in_pieces_becomes_a_finished_asset(gcs_stage: Stage, tmp_path: Path) -> None:
    stage, body = gcs_stage, large_photo(tmp_path / "photo.jpg")
    await stage.member()

    opened = await stage.rindle.initiate_resumable_session(
        "avatar", filename="me.jpg", size=len(body), actor="alice", origin="https://example.com"
    )
    uri = opened.resumable.session_uri
    assert (opened.session.state, opened.session.upload_strategy) == ("signed", "resumable")
    assert opened.session.resumable_protocol == "gcs"
    assert timedelta(days=6) < opened.resumable.expires_at - utc_now() <= timedelta(days=7)
    assert await put(uri, body[: 4 * UNIT], 0, len(body)) == 308
    assert await put(uri, body[4 * UNIT :], 4 * UNIT, len(body)) == 200
    done = await stage.rindle.verify_completion(opened.session.id)

    assert (done.session.state, done.asset.state, done.asset.byte_size) == ("completed", "validating", len(body))
    ready = await stage.settled(done.asset.id)
    assert ready.state == "ready"
    stored = await store_of(stage).download(ready.storage_key, tmp_path / "copy")
    assert hashlib.sha256(stored.read_bytes()).digest() == hashlib.sha256(body).digest()
    assert (await store_of(stage).head(ready.storage_key)).content_type == "image/jpeg"
    finished = await stage.rindle.resumable_session_status(opened.session.id)
    assert (finished.committed_bytes, finished.state) == (len(body), "complete")
    await everything_holds(stage)


async def test_a_client_continues_where_the_store_is(status_stage: Stage) -> None:
    stage, body = status_stage, bytes(range(256)) * 3000
    session_id, uri = await begin(stage, len(body))
    assert await put(uri, body[:UNIT], 0, len(body)) == 308
    early = (await stage.session(session_id)).expires_at
    await let_expire(stage, session_id, in_seconds=600)

    seen = await stage.rindle.resumable_session_status(session_id, resume=True)
    assert (seen.committed_bytes, seen.state, seen.session.state) == (UNIT, "in_progress", "resuming")
    assert seen.session.last_known_offset == UNIT
    assert seen.session.expires_at >= early  # progress extends the session
    with pytest.raises(OffsetMismatch) as caught:
        await stage.rindle.resumable_session_status(session_id, client_offset=7)
    assert (caught.value.server, caught.value.client) == (UNIT, 7)
    assert await put(uri, body[UNIT : 2 * UNIT], UNIT, len(body)) == 308
    assert (await stage.rindle.resumable_session_status(session_id)).session.state == "uploading"
    assert await put(uri, body[2 * UNIT :], 2 * UNIT, len(body)) == 200

    # This emulator forgets a session with its end; the object tells.
    whole = await stage.rindle.resumable_session_status(session_id)
    assert (whole.committed_bytes, whole.state) == (len(body), "complete")
    assert whole.session.state == "uploading"  # nothing is verified by that
    assert (await stage.rindle.verify_completion(session_id)).session.state == "completed"


# --- where it does not begin -------------------------------------------------------------------------------------


async def test_a_store_without_sessions_refuses_before_any_row(lite_stage: Stage) -> None:
    with pytest.raises(CapabilityUnsupported) as caught:
        await begin(lite_stage)

    assert (caught.value.code, caught.value.capability) == ("upload_unsupported", "resumable_upload")
    assert await count_rows(lite_stage) == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 9_000_000}, UploadRejected),
        ({"expires_in": 59}, InvalidArgument),
        ({"idempotency_key": "k"}, InvalidArgument),
        ({"origin": "https://a\r\nX: y"}, InvalidArgument),
    ],
)
async def test_a_bad_beginning_leaves_no_row(
    lite_gcs_stage: Stage, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await lite_gcs_stage.rindle.initiate_resumable_session("avatar", filename="me.jpg", **options)
    assert await count_rows(lite_gcs_stage) == 0


async def test_a_refusal_of_the_store_leaves_no_row(flaky_gcs_stage: Stage) -> None:
    double_of(flaky_gcs_stage).fail("initiate_resumable_upload", StorageTransient("no answer"))

    with pytest.raises(StorageTransient):
        await begin(flaky_gcs_stage)
    assert await count_rows(flaky_gcs_stage) == 0


async def test_a_session_that_its_row_could_not_record_is_cancelled(
    flaky_gcs_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise StateConflict("the database was away")

    monkeypatch.setattr(rows, "insert_begun", lost)

    with pytest.raises(StateConflict):
        await begin(flaky_gcs_stage)

    assert double_of(flaky_gcs_stage).calls_for("cancel_resumable_upload") == 1
    assert await count_rows(flaky_gcs_stage) == 0


@pytest.mark.parametrize("size", [3, 7])
async def test_another_size_than_the_declared_one_is_refused_and_removed(lite_gcs_stage: Stage, size: int) -> None:
    stage = lite_gcs_stage
    await stage.member()
    session_id, uri = await begin(stage, 5)
    assert await put(uri, bytes(size), 0, size) == 200  # the emulator does not compare; Google refuses it here

    with pytest.raises(UploadRejected) as refused:
        await stage.rindle.verify_completion(session_id)
    await released(stage, session_id)

    assert (refused.value.code, (await stage.session(session_id)).state) == ("size_mismatch", "failed")
    assert await stage.keys() == set()


async def test_a_cancel_and_a_verification_at_once_leave_one_outcome(lite_gcs_stage: Stage) -> None:
    stage = lite_gcs_stage
    await stage.member()
    session_id, uri = await begin(stage, 5)
    assert await put(uri, b"hello", 0, 5) == 200

    cancelled, verified = await asyncio.gather(
        stage.rindle.cancel_upload(session_id), stage.rindle.verify_completion(session_id), return_exceptions=True
    )

    row = await stage.session(session_id)
    if row.state == "completed":
        assert isinstance(cancelled, UploadAlreadyCompleted)
        assert await stage.keys() == {row.upload_key}
    else:
        assert (row.state, isinstance(verified, UploadCancelled)) == ("aborted", True)
        await released(stage, session_id)
        assert await stage.keys() == set()


async def test_a_verification_is_told_of_a_cancel_that_removed_the_object_first(flaky_gcs_stage: Stage) -> None:
    stage = flaky_gcs_stage
    await stage.member()
    session_id, uri = await begin(stage, 5)
    assert await put(uri, b"hello", 0, 5) == 200
    held = double_of(stage).hang("head")
    verifying = asyncio.create_task(stage.rindle.verify_completion(session_id))
    await held.reached.wait()
    await stage.rindle.cancel_upload(session_id)
    await released(stage, session_id)
    held.release()

    with pytest.raises(UploadCancelled):
        await verifying


async def test_a_verification_of_an_upload_that_is_extended_meanwhile_asks_for_the_bytes(
    flaky_gcs_stage: Stage,
) -> None:
    stage = flaky_gcs_stage
    session_id, _ = await begin(stage, 5)
    await let_expire(stage, session_id)
    held = double_of(stage).hang("head")
    verifying = asyncio.create_task(stage.rindle.verify_completion(session_id))
    await held.reached.wait()
    await let_expire(stage, session_id, in_seconds=PATIENCE_SECONDS)
    held.release()

    with pytest.raises(StorageObjectMissing):
        await verifying
    assert (await stage.session(session_id)).state == "signed"


async def test_one_idempotency_key_has_one_session(gcs_stage: Stage) -> None:
    def call() -> Any:
        return begin(gcs_stage, 5, actor="alice", idempotency_key="one")

    found = await asyncio.gather(*(call() for _ in range(4)))
    found.append(await call())

    assert len({session_id for session_id, _ in found}) == 1
    assert len({uri.get_secret_value() for _, uri in found}) == 1
    assert await count_rows(gcs_stage) == 2


async def test_an_upload_of_another_lane_has_no_session(lite_gcs_stage: Stage) -> None:
    signed = await lite_gcs_stage.rindle.initiate_upload("plain", filename="a.bin")

    with pytest.raises(CapabilityUnsupported):
        await lite_gcs_stage.rindle.resumable_session_status(signed.id)


async def test_a_session_has_no_other_grants(lite_gcs_stage: Stage) -> None:
    session_id, _ = await begin(lite_gcs_stage)

    with pytest.raises((CapabilityUnsupported, InvalidTransition)):
        await lite_gcs_stage.rindle.sign_multipart_part(session_id, 1)


# --- where it ends otherwise -------------------------------------------------------------------------------------


async def test_a_cancelled_upload_takes_no_bytes(flaky_gcs_stage: Stage) -> None:
    stage = flaky_gcs_stage
    await stage.member()
    session_id, uri = await begin(stage, 2 * UNIT)
    assert await put(uri, bytes(UNIT), 0, 2 * UNIT) == 308
    double_of(stage).fail("cancel_resumable_upload", StorageTransient("no answer"), times=2)

    await stage.rindle.cancel_upload(session_id)
    await released(stage, session_id)

    row = await stage.session(session_id)
    assert (row.state, row.session_uri, row.release_error_code) == ("aborted", None, None)
    with pytest.raises(UploadCancelled):
        await stage.rindle.resumable_session_status(session_id)
    with pytest.raises(StorageNotFound):
        await store_of(stage).head(row.upload_key)


async def test_an_expired_upload_is_released(gcs_stage: Stage) -> None:
    stage = gcs_stage
    await stage.member()
    session_id, _ = await begin(stage, 5)
    await let_expire(stage, session_id, in_seconds=2)
    await wake(stage, session_id)

    await released(stage, session_id)

    row = await stage.session(session_id)
    assert (row.state, row.session_uri) == ("expired", None)
    with pytest.raises(UploadSessionExpired):
        await stage.rindle.resumable_session_status(session_id)


async def test_an_upload_whose_asset_is_being_purged_is_not_extended(status_stage: Stage) -> None:
    session_id, _ = await begin(status_stage, 5)
    before = await status_stage.session(session_id)
    await status_stage.rindle.database.write(purge.begin, str(before.asset_id), late_put_seconds=0)

    with pytest.raises(NotFound):
        await status_stage.rindle.resumable_session_status(session_id, resume=True)

    after = await status_stage.session(session_id)
    assert (after.state, after.url_expires_at) == (before.state, before.url_expires_at)


async def test_the_sweep_cancels_what_no_workflow_did(lite_gcs_stage: Stage) -> None:
    stage = lite_gcs_stage
    session_id, _ = await begin(stage, 5)
    await let_expire(stage, session_id, in_seconds=-1)

    report = await abort_incomplete_uploads(stage.rindle.services)

    assert (report.sessions_aborted, report.resumable_aborts, report.abort_errors) == (1, 1, 0)
    assert (await stage.session(session_id)).session_uri is None


async def test_a_session_uri_that_was_tampered_with_is_not_requested(lite_gcs_stage: Stage) -> None:
    """An emulator's host is replaced by the configured one; the path must still be one of uploads."""
    session_id, _ = await begin(lite_gcs_stage, 5)
    await change(lite_gcs_stage, session_id, session_uri="http://169.254.169.254/computeMetadata/v1/")

    with pytest.raises(InvalidArgument):
        await lite_gcs_stage.rindle.resumable_session_status(session_id)


async def test_a_session_that_the_store_has_forgotten_is_unknown(status_stage: Stage) -> None:
    session_id, uri = await begin(status_stage, 5)
    forged = uri.get_secret_value().replace("upload_id=", "upload_id=0")
    await change(status_stage, session_id, session_uri=forged)

    with pytest.raises(SessionUriUnknown):
        await status_stage.rindle.resumable_session_status(session_id)
    assert (await status_stage.session(session_id)).state == "signed"


async def test_an_upload_completes_by_itself(lite_gcs_stage: Stage, tmp_path: Path) -> None:
    stage, body = lite_gcs_stage, photo(tmp_path / "me.jpg").read_bytes()
    await stage.member()
    opened = await stage.rindle.initiate_resumable_session(
        "avatar", filename="me.jpg", size=len(body), auto_verify=True
    )

    assert await put(opened.resumable.session_uri, body, 0, len(body)) == 200

    assert (await stage.settled(str(opened.session.asset_id))).state == "ready"


# --- secrets -----------------------------------------------------------------------------------------------------


async def test_the_session_uri_is_shown_to_the_client_alone(
    tmp_path: Path, temporal_server: TemporalServer, fake_gcs: GCSServer, every_log: pytest.LogCaptureFixture
) -> None:
    """Not even while the store is away: what a transport raises then quotes the URI."""
    key = Fernet.generate_key().decode()  # drivers of databases log what rows get
    url, environment = f"sqlite+aiosqlite:///{tmp_path}/stage.db", environment_of(fake_gcs, RINDLE_SESSION_URI_KEY=key)
    async with staged(tmp_path, url, temporal_server.target, environment) as stage:
        await stage.member()
        opened = await stage.rindle.initiate_resumable_session("plain", filename="film.bin", size=5, actor="alice")
        session_id, uri = opened.session.id, opened.resumable.session_uri.get_secret_value()
        canary = uri.partition("upload_id=")[2]
        assert len(canary) > 16
        progress = await stage.rindle.resumable_session_status(session_id)
        told = [repr(opened), str(opened), repr(progress), repr(await stage.session(session_id))]

        client = store_of(stage)._client
        answering, client.endpoint = client.endpoint, CLOSED_ADDRESS
        with pytest.raises(StorageTransient) as lost:
            await stage.rindle.resumable_session_status(session_id)
        await stage.rindle.cancel_upload(session_id)

        async def is_noted() -> bool:
            return (await stage.session(session_id)).release_error_code == "storage_transient"

        await until(is_noted, what="the release to fail")
        client.endpoint = answering
        await released(stage, session_id)

        temporal = await stage.client()
        handle = temporal.get_workflow_handle(stage.upload_workflow(session_id))
        described = await handle.describe()
        told += [
            *("".join(traceback.format_exception(lost.value)), repr(lost.value), str(lost.value.to_dict())),
            (await handle.fetch_history()).to_json(),
            str(await described.memo()) + str(described.typed_search_attributes),
            *(str(event.payload) for event in await stage.events(str(opened.session.asset_id))),
            *(str(row.payload) for row in await stage.outbox()),
        ]
        row = await stage.session(session_id)

    assert [text for text in told if canary in text] == []
    # The test's own browser would write it; none was opened here.
    assert [record.name for record in every_log.records if canary in str(record.__dict__)] == []
    assert {"urllib3.connectionpool", "aiosqlite"} <= {record.name for record in every_log.records}
    assert row.session_uri is None


async def test_a_session_uri_that_is_refused_is_not_quoted(lite_gcs_stage: Stage) -> None:
    session_id, uri = await begin(lite_gcs_stage, 5)
    text = uri.get_secret_value()
    await change(lite_gcs_stage, session_id, session_uri=text.replace("/upload/", "/elsewhere/"))

    with pytest.raises(InvalidArgument) as refused:
        await lite_gcs_stage.rindle.resumable_session_status(session_id)

    canary = text.partition("upload_id=")[2]
    assert canary not in repr(refused.value) + str(refused.value.to_dict())


async def test_the_column_is_encrypted_on_request(
    tmp_path: Path, temporal_server: TemporalServer, fake_gcs: GCSServer
) -> None:
    key = Fernet.generate_key().decode()
    url, environment = f"sqlite+aiosqlite:///{tmp_path}/stage.db", environment_of(fake_gcs, RINDLE_SESSION_URI_KEY=key)
    async with staged(tmp_path, url, temporal_server.target, environment) as stage:
        await stage.member()
        session_id, uri = await begin(stage, 5, actor="alice", idempotency_key="one")

        kept = str((await stage.session(session_id)).session_uri)
        assert kept.startswith("fernet:")
        assert "upload_id" not in kept
        assert Fernet(key).decrypt(kept.removeprefix("fernet:").encode()).decode() == uri.get_secret_value()
        assert (await begin(stage, 5, actor="alice", idempotency_key="one"))[1] == uri
        await stage.rindle.cancel_upload(session_id)
        await released(stage, session_id)
