"""Story 4: pages follow what happens as it happens, also across lost connections and restarts, in a real browser."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Request, expect

from rindle.events import EVENT_TYPES
from tests.patience import VIDEO_PATIENCE_MS, VIDEO_PATIENCE_SECONDS, until
from tests.servers.proxy import Proxy
from tests.stories.conftest import Site, Visit

pytestmark = pytest.mark.external

# Follows a subject as any page would and keeps all that is heard.
LISTEN = """
async ([scope, id, options]) => {
  const { subscribe } = await import("/media/rindle.js");
  window.heard = [];
  window.off = subscribe(scope, id, (type, payload, at) => window.heard.push([type, payload, at]), options);
}
"""


async def teach(visit: Visit, film: Path, *, at: Site) -> tuple[Page, str]:
    """Upload the film as Alice and return her page, and the asset's id, when the page shows that it is being made."""
    page = (await visit("alice", at=at)).pages[0]
    await page.goto("/lessons/sea-floor")
    before = await page.locator(".state").get_attribute("data-asset")
    await page.set_input_files("#lesson", film)
    making = page.locator(f'.state[data-asset]:not([data-rest], [data-asset="{before}"])')
    await expect(making).to_be_visible()
    return page, str(await making.get_attribute("data-asset"))


async def heard(page: Page, *types: str) -> list[Any]:
    """Return what the page has heard: all of it, or the events of some types."""
    found = await page.evaluate("window.heard")
    return [one for one in found if not types or one[0] in types]


def told(site: Site, asset_id: str) -> list[tuple[int, str]]:
    """Return number and type of every streamed event of an asset, as the database has them."""
    query = "SELECT id, type FROM media_events WHERE asset_id = ? ORDER BY id"
    with closing(sqlite3.connect(site.media.parent / "rindle.db")) as database:
        rows = database.execute(query, (asset_id.replace("-", ""),)).fetchall()  # as SQLite keeps a UUID
    return [(number, name) for number, name in rows if EVENT_TYPES[name].streamed]


async def made_meanwhile(site: Site, asset_id: str) -> None:
    """Wait until at least two more events about the progress of the asset were written."""

    def reported() -> int:
        return [name for _, name in told(site, asset_id)].count("variant_progress")

    before = reported()

    async def more() -> bool:
        return reported() >= before + 2

    await until(more, timeout_seconds=VIDEO_PATIENCE_SECONDS)


async def comes_to_rest(page: Page) -> None:
    """Cancel what is being made, and wait until the page has heard of it."""
    await page.click(".stop button")
    await expect(page.locator(".badge")).to_have_text("Cancelled")

    async def terminal() -> bool:
        return any(payload["state"] == "degraded" for _, payload, _ in await heard(page, "asset_state_changed"))

    await until(terminal)


def check_no_gap(site: Site, asset_id: str, found: list[Any]) -> None:
    """Check that everything after the first snapshot was heard once and in order."""
    assert found[0][0] == "snapshot"
    events = [(int(at), name) for name, _, at in found if name != "snapshot"]
    assert "reset" not in {name for _, name in events}
    assert events == [one for one in told(site, asset_id) if one[0] > int(found[0][2])]
    assert len([name for _, name in events if name == "variant_progress"]) >= 4


@asynccontextmanager
async def behind_a_proxy(site: Site) -> AsyncIterator[tuple[Site, Proxy]]:
    """Return the site as it is reached through a proxy that can be cut."""
    async with Proxy(urlsplit(site.url).port or 0) as proxy:
        yield replace(site, url=f"http://127.0.0.1:{proxy.port}"), proxy


