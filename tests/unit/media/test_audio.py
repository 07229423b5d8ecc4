"""Command lines that make a sound file, and the loudness read from what ffmpeg says."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from rindle.errors import FfmpegFailed
from rindle.media import audio
from rindle.recipes import AudioVariant
from tests.unit.media.sources import DEST, LIMITS, SOUND, SOURCE, media, option


def test_sound_is_mapped_by_its_number_and_nothing_else_is() -> None:
    command = audio.encode_command(media(), AudioVariant("mp3_128k", channels=1), SOURCE, DEST, LIMITS)

    assert option(command, "-filter_complex").startswith("[0:1]")
    assert option(command, "-map") == "[s0]"
    assert (option(command, "-c:a"), option(command, "-b:a"), option(command, "-ac")) == ("libmp3lame", "128k", "1")
    assert "-vn" in command
    assert option(command, "-map_metadata") == "-1"


def test_loudness_is_normalized_at_the_rate_of_the_source() -> None:
    spec = AudioVariant("m4a_128k", normalize=True)
    command = audio.encode_command(media(), spec, SOURCE, DEST, LIMITS)

    assert "loudnorm=I=-16:LRA=11:TP=-1.5" in option(command, "-filter_complex")
    assert option(command, "-ar") == "48000"


def test_the_second_pass_gets_what_the_first_has_measured() -> None:
    said = b"""    title : {"input_i": "99"}
[Parsed_loudnorm_0 @ 0x1]
{
    "input_i" : "-21.75", "input_tp" : "-18.06", "input_lra" : "0.00", "input_thresh" : "-31.75",
    "output_i" : "-16.00", "normalization_type" : "dynamic", "target_offset" : "0.03"
}
"""
    spec = AudioVariant("m4a_128k", normalize=True, two_pass=True)
    command = audio.encode_command(media(), spec, SOURCE, DEST, LIMITS, measured=audio.read_loudness(said))

    graph = option(command, "-filter_complex")
    for part in ("measured_I=-21.75", "measured_TP=-18.06", "measured_LRA=0.00", "measured_thresh=-31.75"):
        assert part in graph
    assert "offset=0.03" in graph
    assert "linear=true" in graph


def said_of(loudness: float, peak: float, threshold: float) -> bytes:
    """Return what the first pass says of a sound."""
    measured = {"input_i": loudness, "input_tp": peak, "input_lra": 0, "input_thresh": threshold, "target_offset": 0}
    return json.dumps({name: str(value) for name, value in measured.items()}).encode()


@pytest.mark.parametrize("loudness", [-math.inf, -70.0, -71.5])
def test_silence_is_left_as_it_is(loudness: float) -> None:
    measured = audio.read_loudness(said_of(loudness, -math.inf, -70))
    spec = AudioVariant("m4a_128k", normalize=True, two_pass=True)

    graph = option(audio.encode_command(media(), spec, SOURCE, DEST, LIMITS, measured=measured), "-filter_complex")

    assert "loudnorm" not in graph


def test_what_is_above_the_range_of_the_filter_is_brought_down_first() -> None:
    measured = audio.read_loudness(said_of(23.95, 26.94, 13.95))
    spec = AudioVariant("m4a_128k", normalize=True, two_pass=True)

    graph = option(audio.encode_command(media(), spec, SOURCE, DEST, LIMITS, measured=measured), "-filter_complex")

    assert "volume=-39.95dB" in graph
    for part in ("measured_I=-16.00", "measured_TP=-13.01", "measured_thresh=-26.00"):
        assert part in graph


def test_audio_too_short_to_have_a_loudness_is_left_as_it_is() -> None:
    short = replace(SOUND, duration_ms=399)
    spec = AudioVariant("m4a_128k", normalize=True)

    graph = option(audio.encode_command(media(None, short), spec, SOURCE, DEST, LIMITS), "-filter_complex")

    assert "loudnorm" not in graph


@pytest.mark.parametrize(("late_ms", "first"), [(0, ""), (678, ":first_pts=0")])
def test_audio_is_placed_on_the_time_line_of_its_file(late_ms: int, first: str) -> None:
    track = replace(SOUND, start_ms=late_ms)
    graph = option(
        audio.encode_command(media(sound=track), AudioVariant("mp3_128k"), SOURCE, DEST, LIMITS), "-filter_complex"
    )

    assert f"aresample=async=1{first}[" in graph


def test_audio_without_timestamps_is_placed_by_its_samples() -> None:
    song = replace(media(), formats=frozenset({"ogg"}))
    graph = option(audio.encode_command(song, AudioVariant("mp3_128k"), SOURCE, DEST, LIMITS), "-filter_complex")

    assert "asetpts=STARTPTS+N/SR/TB" in graph


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{}",
        b"} {",
        b'{"input_i": "-1", "input_tp": "-1", "input_lra": "1", "input_thresh": "-9"}',
        b'{"input_i": "nan", "input_tp": "-1", "input_lra": "1", "input_thresh": "-9", "target_offset": "0"}',
        b'{"input_i": [], "input_tp": "-1", "input_lra": "1", "input_thresh": "-9", "target_offset": "0"}',
    ],
)
def test_a_measurement_that_is_missing_or_not_finite_fails(said: bytes) -> None:
    with pytest.raises(FfmpegFailed):
        audio.read_loudness(said)
