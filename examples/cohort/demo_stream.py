"""The demo's chapter on streaming: a server that stands for Mux streams the video, a webhook gets lost, and all
credentials change without a restart.

The server is that of the tests. It fetches the video as Mux would, cuts it with ffmpeg, signs its webhooks and verifies
the tokens of players.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

from examples.cohort import demo_files
from examples.cohort.demo_stage import COURSE, DEMO, Browser, CheckFailed, Checks, Sent, looks, step
from tests.servers.mux import FakeMux, running_mux
from tests.servers.mux.account import Asset

#: Profile of the site's videos while it has credentials of Mux.
PROFILE = "streamed_lesson"
#: Pause in seconds until a push polls the provider, half a minute in production; until the second poll it is double.
POLL_SECONDS = 8
#: Seconds of the video whose webhook gets lost.
LOST_SECONDS = 4


@dataclass
class Provider:
    """The server, and the file from which the site reads its credentials."""

    mux: FakeMux
    credentials: Path
    webhook_secret: str
    webhook_url: str = ""

    def write(self) -> None:
        """Write the credentials as they are now; the site never sees half a file."""
        token_id, token_secret = self.mux.token
        settings = {
            "TOKEN_ID": token_id,
            "TOKEN_SECRET": token_secret,
            "SIGNING_KEY_ID": self.mux.signing_key.id,
            "SIGNING_PRIVATE_KEY": self.mux.signing_key.private_key,
            "WEBHOOK_SECRETS": self.webhook_secret,
            "BASE_URL": self.mux.base_url,
            "STREAM_URL": self.mux.base_url,
        }
        fresh = self.credentials.with_suffix(".new")
        fresh.touch(0o600)
        fresh.write_text("".join(f"RINDLE_MUX_{name}={value}\n" for name, value in settings.items()))
        os.replace(fresh, self.credentials)

    def listen(self, url: str) -> None:
        """Send webhooks to an address."""
        self.webhook_url = url
        self.mux.add_webhook(url, self.webhook_secret)

    def rotate(self) -> None:
        """Replace access token, signing key and webhook secret."""
        self.mux.rotate_token()
        self.mux.signing_key = self.mux.new_signing_key()
        self.webhook_secret = secrets.token_hex(16)
        self.mux.add_webhook(self.webhook_url, self.webhook_secret)
        self.write()


@contextmanager
def provider() -> Iterator[Provider]:
    """Run the server, and let what is started from now on use it; it works only when the chapter begins."""
    with tempfile.TemporaryDirectory(prefix="mux-") as films, running_mux(Path(films)) as mux:
        mux.hold_ingest()
        running = Provider(mux, DEMO / "mux.env", secrets.token_hex(16))
        running.write()
        os.environ["COHORT_MUX_FILE"] = str(running.credentials)
        os.environ["RINDLE_PROVIDER_POLL_SECONDS"] = str(POLL_SECONDS)
        yield running


def stream(browser: Browser, at: Provider, site: str, lesson: Sent, checks: Checks) -> Sent:
    """Stream the video of the chapters before, then one whose webhook gets lost, then with other credentials.

    Returns:
        the second video, which the first one has replaced at the end.

    Raises:
        CheckFailed: something is not as promised.
    """
    mux = at.mux
    with step("8. The video is streamed by a server that stands for Mux") as status:
        waiting = [asset.status for asset in mux.assets]
        checks.that(
            waiting and set(waiting) == {"preparing"}, "the provider was given the video when its web_720p was built"
        )
        at.listen(f"{site}/media/webhooks/rindle/mux")
        mux.release_ingest()
        status.update("the provider fetches the video and cuts it…")
        streamed(browser, lesson.asset_id)
        for _ in looks(0.1):  # the answer may still be on its way
            if ("video.asset.ready", 202) in mux.deliveries:
                break
        checks.that(("video.asset.ready", 202) in mux.deliveries, "a signed webhook reports it as ready")
        status.update("the next webhooks get lost…")
        mux.lose_webhooks("video.asset.created", "video.asset.ready")
        second = Sent("lost.mp4", demo_files.video(LOST_SECONDS), "video whose webhook gets lost")
        browser.upload(second, PROFILE, "video/mp4")
        streamed(browser, second.asset_id)
        second.state, second.end = "ready", "replaced, then purged"
        wear(browser, second)
        before, old = playlist_of(browser), at.webhook_secret
        lost = played_by(mux, before)
        polled = ("GET", f"/video/v1/assets/{lost.id}") in mux.requests
        checks.that(polled, f"the webhook of a second video gets lost: a poll after {POLL_SECONDS} s finds it ready")
        mux.lose_no_webhooks()
        at.rotate()
        news = next(event for event in mux.events if event.type == "video.asset.ready")
        answers = [*mux.deliver(news, secret=old), *mux.deliver(news)]
        checks.that(
            answers == [400, 202], "rotated, no restart: a webhook with the old secret is refused, with the new one not"
        )
        wear(browser, lesson)
        address = playlist_of(browser)
        checks.that(
            key_of(address) == mux.signing_key.id != key_of(before), "the page's token is signed with the new key"
        )
        watch(browser, address, checks)
        status.update("the replaced video is deleted at the provider…")
        for _ in looks(0.2):
            if lost not in mux.assets:
                break
        checks.that(lost not in mux.assets, "the replaced video is deleted at the provider, with the new access token")
    return second


def streamed(browser: Browser, asset_id: str) -> None:
    """Follow a video at its provider until it can be streamed."""
    for kind, payload in browser.events(asset_id, "provider_asset"):
        state = payload.get("state")
        if state == "ready":
            return
        if state in ("errored", "deleted"):
            raise CheckFailed(f"the provider prepares the video ({kind}: {state})")
    raise CheckFailed("the provider reports the video as ready")


def wear(browser: Browser, video: Sent) -> None:
    """Make a video the lesson of the member's course."""
    browser.post(f"/lessons/{COURSE}/media", data={"asset_id": video.asset_id})


