"""Video: what Rindle adds to ffmpeg, how soon a cancel frees the processor, how much memory a large video takes."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.application import Film
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack
from rindle.media import video
from rindle.media.av_probe import inspect
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import AvLimits, FfmpegTools
from rindle.recipes import VideoVariant

#: Length of the video in seconds; long enough that the start of programs does not matter.
VIDEO_SECONDS = 40
ROUNDS, CANCELS = 3, 5
#: Budgets of the design.
RATIO, GONE_SECONDS, GROWTH_MIB = 1.03, 3.0, 64
LARGE_BYTES = 2 << 30
_LOOK_SECONDS = 0.02


async def measure() -> list[Figure]:
    """Build a video by hand, by the engine alone and through the whole pipeline; cancel one; send one of 2 GB."""
    tools = FfmpegTools.find().require()
    with tempfile.TemporaryDirectory(prefix="rindle-bench-av-") as directory:
        source = make_video(tools, Path(directory) / "video.mp4")
        figures = await _transcode(tools, source)
        async with running_stack() as stack:
            with stack.worker(RINDLE_AV_WORKERS="1") as worker:
                figures += await _everything(stack, worker, tools, source)
                figures.append(await _cancel(stack, worker, source))
                figures.append(await _memory(stack, worker, source))
    return figures


def make_video(tools: FfmpegTools, path: Path, seconds: int = VIDEO_SECONDS) -> Path:
    """Make a video with motion, noise and audio in 1080p."""
    pattern = f"testsrc2=size=1920x1080:rate=30:duration={seconds}"
    command = [tools.ffmpeg, "-v", "error", "-f", "lavfi", "-i", pattern]
    command += ["-f", "lavfi", "-i", f"sine=frequency=220:duration={seconds}", "-vf", "noise=alls=6:allf=t"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "24", "-pix_fmt", "yuv420p", "-c:a", "aac", path]
    subprocess.run(command, check=True)
    return path


# --- beside ffmpeg by hand ------------------------------------------------------------------------------------------


async def _transcode(tools: FfmpegTools, source: Path) -> list[Figure]:
    """Take turns with the same command typed by hand."""
    spec, limits = VideoVariant(preset="web_720p"), AvLimits()
    processor = AvProcessor(tools, limits)
    with tempfile.TemporaryDirectory(dir=source.parent) as directory:
        media = await inspect(tools, source, limits, Path(directory))
        arguments = video.transcode_command(media, spec, source, Path(directory) / "by_hand.mp4", limits)
        by_hand = [str(tools.ffmpeg), *arguments]

        async def ours() -> None:
            await processor.build(source, spec, Path(directory) / "ours.mp4", progress=lambda percent: None)

        async def theirs() -> None:
            await asyncio.to_thread(subprocess.run, by_hand, check=True, stdout=subprocess.DEVNULL)

        pairs = [(await _timed(ours), await _timed(theirs)) for _ in range(ROUNDS)]
    ratio = Sample.of([mine / peer for mine, peer in pairs])
    what = f"{VIDEO_SECONDS} s of 1080p to 720p"
    return [
        Figure(f"{what}: build, checks included", Sample.of([mine for mine, _ in pairs]), "s"),
        Figure(f"{what}: the same ffmpeg command by hand", Sample.of([peer for _, peer in pairs]), "s", is_peer=True),
        Figure("build over by hand, paired", ratio, "", f"at most {RATIO:g}", ratio.median <= RATIO),
    ]


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


# --- through everything ---------------------------------------------------------------------------------------------


async def _everything(stack: Stack, worker: int, tools: FfmpegTools, source: Path) -> list[Figure]:
    """Build all variants of ``Web`` through the pipeline, and each alone with a download and a probe of its own."""
    processor = AvProcessor(tools, AvLimits())
    together, alone, shares = [], [], []
    for _ in range(ROUNDS):
        (upload,) = await stack.prepare(1, source, "video")
        before, began = machine.own_cpu_seconds([worker]), time.perf_counter()
        await stack.rindle.verify_completion(upload.id)
        assert upload.asset_id is not None
        await stack.wait_until([upload.asset_id])
        took = time.perf_counter() - began
        together.append(took)
        shares.append(100 * (machine.own_cpu_seconds([worker]) - before) / took)
        alone.append(await _timed(lambda: _one_by_one(processor, source)))
    ratio = Sample.of([mine / sum_ for mine, sum_ in zip(together, alone, strict=True)])
    note = "one download, one worker slot, workflows, progress and heartbeats included"
    return [
        Figure("all variants of Web, verify to ready", Sample.of(together), "s", note=note),
        Figure("the same three built one after the other", Sample.of(alone), "s", note="no workflows, no rows"),
        Figure("all variants over the sum of separate runs", ratio, ""),
        Figure(
            "the worker's own CPU meanwhile",
            Sample.of(shares),
            "% of a core",
            note="polling, heartbeats, progress, rows; ffmpeg not counted",
        ),
    ]


async def _one_by_one(processor: AvProcessor, source: Path) -> None:
    for name, spec in Film.variants.items():
        with tempfile.TemporaryDirectory(dir=source.parent) as directory:
            await processor.build(source, spec, Path(directory) / name, progress=lambda percent: None)


async def _cancel(stack: Stack, worker: int, source: Path) -> Figure:
    found = []
    for _ in range(CANCELS):
        (upload,) = await stack.prepare(1, source, "video")
        await stack.rindle.verify_completion(upload.id)
        assert upload.asset_id is not None
        await _building(stack, upload.asset_id)
        began = time.perf_counter()
        await stack.rindle.cancel_processing(upload.asset_id)
        while _ffmpegs(worker):
            await asyncio.sleep(_LOOK_SECONDS)
        found.append(time.perf_counter() - began)
    sample = Sample.of(found)
    budget = f"under {GONE_SECONDS:g} s"
    return Figure("cancel_processing to no ffmpeg", sample, "s", budget, sample.high < GONE_SECONDS)


async def _building(stack: Stack, asset_id: str) -> None:
    """Wait until the transcode of the video has made some progress."""
    async with asyncio.timeout(120):
        while True:
            variants = {row.name: row for row in (await stack.rindle.asset(asset_id)).variants}
            row = variants.get("web_720p")
            if row is not None and row.state == "processing" and row.progress > 0:
                return
            await asyncio.sleep(_LOOK_SECONDS)


def _ffmpegs(worker: int) -> list[psutil.Process]:
    return [child for child in machine.family([worker]) if child.pid != worker and _name(child) == "ffmpeg"]


def _name(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.name()
    except psutil.NoSuchProcess:
        return ""


async def _memory(stack: Stack, worker: int, source: Path) -> Figure:
    """Take a video of 2 GB to ready: the video, followed by an empty box that players skip."""
    large = stack.home / "large.mp4"
    body = source.read_bytes()
    with large.open("wb") as file:
        file.write(body)
        left = LARGE_BYTES - len(body)
        file.write((1).to_bytes(4, "big") + b"free" + left.to_bytes(8, "big"))  # ISO 14496-12, a 64-bit box
        file.truncate(LARGE_BYTES)
    (upload,) = await stack.prepare(1, large, "video")
    large.unlink()
    began = time.perf_counter()
    with machine.watching(worker=worker) as watch:
        await stack.rindle.verify_completion(upload.id)
        assert upload.asset_id is not None
        await stack.wait_until([upload.asset_id])
    took = time.perf_counter() - began
    return Figure(
        "growth of the worker: a video of 2 GB",
        Sample.of([watch.growth("worker")]),
        "MiB",
        f"under {GROWTH_MIB} MiB",
        watch.growth("worker") < GROWTH_MIB,
        note=f"from {watch.before['worker']:.0f} MiB; taken to ready in {took:.0f} s",
    )
