"""The demo's second chapter: a video becomes playable while one watches, and another one is cancelled half-way."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from examples.cohort import demo_files
from examples.cohort.demo_stage import (
    AT_REST,
    DEMO,
    HOME,
    PATIENCE_SECONDS,
    Browser,
    Checks,
    Sent,
    answered,
    console,
    fetch,
    looks,
    step,
)
from examples.cohort.demo_stream import PROFILE

#: Seconds of the video that is watched, and of the one that is cancelled.
VIDEO_SECONDS, STOPPED_SECONDS = 24, 60
#: Progress range, in per cent, in which the second video is cancelled.
STOP_FROM, STOP_UNTIL = 30, 70
#: Seconds in which nothing of a cancelled build may be left.
GONE_SECONDS = 3.0


@dataclass
class Stopped:
    """What cancelling freed."""

    percent: int
    gone_after: float
    busy_before: float
    busy_after: float


@dataclass
class Lesson:
    """The video, the progress of its build, and its variants."""

    sent: Sent
    progress: dict[str, list[int]] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    outline: list[tuple[float, float]] = field(default_factory=list)
    #: The playable file, beside the report.
    player: Path = DEMO / "lesson.mp4"
    stopped: Stopped | None = None


def teach(browser: Browser, checks: Checks) -> Lesson:
    """Send a video, watch its build, open its variants; then cancel a second one.

    Raises:
        CheckFailed: something is not as promised.
    """
    with step("5. A video, as an upright phone records it") as status:
        status.update(f"recording {VIDEO_SECONDS} seconds of 1080p…")
        video = demo_files.video(VIDEO_SECONDS)
        lesson = Lesson(Sent("lesson.mp4", video, f"video of {VIDEO_SECONDS} seconds, upright, with a location"))
        status.update("uploading…")
        browser.upload(lesson.sent, PROFILE, "video/mp4")
    watch(browser, lesson)
    sent = lesson.sent
    sent.state, sent.end = browser.settled(sent.asset_id)["state"], "playable"
    checks.that(sent.state == "ready", "the video is ready")
    percents = lesson.progress.get("web_720p", [])
    checks.that(
        len(percents) >= 5 and percents == sorted(set(percents)),
        f"its progress was sent live and rose: {', '.join(map(str, percents))}",
    )
    open_what_came_out(browser, lesson, checks)
    lesson.stopped = stop_half_way(browser, checks)
    return lesson


def watch(browser: Browser, lesson: Lesson) -> None:
    """Show the events of the asset's stream as bars, until it has come to rest."""
    columns = (TextColumn("  {task.description:<14}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        shown: dict[str, Any] = {}
        for kind, payload in browser.events(lesson.sent.asset_id):
            if kind == "variant_progress":
                lesson.progress.setdefault(payload["variant_name"], []).append(payload["progress"])
            if kind.startswith("variant_") and "progress" in payload:
                name = payload["variant_name"]
                if name not in shown:
                    shown[name] = bars.add_task(name, total=100)
                bars.update(shown[name], completed=payload["progress"])
            if kind == "asset_state_changed" and payload["state"] in AT_REST:
                return


def open_what_came_out(browser: Browser, lesson: Lesson, checks: Checks) -> None:
    """Fetch every variant by its address and look into it."""
    asset = browser.asset(lesson.sent.asset_id)
    checks.that((asset["width"], asset["height"]) == (1080, 1920), "the video counts as 1080 × 1920: it is upright")
    for variant in asset["variants"]:
        lesson.made[variant["name"]] = variant | answered_file(browser, lesson.sent.asset_id, variant["name"])
    video = lesson.made["web_720p"]
    lesson.player.write_bytes(video["body"])
    facts = probed(lesson.player)
    video = next(stream for stream in facts["streams"] if stream["codec_type"] == "video")
    codecs = {stream["codec_name"] for stream in facts["streams"]}
    checks.that(codecs == {"h264", "aac"}, "web_720p: H.264 with AAC, which every browser plays")
    checks.that((video["width"], video["height"]) == (720, 1280), "web_720p: 720 × 1280, upright without a flag")
    off = abs(float(facts["format"]["duration"]) - VIDEO_SECONDS)
    checks.that(off <= 0.25, f"web_720p: as long as the original, {off * 1000:.0f} ms apart")
    tags = str(facts["format"].get("tags", {}))
    checks.that("location" not in tags and "Launch" not in tags, "web_720p: no place and no title in it")
    for name, size in (("poster", (1080, 1920)), ("scrub_strip", (640, 90))):
        checks.that(demo_files.size_of(lesson.made[name]["body"]) == size, f"{name}: {size[0]} × {size[1]}")
    outline = json.loads(lesson.made["waveform"]["body"])
    lesson.outline = [(low, high) for low, high in outline["peaks"]]
    loud = max(high for _, high in lesson.outline)
    checks.that(len(lesson.outline) == 1000 and loud > 0.05, f"waveform: 1000 points, the loudest at {loud:.2f}")


def answered_file(browser: Browser, asset_id: str, name: str) -> dict[str, Any]:
    """Fetch a variant; only images can contain a location."""
    answer = fetch(browser, asset_id, name)
    if answer.headers["content-type"].startswith("image/"):
        return answered(answer)
    return {"body": answer.content, "status": answer.status_code, "address": f"/media/local/…{answer.url.path[-8:]}"}


def probed(path: Path) -> dict[str, Any]:
    """Return the facts of a file from ffprobe."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)]
    facts: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return facts


def stop_half_way(browser: Browser, checks: Checks) -> Stopped:
    """Cancel a second video half-way and check what that frees and leaves."""
    with step("6. A second video, cancelled half-way") as status:
        status.update(f"recording {STOPPED_SECONDS} seconds…")
        video = Sent("second.mp4", demo_files.video(STOPPED_SECONDS), "video that is cancelled")
        status.update("uploading…")
        known = scratch_directories()  # the killed worker did not clean up; a sweep will
        browser.upload(video, PROFILE, "video/mp4")
        percent = 0
        for kind, payload in browser.events(video.asset_id):
            if kind == "variant_progress" and payload["variant_name"] == "web_720p":
                percent = payload["progress"]
                status.update(f"web_720p is {percent} % done…")
            if percent >= STOP_FROM:
                break
        checks.that(STOP_FROM <= percent <= STOP_UNTIL, f"the second video is {percent} % done")
        at_work = ffmpegs()
        before = busy()
        checks.that(at_work, f"{len(at_work)} ffmpeg at work; we keep {before:.1f} cores busy")
        requested_at = time.monotonic()
        browser.post(f"/media/assets/{video.asset_id}/cancel")
        gone_after = PATIENCE_SECONDS
        for _ in looks(0.02):
            if not ffmpegs():
                gone_after = time.monotonic() - requested_at
                break
        after = busy()
        checks.that(gone_after <= GONE_SECONDS, f"{gone_after:.1f} s after the cancel no ffmpeg is left")
        checks.that(after < before / 2, f"and we keep {after:.1f} cores busy")
        asset = browser.settled(video.asset_id)
        states = {variant["name"]: variant["state"] for variant in asset["variants"]}
        checks.that(states["web_720p"] == "cancelled" and asset["state"] == "degraded", "its video is cancelled")
        checks.that(scratch_directories() <= known, "nothing half-built is left on the disk")
        stored = [path for path in (HOME / "media").rglob(f"*{video.asset_id}*/**/*.mp4") if "web_720p" in str(path)]
        checks.that(stored == [], "and nothing of it in the store")
    return Stopped(percent, gone_after, before, after)


def scratch_directories() -> set[str]:
    """Return the run directories there are."""
    return {path.name for path in (HOME / "tmp" / "rindle.tmp").glob("*")}


def busy() -> float:
    """Return how many cores the demo's processes, and those they have started, keep busy for a second."""
    processes = psutil.Process().children(recursive=True)
    before = {process.pid: spent(process) for process in processes}
    time.sleep(1)
    return sum(max(0.0, spent(process) - before[process.pid]) for process in processes)


def spent(process: psutil.Process) -> float:
    """Return the CPU seconds of a process, 0 when it has ended."""
    try:
        return float(sum(process.cpu_times()[:2]))
    except psutil.NoSuchProcess:
        return 0.0


def ffmpegs() -> list[int]:
    """Return the ffmpeg processes that work for this demo."""
    return [*_ours()]


def _ours() -> Iterator[int]:
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "ffmpeg" and str(HOME) in " ".join(process.info["cmdline"] or ()):
            yield process.pid
