"""The example site as it is deployed: a worker process, a web process, one database, and a real browser before it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

from tests.servers import POLL_SECONDS, STARTUP_SECONDS, free_port
from tests.servers.chromium import ARGUMENTS
from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer

REPOSITORY = Path(__file__).resolve().parent.parent.parent

#: Opens a fresh browser window on the site, signed in as a member.
Visit = Callable[..., Awaitable[BrowserContext]]


@dataclass(frozen=True)
class Site:
    """The running site; ``media`` is the directory of its objects."""

    url: str
    media: Path


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait until ``condition`` holds.

    Raises:
        TimeoutError: it did not within ``seconds``.
    """
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def part(name: str, home: Path, ready: str, environment: dict[str, str], *arguments: str) -> AsyncIterator[None]:
    """Run a Python process of the site until the block is left; entered when ``ready`` answers 200."""
    log = home / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=REPOSITORY, env=environment, stdout=output, stderr=output
        )
    try:
        async with httpx.AsyncClient() as client:

            async def answers() -> bool:
                if process.returncode is not None:
                    pytest.fail(f"{name} ended with status {process.returncode}: {log.read_text()[-2000:]}")
                try:
                    return (await client.get(ready)).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(answers, STARTUP_SECONDS)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 20)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def running_site(temporal: TemporalServer, home: Path, **settings: str) -> AsyncIterator[Site]:
    """Run the example application and its worker on SQLite until the block is left.

    Args:
        home: directory of everything it keeps.
        settings: further environment variables.
    """
    health, port = f"127.0.0.1:{free_port()}", free_port()
    environment = {
        **os.environ,
        "RINDLE_APP": "examples.cohort.app:rindle",
        "RINDLE_HOME": str(home),
        "RINDLE_TMP_DIR": str(home),
        "RINDLE_SECRETS": secrets.token_urlsafe(32),
        "RINDLE_TASK_QUEUE_PREFIX": f"cohort-{uuid.uuid4().hex[:8]}",
        "TEMPORAL_ADDRESS": temporal.target,
        "TEMPORAL_NAMESPACE": temporal.namespace,
        **settings,
    }
    url = f"http://127.0.0.1:{port}"
    serve = ("-m", "uvicorn", "examples.cohort.app:app", "--port", str(port), "--no-access-log")
    async with (
        part("web", home, f"{url}/", environment, *serve),
        part("worker", home, f"http://{health}/readyz", {**environment, "RINDLE_HEALTH_ADDRESS": health}, "worker.py"),
    ):
        yield Site(url, home / "media")


@pytest.fixture(scope="session")
async def site(temporal_server: TemporalServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The example application with its worker, its photos in local files."""
    async with running_site(temporal_server, tmp_path_factory.mktemp("cohort")) as running:
        yield running


@pytest.fixture(scope="session")
async def bucket_site(
    temporal_server: TemporalServer, minio: MinioServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """The same with its photos in a bucket, which for the browser is another origin."""
    async with running_site(
        temporal_server,
        tmp_path_factory.mktemp("cohort"),
        MEDIA_BUCKET=minio.new_bucket(),
        COHORT_MEDIA_URL=minio.endpoint_url,
        AWS_ENDPOINT_URL_S3=minio.endpoint_url,
        AWS_DEFAULT_REGION=minio.region,
        AWS_ACCESS_KEY_ID=minio.access_key,
        AWS_SECRET_ACCESS_KEY=minio.secret_key,
    ) as running:
        yield running


@pytest.fixture(scope="session")
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield running
        await running.close()


@pytest.fixture
async def visit(site: Site, browser: Browser) -> AsyncIterator[Visit]:
    """Open windows that share nothing: ``context = await visit("alice")``.

    ``scripts=False`` opens one without scripts, ``at=`` one on another site.
    """
    async with AsyncExitStack() as stack:

        async def open_window(member: str, *, scripts: bool = True, at: Site = site) -> BrowserContext:
            context = await browser.new_context(base_url=at.url, java_script_enabled=scripts)
            stack.push_async_callback(context.close)
            context.set_default_timeout(30_000)
            page = await context.new_page()
            await page.goto("/")
            await page.select_option("#actor", member)
            await page.click(".switch button")
            await page.wait_for_url(f"**/members/{member}")
            return context

        yield open_window
