"""Command lines for outputs of an audio track, and the measurement of loudness between two of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from rindle.errors import FfmpegFailed
from rindle.media.av_probe import AudioTrack, Media
from rindle.media.av_tracks import mixed, nearest_rate
from rindle.media.ffmpeg import AvLimits, opened, written
from rindle.recipes import AudioVariant

#: Loudness that is aimed at: LUFS integrated, dBTP true peak, LU range (EBU R 128 as streaming services apply it).
LOUDNESS: Final = {"I": "-16", "TP": "-1.5", "LRA": "11"}
#: Hertz from which on both encoders have a rate of their own; ``loudnorm`` hands on 192000.
_MAX_SAMPLE_RATE = 48_000
_ENCODERS: Final = {"aac": "aac", "mp3": "libmp3lame"}
# The names in the output of the first pass, and the options that pass them to the second.
_MEASUREMENTS: Final = {
    "input_i": "measured_I",
    "input_tp": "measured_TP",
    "input_lra": "measured_LRA",
    "input_thresh": "measured_thresh",
    "target_offset": "offset",
}


def encode_command(
    media: Media,
    spec: AudioVariant,
    source: Path,
    dest: Path,
    limits: AvLimits,
    *,
    measured: dict[str, str] | None = None,
) -> list[str]:
    """Return the command that makes an M4A or MP3 of the first audio track, without images and metadata.

    Args:
        media: the probed source; it has an audio track.
        spec: the recipe.
        source: file to read.
        dest: file to write.
        limits: bounds of input and output.
        measured: what :func:`read_loudness` returned, for the second of two passes.

    Source: FFmpeg "loudnorm", "aac", "libmp3lame".
    """
    track = audio_track(media)
    recipe = spec.normal_form()
    audio = opened(source, limits)[str(track.index)]
    audio, channels = mixed(
        audio, channels=track.channels, layout=track.layout, wanted=spec.channels, codec=recipe["audio_codec"]
    )
    options: dict[str, Any] = {
        "vn": None,
        "c:a": _ENCODERS[recipe["audio_codec"]],
        "b:a": f"{recipe['audio_bitrate_kbps']}k",
        "map_metadata": -1,
        "map_chapters": -1,
    }
    if spec.normalize:
        audio = audio.filter("loudnorm", **LOUDNESS, **({} if measured is None else {**measured, "linear": "true"}))
        rate = track.sample_rate or _MAX_SAMPLE_RATE
        options["ar"] = nearest_rate(recipe["audio_codec"], rate, at_most=_MAX_SAMPLE_RATE)
    if channels is not None:
        options["ac"] = channels
    return written([audio], dest, limits, **options)


def measure_command(media: Media, source: Path, limits: AvLimits) -> list[str]:
    """Return the command whose stderr :func:`read_loudness` reads; it writes no file."""
    audio = opened(source, limits)[str(audio_track(media).index)].filter("loudnorm", **LOUDNESS, print_format="json")
    arguments = written([audio], None, limits)
    arguments[arguments.index("-v") + 1] = "info"  # the level at which the filter logs
    return arguments


def read_loudness(words: bytes) -> dict[str, str]:
    """Return the options of the second pass, from the last JSON object that the first wrote to stderr.

    The last, because a title that looks like JSON is printed before it.

    Raises:
        FfmpegFailed: a measurement is missing or not finite; silence has no loudness.
    """
    text = words.decode(errors="replace")
    start, end = text.rfind("{"), text.rfind("}")
    try:
        measured_values = json.loads(text[start : end + 1])
        found = {option: float(measured_values[name]) for name, option in _MEASUREMENTS.items()}
    except (ValueError, KeyError, TypeError):
        raise FfmpegFailed("the loudness could not be measured") from None
    if not all(math.isfinite(value) for value in found.values()):
        raise FfmpegFailed("the audio track is too quiet to measure its loudness")
    return {option: f"{value:.2f}" for option, value in found.items()}


def audio_track(media: Media) -> AudioTrack:
    """Return the audio track; the media must have one."""
    if media.audio is None:
        raise ValueError("the media has no audio track")  # refused before any command is made
    return media.audio