async def test_a_lost_connection_is_resumed_without_a_gap(site: Site, visit: Visit, film: Path) -> None:
    async with behind_a_proxy(site) as (seen, proxy):
        page, asset_id = await teach(visit, film, at=seen)
        await page.evaluate(LISTEN, ["asset", asset_id, {"base": "/media", "until": "terminal"}])

        async def begun() -> bool:
            return len(await heard(page, "variant_progress")) >= 2

        await until(begun, timeout_seconds=VIDEO_PATIENCE_SECONDS)
        for _ in range(2):
            await proxy.cut()
            await made_meanwhile(site, asset_id)
            count = len(await heard(page))
            await proxy.restore()

            async def resumed(before: int = count) -> bool:
                return len(await heard(page)) > before

            await until(resumed, timeout_seconds=VIDEO_PATIENCE_SECONDS)
        await comes_to_rest(page)

        check_no_gap(site, asset_id, await heard(page))


async def test_a_restarted_server_leaves_no_gap(site: Site, visit: Visit, film: Path) -> None:
    page, asset_id = await teach(visit, film, at=site)
    await page.evaluate(LISTEN, ["asset", asset_id, {"base": "/media", "until": "terminal"}])

    async def begun() -> bool:
        return len(await heard(page, "variant_progress")) >= 2

    await until(begun, timeout_seconds=VIDEO_PATIENCE_SECONDS)
    await site.web.stop()
    try:
        count = len(await heard(page))
        await made_meanwhile(site, asset_id)
    finally:
        await site.web.start()

    async def resumed() -> bool:
        return len(await heard(page)) > count

    await until(resumed, timeout_seconds=VIDEO_PATIENCE_SECONDS)
    # The page's own stream has come back as well.
    shown = str(await page.locator(".badge").text_content())
    await expect(page.locator(".badge")).not_to_have_text(shown, timeout=VIDEO_PATIENCE_MS)
    await comes_to_rest(page)

    check_no_gap(site, asset_id, await heard(page))


async def test_everybody_sees_the_badge_move_and_nobody_else_may_follow(site: Site, visit: Visit, film: Path) -> None:
    alice, asset_id = await teach(visit, film, at=site)
    emeka = (await visit("emeka")).pages[0]
    streams: list[str] = []
    emeka.on("request", lambda request: streams.append(request.url) if "/media/events" in request.url else None)
    await emeka.goto("/lessons/sea-floor")
    badge = emeka.locator(".badge")
    for _ in range(2):
        shown = str(await badge.text_content())
        await expect(badge).not_to_have_text(shown, timeout=VIDEO_PATIENCE_MS)
        await expect(badge).to_have_text(re.compile(r"Processing \d+ %"))
    assert len(streams) == 1 and "ticket=" in streams[0]  # by the ticket that the site put into the page

    await emeka.evaluate(LISTEN, ["asset", asset_id, {"base": "/media"}])

    async def refused() -> bool:
        return [name for name, _, _ in await heard(emeka)] == ["error"]

    await until(refused)
    assert await emeka.evaluate("window.heard[0][1].code") == "unauthorized"
    alien = streams[0].replace(asset_id, "0199a0de-0000-7000-8000-000000000000")
    assert (await emeka.request.get(alien)).status == 403
    await alice.click(".stop button")
    await expect(badge).to_have_text("Cancelled")


async def test_a_page_that_is_told_the_end_closes_its_stream(site: Site, visit: Visit, film: Path) -> None:
    page, asset_id = await teach(visit, film, at=site)
    await page.click(".stop button")
    await expect(page.locator(".badge")).to_have_text("Cancelled")
    # The page has a stream of its own, which ends about now: only one that is opened from here on counts.
    opened: list[Request] = []
    closed: list[Request] = []
    page.on("request", lambda request: opened.append(request) if "/media/events" in request.url else None)
    for name in ("requestfinished", "requestfailed"):
        page.on(name, lambda request: closed.append(request))

    await page.evaluate(LISTEN, ["asset", asset_id, {"base": "/media", "until": "terminal"}])

    async def ended() -> bool:
        return any(request in closed for request in opened)

    await until(ended)
    [(name, payload, _)] = await heard(page)
    assert (name, payload["state"]) == ("snapshot", "degraded")
    assert {one["name"]: one["state"] for one in payload["variants"]}["web_720p"] == "cancelled"
    assert json.dumps(payload).find("/media/local") == -1  # nothing in an event is an address
