"""Story 3 without a bucket: Uppy sends a lesson by tus, the page is reloaded half-way, and the upload continues."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, Request, Route, expect

from tests.media.clips import Clips
from tests.patience import PATIENCE_SECONDS, VIDEO_PATIENCE_MS
from tests.servers import Unavailable, uppy
from tests.servers.temporal import TemporalServer
from tests.stories.conftest import Site, Visit, running_site

#: Of ``static/resumable.js``.
CHUNK_BYTES = 8 * 1024 * 1024

pytestmark = pytest.mark.external


@pytest.fixture(scope="module")
async def tus_site(temporal_server: TemporalServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The example with local files and Uppy."""
    try:
        module = uppy.bundle(max(uppy.RELEASES))
    except Unavailable as error:
        pytest.skip(str(error))
    async with running_site(temporal_server, tmp_path_factory.mktemp("cohort"), COHORT_UPPY=str(module)) as running:
        yield running


@pytest.fixture
def long_film(clips: Clips, tmp_path: Path) -> Path:
    """A short film of three chunks: most of it is a box that players skip, so that it is not a long wait."""
    short = clips.film().read_bytes()
    path = tmp_path / "lesson.mp4"
    padding = 2 * CHUNK_BYTES
    path.write_bytes(short + (padding + 8).to_bytes(4, "big") + b"free" + os.urandom(padding))
    return path


async def own_page(visit: Visit, site: Site) -> Page:
    """Return a window on a lesson's page, signed in as its teacher."""
    page = (await visit("alice", at=site)).pages[0]
    await page.goto("/lessons/sea-floor")
    return page


def original_of(site: Site, asset_id: str) -> bytes:
    """Return the bytes of an asset's original; its name is random, those of variants begin with the variant."""
    (path,) = (one for one in site.objects_of(asset_id) if re.fullmatch(r"[0-9a-f-]{36}\.mp4", one.name))
    return path.read_bytes()


async def send_the_first_chunk_and_reload(page: Page, film: Path) -> None:
    """Choose a film, lose the connection after its first chunk, and reload the page."""
    is_lost = asyncio.Event()

    async def lose(route: Route) -> None:
        if route.request.method == "PATCH" and route.request.headers["upload-offset"] != "0":
            is_lost.set()
            await route.abort()
        else:
            await route.continue_()

    await page.route("**/files/lesson/*", lose)
    await page.set_input_files("#lesson", film)
    await asyncio.wait_for(is_lost.wait(), PATIENCE_SECONDS)
    await page.reload()
    await page.unroute("**/files/lesson/*", lose)


async def test_a_lesson_sent_by_uppy_survives_a_reload_half_way(tus_site: Site, visit: Visit, long_film: Path) -> None:
    page = await own_page(visit, tus_site)
    await send_the_first_chunk_and_reload(page, long_film)
    sent: list[int] = []
    opened: list[Request] = []
    page.on("request", lambda one: sent.append(int(one.headers["upload-offset"])) if one.method == "PATCH" else None)
    page.on("request", lambda one: opened.append(one) if one.url.endswith("/media/upload") else None)

    await page.set_input_files("#lesson", long_film)

    ready = page.locator('.state[data-state="ready"]')
    await expect(ready).to_be_visible(timeout=VIDEO_PATIENCE_MS)
    assert sent == [CHUNK_BYTES, 2 * CHUNK_BYTES]  # the first chunk was not sent again
    assert opened == []
    assert await page.evaluate("Object.keys(localStorage)") == []
    body = await asyncio.to_thread(original_of, tus_site, str(await ready.get_attribute("data-asset")))
    assert hashlib.sha256(body).hexdigest() == hashlib.sha256(long_film.read_bytes()).hexdigest()
    assert not list((tus_site.media / ".rindle" / "tus").iterdir())
