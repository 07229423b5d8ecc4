"""Story 2 with a streaming provider: a film is pushed to the server that stands for Mux, or sent to it by its creator,
and streams from it, in a real browser."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser import errors_of, follow, held
from tests.media.clips import Clips
from tests.patience import VIDEO_PATIENCE_MS, until
from tests.servers.mux import FakeMux, running_mux
from tests.servers.temporal import TemporalServer
from tests.stories.conftest import Site, play, running_site, signed_in

pytestmark = pytest.mark.external

#: Requests by which a push or an upload asks how far an asset is.
POLLS = ("GET", "/video/v1/assets/*")
#: Requests by which a browser sends a film in chunks.
CHUNKS = ("PUT", "/mux-uploads/*")


@dataclass
class Cinema:
    """The site, the provider that streams its lessons, and the file of the site's credentials."""

    site: Site
    mux: FakeMux
    credentials: Path
    webhook_secret: str

    def rotate(self) -> str:
        """Replace all credentials of the provider, and then those of the site; return the id of the signing key."""
        self.mux.rotate_token()
        key = self.mux.new_signing_key()
        self.mux.signing_key = key
        self.webhook_secret = secrets.token_hex(16)
        self.mux.add_webhook(f"{self.site.url}/media/webhooks/rindle/mux", self.webhook_secret)
        write(self.credentials, self.mux, self.webhook_secret)
        return key.id


def write(credentials: Path, mux: FakeMux, webhook_secret: str) -> None:
    """Write the credentials as the site reads them, at once."""
    token_id, token_secret = mux.token
    settings = {
        "TOKEN_ID": token_id,
        "TOKEN_SECRET": token_secret,
        "SIGNING_KEY_ID": mux.signing_key.id,
        "SIGNING_PRIVATE_KEY": mux.signing_key.private_key,
        "WEBHOOK_SECRETS": webhook_secret,
        "BASE_URL": mux.base_url,
        "STREAM_URL": mux.base_url,
    }
    fresh = credentials.with_suffix(".new")
    fresh.write_text("".join(f"RINDLE_MUX_{name}={value}\n" for name, value in settings.items()))
    os.replace(fresh, credentials)


