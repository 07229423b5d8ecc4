"""The demo's chapter on streaming: a server that stands for Mux streams the video, a webhook gets lost, all credentials
change without a restart, and a talk goes from the browser to that server.

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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

from examples.cohort import demo_files
from examples.cohort.demo_stage import COURSE, DEMO, MEMBER, Browser, CheckFailed, Checks, Sent, looks, step
from tests.servers.mux import FakeMux, running_mux
from tests.servers.mux.account import Asset

#: Profile of the site's videos while it has credentials of Mux.
PROFILE = "streamed_lesson"
#: Profile of the site's talks, and the page that sends them.
TALK, ORIGIN = "talk", "https://cohort.example"
#: Pause in seconds until a push polls the provider, half a minute in production; until the second poll it is double.
POLL_SECONDS = 8
#: Seconds of the video whose webhook gets lost, and of the talk.
LOST_SECONDS, TALK_SECONDS = 4, 2
#: Size of the talk, and of the chunks in which the browser sends it.
TALK_BYTES, CHUNK_BYTES = 7 << 19, 1 << 20


@dataclass
class Stream:
    """What was streamed, and how it came to the provider.

    Attributes:
        segments: of the first video, as a player has loaded them.
        polled: path of the request that found the second video ready.
        lost: the second video, whose webhook got lost.
        talk: the video that went from the browser to the provider.
        chunks: into which it was cut.
        ready_after: seconds from its last chunk until the page could play it.
        cancelled: a talk that was cancelled after its first chunk.
    """

    segments: int
    polled: str
    lost: Sent
    talk: Sent
    chunks: int = 0
    ready_after: float = 0.0
    cancelled: Sent = field(default_factory=lambda: Sent("unwanted.mp4", b"", "talk, cancelled while it is sent"))


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


def stream(browser: Browser, at: Provider, site: str, lesson: Sent, checks: Checks) -> Stream:
    """Stream the video of the chapters before, then one whose webhook gets lost, then with other credentials.

    Then a talk is sent to the provider by the browser, and another one is cancelled.

    Raises:
        CheckFailed: something is not as promised.
    """
    found = push(browser, at, site, lesson, checks)
    send(browser, at, found, checks)
    return found


def push(browser: Browser, at: Provider, site: str, lesson: Sent, checks: Checks) -> Stream:
    """Let the site push two videos to the provider; the second one is replaced at the end."""
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
        polled = ("GET", f"/video/v1/assets/{lost.id}")
        checks.that(
            polled in mux.requests,
            f"the webhook of a second video gets lost: a poll after {POLL_SECONDS} s finds it ready",
        )
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
        bare = browser.get(address.partition("?")[0])
        checks.that(bare.status_code == 403, "without its token the playlist answers 403")
        segments = watch(browser, address)
        checks.that(segments, f"with it {segments} segments play: H.264 with AAC")
        status.update("the replaced video is deleted at the provider…")
        for _ in looks(0.2):
            if lost not in mux.assets:
                break
        checks.that(lost not in mux.assets, "the replaced video is deleted at the provider, with the new access token")
    talk = Sent("talk.mp4", demo_files.large_video(TALK_SECONDS, TALK_BYTES), "talk, sent to the provider")
    return Stream(segments, polled[1].rpartition("/")[0], second, talk)


def send(browser: Browser, at: Provider, found: Stream, checks: Checks) -> None:
    """Send a talk from the browser to the provider, and cancel another one."""
    mux, talk, unwanted = at.mux, found.talk, found.cancelled
    with step("8. A talk goes from the browser to that server, past the site") as status:
        url = open_upload(browser, talk)
        pieces = [talk.body[first : first + CHUNK_BYTES] for first in range(0, len(talk.body), CHUNK_BYTES)]
        found.chunks = len(pieces)
        answers = [put_chunk(browser, url, talk, number) for number in range(len(pieces))]
        began = time.monotonic()
        arrived = mux.assets[0].source.read_bytes() == talk.body
        checks.that(
            answers == [*[308] * (len(pieces) - 1), 200] and arrived,
            f"{len(talk.body):,} bytes go to the provider in {len(pieces)} chunks, and none through the site",
        )
        status.update("the provider cuts it…")
        streamed(browser, talk.asset_id)
        browser.post(f"/talks/{MEMBER}/media", data={"asset_id": talk.asset_id})
        segments = watch(browser, playlist_of(browser, f"/talks/{MEMBER}"))
        found.ready_after = time.monotonic() - began
        talk.state, talk.end = "ready", "her talk"
        checks.that(segments, f"{found.ready_after:.1f} s later her page plays it: H.264 with AAC")
        unwanted.body, billed = talk.body, len(mux.assets)
        url = open_upload(browser, unwanted)
        put_chunk(browser, url, unwanted, 0)
        status_code = browser.delete(f"/media/uploads/direct/{unwanted.asset_id}").status_code
        checks.that(
            (status_code, mux.uploads[-1].status) == (204, "cancelled"),
            "another one is cancelled after its first chunk, here and at the provider",
        )
        for number in range(1, found.chunks):
            put_chunk(browser, url, unwanted, number)
        checks.that(len(mux.assets) == billed, "the chunks that come all the same become nothing: nothing is billed")
        unwanted.state, unwanted.end = "cancelled", "never at the provider"


def open_upload(browser: Browser, sent: Sent) -> str:
    """Open an upload at the provider, and return the address to which the browser sends the bytes."""
    answer = browser.post("/media/uploads/direct", json={"profile": TALK, "filename": sent.name, "cors_origin": ORIGIN})
    opened = answer.json()
    sent.asset_id = opened["asset_id"]
    return str(opened["upload_url"])


def put_chunk(browser: Browser, url: str, sent: Sent, number: int) -> int:
    """Send one chunk of a file, and return the status of the answer."""
    first = number * CHUNK_BYTES
    piece = sent.body[first : first + CHUNK_BYTES]
    told = f"bytes {first}-{first + len(piece) - 1}/{len(sent.body)}"
    return browser.put(url, piece, {"Content-Range": told, "Origin": ORIGIN}).status_code


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


def playlist_of(browser: Browser, page: str = f"/lessons/{COURSE}") -> str:
    """Return the address that a page gives to its player."""
    found = re.search(r'src="([^"]+\.m3u8\?[^"]+)"', browser.get(page).text)
    if found is None:
        raise CheckFailed(f"the page {page} has a playlist")
    return html.unescape(found[1])


def played_by(mux: FakeMux, address: str) -> Asset:
    """Return the asset whose playlist is at an address."""
    playback_id = urlsplit(address).path.strip("/").removesuffix(".m3u8")
    return next(asset for asset in mux.assets if playback_id in {one.id for one in asset.playback_ids})


def key_of(address: str) -> str:
    """Return the id of the key that signed the token of an address."""
    header = parse_qs(urlsplit(address).query)["token"][0].partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])


def watch(browser: Browser, address: str) -> int:
    """Play a stream as a player does: the playlist, its rendition, and every segment.

    Returns:
        how many segments there are; 0 when they are not H.264 with AAC.
    """
    (rendition,) = addresses(browser, address)
    segments = addresses(browser, rendition)
    with tempfile.NamedTemporaryFile(suffix=".ts") as film:
        for segment in segments:
            film.write(browser.get(segment).raise_for_status().content)
        film.flush()
        command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", film.name]
        facts = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    codecs = {one["codec_name"] for one in facts["streams"]}
    return len(segments) if codecs == {"h264", "aac"} else 0


def addresses(browser: Browser, playlist: str) -> list[str]:
    """Return what a playlist names."""
    lines = browser.get(playlist).raise_for_status().text.splitlines()
    return [urljoin(playlist, line) for line in lines if line and not line.startswith("#")]
