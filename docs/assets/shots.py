"""Takes the screenshot of the README, ``cohort.png``: ``python -m docs.assets.shots`` from the repository's root.

Runs the example site with its worker, uploads photographs as its members would, and opens the result in Chromium. Needs
what the tests need. Look at the image before you commit it.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image
from playwright.async_api import Browser, expect

from rindle.process import leave
from tests.browser import launched, window
from tests.servers import chromium
from tests.servers.temporal import running_temporal
from tests.stories.conftest import Site, running_site

ASSETS = Path(__file__).resolve().parent
#: Who uploads which photograph; all of them are in the public domain or free to use (README of ``skimage.data``).
PHOTOS = {"bob": "coffee", "chidi": "chelsea", "daria": "rocket", "emeka": "motorcycle_left", "alice": "astronaut"}


async def upload(browser: Browser, site: Site, member: str, path: Path) -> bytes | None:
    """Upload a photo as ``member``, and return the image of the member's page if it is the last one."""
    async with window(
        browser, base_url=site.url, viewport={"width": 1100, "height": 720}, device_scale_factor=1.5
    ) as context:
        page = await context.new_page()
        await page.goto("/")
        await page.select_option("#actor", member)
        await page.click(".switch button")
        await page.wait_for_url(f"**/members/{member}")
        await page.set_input_files(".chooser input[type=file]", path)
        await expect(page.locator(".badge")).to_have_text("Ready")
        await expect(page.locator(".progress")).to_be_hidden()
        if member != list(PHOTOS)[-1]:
            return None
        await page.screenshot(path=ASSETS / "member.png")
        await page.goto("/")
        await page.wait_for_load_state("networkidle")
        return await page.screenshot(path=ASSETS / "cohort.png")


async def main() -> None:
    """Take the screenshot."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        async with running_temporal() as temporal, running_site(temporal, home) as site:
            async with launched(chromium.program()) as browser:
                for member, name in PHOTOS.items():
                    photo = home / f"{name}.jpg"
                    image = Image.open(Path(skimage.data.__file__).parent / _file(name)).convert("RGB")
                    image.resize((1200, round(1200 * image.height / image.width))).save(photo, quality=90)
                    await upload(browser, site, member, photo)


def _file(name: str) -> str:
    return "rocket.jpg" if name == "rocket" else f"{name}.png"


if __name__ == "__main__":
    asyncio.run(main())
    leave(0)
