"""The tracks of a file that are used: which video and which audio, and how the audio fits an encoder.

Source: FFmpeg "ffprobe" (``disposition``, ``nb_frames``), "pan"; ISO/IEC 14496-3 (sampling frequencies and channel
configurations of AAC), ISO/IEC 11172-3 and 13818-3 (sampling frequencies of MP3).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

#: Tracks that accompany the main one.
_COMPANIONS: Final = ("comment", "visual_impaired", "hearing_impaired", "timed_thumbnails", "dependent")

#: Sampling frequencies of the encoders, in hertz.
SAMPLE_RATES: Final[Mapping[str, Sequence[int]]] = {
    "aac": (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
#: Layouts of more than two channels that every decoder of AAC plays; others need a description that few can read.
_AAC_LAYOUTS: Final = frozenset({"3.0", "4.0", "5.0", "5.0(side)", "5.1", "5.1(side)"})
#: Channels from which on no mix is defined.
MIXABLE_CHANNELS: Final = 8


async def first_usable(
    streams: Iterable[Mapping[str, Any]], has_samples: Callable[[Mapping[str, Any]], Awaitable[bool]]
) -> Mapping[str, Any] | None:
    """Return the stream of one kind that is used: the first that can be decoded and has samples.

    A track of a single frame comes after all others (a camera's thumbnail), then the container's default track comes
    first, and a track for comments or for people with impairments after the main one.

    Args:
        streams: candidates, as ffprobe describes them.
        has_samples: whether a stream has a packet; called as seldom as possible.
    """
    decodable = [stream for stream in streams if is_decodable(stream)]
    for stream in sorted(decodable, key=_order):
        if await has_samples(stream):
            return stream
    return None


def is_decodable(stream: Mapping[str, Any]) -> bool:
    """Whether ffmpeg knows the codec of a stream and the facts without which it decodes nothing."""
    if stream.get("codec_name") in (None, "none", "unknown"):
        return False
    needed = ("width", "height") if stream.get("codec_type") == "video" else ("channels", "sample_rate")
    return all(_number(stream.get(name)) > 0 for name in needed)


def frames_stated(stream: Mapping[str, Any]) -> int:
    """Return how many frames the container states, 0 when it states none."""
    return _number(stream.get("nb_frames"))


def mixed(audio: Any, *, channels: int, layout: str | None, wanted: int | None, codec: str) -> tuple[Any, int | None]:
    """Return an audio node and the value of ``-ac``, so that the encoder gets channels it can write.

    Args:
        audio: node of ffmpeg-python.
        channels: of the source, 0 when unknown.
        layout: likewise, ``None`` when unknown.
        wanted: 1, 2, or ``None`` for as many as the source has; more than two only in a layout that players know.
        codec: ``aac``, ``mp3``, or the name of a format without limits.
    """
    if wanted is None and channels > 2 and not (codec == "aac" and layout in _AAC_LAYOUTS):
        wanted = 2
    if wanted is None and layout is None and 0 < channels <= 2:
        wanted = channels  # the encoder refuses channels without a layout
    if channels > MIXABLE_CHANNELS and wanted is not None:
        # No matrix is known: all channels count alike.
        sides = (range(channels),) if wanted == 1 else (range(0, channels, 2), range(1, channels, 2))
        gains = [f"c{number}<" + "+".join(f"c{one}" for one in side) for number, side in enumerate(sides)]
        return audio.filter("pan", "|".join(("mono" if wanted == 1 else "stereo", *gains))), None
    return audio, wanted


def nearest_rate(codec: str, rate: int, *, at_most: int) -> int:
    """Return the sampling frequency of the encoder that is nearest to ``rate``; the higher one of two."""
    allowed = [one for one in SAMPLE_RATES[codec] if one <= at_most]
    return min(allowed, key=lambda one: (abs(one - rate), -one))


def _order(stream: Mapping[str, Any]) -> tuple[bool, bool, bool]:
    disposition: Mapping[str, Any] = stream.get("disposition") or {}
    is_still = stream.get("codec_type") == "video" and frames_stated(stream) == 1
    return is_still, not disposition.get("default"), any(disposition.get(name) for name in _COMPANIONS)


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
