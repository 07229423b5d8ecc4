"""The facts of an audio or video file, read by a confined ffprobe."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rindle.errors import ContentRejected, ProbeFailed
from rindle.media.av_refusals import oversized
from rindle.media.codecs import refused_codec
from rindle.media.ffmpeg import (
    AvLimits,
    FfmpegTools,
    as_input,
    confinement,
    disk_error,
    run_ffprobe,
    validate_argv,
)
from rindle.protocols import ProbeResult
from rindle.security.filename import BIDI_MARKS
from rindle.states import MediaKind

#: Longest description of a file that is read, in bytes: what needs more is no media file.
MAX_DESCRIPTION_BYTES: Final = 4 << 20
#: Tags kept of a file, those of its streams included; bytes of a name and of a text.
MAX_TAGS: Final = 64
MAX_TAG_NAME_BYTES: Final = 128
MAX_TEXT_BYTES: Final = 1024
#: Streams that the metadata describes.
MAX_STREAMS: Final = 16
#: Containers whose duration is a guess: nothing in them states it.
GUESSING_FORMATS: Final = frozenset({"mp3", "aac", "mpegts"})

#: What an image that Rindle has made may be, in place of containers and codecs of uploads.
_OWN_JPEG: Final = {"format_whitelist": "jpeg_pipe,image2", "codec_whitelist": "mjpeg"}
# 0x00 to 0x1F, but for the tab, and marks that reverse text.
_CONTROL = dict.fromkeys({*set(range(0x20)) - {0x09}, *map(ord, BIDI_MARKS)})
#: Names of tags that state where a recording was made: of QuickTime, Android, Matroska, XMP and ID3.
_PLACES = re.compile(r"location|iso6709|gps|xyz|latitude|longitude|altitude|(?:^|[._-])geo(?!b$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class VideoTrack:
    """The video track of a file.

    Attributes:
        index: number of the stream in the file, from 0.
        codec: ffprobe's name; ``None`` when ffmpeg does not know it.
        width: pixels as shown: after the sample aspect ratio and the rotation.
        height: likewise.
        square_width: pixels after the sample aspect ratio and before the rotation.
        square_height: likewise.
        has_square_samples: whether the stored pixels need no stretching.
        tagged_rotation: degrees clockwise (0, 90, 180, 270) that only a tag contains: ffmpeg does not apply it.
        duration_ms: of the stream, ``None`` when unknown.
    """

    index: int
    codec: str | None
    width: int
    height: int
    square_width: int
    square_height: int
    has_square_samples: bool
    tagged_rotation: int
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """The first audio track of a file; ``sample_rate`` in hertz, 0 when unknown."""

    index: int
    codec: str | None
    sample_rate: int
    channels: int
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class Media:
    """What a build needs to know of its source, and the check of its output.

    Attributes:
        formats: names of the container, as ffprobe lists them.
        duration_ms: of the whole file, ``None`` when unknown.
        stream_count: all streams, including cover images.
        video: the first video stream that is not a cover image.
        audio: the first audio stream.
        metadata: the facts that are stored.
    """

    formats: frozenset[str]
    duration_ms: int | None
    stream_count: int
    video: VideoTrack | None
    audio: AudioTrack | None
    metadata: Mapping[str, Any]

    @property
    def kind(self) -> MediaKind:
        """Video, if there is a video stream that is not a cover image."""
        return MediaKind.AUDIO if self.video is None else MediaKind.VIDEO

    @property
    def duration_is_guessed(self) -> bool:
        """Whether the container makes ffprobe estimate the duration."""
        return not self.formats.isdisjoint(GUESSING_FORMATS)


class AvProbe:
    """The bundled :class:`rindle.protocols.Probe` for audio and video.

    Args:
        ffmpeg: programs; every probe checks whether they can be used.
        limits: what ffprobe may take.
        scratch: where run directories are made; the system's temporary directory by default.
    """

    def __init__(self, ffmpeg: FfmpegTools, limits: AvLimits | None = None, scratch: Path | None = None) -> None:
        self._tools = ffmpeg
        self._limits = limits or AvLimits()
        self._scratch = scratch

    def accepts(self, mime: str) -> bool:
        """Whether files of the sniffed type ``mime`` are read: all audio and video."""
        return mime.startswith(("video/", "audio/"))

    async def probe(self, path: Path) -> ProbeResult:
        """Return the facts of the file at ``path``.

        Width and height are those of the displayed image. The metadata holds ``format``, ``tags`` and
        ``streams`` (``index``, ``type``, ``codec``, ``tags``), strings of the file without control characters:
        escape them before you show them.

        Raises:
            ContentRejected: ``decode_failed``: ffprobe finds no audio and no video; ``codec_not_allowed``: a track
                uses a codec that is not in :mod:`rindle.media.codecs`.
            ProbeFailed: the file cannot be read, or ffprobe answers nonsense; retryable.
            FfmpegNotFound, FfmpegFailed (killed by a signal), ProcessTimeout: the content is not the cause;
                retryable.
        """
        try:
            if self._scratch is not None:
                self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="rindle-probe-", dir=self._scratch) as directory:
                media = await inspect(self._tools, linked(path, Path(directory)), self._limits, Path(directory))
        except OSError as error:
            raise disk_error(error, self._scratch or Path(tempfile.gettempdir()), "the probe cannot work") from error
        is_video = media.video is not None
        return ProbeResult(
            kind=media.kind,
            width=media.video.width if media.video else None,
            height=media.video.height if media.video else None,
            duration_ms=media.duration_ms,
            has_video_track=True if is_video else None,
            has_audio_track=media.audio is not None,
            metadata=media.metadata,
        )


def linked(path: Path, directory: Path) -> Path:
    """Return a link of our own naming to ``path``: no extension, so that only the bytes decide its type."""
    link = directory / "source"
    link.symlink_to(path.absolute())
    return link


async def inspect(tools: FfmpegTools, path: Path, limits: AvLimits, directory: Path, *, image: bool = False) -> Media:
    """Describe the file at ``path``; raises what :meth:`AvProbe.probe` raises.

    With ``image`` it is a JPEG that Rindle has made: it is opened only as a JPEG, decoded as a whole, and
    refused when the decoder reports any error.
    """
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ContentRejected("the file is empty")
    except OSError as error:
        raise ProbeFailed("the file cannot be read", detail={"errno": error.errno}, retryable=True) from error
    described = _Description()
    restricted = confinement() | (_OWN_JPEG if image else {})
    options = [part for name, value in restricted.items() for part in (f"-{name}", value)]
    wanted = ["-show_format", "-show_streams", *(["-count_frames"] if image else [])]
    arguments = ["-v", "error", "-print_format", "json", *wanted, *options, "-i", as_input(path)]
    validate_argv(arguments)
    ended = await run_ffprobe(await tools.usable(), arguments, limits.probing(), directory, described.feed)
    if (codec := refused_codec(ended.last_words)) is not None:
        raise ContentRejected(
            f"a track of the file uses the codec {codec}, which is not accepted",
            code="codec_not_allowed",
            detail={"codec": codec},
        )
    if (too_large := oversized(ended.last_words)) is not None:
        raise too_large
    if ended.status != 0 or (image and ended.last_words.strip()):
        raise ContentRejected("the file cannot be read as what it should be")
    return _media(described.parsed())


class _Description:
    """Collects the output of ffprobe, up to a limit."""

    def __init__(self) -> None:
        self._text = bytearray()

    def feed(self, data: bytes) -> None:
        self._text += data
        if len(self._text) > MAX_DESCRIPTION_BYTES:
            raise ContentRejected("the file describes itself at a length that no media needs")

    def parsed(self) -> dict[str, Any]:
        try:
            answer = json.loads(self._text.decode(errors="replace"))
        except ValueError as error:
            raise ProbeFailed("ffprobe did not answer", retryable=True) from error
        if not isinstance(answer, dict):
            raise ProbeFailed("ffprobe did not answer", retryable=True)
        return answer


def _media(answer: Mapping[str, Any]) -> Media:
    container: Mapping[str, Any] = answer.get("format") or {}
    streams: list[Mapping[str, Any]] = answer.get("streams") or []
    videos = [
        stream
        for stream in streams
        if stream.get("codec_type") == "video" and not (stream.get("disposition") or {}).get("attached_pic")
    ]
    audios = [stream for stream in streams if stream.get("codec_type") == "audio"]
    if not (videos or audios):
        raise ContentRejected("the file holds neither audio nor video")
    video = _video(videos[0]) if videos else None
    audio = _audio(audios[0]) if audios else None
    longest = [found for stream in streams if (found := _stream_ms(stream)) is not None]
    duration_ms = _milliseconds(container.get("duration"))
    if duration_ms is None and longest:
        duration_ms = max(longest)
    return Media(
        formats=frozenset(str(container.get("format_name", "")).split(",")),
        duration_ms=duration_ms,
        stream_count=len(streams),
        video=video,
        audio=audio,
        metadata=_metadata(container, streams),
    )


def _video(stream: Mapping[str, Any]) -> VideoTrack:
    width, height = _whole(stream.get("width")), _whole(stream.get("height"))
    if width <= 0 or height <= 0:
        # It would slip under every limit of pixels.
        raise ContentRejected("the video does not contain its width and height")
    ratio = _ratio(stream.get("sample_aspect_ratio"))
    square_width = max(1, round(width * ratio))
    matrix = next(
        (entry["rotation"] for entry in stream.get("side_data_list") or [] if "rotation" in entry),
        None,
    )
    # A display matrix turns counter-clockwise, the older tag clockwise.
    tagged = _quarter(_tag(stream, "rotate")) if matrix is None else 0
    turned = tagged if matrix is None else _quarter(-_number(matrix))
    sideways = turned in (90, 270)
    return VideoTrack(
        index=_whole(stream.get("index")),
        codec=_codec(stream),
        width=height if sideways else square_width,
        height=square_width if sideways else height,
        square_width=square_width,
        square_height=height,
        has_square_samples=square_width == width,
        tagged_rotation=tagged,
        duration_ms=_stream_ms(stream),
    )


def _audio(stream: Mapping[str, Any]) -> AudioTrack:
    return AudioTrack(
        index=_whole(stream.get("index")),
        codec=_codec(stream),
        sample_rate=_whole(stream.get("sample_rate")),
        channels=_whole(stream.get("channels")),
        duration_ms=_stream_ms(stream),
    )


def _codec(stream: Mapping[str, Any]) -> str | None:
    name = stream.get("codec_name")
    return None if name in (None, "none", "unknown") else str(name)


def _stream_ms(stream: Mapping[str, Any]) -> int | None:
    """Return how long a stream lasts: its duration, or the tag that Matroska uses for it."""
    found = _milliseconds(stream.get("duration"))
    if found is not None:
        return found
    clock = str(_tag(stream, "duration")).split(":")
    if len(clock) != 3:
        return None
    hours, minutes, seconds = (_number(part) for part in clock)
    return _milliseconds(hours * 3600 + minutes * 60 + seconds)


def _tags(subject: Mapping[str, Any]) -> Mapping[str, Any]:
    return subject.get("tags") or {}


def _tag(stream: Mapping[str, Any], wanted: str) -> Any:
    """Return a tag whatever its case: Matroska writes all of them in capitals."""
    return next((value for name, value in _tags(stream).items() if name.lower() == wanted), None)


def _milliseconds(seconds: Any) -> int | None:
    """Return whole milliseconds, rounded down; nothing that lasts no time or for ever has a duration."""
    number = _number(seconds)
    return int(number * 1000) if 0 < number < 1e9 and int(number * 1000) > 0 else None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0


def _whole(value: Any) -> int:
    return int(_number(value))


def _ratio(text: Any) -> float:
    numerator, _, denominator = str(text or "").partition(":")
    over, under = _number(numerator), _number(denominator)
    return over / under if over > 0 and under > 0 else 1.0


def _quarter(degrees: Any) -> int:
    """Return degrees clockwise as 0, 90, 180 or 270; an angle between them turns no sides."""
    turned = _number(degrees) % 360
    nearest = round(turned / 90) * 90
    return nearest % 360 if abs(turned - nearest) <= 1 else 0


# --- metadata ----------------------------------------------------------------------------------------------------


def _metadata(container: Mapping[str, Any], streams: list[Mapping[str, Any]]) -> dict[str, Any]:
    left = MAX_TAGS
    tags = _cleaned(_tags(container), left)
    left -= len(tags)
    described = []
    for stream in streams[:MAX_STREAMS]:
        own = _cleaned(_tags(stream), left)
        left -= len(own)
        described.append(
            {
                "index": _whole(stream.get("index")),
                "type": _text(str(stream.get("codec_type", "unknown"))),
                "codec": _codec(stream),
                "tags": own,
            }
        )
    return {"format": _text(str(container.get("format_name", ""))), "tags": tags, "streams": described}


def _cleaned(tags: Mapping[str, Any], at_most: int) -> dict[str, str]:
    named = ((_text(str(name), MAX_TAG_NAME_BYTES), _text(str(value))) for name, value in tags.items())
    return dict([(name, value) for name, value in named if name and not _PLACES.search(name)][:at_most])


def _text(text: str, at_most: int = MAX_TEXT_BYTES) -> str:
    """Return ``text`` without control characters and marks that reverse it, cut to so many bytes of UTF-8."""
    return text.translate(_CONTROL).encode(errors="replace")[:at_most].decode(errors="ignore")
