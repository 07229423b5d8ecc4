"""The peaks of a waveform, computed from samples."""

from __future__ import annotations

import array
import json
import math
from pathlib import Path

import pytest

from rindle.errors import RindleError
from rindle.media import waveform


async def peaks_of(tmp_path: Path, values: list[float], length: int = 1000, lead_ms: int = 0) -> list[list[float]]:
    """Return the peaks of raw samples."""
    samples, dest = tmp_path / "samples", tmp_path / "waveform.json"
    samples.write_bytes(array.array("f", values).tobytes())
    await waveform.write_peaks(samples, dest, length=length, sample_rate=48_000, lead_ms=lead_ms)
    outline = json.loads(dest.read_text())
    assert (outline["length"], outline["sample_rate"]) == (length, 48_000)
    assert waveform.length_of(dest) == length
    return outline["peaks"]


async def test_a_bucket_covers_exactly_its_share_of_the_samples(tmp_path: Path) -> None:
    count, length = 10_007, 1000
    values = [math.sin(number / 50) * number / count for number in range(count)]
    peaks = await peaks_of(tmp_path, values)

    for bucket, (low, high) in enumerate(peaks):
        share = values[bucket * count // length : (bucket + 1) * count // length]
        assert (low, high) == (pytest.approx(min(share), abs=1e-6), pytest.approx(max(share), abs=1e-6))


async def test_fewer_samples_than_buckets_repeat_the_nearest(tmp_path: Path) -> None:
    assert await peaks_of(tmp_path, [0.5, -0.25], 4) == [[0.5, 0.5], [0.5, 0.5], [-0.25, -0.25], [-0.25, -0.25]]


@pytest.mark.parametrize(
    ("lead_ms", "length", "peaks"),
    [
        (2, 4, [[0, 0], [0, 0], [-0.5, 0.5], [0.25, 0.25]]),  # 16 samples of silence, 16 of sound
        (1, 3, [[0, 0], [-0.5, 0.5], [0.25, 0.25]]),
        (3, 1, [[-0.5, 0.5]]),
    ],
)
async def test_the_silence_before_the_sound_counts(
    tmp_path: Path, lead_ms: int, length: int, peaks: list[list[float]]
) -> None:
    values = [0.5, -0.5] * 4 + [0.25] * 8

    assert await peaks_of(tmp_path, values, length, lead_ms) == peaks


async def test_a_bucket_of_silence_and_sound_holds_both(tmp_path: Path) -> None:
    assert await peaks_of(tmp_path, [0.25] * 8, 1, lead_ms=1) == [[0, 0.25]]


async def test_what_is_no_sample_is_cut_or_zero(tmp_path: Path) -> None:
    values = [math.nan, 7.0, -7.0, math.inf, -math.inf, -0.0000001]

    assert await peaks_of(tmp_path, values, 6) == [[0, 0], [1, 1], [-1, -1], [1, 1], [-1, -1], [0, 0]]
    assert await peaks_of(tmp_path, values, 1) == [[-1, 1]]


async def test_no_sample_is_no_waveform(tmp_path: Path) -> None:
    with pytest.raises(RindleError) as failed:
        await peaks_of(tmp_path, [])
    assert failed.value.code == "ffmpeg_failed"
