"""Story 2 without a streaming provider: a film and a recording are uploaded, watched as they become ready, and played,
in a real browser."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Page, Response, expect

from tests.browser import errors_of, follow
from tests.media.clips import Clips
from tests.patience import VIDEO_PATIENCE_MS, VIDEO_PATIENCE_SECONDS, until
from tests.stories.conftest import Site, Visit, play

pytestmark = pytest.mark.external

# Runs before the page's own scripts and keeps what the page ever showed.
WATCH = """
window.seen = { badge: [], step: [], bar: [], posters: 0 };
new MutationObserver(() => {
  for (const [name, read] of [
    ["badge", () => document.querySelector(".badge")?.textContent],
    ["step", () => document.querySelector(".step")?.textContent],
    ["bar", () => document.querySelector(".chooser progress")?.getAttribute("value")],
  ]) {
    const now = read();
    if (now !== undefined && window.seen[name].at(-1) !== now) window.seen[name].push(now);
  }
  if (document.querySelector(".stage .waiting")) window.seen.posters += 1;
}).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
"""

# The variants of the newest asset: whether each is its film, its state and its progress.
VARIANTS = """
SELECT output_kind = 'video', state, progress FROM media_variants
WHERE asset_id = (SELECT id FROM media_assets ORDER BY id DESC LIMIT 1)
"""

# Seeks, and says where the player then is and what colour is in the middle of the picture.
SEEK = """
(to) => new Promise((resolve, reject) => {
  const video = document.querySelector("video");
  video.addEventListener("error", () => reject(new Error(`error ${video.error?.code}`)));
  video.addEventListener("seeked", () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    resolve({ at: video.currentTime, brightest: Math.max(...data.filter((_, index) => index % 401 === 0)) });
  }, { once: true });
  video.currentTime = to;
})
"""


async def open_lesson(visit: Visit, member: str, slug: str) -> Page:
    """Return a window on a lesson, signed in as a member."""
    page = (await visit(member)).pages[0]
    await page.add_init_script(WATCH)
    await page.goto(f"/lessons/{slug}")
    return page


async def choose(page: Page, file: Path) -> str:
    """Upload a file through the page's form, wait until it is ready and return the asset's id."""
    before = await asset_on(page)
    await page.set_input_files("#lesson", file)
    ready = page.locator(f'.state[data-state="ready"]:not([data-asset="{before}"])')
    await expect(ready).to_be_visible(timeout=VIDEO_PATIENCE_MS)
    return str(await asset_on(page))


async def asset_on(page: Page) -> str | None:
    """Return the id of the asset the page shows."""
    return await page.locator(".state").get_attribute("data-asset")


def percents(texts: list[str]) -> list[int]:
    """Return the numbers of a badge's or a progress line's texts."""
    return [int(found[1]) for text in texts if (found := re.search(r"(\d+) %", text))]


def processes() -> dict[int, tuple[int, str]]:
    """Return the process group and the command line of every process that is not a zombie, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            command = os.fsdecode((entry / "cmdline").read_bytes())
        except OSError:  # it has just ended
            continue
        if state != "Z":
            found[int(entry.name)] = (int(group), command)
    return found


def ffmpeg_groups(site: Site) -> set[int]:
    """Return the process groups of the site's ffmpeg processes."""
    home = str(site.media.parent)
    return {group for group, command in processes().values() if "ffmpeg" in command and home in command}


def variants(site: Site, *, film: bool) -> list[tuple[str, int]]:
    """Return state and progress of the newest asset's film, or of its other variants."""
    with closing(sqlite3.connect(site.media.parent / "rindle.db")) as database:
        rows = database.execute(VARIANTS).fetchall()
    return [(state, progress) for is_film, state, progress in rows if is_film == film]


@contextmanager
def held_encoder(group: int) -> Iterator[None]:
    """Let the processes of an encoder stand still for the block."""
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed meanwhile
            os.killpg(group, signal.SIGCONT)


async def film_waits_for_the_rest(site: Site) -> int:
    """Hold the encoder of the film until the other variants are stored, and return its process group.

    The badge has the progress of the slowest variant. While one of the others has not begun, there is none to see.
    """
    home = str(site.media.parent)

    def encoders() -> set[int]:
        return {group for group, command in processes().values() if "libx264" in command and home in command}

    def others_are_ready() -> bool:
        return {state for state, _ in variants(site, film=False)} == {"ready"}

    [encoder] = await until(encoders, what="the encoder of the film", timeout_seconds=VIDEO_PATIENCE_SECONDS)
    with held_encoder(encoder):
        await until(others_are_ready, what="the other variants", timeout_seconds=VIDEO_PATIENCE_SECONDS)
    return encoder


# --- films ---------------------------------------------------------------------------------------------------------


