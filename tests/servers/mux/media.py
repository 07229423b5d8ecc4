"""What Mux does with a file, by ffmpeg: read its tracks, cut it into HLS, take stills from it."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

#: Seconds of a segment.
SEGMENT_SECONDS = 2
#: Longest part of a test asset that is kept, in seconds (Mux's own limit).
TEST_SECONDS = 10
#: Pictures in a row and rows of a storyboard, and the width of each in pixels.
COLUMNS, ROWS, TILE_WIDTH = 5, 10, 256

#: Names of the files of an asset, beside the segments.
MASTER = "master.m3u8"
RENDITION = "rendition.m3u8"


class NotMedia(Exception):
    """The file has neither picture nor sound that could be played."""


@dataclass(frozen=True)
class Media:
    """What is known of a file: lengths in seconds, sizes in pixels."""

    duration: float
    container: str
    tracks: tuple[dict[str, Any], ...] = field(default_factory=tuple)

    def track(self, kind: str) -> dict[str, Any] | None:
        """Return the first track of a kind, ``video`` or ``audio``."""
        return next((track for track in self.tracks if track["type"] == kind), None)

    @property
    def aspect_ratio(self) -> str | None:
        """The ratio of width to height in lowest terms, ``16:9``."""
        if video := self.track("video"):
            divisor = math.gcd(video["width"], video["height"])
            return f"{video['width'] // divisor}:{video['height'] // divisor}"
        return None

    @property
    def resolution_tier(self) -> str:
        """The tier that Mux bills: by the shorter side, rounded up."""
        video = self.track("video")
        if video is None:
            return "audio-only"
        shorter = min(video["width"], video["height"])
        return next((f"{tier}p" for tier in (720, 1080, 1440, 2160) if shorter <= tier), "2160p")

    @property
    def stored_resolution(self) -> str:
        """The older name of the tier."""
        video = self.track("video")
        if video is None:
            return "Audio only"
        shorter = min(video["width"], video["height"])
        return next((name for least, name in ((2160, "UHD"), (1080, "FHD"), (720, "HD")) if shorter >= least), "SD")


async def _run(program: str, *arguments: str | Path) -> bytes:
    """Run a program that may read local files only, and return its output.

    Raises:
        NotMedia: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise NotMedia(f"{program} ended with status {process.returncode}")
    return output


async def probe(source: Path) -> Media:
    """Read the tracks of a file.

    Raises:
        NotMedia: nothing in it can be played.
    """
    asked = ("-v", "error", "-protocol_whitelist", "file", "-show_streams", "-show_format", "-of", "json")
    told = json.loads(await _run("ffprobe", *asked, source))
    tracks: list[dict[str, Any]] = []
    for stream in told.get("streams", ()):
        seconds = float(stream.get("duration", told["format"].get("duration", 0)))
        base = {"type": stream["codec_type"], "duration": seconds, "encoding": stream.get("codec_name", "")}
        if stream["codec_type"] == "video" and stream.get("width"):
            rate = Fraction(stream.get("avg_frame_rate", "0/1").replace("/0", "/1"))
            tracks.append({**base, "width": stream["width"], "height": stream["height"], "frame_rate": float(rate)})
        elif stream["codec_type"] == "audio":
            tracks.append(
                {
                    **base,
                    "channels": stream["channels"],
                    "sample_rate": int(stream["sample_rate"]),
                    "layout": stream.get("channel_layout", "stereo" if stream["channels"] == 2 else "mono"),
                }
            )
    duration = float(told["format"].get("duration", 0))
    if not tracks or duration <= 0:
        raise NotMedia("no tracks")
    return Media(duration, told["format"]["format_name"], tuple(tracks))


async def cut(source: Path, directory: Path, media: Media, *, seconds: float | None = None) -> None:
    """Write ``source`` into ``directory`` as HLS: a master playlist, one rendition and its segments.

    Args:
        source: the file.
        directory: exists.
        media: what :func:`probe` said of it.
        seconds: length that is kept; default: all.

    Raises:
        NotMedia: it cannot be decoded.
    """
    video = (
        *("-map", "0:v:0", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
        *("-vf", "scale='trunc(min(1280,iw)/2)*2':-2"),
        *("-force_key_frames", f"expr:gte(t,n_forced*{SEGMENT_SECONDS})"),
    )
    audio = ("-map", "0:a:0", "-c:a", "aac", "-ac", "2")
    await _run(
        "ffmpeg",
        *("-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file", "-i", source),
        *(("-t", str(seconds)) if seconds is not None else ()),
        *(video if media.track("video") else ()),
        *(audio if media.track("audio") else ()),
        *("-f", "hls", "-hls_time", str(SEGMENT_SECONDS), "-hls_playlist_type", "vod"),
        *("-hls_segment_filename", directory / "segment-%05d.ts", "-master_pl_name", MASTER),
        directory / RENDITION,
    )


async def still(source: Path, target: Path, *, at: float, width: int | None) -> None:
    """Write the picture at second ``at``; the kind is that of the target's name."""
    scale = ("-vf", f"scale={width}:-2") if width else ()
    await _run(
        *("ffmpeg", "-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file"),
        *("-ss", f"{at:.3f}", "-i", source, "-frames:v", "1", *scale, target),
    )


async def animation(source: Path, target: Path, *, start: float, end: float, width: int, rate: int) -> None:
    """Write the moving picture between two seconds."""
    await _run(
        *("ffmpeg", "-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file"),
        *("-ss", f"{start:.3f}", "-t", f"{end - start:.3f}", "-i", source),
        *("-vf", f"fps={rate},scale={width}:-2", "-loop", "0", target),
    )


def tiles(duration: float) -> list[tuple[float, float]]:
    """Return the begin and end in seconds of each picture of a storyboard, by rows."""
    count = max(1, min(COLUMNS * ROWS, math.ceil(duration)))
    step = duration / count
    return [(index * step, min(duration, (index + 1) * step)) for index in range(count)]


async def storyboard(source: Path, target: Path, duration: float) -> None:
    """Write the pictures of :func:`tiles` into one."""
    count = len(tiles(duration))
    rows = math.ceil(count / COLUMNS)
    picture = f"fps={count / duration:.6f},scale={TILE_WIDTH}:-2,tile={COLUMNS}x{rows}"
    await _run(
        *("ffmpeg", "-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file", "-i", source),
        *("-vf", picture, "-frames:v", "1", target),
    )
