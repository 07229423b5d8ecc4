"""The one time line of a source: where its tracks begin and end, and how its audio is placed on it.

Zero is the first timestamp of the file. Video, audio and waveform variants all use this time line: audio that starts
late or has gaps is at the same place in each of them. ``docs/decisions/one_time_line.md`` has the reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rindle.media.ffmpeg import AvLimits, FfmpegTools, Progress, opened, run_ffmpeg, written

#: Containers of audio without timestamps of their own: only the count of samples places them. Where such files were
#: joined (chained Ogg, MP3 from several sources), the timestamps that ffmpeg derives jump; the samples do not.
_COUNTED_FORMATS: Final = frozenset({"mp3", "wav", "flac", "aac", "ogg"})
#: Containers where ffmpeg counts from the first track that it reads, and not from the start of the file, as long as no
#: offset is given.
_MOVING_ORIGIN: Final = frozenset({"mpegts", "ogg"})
_FIXED_ORIGIN: Final = {"itsoffset": "1us"}
#: Fills gaps with silence and cuts overlaps from 0.1 s on; it never stretches.
GAPS_FILLED: Final = {"async": "1"}
#: Continues from the first timestamp by the count of samples.
_COUNTED: Final = "STARTPTS+N/SR/TB"
#: Written by the muxer of a measurement that has no output; says nothing about the source.
_HARMLESS: Final = b"non monotonically increasing dts"


class Track(Protocol):
    """A track, as :mod:`rindle.media.av_probe` describes it."""

    @property
    def index(self) -> int:
        """Number of the stream in the file, from 0."""

    @property
    def start_ms(self) -> int:
        """Where it begins, counted from the start of the file."""


class Source(Protocol):
    """A file, as :mod:`rindle.media.av_probe` describes it."""

    @property
    def formats(self) -> frozenset[str]:
        """Names of the container."""

    @property
    def video(self) -> Track | None:
        """The video track that is used."""

    @property
    def audio(self) -> Track | None:
        """The audio track that is used."""


def is_counted(media: Source) -> bool:
    """Whether the audio has no timestamps of its own, so that it neither starts late nor has gaps."""
    return media.video is None and not media.formats.isdisjoint(_COUNTED_FORMATS)


def lead_ms(media: Source) -> int:
    """Return how long after the start of the file its audio begins, in milliseconds."""
    return 0 if media.audio is None or is_counted(media) else media.audio.start_ms


def audio_input(source: Path, media: Source, limits: AvLimits) -> Any:
    """Return the node of the audio track of ``source``, with its timestamps counted from the start of the file.

    Source: FFmpeg "Main options" (``itsoffset``).
    """
    if media.audio is None:
        raise ValueError("the media has no audio track")  # refused before any command is made
    return opened(source, limits, **_origin(media))[str(media.audio.index)]


def placed(audio: Any, media: Source, *, lead: bool = False) -> Any:
    """Return an audio node of :func:`audio_input` placed on the time line.

    Args:
        audio: the node.
        media: description of the source.
        lead: fill the time before the track begins with silence.

    Source: FFmpeg "aresample" (``async``, ``first_pts``), "asetpts".
    """
    if is_counted(media):
        return audio.filter("asetpts", _COUNTED)
    return audio.filter("aresample", **GAPS_FILLED, **({"first_pts": 0} if lead and lead_ms(media) else {}))


def _origin(media: Source) -> dict[str, str]:
    return {} if is_counted(media) or media.formats.isdisjoint(_MOVING_ORIGIN) else _FIXED_ORIGIN


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading tracks to their end has found.

    Attributes:
        milliseconds: end of the last track on the time line, ``None`` when nothing was read.
        is_clean: whether ffmpeg reported no error, such as a file that ends too early.
    """

    milliseconds: int | None
    is_clean: bool


async def read_to_end(
    tools: FfmpegTools,
    source: Path,
    media: Source,
    tracks: Sequence[Track],
    limits: AvLimits,
    directory: Path,
    *,
    at_most_seconds: int,
    report: Callable[[int], None] = lambda percent: None,
    decode: bool = True,
) -> Reading:
    """Read tracks to their end, or so far that they are longer than ``at_most_seconds``; nothing is written.

    Args:
        tools: usable programs.
        source: file to read.
        media: its description.
        tracks: tracks of ``media``.
        limits: what the run may take.
        directory: run directory.
        at_most_seconds: one second more than this is read.
        report: see :class:`Progress`.
        decode: decode the audio, which finds its exact end and is quick; packets are counted otherwise. Frames of
            video are never decoded.

    Raises:
        FfmpegFailed, ProcessTimeout, UnsupportedCodec: as :func:`run_ffmpeg`.
    """
    whole = opened(source, limits, t=at_most_seconds + 1, **_origin(media))
    nodes = []
    for track in tracks:
        node = whole[str(track.index)]
        is_audio = media.audio is not None and track.index == media.audio.index
        nodes.append(placed(node, media) if is_audio and decode else node)
    progress = Progress(None, report)
    copied = {"c:v": "copy"} if decode else {"c": "copy"}
    command = written(nodes, None, limits, **copied)
    words = await run_ffmpeg(tools, command, limits.encoding(1000 * (at_most_seconds + 1)), directory, progress)
    complaints = [line for line in words.splitlines() if line.strip() and _HARMLESS not in line]
    return Reading(progress.position_ms, not complaints)
