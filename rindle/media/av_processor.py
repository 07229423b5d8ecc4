"""The bundled processor for audio and video: probes the source, runs ffmpeg, checks the output, moves it into place."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rindle.cancellation import cancel_and_wait
from rindle.errors import (
    ContentRejected,
    FfmpegFailed,
    MissingAudioTrack,
    OutputDurationMismatch,
    OutputKindMismatch,
    OutputMissing,
    OutputTooLarge,
    OutputTrackMissing,
    ProbeFailed,
    ProcessorCapabilityMissing,
    UnsupportedCodec,
    UnsupportedEphemeralRuntime,
    VariantProcessingCancelled,
)
from rindle.media import audio, video, waveform
from rindle.media.av_probe import AudioTrack, Media, VideoTrack, inspect, largest_frame, linked
from rindle.media.ffmpeg import (
    AvLimits,
    FfmpegTools,
    Progress,
    disk_error,
    free_bytes,
    no_room,
    opened,
    run_ffmpeg,
    written,
)
from rindle.media.video import Section
from rindle.process import ephemeral_runtime
from rindle.recipes import AudioVariant, FrameVariant, ImageVariant, VariantSpec, VideoVariant, WaveformVariant
from rindle.states import MediaKind

log = logging.getLogger(__name__)

Track = TypeVar("Track", VideoTrack, AudioTrack)

#: How far an output's duration may be from its source's: milliseconds, or this share of it if that is more.
TOLERANCE_MS = 250
TOLERANCE_SHARE = 0.005
#: Seconds between two looks at ``cancelled`` (only :meth:`AvProcessor.process` has to look).
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class AvOutput:
    """A variant that was made and checked.

    Attributes:
        path: the file.
        byte_size: its length.
        content_type: MIME type.
        width: displayed pixels; ``None`` for audio and waveforms.
        height: likewise.
        duration_ms: ``None`` for images and waveforms.
        source_duration_ms: duration of the original, if the build measured it because the file states none or only an
            estimate.
    """

    path: Path
    byte_size: int
    content_type: str
    width: int | None
    height: int | None
    duration_ms: int | None
    source_duration_ms: int | None = None


class AvProcessor:
    """The bundled :class:`rindle.protocols.Processor` for video, audio, waveforms and images taken from a video.

    Args:
        ffmpeg: programs; every build checks whether they can be used.
        limits: what a run may take.
    """

    def __init__(self, ffmpeg: FfmpegTools, limits: AvLimits | None = None) -> None:
        self._tools = ffmpeg
        self.limits = limits or AvLimits()

    @property
    def capabilities(self) -> frozenset[str]:
        """What can be built; see :attr:`FfmpegTools.capabilities`."""
        return self._tools.capabilities

    async def process(
        self,
        source: Path,
        spec: VariantSpec,
        dest: Path,
        *,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Path:
        """Build as :meth:`build` does, looking five times a second whether the work is still wanted.

        Raises:
            VariantProcessingCancelled: ``cancelled`` turned true; nothing is left of the build.
        """
        building = asyncio.create_task(self.build(source, spec, dest, progress=progress))
        try:
            while not building.done():
                await asyncio.wait({building}, timeout=_LOOK_SECONDS)
                if cancelled() and not building.done():
                    raise VariantProcessingCancelled("the build was cancelled")
        finally:
            await cancel_and_wait(building)
        return building.result().path

    async def build(
        self, source: Path, spec: VariantSpec, dest: Path, *, progress: Callable[[int], None] = lambda percent: None
    ) -> AvOutput:
        """Write the variant to ``dest``, checked, replacing what is there; on failure nothing is written.

        Cancelling ends ffmpeg with its whole process group before ``CancelledError`` is raised.

        Args:
            source: the original, read only.
            spec: a recipe that is no :class:`ImageVariant`.
            dest: file in a directory of the caller's own; scratch files go into a directory beside it.
            progress: called with percent from 0 to 99, each higher than the one before.

        Raises:
            MissingAudioTrack, UnsupportedCodec, ContentRejected (``media_too_long``, ``decode_failed``): the source
                cannot have this variant; final.
            OutputTooLarge, OutputKindMismatch, OutputTrackMissing: what came out is not the variant; final.
            OutputMissing, OutputDurationMismatch, FfmpegFailed, ProcessTimeout, FfmpegNotFound,
                InsufficientDiskHeadroom: retryable.
            ProcessorCapabilityMissing: this ffmpeg has no encoder for it, or the recipe is not for audio or video.
        """
        if not isinstance(spec, ImageVariant):
            self._tools = await self._tools.usable()
        if isinstance(spec, ImageVariant) or not spec.required_capabilities <= self.capabilities:
            raise ProcessorCapabilityMissing(
                "the audio and video processor cannot build this recipe",
                detail={"required": sorted(spec.required_capabilities), "declared": sorted(self.capabilities)},
            )
        tools = self._tools
        with _scratch_directory(dest.parent) as directory:
            original = linked(source, directory)
            media = await inspect(tools, original, self.limits, directory)
            build = _Build(tools, self.limits, directory, original, media, _Rising(progress))
            build.warn_of_colours(spec, dest.stem)
            if isinstance(spec, VideoVariant):
                built = await build.video(spec)
            elif isinstance(spec, FrameVariant):
                built = await build.frame(spec)
            elif isinstance(spec, AudioVariant):
                built = await build.audio(spec)
            else:
                built = await build.waveform(spec)
            built.path.replace(dest)
        return replace(built, path=dest, source_duration_ms=build.source_duration_ms)


class _Rising:
    """Passes on only what is higher than everything before."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report
        self._told = -1

    def __call__(self, percent: int) -> None:
        if percent > self._told:
            self._told = percent
            self._report(percent)


