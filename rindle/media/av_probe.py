"""The facts of an audio or video file, read by a confined ffprobe."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from rindle.errors import ContentRejected, FfmpegFailed, ProbeFailed, ProcessTimeout, UnsupportedCodec
from rindle.media import ogg, time_line
from rindle.media.av_colour import Colour, colour_of
from rindle.media.av_refusals import oversized
from rindle.media.av_tracks import first_usable, frames_stated, is_decodable
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
from rindle.run_directories import held
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

#: Packets at the start of a file that are looked at: a track that has one of them has samples.
_FIRST_PACKETS: Final = 200
#: Codecs whose frames may be interlaced although the container does not state it.
_MAYBE_INTERLACED: Final = frozenset({"h264", "mpeg2video", "mpeg4", "dvvideo"})

#: Containers of recordings in which the size of the frames may change, and codecs that state it with each key frame.
_CHANGING_FORMATS: Final = frozenset({"matroska", "webm", "mpegts"})
_CHANGING_CODECS: Final = frozenset({"vp8", "vp9", "av1", "h264", "hevc"})
#: Sizes that are remembered of one video.
_MAX_SIZES: Final = 1000

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
        stored_width: pixels of a row of the decoder.
        sideways: whether the rotation swaps width and height.
        tagged_rotation: degrees clockwise (0, 90, 180, 270) that only a tag contains: ffmpeg does not apply it.
        duration_ms: of the stream, ``None`` when unknown.
        colour: what the numbers mean.
        interlaced: whether frames may consist of two fields.
        frame_rate: average frames per second, 0 when unknown.
        start_ms: where it begins, counted from the start of the file.
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
    stored_width: int = 0
    sideways: bool = False
    colour: Colour = field(default_factory=Colour)
    interlaced: bool = False
    frame_rate: float = 0.0
    start_ms: int = 0

    @property
    def end_ms(self) -> int | None:
        """Where the track ends, counted from the start of the file; ``None`` when unknown."""
        return None if self.duration_ms is None else self.start_ms + self.duration_ms


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """The audio track of a file.

    Attributes:
        index: number of the stream in the file, from 0.
        codec: ffprobe's name; ``None`` when ffmpeg does not know it.
        sample_rate: in hertz, 0 when unknown.
        channels: 0 when unknown.
        duration_ms: of the stream, ``None`` when unknown.
        start_ms: where it begins, counted from the start of the file.
        layout: ffmpeg's name of the channels, ``None`` when unknown.
        frame_count: frames of the codec, where the container states it.
    """

    index: int
    codec: str | None
    sample_rate: int
    channels: int
    duration_ms: int | None
    start_ms: int = 0
    layout: str | None = None
    frame_count: int | None = None

    @property
    def end_ms(self) -> int | None:
        """Where the track ends, counted from the start of the file; ``None`` when unknown."""
        return None if self.duration_ms is None else self.start_ms + self.duration_ms


@dataclass(frozen=True, slots=True)
class Media:
    """What a build needs to know of its source, and the check of its output.

    Attributes:
        formats: names of the container, as ffprobe lists them.
        duration_ms: from the start of the file to the end of its video and audio, ``None`` when unknown. Subtitles,
            chapters and data do not count.
        stream_count: all streams, including cover images.
        video: the first video stream that can be decoded and has frames, the default one first; no cover image.
        audio: the first audio stream that can be decoded and has samples, the default one first.
        metadata: the facts that are stored.
        is_joined: whether files were written one after the other, so that ffprobe states the duration of the last.
    """

    formats: frozenset[str]
    duration_ms: int | None
    stream_count: int
    video: VideoTrack | None
    audio: AudioTrack | None
    metadata: Mapping[str, Any]
    is_joined: bool = False

    @property
    def kind(self) -> MediaKind:
        """Video, if there is a video stream that is not a cover image."""
        return MediaKind.AUDIO if self.video is None else MediaKind.VIDEO

    @property
    def duration_is_guessed(self) -> bool:
        """Whether the container makes ffprobe estimate the duration."""
        return self.is_joined or not self.formats.isdisjoint(GUESSING_FORMATS)


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
        with self._directory() as directory:
            source = linked(path, directory)
            media = await inspect(self._tools, source, self._limits, directory)
            duration_ms = media.duration_ms
            if media.is_joined:
                reading = await self._read(source, media, directory, self._limits.max_duration_seconds)
                duration_ms = reading.milliseconds or duration_ms
        is_video = media.video is not None
        return ProbeResult(
            kind=media.kind,
            width=media.video.width if media.video else None,
            height=media.video.height if media.video else None,
            duration_ms=duration_ms,
            has_video_track=True if is_video else None,
            has_audio_track=media.audio is not None,
            metadata=media.metadata,
        )

    async def measure_ms(self, path: Path, *, at_most_seconds: int) -> int | None:
        """Read the file at ``path`` and return how long it really lasts; headers may be wrong.

        Args:
            path: file that :meth:`probe` has accepted.
            at_most_seconds: what is longer is not read further, and the value is larger.

        Returns:
            milliseconds; ``None`` when reading the file reports an error, such as a file that is cut off.

        Raises:
            ContentRejected, ProbeFailed, FfmpegNotFound, FfmpegFailed, ProcessTimeout: as :meth:`probe`.
        """
        with self._directory() as directory:
            source = linked(path, directory)
            media = await inspect(self._tools, source, self._limits, directory)
            reading = await self._read(source, media, directory, at_most_seconds)
            return reading.milliseconds if reading.is_clean else None

    async def _read(self, source: Path, media: Media, directory: Path, at_most_seconds: int) -> time_line.Reading:
        try:
            return await time_line.read_to_end(
                await self._tools.usable(),
                source,
                media,
                [track for track in (media.video, media.audio) if track is not None],
                self._limits,
                directory,
                at_most_seconds=at_most_seconds,
                decode=time_line.is_counted(media),
            )
        except (FfmpegFailed, UnsupportedCodec) as error:
            if "signal" in error.detail:  # the file is not the cause
                raise
            return time_line.Reading(None, is_clean=False)

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        """Make a run directory, and remove it with all it holds."""
        try:
            if self._scratch is not None:
                self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="rindle-probe-", dir=self._scratch) as name:
                directory = Path(name)
                with held(directory):
                    yield directory
        except OSError as error:
            raise disk_error(error, self._scratch or Path(tempfile.gettempdir()), "the probe cannot work") from error


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
    packets = ["-show_packets", "-show_entries", "packet=stream_index", "-read_intervals", f"%+#{_FIRST_PACKETS}"]
    wanted = ["-show_format", "-show_streams", *(["-count_frames"] if image else packets)]
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
    answer = described.parsed()
    seen = {_whole(packet.get("stream_index")) for packet in answer.get("packets") or []}

    async def has_samples(stream: Mapping[str, Any]) -> bool:
        index = _whole(stream.get("index"))
        if image or frames_stated(stream) or index in seen:
            return True
        return await _has_packet(tools, path, index, limits, directory)

    media = await _media(answer, has_samples)
    return replace(media, is_joined="ogg" in media.formats and ogg.is_chained(path))


async def _has_packet(tools: FfmpegTools, path: Path, index: int, limits: AvLimits, directory: Path) -> bool:
    """Whether a track has a packet at all; reads the file up to it, and decodes nothing."""
    found = _Description()
    wanted = ["-select_streams", str(index), "-show_entries", "packet=stream_index", "-read_intervals", "%+#1"]
    options = [part for name, value in confinement().items() for part in (f"-{name}", value)]
    arguments = ["-v", "error", "-print_format", "json", *wanted, *options, "-i", as_input(path)]
    validate_argv(arguments)
    await run_ffprobe(await tools.usable(), arguments, limits.probing(), directory, found.feed)
    return bool(found.parsed().get("packets"))


async def largest_frame(
    tools: FfmpegTools, path: Path, media: Media, limits: AvLimits, directory: Path
) -> tuple[int, int] | None:
    """Return the displayed size of the largest key frame, where a container lets the size change in the middle.

    Recordings of browsers and calls do that. Only key frames are decoded, and only in such containers; elsewhere, and
    where nothing changes, the result is ``None``.
    """
    track = media.video
    if track is None or media.formats.isdisjoint(_CHANGING_FORMATS) or track.codec not in _CHANGING_CODECS:
        return None
    sizes = _Sizes()
    options = [part for name, value in confinement().items() for part in (f"-{name}", value)]
    wanted = ["-select_streams", str(track.index), "-skip_frame", "nokey", "-show_entries", "frame=width,height"]
    arguments = ["-v", "error", "-of", "csv=p=0", *wanted, *options, "-i", as_input(path)]
    validate_argv(arguments)
    with suppress(ProcessTimeout):  # a long file: its start is known
        await run_ffprobe(await tools.usable(), arguments, limits.probing(), directory, sizes.feed)
    if len(sizes.found) < 2:
        return None
    width, height = max(sizes.found, key=lambda size: size[0] * size[1])
    shown = (max(1, round(width * track.square_width / track.stored_width)), height)
    return (shown[1], shown[0]) if track.sideways else shown


class _Sizes:
    """Collects the different sizes in an output of ffprobe."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], None] = {}
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-256:]
        for line in lines:
            width, _, height = line.decode(errors="replace").strip().strip(",").partition(",")
            if (size := (_whole(width), _whole(height))) > (0, 0) and len(self.found) < _MAX_SIZES:
                self.found[size] = None


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


