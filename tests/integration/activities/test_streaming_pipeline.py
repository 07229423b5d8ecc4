"""From an upload to a stream: real worker, real ffmpeg, real Temporal, and a provider in memory."""

from __future__ import annotations

from rindle.streaming.memory import InMemoryProvider
from tests.media.clips import Clips
from tests.stage import Stage
from tests.workflows.films import cinema_on, in_state
from tests.workflows.fleet import Fleet


async def test_an_uploaded_film_is_pushed_when_its_source_is_built_and_then_plays(
    lite_stage: Stage, clips: Clips
) -> None:
    provider = InMemoryProvider(ready_at_once=True)
    cinema = cinema_on(lite_stage, provider)
    async with Fleet(lite_stage) as fleet:
        await fleet.start(cinema.rindle)
        asset = await cinema.rindle.upload("film", clips.film(), filename="film.mp4")
        await in_state(cinema, asset, "ready")

    assert (await cinema.rindle.streaming_url("film", asset.id)).kind == "hls"
    assert len(provider.assets) == 1
    assert await cinema.events(asset) == [
        "provider_asset_state_changed",
        "provider_asset_state_changed",
        "provider_asset_ready",
    ]
