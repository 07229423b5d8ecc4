"""The guide's first application, copied into an empty directory and used with a real browser, as a stranger would."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.browser import launched, pixels_of, window
from tests.copied import process
from tests.servers import free_port
from tests.servers.temporal import TemporalServer
from tests.stage import REPOSITORY, photo

EXAMPLE = REPOSITORY / "examples" / "getting_started"
#: What attaching an asset that is condemned by then is refused with.
REFUSED = "the asset was rejected and cannot be attached"


@pytest.fixture
def site(tmp_path: Path, temporal_server: TemporalServer) -> tuple[Path, dict[str, str]]:
    """The example's files in a directory of their own, and the environment the guide sets up."""
    home = tmp_path / "site"
    shutil.copytree(EXAMPLE, home, ignore=shutil.ignore_patterns("__pycache__", "ruff.toml"))
    prefix = f"g{uuid.uuid4().hex[:10]}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),  # what `pip install` gives the stranger
        "RINDLE_APP": "media:rindle",
        "RINDLE_HOME": str(home / "var"),
        "DATABASE_URL": f"sqlite+aiosqlite:///{home / 'photos.db'}",
        "RINDLE_SECRETS": secrets.token_urlsafe(32),
        "RINDLE_TASK_QUEUE_PREFIX": prefix,
        "RINDLE_WORKFLOW_ID_PREFIX": prefix,
        "RINDLE_TMP_DIR": str(tmp_path),
        "RINDLE_RENDER_WORKERS": "1",
        "TEMPORAL_ADDRESS": temporal_server.target,
        "TEMPORAL_NAMESPACE": temporal_server.namespace,
    }
    return home, environment


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with launched(chromium) as running:
        yield running


@pytest.mark.external
@pytest.mark.parametrize("application", ["app:app", "app_with_router:app"])
async def test_a_stranger_gets_from_an_empty_directory_to_a_picture(
    site: tuple[Path, dict[str, str]], browser: Browser, application: str
) -> None:
    home, environment = site
    migrated = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rindle.cli", "migrate", cwd=home, env=environment
    )
    assert await migrated.wait() == 0
    port, health = free_port(), f"127.0.0.1:{free_port()}"
    url = f"http://127.0.0.1:{port}/"
    serve = ("-m", "uvicorn", "--port", str(port), "--no-access-log", application)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(process(home, environment, url, *serve))
        for_worker = {**environment, "RINDLE_HEALTH_ADDRESS": health}
        await stack.enter_async_context(process(home, for_worker, f"http://{health}/readyz", "worker.py"))
        page = await (await stack.enter_async_context(window(browser))).new_page()
        await page.goto(url)
        assert await page.locator("figure img").get_attribute("src") is None

        first = photo(home.parent / "first.jpg", width=900, height=600)
        await page.set_input_files("input[type=file]", first)
        await page.click("button")

        await expect(page.locator("figcaption")).to_have_text("Alice: ready")
        image = page.locator("figure img")
        assert await pixels_of(image) == (900, 600)
        sources = page.locator("figure source")
        assert await sources.nth(0).get_attribute("media") == "(max-width: 400px)"
        assert await sources.nth(1).get_attribute("type") == "image/webp"

        refused = home.parent / "page.jpg"
        refused.write_text("<!doctype html><script>alert(1)</script>")
        # The page has reloaded itself. Before its script has run, which `load` waits for, the button would send the
        # form to the page's own address.
        await page.wait_for_load_state("load")
        await page.set_input_files("input[type=file]", refused)
        await page.click("button")

        # Judged after it was attached, or before: then attaching is refused, and the first photo stays.
        quarantined = page.locator("figcaption", has_text="Alice: quarantined")
        await expect(quarantined.or_(page.locator("output", has_text=REFUSED))).to_be_visible()
        if await quarantined.count():
            assert await image.get_attribute("src") is None
        else:
            assert await pixels_of(image) == (900, 600)
