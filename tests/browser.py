"""The browser of a test, and how long it waits: apart from ``tests/servers``, because Playwright is slow to load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, async_playwright, expect

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