async def test_a_film_is_seen_becoming_ready_and_plays(visit: Visit, site: Site, film: Path) -> None:
    page = await open_lesson(visit, "alice", "sea-floor")
    errors = errors_of(page)

    asset_id, _ = await asyncio.gather(choose(page, film), film_waits_for_the_rest(site))

    seen = await page.evaluate("window.seen")
    sent = percents(seen["step"])
    assert sent == sorted(sent) and sent[-1] == 100
    assert "Uploaded. Checking…" in seen["step"]
    made = percents(seen["badge"])
    assert made == sorted(set(made)) and len(made) >= 3, made
    assert seen["badge"][-1] == "Ready"
    assert seen["posters"], "the poster stands there while the film is being made"
    await expect(page.locator(".badge")).to_have_text("Ready")

    video = page.locator(".stage video")
    assert await video.get_attribute("poster")
    assert await video.evaluate("video => [...video.children].map(source => source.type)") == ["video/mp4"]
    told = await play(page, "video")
    assert told["readyState"] >= 2
    assert told["duration"] == pytest.approx(20, abs=0.25)
    assert (told["width"], told["height"]) == (1280, 720)
    assert len(site.objects_of(asset_id)) == 1 + len(("poster", "scrub_strip", "waveform", "web_720p"))
    assert errors == []


async def test_seeking_fetches_a_range_and_shows_what_is_there(visit: Visit, film: Path) -> None:
    page = await open_lesson(visit, "alice", "sea-floor")
    if not await asset_on(page):
        await choose(page, film)
    await page.reload()
    answers: list[Response] = []
    page.on("response", lambda answer: answers.append(answer) if "video/mp4" in str(answer.headers) else None)
    await play(page, "video")

    shown = await page.evaluate(SEEK, 17.5)

    assert shown["at"] == pytest.approx(17.5, abs=0.05)
    assert shown["brightest"] > 100
    assert answers and {answer.status for answer in answers} == {206}
    assert all(re.fullmatch(r"bytes \d+-\d+/\d+", answer.headers["content-range"]) for answer in answers)


@pytest.mark.parametrize("how", ["filmed upright", "turned by its display matrix"])
async def test_portrait_stays_portrait(visit: Visit, clips: Clips, how: str) -> None:
    page = await open_lesson(visit, "daria", "stitching")
    clip, size = (clips.rotated(), (180, 320)) if "matrix" in how else (clips.film("1080x1920"), (720, 1280))

    await choose(page, clip)

    told = await play(page, "video")
    assert (told["width"], told["height"]) == size
    box = await page.locator(".stage video").bounding_box()
    assert box is not None and box["width"] > 0


async def test_cancelling_half_way_frees_the_machine(visit: Visit, site: Site, film: Path) -> None:
    page = await open_lesson(visit, "daria", "stitching")

    def film_is_half_way() -> bool:
        return [progress >= 30 for _, progress in variants(site, film=True)] == [True]

    await page.set_input_files("#lesson", film)
    encoder = await film_waits_for_the_rest(site)
    await until(film_is_half_way, what="a third of the film", timeout_seconds=VIDEO_PATIENCE_SECONDS)
    with held_encoder(encoder):  # or it would be further, or at its end, before the page shows it and the click comes
        await expect(page.locator(".badge")).to_have_text(
            re.compile(r"Processing [3-6]\d %"), timeout=VIDEO_PATIENCE_MS
        )
        groups = ffmpeg_groups(site)
        assert groups and os.getpgid(site.worker.pid) not in groups

        await page.click(".stop button")

        await expect(page.locator(".badge")).to_have_text("Cancelled")

    async def nothing_left() -> bool:
        left = [pid for pid, (group, _) in processes().items() if group in groups]
        # The pixels that judged pictures leave for their render are none of a film's business.
        half_built = [path.name for path in site.scratch.glob("*") if path.name != "pixels"]
        return not left and not ffmpeg_groups(site) and not half_built

    await until(nothing_left)
    await expect(page.locator(".stop")).to_have_count(0)
    states = await page.locator(".made td:last-child").all_text_contents()
    assert sorted(states) == ["cancelled", "ready", "ready", "ready"]  # what was finished stays
    await page.reload()
    await expect(page.locator(".badge")).to_have_text("Cancelled")


async def test_a_film_can_be_built_again_and_removed_meanwhile(visit: Visit, site: Site, film: Path) -> None:
    page = await open_lesson(visit, "daria", "stitching")
    badge = page.locator(".badge")
    if await badge.text_content() != "Cancelled":
        await page.set_input_files("#lesson", film)
        await expect(badge).to_have_text(re.compile(r"Processing \d+ %"))
        await page.click(".stop button")

    await page.click(".again button")

    await expect(badge).to_have_text(re.compile(r"Processing \d+ %"))
    asset_id, groups = str(await asset_on(page)), ffmpeg_groups(site)
    assert groups

    await page.click(".remove button")

    await expect(badge).to_have_text("No lesson yet")

    async def gone() -> bool:
        left = [pid for pid, (group, _) in processes().items() if group in groups]
        return not left and site.objects_of(asset_id) == []

    await until(gone)


