"""A creator sends a film to Mux from Chromium, in chunks and with Mux's own script; we learn of it, and it plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from rindle.workflows import ids
from tests.browser import launched, window
from tests.integration.mux.studio import MuxStudio, a_studio
from tests.integration.mux.test_browser import film
from tests.patience import until
from tests.servers.mux import FakeMux
from tests.stage import Stage
from tests.workflows.fleet import Fleet, handle_of

__all__ = ["film"]  # the fixture

pytestmark = pytest.mark.external


@asynccontextmanager
async def creating(studio: MuxStudio, stage: Stage, chromium: Path, film: Path) -> AsyncIterator[Page]:
    """Open the page with a film chosen, while a worker runs."""
    async with Fleet(stage) as fleet, launched(chromium) as browser, window(browser) as context:
        await fleet.start(studio.rindle)
        page = await context.new_page()
        await page.goto(studio.url)
        await page.set_input_files("#film", film)
        yield page


async def plays(page: Page) -> None:
    await page.evaluate("play()")
    await page.wait_for_function("document.getElementById('player').currentTime > 0.5")
    assert await page.evaluate("document.getElementById('player').videoWidth") == 640
    assert [told for told in await page.evaluate("window.news") if told.startswith("refused")] == []


async def history_of(stage: Stage, asset_id: str) -> str:
    handle = await handle_of(stage, ids.provider_upload_id(asset_id, prefix=stage.prefix))
    return (await handle.fetch_history()).to_json()


async def test_a_film_goes_to_mux_in_chunks_and_plays_when_a_webhook_says_so(
    lite_stage: Stage, mux: FakeMux, npm_script: Callable[[str, str], Path], tmp_path: Path, film: Path, chromium: Path
) -> None:
    chunks = -(-film.stat().st_size // (256 * 1024))
    mux.plan_fault("PUT", "/mux-uploads/*", status=503)  # one chunk is sent again
    slow = {"RINDLE_PROVIDER_POLL_SECONDS": "3600"}  # webhooks alone
    async with (
        a_studio(lite_stage, mux, npm_script, tmp_path, **slow) as studio,
        creating(studio, lite_stage, chromium, film) as page,
    ):
        await page.evaluate("send()")
        await expect(page.locator("#badge")).to_have_text("ready")
        await page.wait_for_function("window.news.includes('success')")
        assert (await page.evaluate("window.news")).count("chunkSuccess") == chunks > 3
        [kept] = mux.assets
        assert kept.source.read_bytes() == film.read_bytes()
        await plays(page)

        asset_id = await page.evaluate("window.assetId")
        asset = await studio.rindle.asset(asset_id)
        assert (asset.state, asset.kind, asset.filename) == ("ready", "video", film.name)
        [upload] = mux.uploads
        history = await history_of(lite_stage, asset_id)
        for secret in (upload.id, upload.url, kept.id, kept.passthrough):
            assert secret is not None and secret not in history
        assert {status for _, status in mux.deliveries} <= {200, 202}


async def test_a_lost_webhook_is_healed_by_polling(
    lite_stage: Stage, mux: FakeMux, npm_script: Callable[[str, str], Path], tmp_path: Path, film: Path, chromium: Path
) -> None:
    mux.hold_webhooks()
    quick = {"RINDLE_PROVIDER_POLL_SECONDS": "0.2"}
    async with (
        a_studio(lite_stage, mux, npm_script, tmp_path, **quick) as studio,
        creating(studio, lite_stage, chromium, film) as page,
    ):
        await page.evaluate("send()")

        async def is_ready_at_mux() -> bool:
            return [asset.status for asset in mux.assets] == ["ready"]

        await until(is_ready_at_mux, what="Mux to have cut the film")  # only the first two polls follow soon
        linked = [event for event in mux.events if event.type == "video.upload.asset_created"]
        assert await asyncio.to_thread(mux.deliver, *linked) == [202]
        await expect(page.locator("#badge")).to_have_text("ready")
        await plays(page)
        assert mux.deliveries == [("video.upload.asset_created", 202)]


async def test_a_creator_cancels(
    lite_stage: Stage, mux: FakeMux, npm_script: Callable[[str, str], Path], tmp_path: Path, film: Path, chromium: Path
) -> None:
    async with (
        a_studio(lite_stage, mux, npm_script, tmp_path) as studio,
        creating(studio, lite_stage, chromium, film) as page,
    ):
        mux.plan_fault("PUT", "/mux-uploads/*", is_silent=True)  # the first chunk is on its way
        await page.evaluate("send()")
        await page.wait_for_function("window.upload !== undefined")
        await page.click("#cancel")
        await expect(page.locator("#badge")).to_have_text("cancelled")
        await page.wait_for_function("window.news.includes('cancelled 204')")
        mux.answer_the_silent()

        row = await studio.row(await page.evaluate("window.assetId"))
        assert row.state == "deleted"

        async def is_cancelled() -> bool:
            return mux.uploads[0].status == "cancelled"

        await until(is_cancelled, what="the upload to be cancelled at Mux")
        assert mux.assets == []
