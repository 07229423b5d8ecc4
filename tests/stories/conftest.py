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
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser import follow, launched, window
from tests.media.clips import H264, Clips, moving, tone
from tests.patience import PATIENCE_SECONDS, VIDEO_PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer

REPOSITORY = Path(__file__).resolve().parent.parent.parent

#: No build is given up, or begun again, because the machine is busy or a test holds its encoder. No worker is killed
#: here, so a lost one need not be noticed, and a cancelled build ends without a heartbeat: it reads its row.
PATIENT = {
    "RINDLE_AV_WALL_FLOOR_SECONDS": str(5 * VIDEO_PATIENCE_SECONDS),
    "RINDLE_AV_STALL_SECONDS": str(5 * VIDEO_PATIENCE_SECONDS),
    "RINDLE_HEARTBEAT_SECONDS": str(PATIENCE_SECONDS),
}

#: Opens a fresh browser window on the site, signed in as a member.
Visit = Callable[..., Awaitable[BrowserContext]]


class Part:
    """A Python process of the site, which a test may stop and start again; it is ready when ``ready`` answers 200."""

    def __init__(self, name: str, home: Path, ready: str, environment: dict[str, str], *arguments: str) -> None:
        self._log = home / f"{name}.log"
        self._ready = ready
        self._environment = environment
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Run it and wait until it answers."""
        with self._log.open("ab") as output:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable, *self._arguments, cwd=REPOSITORY, env=self._environment, stdout=output, stderr=output
            )
        async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:

            async def answers() -> bool:
                if process.returncode is not None:
                    told = self._log.read_text()[-2000:]
                    pytest.fail(f"{self._log.stem} ended with status {process.returncode}: {told}")
                try:
                    return (await client.get(self._ready)).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(answers)

    async def stop(self) -> None:
        """End it gracefully, or kill it when it takes too long."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 20)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def __aenter__(self) -> Part:
        await self.start()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self.stop()


@dataclass(frozen=True)
class Site:
    """The running site; ``media`` is the directory of its objects, ``scratch`` that of its unfinished work."""

    url: str
    media: Path
    scratch: Path
    web: Part
    worker: Part

    def objects_of(self, asset_id: str) -> list[Path]:
        """Return the files that belong to an asset."""
        # `Path.rglob` raises when a worker removes a directory meanwhile.
        walk = ((Path(directory), names) for directory, _, names in os.walk(self.media))
        return [directory / name for directory, names in walk if asset_id in directory.name for name in names]


@asynccontextmanager
async def running_site(temporal: TemporalServer, home: Path, **settings: str) -> AsyncIterator[Site]:
    """Run the example application and its worker on SQLite until the block is left.

    Args:
        home: directory of everything it keeps.
        settings: further environment variables.
    """
    health, port = f"127.0.0.1:{free_port()}", free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "RINDLE_WEB_URL": url,
        "RINDLE_APP": "tests.stories.cohort:rindle",
        "RINDLE_HOME": str(home),
        "RINDLE_TMP_DIR": str(home),
        "RINDLE_SECRETS": secrets.token_urlsafe(32),
        "RINDLE_TASK_QUEUE_PREFIX": f"cohort-{uuid.uuid4().hex[:8]}",
        "TEMPORAL_ADDRESS": temporal.target,
        "TEMPORAL_NAMESPACE": temporal.namespace,
        **PATIENT,
        **settings,
    }
    serve = ("-m", "uvicorn", "examples.cohort.app:app", "--port", str(port), "--no-access-log")
    web = Part("web", home, f"{url}/", environment, *serve)
    healthy = {**environment, "RINDLE_HEALTH_ADDRESS": health}
    async with web, Part("worker", home, f"http://{health}/readyz", healthy, "worker.py") as worker:
        yield Site(url, home / "media", home / "rindle.tmp", web, worker)


@pytest.fixture(scope="session")
async def site(temporal_server: TemporalServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """The example application with its worker, its media in local files."""
    # One thread makes films slowly enough to be watched on any machine; the second worker makes what need not wait.
    settings = {"RINDLE_AV_THREADS": "1", "RINDLE_AV_WORKERS": "2"}
    async with running_site(temporal_server, tmp_path_factory.mktemp("cohort"), **settings) as running:
        yield running


@pytest.fixture(scope="session")
async def bucket_site(
    temporal_server: TemporalServer, minio: MinioServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """The same with its media in a bucket, which for the browser is another origin."""
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
    async with launched(chromium) as running:
        yield running


@asynccontextmanager
async def signed_in(
    browser: Browser, site: Site, member: str, *, scripts: bool = True
) -> AsyncIterator[BrowserContext]:
    """Open a window on a site, signed in as a member; its first page is open."""
    async with window(browser, base_url=site.url, java_script_enabled=scripts) as context:
        page = await context.new_page()
        await page.goto("/")
        await page.select_option("#actor", member)
        await follow(page, ".switch button")
        assert page.url == f"{site.url}/members/{member}"
        yield context


@pytest.fixture
async def visit(site: Site, browser: Browser) -> AsyncIterator[Visit]:
    """Open windows that share nothing: ``context = await visit("alice")``.

    ``scripts=False`` opens one without scripts, ``at=`` one on another site.
    """
    async with AsyncExitStack() as stack:

        async def open_window(member: str, *, scripts: bool = True, at: Site = site) -> BrowserContext:
            return await stack.enter_async_context(signed_in(browser, at, member, scripts=scripts))

        yield open_window


@pytest.fixture(scope="session")
def film(clips: Clips) -> Path:
    """A film of 20 s in 1080p with sound; noisy, as cameras are, so that making it smaller takes its time."""
    noise = ("-vf", "noise=alls=12:allf=t")
    return clips.made("film.mp4", *moving("1920x1080", 20), *tone(20), *noise, *H264, "-crf", "28", "-c:a", "aac")


async def play(page: Page, kind: str) -> dict[str, float]:
    """Play the page's video or audio, muted, until it has moved, and return what the browser knows of it."""
    told: dict[str, float] = await page.evaluate(PLAY, kind)
    return told


#: Resolves when what was asked to play has really shown something.
PLAY = """
(kind) => new Promise((resolve, reject) => {
  const player = document.querySelector(kind);
  player.muted = true;
  player.addEventListener("error", () => reject(new Error(`error ${player.error?.code}`)));
  player.addEventListener("timeupdate", () => {
    if (player.currentTime <= 0.2 && !player.ended) return;
    const { readyState, duration, videoWidth: width, videoHeight: height } = player;
    player.pause();
    resolve({ readyState, duration, width, height });
  });
  player.play().catch(reject);
})
"""