@pytest.fixture(scope="module")
async def opened(
    temporal_server: TemporalServer,
    npm_script: Callable[[str, str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Cinema]:
    """The example application with the provider; it polls every second, and not after half a minute."""
    npm_script("hls.js", "dist/hls.min.mjs")
    npm_script("@mux/upchunk", "dist/upchunk.mjs")
    home, secret = tmp_path_factory.mktemp("cinema"), secrets.token_hex(16)
    with running_mux(tmp_path_factory.mktemp("mux")) as mux:
        credentials = home / "mux.env"
        write(credentials, mux, secret)
        settings = {"COHORT_MUX_FILE": str(credentials), "RINDLE_PROVIDER_POLL_SECONDS": "1"}
        async with running_site(temporal_server, home, **settings) as site:
            mux.add_webhook(f"{site.url}/media/webhooks/rindle/mux", secret)
            yield Cinema(site, mux, credentials, secret)


@pytest.fixture
def cinema(opened: Cinema) -> Iterator[Cinema]:
    """The same, with a provider that does its work again after the test."""
    yield opened
    opened.mux.release_ingest()
    opened.mux.forget_faults()
    opened.mux.answer_the_silent()
    opened.mux.lose_no_webhooks()


@pytest.fixture
async def page(cinema: Cinema, browser: Browser) -> AsyncIterator[Page]:
    """A window on the lesson of Alice, signed in as her; its console must stay silent."""
    async with signed_in(browser, cinema.site, "alice") as context:
        page = context.pages[0]
        errors = errors_of(page)
        await page.goto("/lessons/sea-floor")
        yield page
    assert errors == []


@pytest.fixture
async def talk(page: Page) -> Page:
    """The same on the page of Alice's talk, which has none; she has come there by the navigation."""
    await follow(page, "nav a[href='/talks']")
    await follow(page, ".card.mine")
    if await page.locator(".remove").count():
        await page.click(".remove button")
    await expect(page.locator(".badge")).to_have_text("No talk yet")
    return page


@pytest.fixture
def large_film(clips: Clips, tmp_path: Path) -> Path:
    """A film that needs four chunks: most of it is a box that players pass over (ISO 14496-12, "free")."""
    size = 3 << 20
    film = tmp_path / "talk.mp4"
    film.write_bytes(clips.film().read_bytes() + struct.pack(">I4s", size, b"free") + bytes(size - 8))
    return film


async def choose(page: Page, file: Path) -> None:
    """Upload a film through the page's form, and wait until the site has built it."""
    before = await page.locator(".state").get_attribute("data-asset")
    await page.set_input_files("#lesson", file)
    built = page.locator(f'.state[data-state="ready"]:not([data-asset="{before}"])')
    await expect(built).to_be_visible(timeout=VIDEO_PATIENCE_MS)


def chunks_at(mux: FakeMux) -> int:
    """Return how many chunks have arrived at the provider."""
    method, path = CHUNKS
    return sum(name == method and fnmatchcase(found, path) for name, found in mux.requests)


async def token_of(page: Page) -> tuple[dict[str, str], dict[str, object]]:
    """Return the header and the claims of the token with which the page streams."""
    address = await page.locator(".stage video source").get_attribute("src")
    [token] = parse_qs(urlsplit(str(address)).query)["token"]
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, claims


async def play_stream(page: Page) -> dict[str, float]:
    """Play the lesson as soon as the script has taken over; see ``play``."""

    async def is_attached() -> bool:  # the site's policy lets the page itself evaluate nothing
        is_ours = "document.querySelector('.stage video')?.currentSrc.startsWith('blob:') ?? false"
        return bool(await page.evaluate(is_ours))

    await until(is_attached, what="the script to take over the player")
    return await play(page, "video")


async def test_a_film_is_pushed_and_streams_when_a_signed_webhook_reports_it(
    cinema: Cinema, page: Page, clips: Clips
) -> None:
    mux = cinema.mux
    mux.plan_fault(*POLLS, status=503, times=10_000)  # only the webhook can bring the news
    mux.hold_ingest()
    badge = page.locator(".badge")

    await choose(page, clips.film())
    await expect(badge).to_have_text("Preparing the stream")
    assert (await play(page, "video"))["width"] == 320  # meanwhile it plays from the site's own store
    [asset] = await until(lambda: mux.assets, what="the asset at the provider")
    mux.release_ingest()

    await expect(badge).to_have_text("Ready", timeout=VIDEO_PATIENCE_MS)
    assert [address.policy for address in asset.playback_ids] == ["signed"]
    header, claims = await token_of(page)
    assert (header["kid"], claims["aud"], claims["sub"]) == (mux.signing_key.id, "v", asset.playback_ids[0].id)
    told = await play_stream(page)
    assert (told["width"], told["height"]) == (320, 180)
    assert told["duration"] == pytest.approx(2, abs=0.3)
    assert ("GET", f"/{asset.playback_ids[0].id}.m3u8") in mux.requests
    await until(lambda: ("video.asset.ready", 202) in mux.deliveries, what="the answer to the webhook")


async def test_a_lost_webhook_is_healed_by_polling(cinema: Cinema, page: Page, clips: Clips) -> None:
    mux = cinema.mux
    mux.lose_webhooks("video.asset.created", "video.asset.ready")
    # The third poll would be five minutes later: the first is answered when there is something to say.
    mux.plan_fault(*POLLS, status=None, is_silent=True, times=10_000)
    known = {asset.id for asset in mux.assets}

    await choose(page, clips.film())
    [asset] = await until(lambda: [one for one in mux.assets if one.id not in known], what="the asset at the provider")
    await until(lambda: asset.status == "ready", what="the end of the provider's work")
    mux.forget_faults()
    mux.answer_the_silent()

    await expect(page.locator(".badge")).to_have_text("Ready", timeout=VIDEO_PATIENCE_MS)
    await expect(page.locator(".stage video source")).to_have_attribute("src", re.compile(r"\.m3u8\?token="))
    assert (await play_stream(page))["width"] == 320
    assert ("GET", f"/video/v1/assets/{asset.id}") in mux.requests


async def test_credentials_are_rotated_without_a_restart(cinema: Cinema, page: Page, clips: Clips) -> None:
    mux = cinema.mux
    if not await page.locator('.stage[data-key$=" hls"]').count():
        await choose(page, clips.film())
        await expect(page.locator(".badge")).to_have_text("Ready", timeout=VIDEO_PATIENCE_MS)
    # The film before it is deleted at the provider with the access token of that time.
    await until(lambda: len(mux.assets) == 1, what="the end of the film before it")
    before, (old, _) = cinema.webhook_secret, await token_of(page)
    ready = next(event for event in reversed(mux.events) if event.type == "video.asset.ready")

    key_id = cinema.rotate()

    assert mux.deliver(ready, secret=before) == [400]
    assert mux.deliver(ready) == [202]
    await page.reload()
    header, _ = await token_of(page)
    assert header["kid"] == key_id != old["kid"]
    assert (await play_stream(page))["width"] == 320
    assert mux.assets
    await page.click(".remove button")  # which deletes it at the provider, with the new access token
    await expect(page.locator(".badge")).to_have_text("No lesson yet")
    await until(lambda: not mux.assets, what="the end of the asset at the provider")


async def test_a_creator_sends_a_film_in_chunks_and_it_plays_when_a_signed_webhook_reports_it(
    cinema: Cinema, talk: Page, large_film: Path
) -> None:
    mux, badge = cinema.mux, talk.locator(".badge")
    mux.plan_fault(*POLLS, status=503, times=10_000)  # only the webhook can bring the news
    mux.hold_ingest()
    known, answered = {asset.id for asset in mux.assets}, mux.deliveries.count(("video.asset.ready", 202))
    sent: list[tuple[str, str]] = []
    talk.on("request", lambda request: sent.append((request.method, request.url)))
    mux.plan_fault(*CHUNKS, status=None, is_silent=True)  # the first chunk is on its way until the badge was seen
    arrived = chunks_at(mux)

    await talk.set_input_files("#talk", large_film)
    await expect(badge).to_have_text("Uploading")
    await until(lambda: chunks_at(mux) > arrived, what="the first chunk at the provider")
    mux.answer_the_silent()
    await expect(badge).to_have_text("Preparing the stream", timeout=VIDEO_PATIENCE_MS)
    await expect(talk.locator(".cancel")).to_be_hidden()
    [asset] = [one for one in mux.assets if one.id not in known]
    mux.release_ingest()

    await expect(badge).to_have_text("Ready", timeout=VIDEO_PATIENCE_MS)
    assert asset.source.read_bytes() == large_film.read_bytes()
    chunks = [url for method, url in sent if method == "PUT"]
    assert (len(chunks), {url.partition("/mux-uploads/")[0] for url in chunks}) == (4, {mux.base_url})
    assert [url for method, url in sent if method == "POST" and "/media/uploads" in url] == [
        f"{cinema.site.url}/media/uploads/direct"
    ]
    told = await play_stream(talk)
    assert (told["width"], told["height"]) == (320, 180)
    assert (await token_of(talk))[1]["sub"] == asset.playback_ids[0].id
    await until(lambda: mux.deliveries.count(("video.asset.ready", 202)) > answered, what="the answer to the webhook")
    await talk.goto("/talks")
    await expect(talk.locator(".card.mine .role")).to_have_text("talk.mp4")


async def test_a_lost_webhook_of_a_creators_film_is_healed_by_polling(
    cinema: Cinema, talk: Page, large_film: Path
) -> None:
    mux = cinema.mux
    mux.lose_webhooks("video.asset.created", "video.asset.ready")
    # The third poll would be five minutes later: the first is answered when there is something to say.
    mux.plan_fault(*POLLS, status=None, is_silent=True, times=10_000)
    known = {asset.id for asset in mux.assets}

    await talk.set_input_files("#talk", large_film)
    [asset] = await until(lambda: [one for one in mux.assets if one.id not in known], what="the asset at the provider")
    await until(lambda: asset.status == "ready", what="the end of the provider's work")
    mux.forget_faults()
    mux.answer_the_silent()

    await expect(talk.locator(".badge")).to_have_text("Ready", timeout=VIDEO_PATIENCE_MS)
    assert (await play_stream(talk))["width"] == 320
    assert ("GET", f"/video/v1/assets/{asset.id}") in mux.requests


async def test_the_stream_of_a_removed_talk_is_not_requested_any_more(
    cinema: Cinema, talk: Page, large_film: Path
) -> None:
    """Without its script a player would take the source of the video, which is gone: an error in the console."""
    await talk.set_input_files("#talk", large_film)
    await expect(talk.locator(".badge")).to_have_text("Ready", timeout=VIDEO_PATIENCE_MS)
    await play_stream(talk)
    requested: list[str] = []

    async with held(talk, "**/talks/alice/media", method="GET", then="continue") as refreshing:
        await talk.click(".remove button")
        await refreshing.wait()
        await until(lambda: not cinema.mux.assets, what="the end of the asset at the provider")
        talk.on("request", lambda request: requested.append(request.url))
    await expect(talk.locator(".badge")).to_have_text("No talk yet")
    await talk.goto("/talks")

    assert [url for url in requested if ".m3u8" in url] == []


async def test_a_creator_cancels_a_film_while_it_is_sent(cinema: Cinema, talk: Page, large_film: Path) -> None:
    mux, known = cinema.mux, {asset.id for asset in cinema.mux.assets}
    mux.plan_fault(*CHUNKS, status=None, is_silent=True, times=10_000)  # the first chunk is on its way
    await talk.set_input_files("#talk", large_film)
    await expect(talk.locator(".badge")).to_have_text("Uploading")

    await talk.click(".cancel")

    await expect(talk.locator(".chooser .notice")).to_have_text("Upload cancelled.")
    await expect(talk.locator(".badge")).to_have_text("No talk yet")
    await until(lambda: mux.uploads[-1].status == "cancelled", what="the upload to be cancelled at the provider")
    mux.forget_faults()
    mux.answer_the_silent()  # what was on its way comes to nothing
    assert {asset.id for asset in mux.assets} <= known
