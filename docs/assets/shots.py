"""Takes the screenshot of the README, ``cohort.webp``: ``python -m docs.assets.shots`` from the repository's root.

Runs the example site with its worker, uploads a photograph as a member would, and opens the member's page in Chromium.
Needs what the tests need. Look at the image before you commit it.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path

from PIL import Image
from playwright.async_api import expect

from rindle.process import leave
from tests.browser import launched, window
from tests.servers import chromium
from tests.servers.temporal import running_temporal
from tests.stage import photo
from tests.stories.conftest import running_site

SHOT = Path(__file__).resolve().parent / "cohort.webp"
MEMBER = "alice"
SIZE = {"width": 1000, "height": 700}


async def main() -> None:
    """Take the screenshot."""
    with tempfile.TemporaryDirectory() as scratch:
        async with (
            running_temporal() as temporal,
            running_site(temporal, Path(scratch)) as site,
            launched(chromium.program()) as browser,
            window(browser, base_url=site.url, viewport=SIZE, device_scale_factor=1.5) as here,
        ):
            page = await here.new_page()
            await page.goto("/")
            await page.select_option("#actor", MEMBER)
            await page.click(".switch button")
            await page.wait_for_url(f"**/members/{MEMBER}")
            await page.set_input_files("input[type=file]", photo(Path(scratch, "me.jpg"), width=2400, height=2400))
            await expect(page.locator(".progress")).to_be_hidden()
            await expect(page.locator(".badge")).to_have_text("Ready")
            await page.click("details summary")
            Image.open(io.BytesIO(await page.screenshot(full_page=True))).save(SHOT, quality=85, method=6)


if __name__ == "__main__":
    asyncio.run(main())
    leave(0)