@dataclass(frozen=True, slots=True)
class _Span:
    """How long an output has to be; ``None`` milliseconds when unknown. Only a ``certain`` one is checked."""

    milliseconds: int | None
    certain: bool


@dataclass(slots=True)
class _Build:
    """One build in its own directory. The methods are the four kinds of variant; they return an unplaced output."""

    tools: FfmpegTools
    limits: AvLimits
    directory: Path
    source: Path
    media: Media
    report: Callable[[int], None]
    #: See :class:`AvOutput`.
    source_duration_ms: int | None = None

    async def video(self, spec: VideoVariant) -> AvOutput:
        track = self._video_track()
        audio_track = self.media.audio
        span = await self._span([track] if audio_track is None else [track, audio_track])
        made = self._output(spec)
        largest = await largest_frame(self.tools, self.source, self.media, self.limits, self.directory)
        command = video.transcode_command(
            self.media, spec, self.source, made, self.limits, tone_map=self.tools.converts_colours, largest=largest
        )
        await self._run(command, span, Progress(span.milliseconds, self.report))
        return await self._checked(spec, made, span)

    async def audio(self, spec: AudioVariant) -> AvOutput:
        track = self._sound()
        span = await self._span([track])
        made = self._output(spec)
        measured = None
        if spec.two_pass:
            command = audio.measure_command(self.media, self.source, self.limits)
            words = await self._run(command, span, Progress(span.milliseconds, self.report, last=49))
            measured = audio.read_loudness(words)
        command = audio.encode_command(self.media, spec, self.source, made, self.limits, measured=measured)
        await self._run(command, span, Progress(span.milliseconds, self.report, first=50 if spec.two_pass else 0))
        return await self._checked(spec, made, span)

    async def waveform(self, spec: WaveformVariant) -> AvOutput:
        track = self._sound()
        span = await self._span([track])
        samples = self.directory / "samples"
        command = waveform.samples_command(self.media, self.source, samples, self.limits)
        await self._run(command, span, Progress(span.milliseconds, self.report))
        if _size_of(samples) >= self.limits.max_output_bytes:
            raise self._too_large()
        made = self._output(spec)
        length = spec.normal_form()["length"]
        await waveform.write_peaks(samples, made, length=length, sample_rate=track.sample_rate)
        if waveform.length_of(made) != length:
            raise OutputMissing("the waveform was not written as a whole")
        return AvOutput(made, _size_of(made), spec.content_type, None, None, None)

    async def frame(self, spec: FrameVariant) -> AvOutput:
        track = self._video_track()
        span = await self._span([track])
        made = self._output(spec)
        if spec.preset == "video_thumbnail_strip":
            commands = video.strip_commands(
                self.media, span.milliseconds, self.source, made, self.limits, tone_map=self.tools.converts_colours
            )
            await self._first_that_writes(list(commands), made, span)
        else:
            await self._poster(track, made, span)
        return await self._checked_frame(spec, made)

    def warn_of_colours(self, spec: VariantSpec, name: str) -> None:
        """Log a warning that names the variant, if its colours stay unconverted."""
        track = self.media.video
        if track is None or not isinstance(spec, VideoVariant | FrameVariant):
            return
        if track.colour.needs_conversion and not self.tools.converts_colours:
            log.warning(
                "this ffmpeg lacks zscale or tonemap: the HDR or wide-gamut colours of a variant are not converted",
                extra={"variant_name": name, "preset": spec.preset, "transfer": track.colour.transfer},
            )

    async def _poster(self, track: VideoTrack, made: Path, span: _Span) -> None:
        """Search for a bright frame: key frames of the first minute, all its frames, the rest; else the first frame."""
        length = min(video.POSTER_SCAN_SECONDS, self.limits.max_duration_seconds)
        start = Section(seconds=length)
        seconds = (span.milliseconds or 0) / 1000
        later = [part * seconds for part in video.POSTER_PARTS if part * seconds > length]
        if seconds and not later:
            later = [seconds / 2]
        sections = [replace(start, key_frames=True), start, *map(video.later_section, later)]
        for number, section in enumerate(sections, start=1):
            time = await self._bright_time(track, section)
            self.report(number * 90 // len(sections))
            if time is not None:
                await self._write_poster(made, section, time)
            if _size_of(made):
                return
        await self._write_poster(made, None, 0.0)
        if not _size_of(made):
            raise OutputMissing("no image could be taken from the video")

    async def _bright_time(self, track: VideoTrack, section: Section) -> float | None:
        found = {name: self.directory / name for name in (video.LUMA_FILE, video.SCENE_FILE)}
        for file in found.values():
            _remove(file)
        command = video.search_command(self.media, section, self.source, self.limits)
        try:
            await self._run(command, _Span(None, False), Progress(None, self.report))
        except FfmpegFailed:
            # A section without frames is a failure to newer versions; what was measured before an error counts.
            log.debug("a section of the video could not be searched as a whole")
        luma, scene = (video.measured(file.read_text() if file.is_file() else "") for file in found.values())
        return video.poster_time(luma, scene, track.colour)

    async def _write_poster(self, made: Path, section: Section | None, time: float) -> None:
        _remove(made)
        command = video.poster_command(
            self.media, self.source, made, self.limits, section=section, time=time, tone_map=self.tools.converts_colours
        )
        try:
            await self._run(command, _Span(None, False), Progress(None, self.report))
        except FfmpegFailed:
            if section is None:
                raise

    async def _first_that_writes(self, commands: list[list[str]], made: Path, span: _Span) -> None:
        """Run one command after the other until one writes an image; only the last one's failure counts."""
        for number, command in enumerate(commands, start=1):
            _remove(made)
            first, last = (number - 1) * 99 // len(commands), number * 99 // len(commands)
            self.report(first)
            try:
                await self._run(command, span, Progress(None, self.report, first=first, last=last))
            except FfmpegFailed:
                # A graph that let no frame through is a failure to newer versions and a success to older ones.
                if number == len(commands):
                    raise
            if _size_of(made):
                return
        raise OutputMissing("no image could be taken from the video")

    # --- what the source is --------------------------------------------------------------------------------------

    def _video_track(self) -> VideoTrack:
        track = self.media.video
        if track is None:
            raise OutputTrackMissing("the original has no video track to make the variant from")
        return _decodable(track)

    def _sound(self) -> AudioTrack:
        track = self.media.audio
        if track is None:
            raise MissingAudioTrack("the original has no audio track to make the variant from")
        return _decodable(track)

    async def _span(self, tracks: Sequence[VideoTrack | AudioTrack]) -> _Span:
        """Return how long an output of these tracks is to be; measured where the file only guesses.

        Raises:
            ContentRejected: ``media_too_long``; it would be cut at the limit.
        """
        own = [track.duration_ms for track in tracks if track.duration_ms is not None]
        stated = self.media.duration_ms
        if self.media.duration_is_guessed:
            span = _Span(await self._measured(tracks), certain=True)
            self._note_duration(tracks, span.milliseconds)
        elif len(own) == len(tracks):
            span = _Span(max(own), certain=True)
        elif stated is not None and self.media.stream_count == len(tracks):
            span = _Span(stated, certain=True)
        else:
            # The duration of these tracks is unknown (recorded by a browser), or something else sets the length of the
            # file: good for progress and for spreading frames, but what was encoded is not held to it.
            measured = await self._measured(tracks)
            span = _Span(measured or stated, certain=False)
            if stated is None:
                self._note_duration(tracks, measured)
        if span.milliseconds is not None and span.milliseconds > self.limits.max_duration_seconds * 1000:
            raise ContentRejected(
                "the original is longer than what is transcoded",
                code="media_too_long",
                detail={"limit_seconds": self.limits.max_duration_seconds, "found_ms": span.milliseconds},
            )
        return span

    def _note_duration(self, tracks: Sequence[VideoTrack | AudioTrack], measured_ms: int | None) -> None:
        """Note the duration of the original, if ``tracks`` are all that it has."""
        main = [track for track in (self.media.video, self.media.audio) if track is not None]
        if len(tracks) == len(main):
            self.source_duration_ms = measured_ms

    async def _measured(self, tracks: Sequence[VideoTrack | AudioTrack]) -> int | None:
        """Read the tracks to their end: audio is decoded, which is quick; video frames are only counted."""
        whole = opened(self.source, self.limits, t=self.limits.max_duration_seconds + 1)
        nodes = [whole[str(track.index)] for track in tracks]
        progress = Progress(None, self.report)
        await self._run(written(nodes, None, self.limits, **{"c:v": "copy"}), _Span(None, False), progress)
        return progress.position_ms

    # --- running and checking ------------------------------------------------------------------------------------

    def _output(self, spec: VariantSpec) -> Path:
        return self.directory / f"variant{spec.extension}"

    async def _run(self, command: list[str], span: _Span, progress: Progress) -> bytes:
        limits = self.limits.encoding(span.milliseconds)
        return await run_ffmpeg(self.tools, command, limits, self.directory, progress)

    async def _checked(self, spec: VideoVariant | AudioVariant, made: Path, span: _Span) -> AvOutput:
        """Probe what ffmpeg has written and refuse what is not the variant; ``-fs`` cuts and calls that success."""
        size = self._size(made)
        found = await self._reopened(made)
        if found.kind.value != spec.output_kind.value:
            raise OutputKindMismatch(
                f"the output is {found.kind.value} and not {spec.output_kind.value}",
                detail={"expected": spec.output_kind.value, "found": found.kind.value},
            )
        if self.media.audio is not None and found.audio is None:
            raise OutputTrackMissing("the output has no audio track, the original has one", detail={"track": "audio"})
        if span.certain and span.milliseconds is not None:
            allowed = max(TOLERANCE_MS, span.milliseconds * TOLERANCE_SHARE)
            if found.duration_ms is None or abs(found.duration_ms - span.milliseconds) > allowed:
                raise OutputDurationMismatch(
                    "the output does not last as long as the original",
                    detail={"expected_ms": span.milliseconds, "found_ms": found.duration_ms},
                )
        video = found.video if found.kind is MediaKind.VIDEO else None
        return AvOutput(
            path=made,
            byte_size=size,
            content_type=spec.content_type,
            width=video.width if video else None,
            height=video.height if video else None,
            duration_ms=found.duration_ms,
        )

    async def _checked_frame(self, spec: FrameVariant, made: Path) -> AvOutput:
        size = self._size(made)
        found = await self._reopened(made, image=True)
        if found.video is None:
            raise OutputKindMismatch("the output is not an image", detail={"expected": "image", "found": "audio"})
        return AvOutput(made, size, spec.content_type, found.video.width, found.video.height, None)

    def _size(self, made: Path) -> int:
        size = _size_of(made)
        if size == 0:
            raise OutputMissing("ffmpeg ended well and left no output")
        if size >= self.limits.max_output_bytes:
            raise self._too_large()
        return size

    def _too_large(self) -> OutputTooLarge:
        return OutputTooLarge(
            "the variant is larger than it may be", detail={"limit_bytes": self.limits.max_output_bytes}
        )

    async def _reopened(self, made: Path, *, image: bool = False) -> Media:
        try:
            return await inspect(self.tools, made, self.limits, self.directory, image=image)
        except (ContentRejected, ProbeFailed) as error:
            # This does not reject the original: its variant is broken.
            raise OutputMissing("ffmpeg succeeded, but its output cannot be read") from error


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _decodable(track: Track) -> Track:
    if track.codec is None:
        raise UnsupportedCodec("a track of the original has an encoding that ffmpeg does not know")
    return track


@contextmanager
def _scratch_directory(parent: Path) -> Iterator[Path]:
    """Make a private directory beside the output, on the same file system, and remove it with all it holds."""
    try:
        directory = Path(tempfile.mkdtemp(prefix=".rindle-av-", dir=parent))
    except OSError as error:
        raise disk_error(error, parent, "the scratch directory cannot be written") from error
    try:
        yield directory
    except OSError as error:
        raise disk_error(error, parent, "the scratch directory cannot be used") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# --- before anything is fetched ----------------------------------------------------------------------------------


def check_runtime(spec: VariantSpec, environ: Mapping[str, str] | None = None) -> None:
    """Refuse to transcode video where the platform may freeze or end the process at any time.

    Images, audio and waveforms are quick enough to be allowed.

    Args:
        spec: the recipe that is to be built.
        environ: environment variables; those of this process by default.

    Raises:
        UnsupportedEphemeralRuntime: the recipe is a video and this is AWS Lambda or Vercel.
    """
    if spec.kind != "video":
        return
    runtime = ephemeral_runtime(environ)
    if runtime is not None:
        raise UnsupportedEphemeralRuntime(
            f"video is not transcoded on {runtime}; run a worker on a machine of its own", detail={"runtime": runtime}
        )


def check_headroom(directory: Path, limits: AvLimits, source_bytes: int) -> None:
    """Refuse to begin a build on a disk that its source and output could fill.

    Args:
        directory: where the build will work; need not exist yet.
        limits: ``max_output_bytes`` is needed twice: for the draft and for what ffmpeg rewrites of it.
        source_bytes: size of the original, which is fetched to the same disk.

    Raises:
        InsufficientDiskHeadroom: with ``free_bytes`` and ``required_bytes``; another worker may have room.
    """
    required = 2 * limits.max_output_bytes + source_bytes
    if free_bytes(directory) < required:
        raise no_room(directory, required)
