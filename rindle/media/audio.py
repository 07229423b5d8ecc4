"""Command lines for outputs of an audio track, and the measurement of loudness between two of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rindle.errors import FfmpegFailed
from rindle.media.av_probe import AudioTrack, Media
from rindle.media.av_tracks import MIXABLE_CHANNELS, mixed, nearest_rate
from rindle.media.ffmpeg import AvLimits, written
from rindle.media.time_line import audio_input, placed
from rindle.recipes import AudioVariant

#: Loudness that is aimed at: LUFS integrated, dBTP true peak, LU range (EBU R 128 as streaming services apply it).
LOUDNESS: Final = {"I": "-16", "TP": "-1.5", "LRA": "11"}
#: Hertz from which on both encoders have a rate of their own; ``loudnorm`` hands on 192000.
_MAX_SAMPLE_RATE = 48_000
#: Shortest audio that has a loudness, in milliseconds: one block of the measurement (ITU-R BS.1770).
_BLOCK_MS: Final = 400
#: LUFS at or below which the measurement counts audio as silence (its absolute gate).
_SILENCE_LUFS: Final = -70.0
#: LUFS above which the second pass takes no measurement; only float samples and square waves are so loud.
_LOUDEST_LUFS: Final = 0.0
_ENCODERS: Final = {"aac": "aac", "mp3": "libmp3lame"}
# The names in the output of the first pass, and the options that pass them to the second.
_MEASUREMENTS: Final = {
    "input_i": "measured_I",
    "input_tp": "measured_TP",
    "input_lra": "measured_LRA",
    "input_thresh": "measured_thresh",
    "target_offset": "offset",
}


@dataclass(frozen=True, slots=True)
class Loudness:
    """What the first of two passes has measured.

    Attributes:
        options: measurements, as the second pass takes them; empty for silence and for audio too short to have a
            loudness, which stays as it is.
        gain_db: applied before the second pass, whose options count after it.
    """

    options: Mapping[str, str]
    gain_db: float = 0.0


def encode_command(
    media: Media,
    spec: AudioVariant,
    source: Path,
    dest: Path,
    limits: AvLimits,
    *,
    measured: Loudness | None = None,
    delay_ms: int = 0,
) -> list[str]:
    """Return the command that makes an M4A or MP3 of the first audio track, without images and metadata.

    Args:
        media: the probed source; it has an audio track.
        spec: the recipe.
        source: file to read.
        dest: file to write.
        limits: bounds of input and output.
        measured: what :func:`read_loudness` returned, for the second of two passes.
        delay_ms: silence before the audio, beyond that which the source has on its own time line.

    Source: FFmpeg "loudnorm", "volume", "adelay", "aac", "libmp3lame".
    """
    track = audio_track(media)
    recipe = spec.normal_form()
    audio, channels = mixed(
        audio_input(source, media, limits),
        channels=track.channels,
        layout=track.layout,
        wanted=spec.channels,
        codec=recipe["audio_codec"],
    )
    audio = placed(audio, media, lead=True)
    if delay_ms:
        audio = audio.filter("adelay", delay_ms, all=1)
    options: dict[str, Any] = {
        "vn": None,
        "c:a": _ENCODERS[recipe["audio_codec"]],
        "b:a": f"{recipe['audio_bitrate_kbps']}k",
        "map_metadata": -1,
        "map_chapters": -1,
    }
    if spec.normalize:
        audio = _normalized(audio, track, measured)
        rate = track.sample_rate or _MAX_SAMPLE_RATE
        options["ar"] = nearest_rate(recipe["audio_codec"], rate, at_most=_MAX_SAMPLE_RATE)
    if channels is not None:
        options["ac"] = channels
    return written([audio], dest, limits, **options)


def uniform_command(media: Media, source: Path, dest: Path, limits: AvLimits) -> list[str]:
    """Return the command that decodes the first audio track to FLAC: one sample rate and one layout to its end.

    Where these change, ffmpeg makes its filters again: they lose what they hold (``loudnorm`` three seconds) and begin
    from zero. The file begins with the track, without the silence before it.
    """
    track = audio_track(media)
    rate = nearest_rate("mp3", track.sample_rate or _MAX_SAMPLE_RATE, at_most=_MAX_SAMPLE_RATE)
    options = {"ac": min(track.channels or 2, 2), "ar": rate}
    return written([_mixed(media, source, limits)], dest, limits, vn=None, f="flac", **options)


def measure_command(media: Media, source: Path, limits: AvLimits) -> list[str]:
    """Return the command whose stderr :func:`read_loudness` reads; it writes no file."""
    audio = _mixed(media, source, limits).filter("loudnorm", **LOUDNESS, print_format="json")
    arguments = written([audio], None, limits)
    arguments[arguments.index("-v") + 1] = "info"  # the level at which the filter logs
    return arguments


def _mixed(media: Media, source: Path, limits: AvLimits) -> Any:
    """Return the node of the audio track as filters can read it: more channels than have a layout become two."""
    track = audio_track(media)
    wanted = 2 if track.channels > MIXABLE_CHANNELS else None
    audio = audio_input(source, media, limits)
    node, _ = mixed(audio, channels=track.channels, layout=track.layout, wanted=wanted, codec="mp3")
    return placed(node, media)


def _normalized(audio: Any, track: AudioTrack, measured: Loudness | None) -> Any:
    """Apply ``loudnorm``, unless the audio has no loudness: any gain would be arbitrary."""
    is_too_short = track.duration_ms is not None and track.duration_ms < _BLOCK_MS
    if is_too_short or (measured is not None and not measured.options):
        return audio
    if measured is None:
        return audio.filter("loudnorm", **LOUDNESS)
    if measured.gain_db:
        audio = audio.filter("volume", f"{measured.gain_db:.2f}dB", precision="double")
    return audio.filter("loudnorm", **LOUDNESS, **measured.options, linear="true")


def read_loudness(words: bytes) -> Loudness:
    """Return what the first pass has measured, from the last JSON object that it wrote to stderr.

    The last, because a title that looks like JSON is printed before it. Audio that is louder than the second pass
    accepts is brought to the target before it, and the measurements are those after this gain.

    Raises:
        FfmpegFailed: a measurement is missing or not a number.
    """
    text = words.decode(errors="replace")
    start, end = text.rfind("{"), text.rfind("}")
    try:
        measured_values = json.loads(text[start : end + 1])
        found = {option: float(measured_values[name]) for name, option in _MEASUREMENTS.items()}
    except (ValueError, KeyError, TypeError):
        raise FfmpegFailed("the loudness could not be measured") from None
    loudness = found["measured_I"]
    if loudness <= _SILENCE_LUFS:
        return Loudness({})
    if not all(math.isfinite(value) for value in found.values()):
        raise FfmpegFailed("the loudness could not be measured")
    gain_db = float(LOUDNESS["I"]) - loudness if loudness > _LOUDEST_LUFS else 0.0
    for option in ("measured_I", "measured_TP", "measured_thresh"):
        found[option] += gain_db
    return Loudness({option: f"{value:.2f}" for option, value in found.items()}, gain_db)


def audio_track(media: Media) -> AudioTrack:
    """Return the audio track; the media must have one."""
    if media.audio is None:
        raise ValueError("the media has no audio track")  # refused before any command is made
    return media.audio
