"""``MuxProvider`` against the server that stands for Mux: contract, refusals, and secrets that stay where they are."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.client import Client

from rindle import MediaEvent, Rindle, messages, outbox, telemetry
from rindle.db import direct_uploads
from rindle.db import providers as rows
from rindle.db.models import MediaProviderAsset
from rindle.errors import ProviderNotFound, ProviderQuotaExceeded, ProviderSyncFailed, RindleError
from rindle.operations.explain import explain
from rindle.operations.maintenance.provider_sync import provider_retry, provider_sync
from rindle.presets import MuxDirectUploadWeb, MuxWeb
from rindle.protocols import ProviderAsset, StreamingProvider
from rindle.storage.memory import MemoryStorage
from rindle.streaming import signatures
from rindle.streaming.mux import MuxConfig, MuxProvider
from rindle.streaming.mux import provider as module
from rindle.testing.streaming_contract import StreamingProviderContract
from rindle.webhooks import ingest_webhook
from rindle.workflows import ids
from tests.application import SECRET as SIGNING_SECRET
from tests.gallery import Gallery
from tests.patience import PATIENCE_SECONDS, until
from tests.servers.mux import FakeMux
from tests.stage import Stage
from tests.unit.streaming.cinema import FACTS
from tests.workflows.fleet import Fleet, handle_of

Urls = Callable[[str], str]
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
CHECKS = [f"streaming.{part}" for part in ("credentials", "signing_key", "webhook_secrets", "smoke_ping", "orphans")]
WEBHOOK_SECRET = "canary-of-the-webhooks-of-this-test"


def config(mux: FakeMux, **options: str) -> MuxConfig:
    token_id, token_secret = mux.token
    found: dict[str, Any] = {
        **{"token_id": token_id, "token_secret": token_secret, "signing_key_id": "key", "signing_private_key": PEM},
        **{"webhook_secrets": (WEBHOOK_SECRET,), "base_url": mux.base_url, "stream_url": mux.base_url},
        **options,
    }
    return MuxConfig(**found)


@pytest.fixture
async def provider(mux: FakeMux) -> AsyncIterator[MuxProvider]:
    made = MuxProvider(lambda: config(mux))
    yield made
    await made.close()


def told(mux: FakeMux, asset_id: str, secret: str = WEBHOOK_SECRET, now: datetime | None = None) -> tuple[bytes, Any]:
    """Return the webhook that reports an asset as ready, signed now."""
    [event] = [one for one in mux.events if (one.type, one.about) == ("video.asset.ready", asset_id)]
    return event.body, {"Mux-Signature": signatures.sign(event.body, secret, now=now or datetime.now(UTC))}


class TestMuxProvider(StreamingProviderContract):
    @pytest.fixture
    def provider(self, provider: MuxProvider, mux: FakeMux) -> MuxProvider:
        self.mux = mux
        return provider

    @pytest.fixture
    def source_url(self, film_url: Urls) -> str:
        return film_url("film.mp4")

    async def finish(self, provider: StreamingProvider, asset_id: str) -> None:
        async def ready() -> bool:
            return (await provider.get_asset(asset_id)).state == "ready"

        await until(ready, what="the film to be cut")

    def webhook(self, asset: ProviderAsset, secret: str, now: datetime) -> tuple[bytes, Mapping[str, str]]:
        return told(self.mux, asset.id, secret, now)


#: Every call, with the method of its request first.
CALLS: dict[str, Callable[[MuxProvider], Awaitable[Any]]] = {
    "POST an asset": lambda one: one.create_asset("http://127.0.0.1:9/canary", policy="signed", passthrough="canary"),
    "GET its passthrough": lambda one: one.find_by_passthrough("canary", since=datetime.now(UTC) - timedelta(hours=1)),
    "GET an asset": lambda one: one.get_asset("canary"),
    "DELETE an asset": lambda one: one.delete_asset("canary"),
    "POST an upload": lambda one: one.create_direct_upload(
        cors_origin="https://a.test", timeout_seconds=60, policy="signed", passthrough="canary"
    ),
    "GET an upload": lambda one: one.get_direct_upload("canary"),
    "PUT a cancellation": lambda one: one.cancel_direct_upload("canary"),
    "GET anything": lambda one: one.ping(),
}


@pytest.mark.parametrize("call", list(CALLS))
async def test_every_refusal_of_every_call_is_translated_without_what_was_sent(
    mux: FakeMux, provider: MuxProvider, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def refused(status: int, **options: Any) -> RindleError | None:
        mux.plan_fault(call.split()[0], "*", status=status, **options)
        try:
            await CALLS[call](provider)
        except RindleError as error:
            assert "canary" not in str(error) + repr(error) + repr(error.detail) and error.__cause__ is None
            return error
        return None

    for status, transient in ((401, False), (403, False), (422, False), (408, True), (500, True), (503, True)):
        error = await refused(status)
        if (status, call) == (403, "PUT a cancellation"):  # it has ended
            assert error is None
            continue
        assert isinstance(error, ProviderSyncFailed)
        assert (error.status, error.transient) == (status, transient)
    limited = await refused(429, retry_after=7)
    assert isinstance(limited, ProviderQuotaExceeded) and limited.retry_after == 7
    for given in (None, "soon"):
        limited = await refused(429, retry_after=given)
        assert isinstance(limited, ProviderQuotaExceeded) and limited.retry_after == module.QUOTA_SECONDS
    missing = await refused(404)
    assert (
        missing is None if call in ("DELETE an asset", "PUT a cancellation") else isinstance(missing, ProviderNotFound)
    )
    monkeypatch.setattr(module, "CALL_SECONDS", 0.2)
    silent = await refused(500, is_silent=True)
    mux.answer_the_silent()
    assert isinstance(silent, ProviderSyncFailed) and silent.transient


async def test_mux_is_told_what_a_profile_declares_and_nothing_else(mux: FakeMux, provider: MuxProvider) -> None:
    """The plural names: the singular ones are deprecated. No ``mp4_support``: the application has the file itself."""
    mux.hold_ingest()
    asset = {"playback_policies": ["signed"], "passthrough": "row-1", "max_resolution_tier": "1080p"}
    await provider.create_asset("http://127.0.0.1:9/film.mp4", policy="signed", passthrough="row-1")
    assert mux.assets[0].settings == {"inputs": [{"url": "http://127.0.0.1:9/film.mp4"}], **asset}
    await provider.create_direct_upload(
        cors_origin="https://a.test", timeout_seconds=60, policy="public", passthrough="row-2"
    )
    [upload] = mux.uploads
    assert (upload.cors_origin, upload.timeout) == ("https://a.test", 60)
    assert upload.settings == {**asset, "playback_policies": ["public"], "passthrough": "row-2"}


async def test_only_the_newest_assets_are_searched_for_a_passthrough(
    mux: FakeMux, provider: MuxProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    mux.hold_ingest()
    monkeypatch.setattr(module, "_PAGE", 2)
    for number in range(2 * module._PAGES + 1):
        await provider.create_asset("http://127.0.0.1:9/film.mp4", policy="signed", passthrough=f"row-{number}")
    long_ago, pages = datetime.now(UTC) - timedelta(days=1), ("GET", "/video/v1/assets")

    async def searched(passthrough: str, since: datetime) -> tuple[bool, int]:
        before = mux.requests.count(pages)
        found = await provider.find_by_passthrough(passthrough, since=since)
        return found is not None, mux.requests.count(pages) - before

    assert await searched("row-1", long_ago) == (True, module._PAGES)  # the last one on the last page
    assert await searched("row-0", long_ago) == (False, module._PAGES)  # one page further
    assert await searched("row-0", datetime.now(UTC) + timedelta(days=1)) == (False, 1)  # all others are older


async def test_rotated_credentials_are_used_by_the_next_call(mux: FakeMux, provider: MuxProvider) -> None:
    await provider.ping()
    mux.rotate_token()
    await provider.ping()


async def test_the_levels_of_logs_are_the_applications_and_no_log_has_an_id_or_an_address(
    mux: FakeMux, provider: MuxProvider, every_log: pytest.LogCaptureFixture
) -> None:
    mux.hold_ingest()
    names = ("urllib3", "urllib3.connectionpool", "mux_python", "mux_python.rest")
    made = await provider.create_asset("http://127.0.0.1:9/film.mp4", policy="signed", passthrough="canary-pass")
    await provider.find_by_passthrough("canary-pass", since=datetime.now(UTC) - timedelta(hours=1))
    await provider.get_asset(made.id)
    await provider.delete_asset(made.id)
    upload = await provider.create_direct_upload(
        cors_origin="https://a.test", timeout_seconds=60, policy="signed", passthrough="canary-upload"
    )
    await provider.get_direct_upload(upload.id)
    await provider.cancel_direct_upload(upload.id)

    assert [logging.getLogger(name).level for name in names] == [logging.NOTSET] * len(names)
    ours = [record for record in every_log.records if str(record.threadName).startswith("rindle-mux")]
    assert [record.name for record in ours].count("urllib3.connectionpool") > 7
    secrets = (made.id, upload.id, upload.url, "canary", "film.mp4", mux.token[1])
    assert [str(vars(record)) for record in ours if any(one in str(vars(record)) for one in secrets)] == []


# --- secrets -----------------------------------------------------------------------------------------------------


class Shelf(MemoryStorage):
    """Objects that the provider finds at an address whose signature must not be seen."""

    address = ""

    async def url(self, key: str, **options: Any) -> str:
        """Return the address of the same film for every key."""
        return self.address


class Seen:
    """Everything that people and other programs may see of an application."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._log = caplog
        self.parts: list[str] = []

    def note(self, *found: Any) -> None:
        self.parts += [f"{part!r} {part}" for part in found]

    def text(self) -> str:
        formatted = logging.Formatter("%(name)s %(message)s")
        # Neither those of the server, nor those of the test's own browser.
        ours = [one for one in self._log.records if one.threadName != "mux" and not one.name.startswith("http")]
        logged = [formatted.format(record) + str(vars(record)) for record in ours]
        return "\n".join([*self.parts, *logged])


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture) -> Iterator[Seen]:
    """What is seen during a test, logs and telemetry included."""
    found = Seen(caplog)
    caplog.set_level(logging.INFO)
    for name in ("rindle", "urllib3", "mux_python"):
        caplog.set_level(logging.DEBUG, name)
    remove = telemetry.add_handler(lambda *facts: found.note(*map(str, facts)))
    yield found
    remove()


