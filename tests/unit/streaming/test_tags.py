"""Players of films that are streamed: the playlist as soon as there is one, until then the files."""

from __future__ import annotations

import logging
import re

import pytest
from sqlalchemy.orm import Session

from rindle import MediaAsset
from rindle.db.providers import direct_key
from rindle.db.transitions import lock_asset, set_fields
from rindle.errors import (
    AssetNotDeliverable,
    MissingConfig,
    ProviderAssetNotReady,
    ProviderSyncFailed,
    RindleError,
    Unauthorized,
)
from rindle.states import VariantState
from rindle.streaming.memory import InMemoryProvider
from tests.unit.streaming.cinema import Cinema

#: Media types of the sources, in their order.
PLAYLIST, FILES = ["application/vnd.apple.mpegurl"], ["video/mp4", "video/mp4"]


def types(html: str) -> list[str]:
    """Return the types of the sources of a player; the element itself never has an address of its own then."""
    sources = re.findall(r"<source [^>]*>", html)
    assert not sources or " src=" not in html[: html.index("<source")]
    return [str(re.search(r'type="([^"]*)"', source).group(1)) for source in sources]  # type: ignore[union-attr]


@pytest.mark.parametrize("variants", [[], ["web_720p"], ["web_720p", "web_720p"]])
async def test_a_ready_film_has_one_source_however_many_variants_are_named(cinema: Cinema, variants: list[str]) -> None:
    asset = await cinema.pushed()
    [playback_id] = (await cinema.row(asset)).playback_ids
    html = str(await cinema.rindle.video_tag("film", asset, variants, poster="poster"))
    assert types(html) == PLAYLIST and html.count(playback_id) == 1
    assert "&" not in html.replace("&amp;", "") and "poster=" in html
    assert types(str(await cinema.rindle.audio_tag("film", asset))) == PLAYLIST


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("pending", ProviderAssetNotReady),
        ("processing", ProviderAssetNotReady),
        ("errored", ProviderSyncFailed),
        ("deleted", ProviderAssetNotReady),
    ],
)
async def test_until_the_provider_can_play_it_the_files_are_rendered_unless_strict(
    cinema: Cinema, state: str, error: type[RindleError]
) -> None:
    asset = await cinema.pushed(state="processing")
    await cinema.change(asset, state=state)
    assert types(str(await cinema.rindle.video_tag("film", asset, ["web_720p"]))) == FILES
    with pytest.raises(error):
        await cinema.rindle.video_tag("film", asset, ["web_720p"], strict=True)


async def test_a_film_that_was_never_pushed_is_rendered_from_its_files(cinema: Cinema) -> None:
    asset = await cinema.film()
    assert types(str(await cinema.rindle.video_tag("film", asset, ["web_720p"]))) == FILES
    with pytest.raises(ProviderAssetNotReady):
        await cinema.rindle.video_tag("film", asset, ["web_720p"], strict=True)
    await cinema.gallery.move_variant(asset, "web_720p", VariantState.STALE, VariantState.QUEUED)
    asset = await cinema.rindle.asset(asset.id)
    assert " src=" in str(await cinema.rindle.video_tag("film", asset, ["web_720p"]))


async def test_a_provider_that_cannot_sign_is_logged_and_the_files_are_rendered(
    cinema: Cinema, provider: InMemoryProvider, caplog: pytest.LogCaptureFixture
) -> None:
    asset = await cinema.pushed()
    provider.fail_next("playback_url", MissingConfig("RINDLE_MUX_SIGNING_KEY_ID is not set"))
    with caplog.at_level(logging.WARNING):
        assert types(str(await cinema.rindle.video_tag("film", asset, ["web_720p"]))) == FILES
    assert [vars(record)["code"] for record in caplog.records if "stream" in record.message] == ["missing_config"]


async def test_a_denied_stream_is_never_replaced_by_files(cinema: Cinema, provider: InMemoryProvider) -> None:
    asset = await cinema.pushed("premiere")
    provider.calls.clear()
    with pytest.raises(Unauthorized):
        await cinema.rindle.video_tag("premiere", asset, ["web_720p"], actor="anybody")
    assert await cinema.rindle.video_tag("premiere", asset, ["web_720p"], actor="anybody", on_denied="empty") == ""
    assert provider.calls == []
    assert types(str(await cinema.rindle.video_tag("premiere", asset, actor="member"))) == PLAYLIST


async def test_a_placeholder_is_shown_instead_only_if_it_is_preferred(cinema: Cinema) -> None:
    asset = await cinema.pushed()
    spare = "https://cdn.test/spare.mp4"
    assert spare not in str(await cinema.rindle.video_tag("film", asset, placeholder=spare))
    both = await cinema.rindle.video_tag("film", asset, placeholder=spare, prefer_placeholder=True)
    assert str(both).index(".m3u8") < str(both).index(spare)


@pytest.mark.parametrize("state", ["processing", "errored", "ready"])
async def test_a_film_that_only_the_provider_has_is_never_rendered_from_the_storage(cinema: Cinema, state: str) -> None:
    asset = await cinema.pushed(state=state)

    def move(session: Session) -> MediaAsset:
        row = lock_asset(session, asset.id)
        assert row is not None
        set_fields(session, row, storage_key=direct_key("memory", asset.id))
        return row

    moved = await cinema.rindle.database.write(move)
    html = str(await cinema.rindle.video_tag("film", await cinema.rindle.asset(moved.id), width=640, height=360))
    assert types(html) == (PLAYLIST if state == "ready" else [])
    assert ("src=" in html, "direct_upload" in html) == (state == "ready", False)
    with pytest.raises(AssetNotDeliverable):
        await cinema.rindle.url("film", moved.id)
