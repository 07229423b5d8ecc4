"""What the doctor finds of a bucket: signing key, clock, CORS and lifecycle rules, and what it may not read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from sqlalchemy.ext.asyncio import create_async_engine

from rindle import Rindle
from rindle.errors import StorageMisconfigured, StorageTransient
from rindle.operations.checks.report import Check
from rindle.protocols import SetupFinding
from rindle.storage.gcs import GCSStorage
from rindle.storage.gcs import client as gcs_client
from tests.patience import PATIENCE_SECONDS
from tests.scripted_server import Reply, ScriptedServer, scripted_server
from tests.servers.gcs import GCSServer

CORS = {
    "origin": ["https://example.com"],
    "method": ["PUT", "GET", "HEAD"],
    "responseHeader": ["Content-Type", "x-goog-if-generation-match", "x-goog-content-length-range"],
}
OLD_VERSIONS = {"action": {"type": "Delete"}, "condition": {"numNewerVersions": 3}}
BY_AGE = {"action": {"type": "Delete"}, "condition": {"age": 30}}


@pytest.fixture
def google() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
async def storage(google: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GCSStorage]:
    monkeypatch.setattr(gcs_client, "FIRST_PAUSE_SECONDS", 0.001)
    storage = make(google)
    yield storage
    await storage.close()


def make(google: ScriptedServer, **options: Any) -> GCSStorage:
    options = {"signing_email": "media@project.iam.gserviceaccount.com", **options}
    return GCSStorage("media", api_endpoint=google.address, credentials=AnonymousCredentials(), **options)


def bucket(*, ahead: timedelta = timedelta(), **fields: Any) -> Reply:
    """The answer to a request for the bucket, from a store whose clock is ``ahead``."""
    date = format_datetime(datetime.now(UTC) + ahead, usegmt=True)
    return Reply(200, {"Content-Type": "application/json", "Date": date}, json.dumps(fields).encode())


async def findings(google: ScriptedServer, storage: GCSStorage, monkeypatch: pytest.MonkeyPatch, answer: Reply) -> Any:
    """Return the findings; IAM signs."""
    monkeypatch.setattr(storage._signatures, "_iam_endpoint", google.address)
    google.script(answer, Reply(200, {"Content-Type": "application/json"}, b'{"signedBlob": "c2lnbmVk"}'))
    return await storage.check()


def wrong(found: list[SetupFinding]) -> list[tuple[str, str]]:
    assert all(one.fix for one in found if one.level in ("error", "warn"))
    return [(one.level, one.summary) for one in found if one.level != "ok"]


@pytest.mark.parametrize(
    "lifecycle",
    [
        [],
        [OLD_VERSIONS],
        [{"action": {"type": "Delete"}, "condition": {"age": 1, "isLive": False}}],
        [{"action": {"type": "Delete"}, "condition": {"age": 1, "matchesPrefix": [".rindle/compose/"]}}],
        [{"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": {"age": 30}}],
        [{"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 8}}],
    ],
)
async def test_a_bucket_that_is_set_up_has_no_faults(
    google: ScriptedServer, storage: GCSStorage, monkeypatch: pytest.MonkeyPatch, lifecycle: list[Any]
) -> None:
    found = await findings(google, storage, monkeypatch, bucket(cors=[CORS], lifecycle={"rule": lifecycle}))

    assert [one.level for one in found] == ["ok"] * 4
    assert (google.asked[0].method, google.asked[0].path) == ("GET", "/storage/v1/b/media")


@pytest.mark.parametrize(
    ("fields", "summary"),
    [
        ({}, "no CORS rule allows PUT, so browsers cannot upload"),
        ({"cors": [{**CORS, "method": ["GET"]}]}, "no CORS rule allows PUT, so browsers cannot upload"),
        (
            {"cors": [{**CORS, "responseHeader": ["content-type"]}]},
            "the CORS rule for PUT lacks the headers x-goog-if-generation-match, x-goog-content-length-range, so "
            "browsers cannot upload",
        ),
        (
            {"cors": [CORS], "lifecycle": {"rule": [OLD_VERSIONS, BY_AGE]}},
            "a lifecycle rule deletes objects that assets still need",
        ),
    ],
)
async def test_a_missing_or_harmful_rule_is_a_warning(
    google: ScriptedServer,
    storage: GCSStorage,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    summary: str,
) -> None:
    assert wrong(await findings(google, storage, monkeypatch, bucket(**fields))) == [("warn", summary)]


@pytest.mark.parametrize(("prefix", "harms"), [("tenant/", True), ("tenant/media/a", True), ("other/", False)])
async def test_a_lifecycle_rule_is_compared_with_the_key_prefix(
    google: ScriptedServer, monkeypatch: pytest.MonkeyPatch, prefix: str, harms: bool
) -> None:
    storage = make(google, key_prefix="tenant/media")
    rule = {"action": {"type": "Delete"}, "condition": {"age": 30, "matchesPrefix": [prefix]}}

    found = await findings(google, storage, monkeypatch, bucket(cors=[CORS], lifecycle={"rule": [rule]}))

    assert bool(wrong(found)) is harms
    await storage.close()


@pytest.mark.parametrize(("hours", "word"), [(1, "behind"), (-1, "ahead of")])
async def test_a_wrong_clock_is_an_error(
    google: ScriptedServer, storage: GCSStorage, monkeypatch: pytest.MonkeyPatch, hours: int, word: str
) -> None:
    answer = bucket(ahead=timedelta(hours=hours), cors=[CORS])

    [(level, summary)] = wrong(await findings(google, storage, monkeypatch, answer))

    assert level == "error"
    assert f"s {word} that of the store" in summary


async def test_credentials_that_cannot_sign_are_an_error(google: ScriptedServer) -> None:
    storage = make(google, signing_email=None)
    google.script(bucket(cors=[CORS]))

    assert wrong(await storage.check()) == [("error", "URLs cannot be signed (gcs_signing_key_invalid)")]
    await storage.close()


async def test_rules_that_may_not_be_read_are_left_out(
    google: ScriptedServer, storage: GCSStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    date = format_datetime(datetime.now(UTC), usegmt=True)

    found = await findings(google, storage, monkeypatch, Reply(403, {"Date": date}, b"{}"))

    [(level, summary)] = wrong(found)
    assert (level, "storage.buckets.get" in summary) == ("skipped", True)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Reply(404, {}, b"{}"), StorageMisconfigured),
        (Reply(200, {}, b"<html>"), StorageTransient),
        (Reply(200, {}, b'{"cors": [7]}'), StorageTransient),
    ],
)
async def test_a_bucket_that_cannot_be_used_raises(
    google: ScriptedServer,
    storage: GCSStorage,
    monkeypatch: pytest.MonkeyPatch,
    answer: Reply,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        await findings(google, storage, monkeypatch, answer)


# --- the row of the doctor ---------------------------------------------------------------------------------------


async def row(directory: Path, storage: GCSStorage) -> Check:
    engine = create_async_engine(f"sqlite+aiosqlite:///{directory}/doctor.db")
    rindle = Rindle(engine=engine, storages={"media": storage}, profiles=[])
    try:
        [found] = (await rindle.doctor(only=["storage.media.setup"], timeout=PATIENCE_SECONDS)).checks
        return found
    finally:
        await rindle.close()
        await engine.dispose()


async def test_the_doctor_names_what_to_repair(google: ScriptedServer, tmp_path: Path) -> None:
    storage = make(google, signing_email=None)
    google.script(bucket(lifecycle={"rule": [BY_AGE]}))

    found = await row(tmp_path, storage)

    assert found.status == "error"
    assert found.summary == (
        "URLs cannot be signed (gcs_signing_key_invalid); no CORS rule allows PUT, so browsers cannot upload; "
        "a lifecycle rule deletes objects that assets still need"
    )
    assert "set the CORS rules" in str(found.fix)


@pytest.mark.external
async def test_the_doctor_is_content_with_an_emulator(fake_gcs: GCSServer, tmp_path: Path) -> None:
    found = await row(tmp_path, fake_gcs.storage(fake_gcs.new_bucket()))

    assert (found.status, found.summary) == ("ok", "URLs are signed; the clock agrees with that of the store")