@pytest.fixture
async def application(lite_stage: Stage, mux: FakeMux, film_url: Urls) -> Rindle:
    """An application whose films are pushed, or sent by browsers, to the server that stands for Mux."""
    store = Shelf()
    store.address = f"{film_url('film.mp4')}?X-Amz-Signature=canary-of-the-source"

    class Lesson(MuxWeb):
        name = "lesson"
        storage = store

    class Talk(MuxDirectUploadWeb):
        name = "talk"
        storage = store

    await lite_stage.stamp()
    made = lite_stage.application(RINDLE_PROVIDER_POLL_SECONDS="0.2")
    return lite_stage.adopt(
        Rindle(
            engine=made.database.engine,
            storages={"media": store},
            profiles=[Lesson, Talk],
            secrets=[SIGNING_SECRET],
            settings=made.settings,
            temporal=made.temporal,
            providers=[MuxProvider(lambda: config(mux))],
        )
    )


async def history(client: Client, stage: Stage, workflow_id: str) -> str:
    handle = await handle_of(stage, workflow_id)
    described = await client.get_workflow_handle(workflow_id).describe()
    return (await handle.fetch_history()).to_json() + str(described.raw_description)


async def test_no_id_url_or_token_of_the_provider_is_seen_anywhere(
    lite_stage: Stage, mux: FakeMux, application: Rindle, seen: Seen
) -> None:
    stage, rindle = lite_stage, application
    lesson = rindle.profiles.get("lesson")
    film = await Gallery(rindle).ready(lesson, facts=FACTS)

    async def row() -> MediaProviderAsset | None:
        return await rindle.database.read(rows.find, film.id, "lesson", "mux")

    async def in_state(state: str) -> MediaProviderAsset:
        async def look() -> MediaProviderAsset | None:
            found = await row()
            return found if found is not None and found.state == state and found.provider_asset_id else None

        found = await until(look, what=f"the film to be {state}")
        assert found is not None
        seen.note(found, repr(found), str(found))
        return found

    def begin(session: Session) -> None:
        outbox.push_source(session, rindle.settings, film.id, lesson, {"web_720p"})

    mux.hold_ingest()
    mux.plan_fault("POST", "/video/v1/assets", status=500, is_done_first=True)
    mux.plan_fault("GET", "/video/v1/assets/*", status=500)
    await rindle.database.write(begin)
    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        made = await in_state("processing")

        async def failed_once() -> bool:
            found = await row()
            return found is not None and found.last_sync_error is not None

        await until(failed_once, what="a poll to fail")
        mux.release_ingest()
        asset_id, passthrough = str(made.provider_asset_id), str(made.mux_passthrough)

        async def announced() -> bool:
            return any((one.type, one.about) == ("video.asset.ready", asset_id) for one in mux.events)

        await until(announced, what="the provider to announce the film")
        body, headers = told(mux, asset_id)
        with pytest.raises(RindleError) as forged:
            await ingest_webhook(rindle.services, "mux", body, headers, ["another secret"])
        seen.note(str(forged.value), repr(forged.value))
        assert await ingest_webhook(rindle.services, "mux", body, headers, [WEBHOOK_SECRET])
        await in_state("ready")

        async def applied() -> bool:
            events = await rindle.timeline(film.id)
            return any(one.type == "provider_webhook" for one in events)

        await until(applied, what="the webhook to be applied")
        found = await rindle.streaming_url("lesson", film.id)
        token = found.url.partition("?token=")[2]
        seen.note(repr(found), rindle.services.provider("mux"), config(mux), await rindle.asset(film.id))
        seen.note(*(json.dumps(one.to_dict()) for one in (await explain(rindle.services, film.id),)))
        seen.note(json.dumps((await rindle.runtime_status(provider_stuck=True)).to_dict()))
        seen.note(json.dumps((await rindle.doctor(streaming=True, only=CHECKS, timeout=60)).to_dict()))
        seen.note(str(await provider_sync(rindle.services, film)))
        mux.plan_fault("GET", f"/video/v1/assets/{asset_id}", status=401)
        seen.note(str(await provider_sync(rindle.services, film)))
        with pytest.raises(RindleError) as refused:
            await provider_retry(rindle.services, film.id)
        seen.note(str(refused.value), repr(refused.value))
        mux.plan_fault("DELETE", "*", status=500)
        await rindle.purge_asset(film.id)
        await stage.gone(film.id)
        client = await stage.client()
        for workflow_id in (
            ids.provider_push_id(film.id, "mux", prefix=stage.prefix),
            ids.purge_id(film.id, prefix=stage.prefix),
        ):
            seen.note(await history(client, stage, workflow_id))
    assert mux.assets == []
    events = await stage.read(lambda session: list(session.scalars(select(MediaEvent))))
    seen.note(*(f"{one.type} {one.scope_key} {one.scope_id} {one.payload}" for one in events))

    text = seen.text()
    # What this test looks at is what it means to look at.
    told_of = ("provider_webhook", messages.CREATE_PROVIDER_ASSET, "rindle.provider.sync.resolved", "a poll of a")
    for known in (*told_of, '"GET /video/v1/assets/[REDACTED] HTTP/1.1"'):
        assert known in text, known
    secrets = (
        *(asset_id, passthrough, token, "canary-of-the-source", WEBHOOK_SECRET, mux.token[1]),
        *(PEM.splitlines()[3], SIGNING_SECRET, headers["Mux-Signature"].rpartition("=")[2]),
    )
    assert {secret[:8] for secret in secrets if secret in text} == set()