async def test_replacing_and_removing_purge_what_was_there(visit: Visit, site: Site, clips: Clips) -> None:
    page = await open_lesson(visit, "daria", "stitching")
    first = await choose(page, clips.film())
    second = await choose(page, clips.silent())

    async def purged(asset_id: str) -> bool:
        return site.objects_of(asset_id) == []

    await until(lambda: purged(first))
    assert await page.locator(".made tbody tr").count() == 3  # a film without sound has no outline
    assert (await play(page, "video"))["readyState"] >= 2

    await page.click(".remove button")

    await expect(page.locator(".badge")).to_have_text("No lesson yet")
    await until(lambda: purged(second))


# --- recordings ----------------------------------------------------------------------------------------------------


async def test_a_recording_is_drawn_and_plays(visit: Visit, clips: Clips) -> None:
    swelling = ("-f", "lavfi", "-i", "aevalsrc=exprs=0.9*t/12*sin(2*PI*220*t):duration=12")
    page = await open_lesson(visit, "bob", "bridges")

    await choose(page, clips.made("swelling.mp3", *swelling, "-b:a", "128k"))

    told = await play(page, "audio")
    assert told["readyState"] >= 2
    assert told["duration"] == pytest.approx(12, abs=0.25)
    bars = page.locator(".wave path").first
    outline = re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", str(await bars.get_attribute("d")))
    heights = [float(low) - float(high) for high, low in outline]
    assert len(heights) == 120
    assert heights[10] < heights[60] < heights[110]  # as the sound swells
    box = await page.locator(".wave").bounding_box()
    assert box is not None and box["height"] > 50
    await page.locator(".wave").click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    await expect(page.locator(".wave rect")).to_have_attribute("width", re.compile(r"^(49\d|50\d)"))
    assert await page.locator("audio").evaluate("audio => audio.currentTime") == pytest.approx(6, abs=0.2)


# --- who may what --------------------------------------------------------------------------------------------------


async def test_others_watch_and_change_nothing(visit: Visit, clips: Clips) -> None:
    fumiko = await open_lesson(visit, "fumiko", "june")
    asset_id = await choose(fumiko, clips.song())
    context: BrowserContext = await visit("emeka")
    emeka = context.pages[0]
    await emeka.goto("/lessons")
    await expect(emeka.locator('a[href="/lessons/june"] .length')).to_have_text("0:04")

    await emeka.goto("/lessons/june")

    await expect(emeka.locator(".chooser, .state form")).to_have_count(0)
    assert (await play(emeka, "audio"))["duration"] == pytest.approx(4, abs=0.25)
    token = await emeka.locator("input[name=form_token]").first.input_value()
    for change in ("", "/remove", "/cancel", "/build"):
        refused = await context.request.post(
            f"/lessons/june/media{change}",
            form={"asset_id": asset_id, "form_token": token},
            headers={"Accept": "application/json"},
        )
        assert (refused.status, (await refused.json())["error"]["code"]) == (403, "unauthorized")
    assert (await context.request.get(f"/media/assets/{asset_id}")).status == 404
    assert (await context.request.get(f"/media/events?scope=asset&id={asset_id}")).status == 403
    await fumiko.reload()
    assert await asset_on(fumiko) == asset_id


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("film.mp4", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "does not match its name"),
        ("notes.txt", b"only words", "kinds of file"),
        ("half.mp4", b"half", "damaged"),
        ("empty.mp4", b"", "empty"),
    ],
    ids=["playlist", "text", "half", "empty"],
)
async def test_a_refused_file_says_why_and_replaces_nothing(
    visit: Visit, clips: Clips, name: str, body: bytes, told: str
) -> None:
    page = await open_lesson(visit, "daria", "stitching")
    kept = await asset_on(page) or await choose(page, clips.film())
    content = clips.film().read_bytes()[:6000] if body == b"half" else body

    await page.set_input_files("#lesson", {"name": name, "mimeType": "video/mp4", "buffer": content})

    await expect(page.locator(".chooser .notice")).to_contain_text(told)
    await expect(page.locator(".badge")).to_have_text("Ready")
    await page.reload()
    assert await asset_on(page) == kept


# --- without scripts -----------------------------------------------------------------------------------------------


async def test_lessons_work_without_scripts(visit: Visit, clips: Clips) -> None:
    page = (await visit("daria", scripts=False)).pages[0]
    await page.goto("/lessons/stitching")
    before = await asset_on(page)

    await page.set_input_files("#lesson", clips.film())
    await follow(page, ".chooser .row button")

    # While it is being worked on the page looks again by itself.
    ready = page.locator(f'.state[data-state="ready"]:not([data-asset="{before}"])')
    await expect(ready).to_be_visible(timeout=VIDEO_PATIENCE_MS)
    assert not re.search(r"http-equiv=.refresh", await page.content())
    await expect(page.locator(".stage video source")).to_have_attribute("type", "video/mp4")
    await follow(page, ".remove button")
    await expect(page.locator(".badge")).to_have_text("No lesson yet")
