"""``streaming_url``: its decision table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from rindle import MediaAsset, telemetry
from rindle.errors import (
    AssetNotDeliverable,
    ProviderAssetNotReady,
    ProviderSyncFailed,
    RindleError,
    StreamingRequiresAsset,
    Unauthorized,
)
from rindle.protocols import DeliverySubject, PlaybackGrant
from rindle.states import AssetState
from rindle.streaming.memory import InMemoryProvider
from tests.unit.streaming.cinema import Cinema, Members


async def test_a_ready_film_plays_its_playlist_with_a_token(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed()
    seen: list[tuple[str, dict[str, object]]] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: seen.append((name, dict(facts))))
    try:
        found = await cinema.rindle.streaming_url("film", asset, expires_in=60)
    finally:
        remove()
    [playback_id] = (await cinema.row(asset)).playback_ids
    assert found.url.startswith(f"https://stream.memory.invalid/{playback_id}.m3u8?")
    assert (found.kind, found.mime) == ("hls", "application/vnd.apple.mpegurl")
    assert found.expires_at is not None and found.expires_at <= datetime.now(UTC) + timedelta(seconds=60)
    assert "expires=" not in repr(found) and "[REDACTED]" in repr(found)
    facts = {"profile": "film", "adapter": "memory", "mode": "private", "kind": "hls", "mime": found.mime}
    assert seen == [("rindle.delivery.streaming.resolved", facts)]
    by_variant = await cinema.rindle.streaming_url("film", asset.variants[0])
    assert by_variant.kind == "hls"


@pytest.mark.parametrize(("expires_in", "seconds"), [(60, 60), (None, 7_200)])
async def test_the_ttl_of_playback(cinema: Cinema, expires_in: int | None, seconds: int) -> None:
    asset = await cinema.pushed("premiere")
    before = datetime.now(UTC)
    found = await cinema.rindle.streaming_url("premiere", asset, actor="member", expires_in=expires_in)
    assert found.expires_at is not None
    made_at = found.expires_at - timedelta(seconds=seconds)
    assert before.replace(microsecond=0) <= made_at <= datetime.now(UTC)


async def test_public_playback_has_no_token_and_does_not_expire(cinema: Cinema) -> None:
    asset = await cinema.pushed("trailer")
    found = await cinema.rindle.streaming_url("trailer", asset)
    assert "?" not in found.url and found.expires_at is None


async def test_without_a_provider_it_is_the_original(cinema: Cinema) -> None:
    asset = await cinema.film("plain")
    found = await cinema.rindle.streaming_url("plain", asset)
    assert (found.kind, found.mime) == ("progressive", asset.content_type)
    assert found.expires_at is not None and found.url.startswith("http://gallery.test/media/local/")
    assert (await cinema.rindle.streaming_url("plain", asset, mime="video/x-mine")).mime == "video/x-mine"
    by_key = await cinema.rindle.streaming_url("plain", asset.storage_key)
    assert by_key.kind == "progressive"


@pytest.mark.parametrize(("kind", "mime"), [("video", "video/mp4"), ("audio", "audio/mpeg")])
async def test_an_original_of_unknown_type_has_the_usual_one_of_its_kind(cinema: Cinema, kind: str, mime: str) -> None:
    asset = await cinema.film("plain")
    unknown = (
        update(MediaAsset)
        .where(MediaAsset.id == asset.id)
        .values(content_type=None, kind=kind, width=None, height=None, has_video_track=None)
    )
    await cinema.rindle.database.write(lambda session: session.execute(unknown))
    assert (await cinema.rindle.streaming_url("plain", asset.id)).mime == mime


async def test_a_film_that_was_never_pushed_is_the_original_unless_strict(cinema: Cinema) -> None:
    asset = await cinema.film()
    assert (await cinema.rindle.streaming_url("film", asset)).kind == "progressive"
    with pytest.raises(ProviderAssetNotReady):
        await cinema.rindle.streaming_url("film", asset, strict=True)


async def test_a_key_cannot_be_streamed(cinema: Cinema) -> None:
    with pytest.raises(StreamingRequiresAsset):
        await cinema.rindle.streaming_url("film", "film/some/key.mp4")


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("pending", ProviderAssetNotReady),
        ("uploading", ProviderAssetNotReady),
        ("processing", ProviderAssetNotReady),
        ("errored", ProviderSyncFailed),
        ("deleted", ProviderAssetNotReady),
    ],
)
async def test_other_states_play_nothing(
    cinema: Cinema, provider: InMemoryProvider, state: str, error: type[RindleError]
) -> None:
    asset = await cinema.pushed(state="processing")
    await cinema.change(asset, state=state)
    provider.calls.clear()
    seen: list[str] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: seen.append(name))
    try:
        with pytest.raises(error):
            await cinema.rindle.streaming_url("film", asset)
    finally:
        remove()
    assert (provider.calls, seen) == ([], [])


async def test_a_ready_film_without_playback_ids_plays_nothing(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed()
    await cinema.change(asset, playback_ids=[])
    provider.calls.clear()
    with pytest.raises(ProviderAssetNotReady):
        await cinema.rindle.streaming_url("film", asset)
    assert provider.calls == []


@pytest.mark.parametrize(("field", "value"), [("playback_policy", "public"), ("ingest_mode", "direct_creator_upload")])
async def test_a_row_of_another_policy_is_not_played(
    cinema: Cinema, provider: InMemoryProvider, field: str, value: str
) -> None:
    asset = await cinema.pushed()
    await cinema.change(asset, **{field: value})
    seen: list[tuple[str, object]] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: seen.append((name, facts.get("field"))))
    try:
        with pytest.raises(ProviderSyncFailed):
            await cinema.rindle.streaming_url("film", asset)
    finally:
        remove()
    assert seen == [("rindle.delivery.streaming.config_drift", field)]
    await cinema.change(asset, **{field: None})
    assert (await cinema.rindle.streaming_url("film", asset)).kind == "hls"


async def test_the_authorizer_decides_before_the_provider_signs(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed("premiere")
    provider.calls.clear()
    with pytest.raises(Unauthorized):
        await cinema.rindle.streaming_url("premiere", asset, actor="anybody")
    assert provider.calls == []


async def test_the_authorizer_is_told_what_is_played(cinema: Cinema, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = await cinema.pushed("premiere")
    subjects: list[DeliverySubject] = []
    monkeypatch.setattr(Members, "authorize", lambda self, actor, action, subject: subjects.append(subject))
    await cinema.rindle.streaming_url("premiere", asset)
    [playback_id] = (await cinema.row(asset)).playback_ids
    assert [(one.kind, one.playback_id, one.asset_id, one.mode) for one in subjects] == [
        ("hls", playback_id, asset.id, "private")
    ]


async def test_the_authorizer_is_told_that_an_original_stands_for_a_stream(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await cinema.film("premiere")  # never pushed
    subjects: list[DeliverySubject] = []
    monkeypatch.setattr(Members, "authorize", lambda self, actor, action, subject: subjects.append(subject))
    await cinema.rindle.streaming_url("premiere", asset)
    await cinema.rindle.url("premiere", asset)
    assert [(one.kind, one.key, one.playback_id) for one in subjects] == [
        ("progressive", asset.storage_key, None),
        ("object", asset.storage_key, None),
    ]


async def test_a_quarantined_film_is_not_played(cinema: Cinema) -> None:
    asset = await cinema.pushed()
    moved = await cinema.gallery.moved(asset.id, AssetState.QUARANTINED)
    with pytest.raises(AssetNotDeliverable):
        await cinema.rindle.streaming_url("film", moved)


@pytest.mark.parametrize("answer", [None, "https://canary", PlaybackGrant("", None)])
async def test_an_unexpected_answer_is_named_by_its_type_alone(
    cinema: Cinema, provider: InMemoryProvider, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    async def strange(*args: object, **kwargs: object) -> object:
        return answer

    asset = await cinema.pushed()
    monkeypatch.setattr(provider, "playback_url", strange)  # a provider of an adopter
    with pytest.raises(ProviderSyncFailed) as caught:
        await cinema.rindle.streaming_url("film", asset)
    assert "canary" not in str(caught.value)