async def test_no_id_url_or_token_of_a_browsers_upload_is_seen_anywhere(
    lite_stage: Stage, mux: FakeMux, application: Rindle, seen: Seen
) -> None:
    stage, rindle = lite_stage, application
    mux.hold_ingest()
    mux.plan_fault("POST", "/video/v1/uploads", status=422)
    with pytest.raises(ProviderSyncFailed) as refused:
        await rindle.create_direct_upload("talk", cors_origin="https://cohort.example")
    seen.note(str(refused.value), repr(refused.value))
    sent, unwanted = [
        await rindle.create_direct_upload("talk", cors_origin="https://cohort.example", filename="talk.mp4")
        for _ in range(2)
    ]
    secrets = [mux.token[1], WEBHOOK_SECRET]
    for upload in (sent, unwanted):
        row = await rindle.database.read(direct_uploads.find, upload.asset_id)
        assert row is not None
        secrets += [upload.upload_url, str(row.provider_upload_id), str(row.mux_passthrough)]
        seen.note(upload, row)

    async def told_of(kind: str) -> None:
        [event] = [one for one in mux.events if one.type == kind]
        headers = {"Mux-Signature": signatures.sign(event.body, WEBHOOK_SECRET, now=datetime.now(UTC))}
        assert await ingest_webhook(rindle.services, "mux", event.body, headers, [WEBHOOK_SECRET])

    async def in_state(asset_id: str, state: str) -> None:
        async def look() -> bool:
            found = await rindle.database.read(direct_uploads.find, asset_id)
            return found is not None and found.state == state and not found.cleanup_pending

        await until(look, what=f"the talk to be {state}")

    async with Fleet(stage) as fleet:
        await fleet.start(rindle)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as browser:
            (await browser.put(sent.upload_url, content=b"no film")).raise_for_status()
        secrets.append(mux.assets[0].id)
        await told_of("video.upload.asset_created")
        await in_state(sent.asset_id, "processing")
        with pytest.raises(RindleError) as late:
            await rindle.cancel_direct_upload(sent.asset_id)
        seen.note(str(late.value), repr(late.value), late.value.detail)
        mux.fail_asset(mux.assets[0].id, "invalid_input", "no video")
        await told_of("video.asset.errored")
        await in_state(sent.asset_id, "errored")
        mux.plan_fault("PUT", "/video/v1/uploads/*", status=500, times=1000)  # the worker cancels it as well
        with pytest.raises(ProviderSyncFailed) as unanswered:
            await rindle.cancel_direct_upload(unwanted.asset_id)
        mux.forget_faults()
        seen.note(str(unanswered.value), repr(unanswered.value))
        await in_state(unwanted.asset_id, "deleted")
        for upload in (sent, unwanted):
            seen.note(json.dumps((await explain(rindle.services, upload.asset_id)).to_dict()))
            seen.note(await rindle.asset(upload.asset_id))
        seen.note(json.dumps((await rindle.runtime_status(provider_stuck=True)).to_dict()))
        client = await stage.client()
        for upload in (sent, unwanted):
            workflow_id = ids.provider_upload_id(upload.asset_id, prefix=stage.prefix)
            seen.note(await history(client, stage, workflow_id))
        await rindle.purge_asset(sent.asset_id)
        await stage.gone(sent.asset_id)
    assert mux.assets == []
    events = await stage.read(lambda session: list(session.scalars(select(MediaEvent))))
    seen.note(*(f"{one.type} {one.scope_key} {one.scope_id} {one.payload}" for one in events))

    text = seen.text()
    for known in ("provider_asset_errored", messages.APPLY_PROVIDER_EVENTS, '"PUT /video/v1/uploads/[REDACTED]/cancel'):
        assert known in text, known
    assert {secret[:24] for secret in secrets if secret in text} == set()