async def _media(answer: Mapping[str, Any], has_samples: Callable[[Mapping[str, Any]], Awaitable[bool]]) -> Media:
    container: Mapping[str, Any] = answer.get("format") or {}
    streams: list[Mapping[str, Any]] = answer.get("streams") or []
    videos = [
        stream
        for stream in streams
        if stream.get("codec_type") == "video" and not (stream.get("disposition") or {}).get("attached_pic")
    ]
    audios = [stream for stream in streams if stream.get("codec_type") == "audio"]
    used_video, used_audio = await first_usable(videos, has_samples), await first_usable(audios, has_samples)
    # A file of which nothing can be decoded is what its first track is: its variants fail, with the reason.
    undecodable = [stream for stream in videos or audios if not is_decodable(stream)]
    if undecodable and videos and used_video is None:
        used_video = undecodable[0]
    elif undecodable and not videos and used_audio is None:
        used_audio = undecodable[0]
    if used_video is None and used_audio is None:
        raise ContentRejected("the file holds neither audio nor video")
    origin = _number(container.get("start_time"))
    video = None if used_video is None else _video(used_video, origin)
    audio = None if used_audio is None else _audio(used_audio, origin)
    formats = frozenset(str(container.get("format_name", "")).split(","))
    return Media(
        formats=formats,
        duration_ms=_duration_ms(container, formats, [track for track in (video, audio) if track is not None]),
        stream_count=len(streams),
        video=video,
        audio=audio,
        metadata=_metadata(container, streams),
    )