def playlist_of(browser: Browser) -> str:
    """Return the address that the lesson's page gives to its player."""
    found = re.search(r'src="([^"]+\.m3u8\?[^"]+)"', browser.get(f"/lessons/{COURSE}").text)
    if found is None:
        raise CheckFailed("the page of the lesson has a playlist")
    return html.unescape(found[1])


def played_by(mux: FakeMux, address: str) -> Asset:
    """Return the asset whose playlist is at an address."""
    playback_id = urlsplit(address).path.strip("/").removesuffix(".m3u8")
    return next(asset for asset in mux.assets if playback_id in {one.id for one in asset.playback_ids})


def key_of(address: str) -> str:
    """Return the id of the key that signed the token of an address."""
    header = parse_qs(urlsplit(address).query)["token"][0].partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


def watch(browser: Browser, address: str, checks: Checks) -> None:
    """Play a stream as a player does: the playlist, its rendition, and every segment."""
    bare = browser.get(address.partition("?")[0])
    checks.that(bare.status_code == 403, "without its token the playlist answers 403")
    (rendition,) = addresses(browser, address)
    segments = addresses(browser, rendition)
    with tempfile.NamedTemporaryFile(suffix=".ts") as film:
        for segment in segments:
            film.write(browser.get(segment).raise_for_status().content)
        film.flush()
        command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", film.name]
        facts = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    codecs = {one["codec_name"] for one in facts["streams"]}
    checks.that(codecs == {"h264", "aac"}, f"with it {len(segments)} segments play: H.264 with AAC")


def addresses(browser: Browser, playlist: str) -> list[str]:
    """Return what a playlist names."""
    lines = browser.get(playlist).raise_for_status().text.splitlines()
    return [urljoin(playlist, line) for line in lines if line and not line.startswith("#")]
