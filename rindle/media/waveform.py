"""The waveform of an audio track: decoded to a scratch file, read back in buckets, so that memory use is constant."""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rindle.errors import FfmpegFailed
from rindle.media.audio import audio_track
from rindle.media.av_probe import Media
from rindle.media.av_tracks import mixed
from rindle.media.ffmpeg import AvLimits, written
from rindle.media.time_line import audio_input, placed

#: Samples per second that the outline is made of: mono, 32-bit floats in the machine's own order.
ANALYSIS_SAMPLE_RATE = 8000
_SAMPLE_BYTES = 4
_FORMAT = "f32le" if sys.byteorder == "little" else "f32be"


def samples_command(media: Media, source: Path, dest: Path, limits: AvLimits) -> list[str]:
    """Return the command that decodes the first audio track to raw samples: 115 MB for an hour."""
    track = audio_track(media)
    audio, _ = mixed(
        audio_input(source, media, limits), channels=track.channels, layout=track.layout, wanted=1, codec=_FORMAT
    )
    audio = placed(audio, media)
    return written([audio], dest, limits, vn=None, ac=1, ar=ANALYSIS_SAMPLE_RATE, f=_FORMAT, map_metadata=-1)


async def write_peaks(samples: Path, dest: Path, *, length: int, sample_rate: int, lead_ms: int = 0) -> None:
    """Write the JSON of a waveform: ``{"length", "sample_rate", "peaks": [[lowest, highest], ...]}``.

    Bucket ``i`` of ``length`` covers the samples from ``i * N / length`` on and before ``(i + 1) * N / length``, both
    rounded down; with fewer samples than buckets the nearest sample stands alone. The silence of ``lead_ms`` counts
    among the samples. Values are cut to -1 to 1, rounded to six decimals; what is not a number counts as 0.

    The file is read here and not by a library for numbers: an hour takes about a second, against several for decoding
    it, and the event loop gets its turn after each bucket.

    Args:
        samples: 32-bit floats.
        dest: file to write.
        length: buckets.
        sample_rate: of the source, in hertz; written unchanged.
        lead_ms: how long after the start of the file its audio begins.

    Raises:
        FfmpegFailed: there is not one sample.
    """
    peaks: list[tuple[float, float]] = []
    for peak in _peaks(samples, length, lead_ms * ANALYSIS_SAMPLE_RATE // 1000):
        peaks.append(peak)
        await asyncio.sleep(0)
    outline = {"length": length, "sample_rate": sample_rate, "peaks": peaks}
    with dest.open("w") as file:
        json.dump(outline, file, separators=(",", ":"))


def length_of(path: Path) -> int:
    """Return how many peaks a file that :func:`write_peaks` wrote really holds."""
    return len(json.loads(path.read_bytes())["peaks"])


def _peaks(samples: Path, length: int, lead: int) -> Iterator[tuple[float, float]]:
    stored = samples.stat().st_size // _SAMPLE_BYTES
    if stored == 0:
        raise FfmpegFailed("the audio track holds no samples")
    count = lead + stored
    with samples.open("rb") as file:
        for bucket in range(length):
            start = bucket * count // length
            end = max((bucket + 1) * count // length, start + 1)
            lowest, highest = (0.0, 0.0) if end <= lead else _peak(file, max(start - lead, 0), end - lead)
            yield (min(lowest, 0.0), max(highest, 0.0)) if start < lead < end else (lowest, highest)


def _peak(file: BinaryIO, start: int, end: int) -> tuple[float, float]:
    values = array("f")
    file.seek(start * _SAMPLE_BYTES)
    values.frombytes(file.read((end - start) * _SAMPLE_BYTES))
    total = sum(values)
    if total != total:  # the sum is not a number as soon as one sample is not
        values = array("f", (0.0 if value != value else value for value in values))
    return _rounded(min(values)), _rounded(max(values))


def _rounded(value: float) -> float:
    # Adding zero makes -0.0 a plain 0.0.
    return round(min(max(value, -1.0), 1.0), 6) + 0.0
