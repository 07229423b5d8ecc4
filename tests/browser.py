"""The browser of a test, and how long it waits: apart from ``tests/servers``, because Playwright is slow to load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, BrowserContext, Locator, Page, Route, async_playwright, expect

from tests.patience import PATIENCE_MS
from tests.servers.chromium import ARGUMENTS


@asynccontextmanager
async def launched(chromium: Path) -> AsyncIterator[Browser]:
    """Run the browser until the block is left; what is expected of a page may take as long as anything in a test."""
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS), timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def window(browser: Browser, **options: Any) -> AsyncIterator[BrowserContext]:
    """Open a window that shares nothing with others, and is as patient; ``options`` are Playwright's."""
    context = await browser.new_context(**options)
    try:
        context.set_default_timeout(PATIENCE_MS)
        yield context
    finally:
        await context.close()


def errors_of(page: Page) -> list[str]:
    """Return the list to which the errors of the page, and what its console reports as one, are added from now on."""
    errors: list[str] = []
    page.on("console", lambda found: errors.append(f"{found.text} {found.location}") if found.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


async def follow(page: Page, selector: str) -> None:
    """Click a link or a button that leads to another document, and wait until that is loaded.

    A bare ``click`` waits until the other document begins, and what is read at once may not have arrived yet.
    """
    async with page.expect_navigation():
        await page.click(selector)


async def pixels_of(image: Locator) -> tuple[int, int]:
    """Return width and height of the picture that an ``img`` shows, once it is loaded."""
    width, height = await image.evaluate(
        "async image => { await image.decode(); return [image.naturalWidth, image.naturalHeight] }"
    )
    return width, height


@asynccontextmanager
async def held(
    page: Page,
    pattern: str,
    *,
    method: str | None = None,
    times: int | None = None,
    then: Literal["abort", "continue"] = "abort",
) -> AsyncIterator[asyncio.Event]:
    """Keep requests of ``page`` without an answer until the block is left, then abort them or let them continue.

    Yields an event that is set once a request is held. ``method`` lets other methods through. A request that is never
    answered stays a pending task of Playwright, which the garbage collector then reports during some other test.
    """
    reached, released = asyncio.Event(), asyncio.Event()
    answered: list[asyncio.Future[None]] = []

    async def hold(route: Route) -> None:
        if method not in (None, route.request.method):
            return await route.continue_()
        answer = asyncio.get_running_loop().create_future()
        answered.append(answer)
        reached.set()
        try:
            await released.wait()
            await route.abort() if then == "abort" else await route.continue_()
        finally:
            answer.set_result(None)

    await page.route(pattern, hold, times=times)
    try:
        yield reached
    finally:
        released.set()
        await asyncio.gather(*answered)
        await page.unroute(pattern, hold)
