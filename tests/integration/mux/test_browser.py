"""The server in a browser, with the scripts that applications use: UpChunk sends a film, hls.js plays it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.browser import launched, window
from tests.integration.mux.client import Sdk
from tests.integration.mux.conftest import QuietHandler
from tests.media.clips import Clips, moving, tone
from tests.patience import until
from tests.servers.mux import FakeMux
from tests.servers.mux.tokens import sign

PAGE = """<!doctype html><meta charset="utf-8"><title>Creator</title>
<script src="upchunk.js"></script><script src="hls.js"></script>
<input type="file" id="film"><video id="player" muted></video>
<script>
window.news = [];
function send(endpoint) {
  const upload = UpChunk.createUpload({endpoint, file: document.getElementById("film").files[0], chunkSize: 256,
                                       delayBeforeAttempt: 0.1});
  for (const name of ["chunkSuccess", "attemptFailure", "error", "success"])
    upload.on(name, (event) => window.news.push(
      event.detail && event.detail.message ? `${name}: ${event.detail.message}` : name));
}
function play(url) {
  const player = new Hls();
  player.on(Hls.Events.ERROR, (event, told) => {
    if (told.fatal) window.news.push(`refused ${told.response ? told.response.code : told.details}`);
  });
  player.loadSource(url);
  player.attachMedia(document.getElementById("player"));
  document.getElementById("player").play().catch(() => {});
}
</script>"""


@pytest.fixture(scope="module")
def film(clips: Clips) -> Path:
    """A film of more than three chunks: noise is hard to compress."""
    noise = ("-vf", "noise=alls=60:allf=t", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
    return clips.made("noise.mp4", *moving("640x360", 3), *tone(3), *noise, "-c:a", "aac")


@pytest.fixture
def page_url(tmp_path: Path, npm_script: Callable[[str, str], Path]) -> Iterator[str]:
    """The page of an application with both scripts."""
    shelf = tmp_path / "page"
    shelf.mkdir()
    (shelf / "index.html").write_text(PAGE)
    scripts = {"upchunk.js": ("@mux/upchunk", "dist/upchunk.js"), "hls.js": ("hls.js", "dist/hls.min.js")}
    for name, (package, path) in scripts.items():
        (shelf / name).write_bytes(npm_script(package, path).read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=shelf)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.external
async def test_a_browser_sends_a_film_in_chunks_and_plays_it(
    mux: FakeMux, sdk: Sdk, film: Path, page_url: str, chromium: Path
) -> None:
    chunks = -(-film.stat().st_size // (256 * 1024))
    assert chunks > 3
    asset = {"playback_policies": ["signed"]}
    upload = sdk.uploads.create_direct_upload({"cors_origin": page_url, "new_asset_settings": asset}).data
    mux.plan_fault("PUT", "/mux-uploads/*", status=503)  # one chunk is sent again

    async with launched(chromium) as browser, window(browser) as context:
        page = await context.new_page()
        await page.goto(f"{page_url}/index.html")
        await page.set_input_files("#film", film)
        await page.evaluate("url => send(url)", upload.url)
        await page.wait_for_function("window.news.includes('success') || window.news.some(n => n.startsWith('error'))")
        news = await page.evaluate("window.news")

        done = sdk.uploads.get_direct_upload(upload.id).data
        assert done.status == "asset_created", news
        await until(lambda: sdk.assets.get_asset(done.asset_id).data.status == "ready")
        (kept,) = mux.assets
        assert kept.source.read_bytes() == film.read_bytes()

        playback_id = kept.playback_ids[0].id
        claims = {"sub": playback_id, "aud": "v", "exp": 4_000_000_000}
        token = sign(mux.signing_key.private_key, claims, kid=mux.signing_key.id)
        await page.evaluate("url => play(url)", f"{mux.base_url}/{playback_id}.m3u8?token={token}")
        await page.wait_for_function("document.getElementById('player').currentTime > 0.5")
        assert await page.evaluate("document.getElementById('player').videoWidth") == 640
        assert [told for told in await page.evaluate("window.news") if told.startswith("refused")] == []

        await page.evaluate("url => play(url)", f"{mux.base_url}/{playback_id}.m3u8")
        await page.wait_for_function("window.news.includes('refused 403')")


@pytest.mark.external
async def test_a_page_of_another_origin_cannot_send(
    mux: FakeMux, sdk: Sdk, film: Path, page_url: str, chromium: Path
) -> None:
    upload = sdk.uploads.create_direct_upload({"cors_origin": "https://cohort.example"}).data

    async with launched(chromium) as browser, window(browser) as context:
        page = await context.new_page()
        await page.goto(f"{page_url}/index.html")
        await page.set_input_files("#film", film)
        await page.evaluate("url => send(url)", upload.url)
        await page.wait_for_function("window.news.some(n => n.startsWith('error') || n.startsWith('attemptFailure'))")

    assert sdk.uploads.get_direct_upload(upload.id).data.status == "waiting"
    assert mux.uploads[0].offset == 0