def _duration_ms(
    container: Mapping[str, Any], formats: frozenset[str], tracks: Sequence[VideoTrack | AudioTrack]
) -> int | None:
    """Return the duration by the tracks, which contradict a wrong header; by the header where they state none."""
    ends = [track.end_ms for track in tracks if track.end_ms is not None]
    seconds = _number(container.get("duration"))
    if "matroska" in formats:  # its header contains the last timestamp
        origin = _number(container.get("start_time"))
        seconds = seconds - origin if 0 < origin < seconds else seconds
    stated = _milliseconds(seconds)
    is_known = len(ends) == len(tracks) and formats.isdisjoint(GUESSING_FORMATS)
    return max(ends) if is_known or (stated is None and ends) else stated


def _video(stream: Mapping[str, Any], origin: float) -> VideoTrack:
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
    colour = colour_of(stream, width=width, height=height)
    return VideoTrack(
        index=_whole(stream.get("index")),
        codec=_codec(stream),
        width=height if sideways else square_width,
        height=square_width if sideways else height,
        square_width=square_width,
        square_height=height,
        has_square_samples=square_width == width,
        tagged_rotation=tagged,
        duration_ms=_stream_ms(stream, origin),
        start_ms=_start_ms(stream, origin),
        stored_width=width,
        sideways=sideways,
        colour=colour,
        interlaced=colour.layout == "yuv" and _is_interlaced(stream),
        frame_rate=_ratio(stream.get("avg_frame_rate"), otherwise=0.0),
    )


def _audio(stream: Mapping[str, Any], origin: float) -> AudioTrack:
    return AudioTrack(
        index=_whole(stream.get("index")),
        codec=_codec(stream),
        sample_rate=_whole(stream.get("sample_rate")),
        channels=_whole(stream.get("channels")),
        duration_ms=_stream_ms(stream, origin),
        start_ms=_start_ms(stream, origin),
        frame_count=_whole(stream.get("nb_frames")) or None,
        layout=None if stream.get("channel_layout") in (None, "unknown") else str(stream["channel_layout"]),
    )


def _codec(stream: Mapping[str, Any]) -> str | None:
    name = stream.get("codec_name")
    return None if name in (None, "none", "unknown") else str(name)


def _start_ms(stream: Mapping[str, Any], origin: float) -> int:
    """Return where a stream begins, counted from ``origin``, the first timestamp of the file."""
    start = stream.get("start_time")
    return 0 if start is None else max(0, round((_number(start) - origin) * 1000))


def _stream_ms(stream: Mapping[str, Any], origin: float) -> int | None:
    """Return how long a stream lasts: its duration, or by the tag of Matroska, which contains its last timestamp."""
    found = _milliseconds(stream.get("duration"))
    if found is not None:
        return found
    clock = str(_tag(stream, "duration")).split(":")
    if len(clock) != 3:
        return None
    hours, minutes, seconds = (_number(part) for part in clock)
    end_ms = _milliseconds(hours * 3600 + minutes * 60 + seconds - max(origin, 0))
    if end_ms is None or end_ms <= (start_ms := _start_ms(stream, origin)):
        return None
    return end_ms - start_ms


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


def _is_interlaced(stream: Mapping[str, Any]) -> bool:
    order = stream.get("field_order", "unknown")
    return order in ("tt", "bb", "tb", "bt") or (order == "unknown" and _codec(stream) in _MAYBE_INTERLACED)


def _ratio(text: Any, otherwise: float = 1.0) -> float:
    numerator, _, denominator = str(text or "").replace("/", ":").partition(":")
    over, under = _number(numerator), _number(denominator)
    return over / under if over > 0 and under > 0 else otherwise


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
