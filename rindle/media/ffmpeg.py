"""ffmpeg and ffprobe: where they are, what they may open and use, how a command becomes an error of ours or a file.

The command lines themselves are made in :mod:`rindle.media.video`, :mod:`rindle.media.audio` and
:mod:`rindle.media.waveform`. Every input goes through :func:`opened`, every command through :func:`compiled`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rindle.errors import (
    FfmpegFailed,
    FfmpegNotFound,
    InsufficientDiskHeadroom,
    OutputTooLarge,
    ProcessorCapabilityMissing,
    ProcessTimeout,
    RindleError,
    UnsafeCommand,
    UnsupportedCodec,
)
from rindle.extras import install_command
from rindle.media.av_colour import CONVERSION_FILTERS
from rindle.media.child_process import CANNOT_RUN, ChildLimits, Ended, run_child
from rindle.media.codecs import CODEC_WHITELIST, refused_codec
from rindle.process import usable_cores
from rindle.settings import PIXEL_CEILING

if TYPE_CHECKING:
    from rindle.settings import Settings

log = logging.getLogger(__name__)

#: First ffmpeg with ``-fps_mode``; its older spelling is gone from the newest.
FFMPEG_FLOOR: Final = (5, 1)
#: What a file may refer to: itself. No sockets, no pipes, no ``data:``, ``subfile:`` or ``concat:``.
PROTOCOL_WHITELIST: Final = "file"
#: Containers that are opened. Without it a playlist named ``.mp4`` is opened as HLS and reads files of the host.
FORMAT_WHITELIST: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,wav,ogg,flac,aac,mpegts,avi"
#: Options of every run, before the first input.
GLOBAL_OPTIONS: Final = ("-hide_banner", "-nostdin", "-v", "error", "-y", "-nostats", "-progress", "pipe:1")
#: Room between the size at which ffmpeg stops (``-fs``) and the one at which the kernel stops it: the index of an MP4
#: is written after the last packet.
_INDEX_BYTES = 64 << 20
#: Threads that ffmpeg is left to choose by itself: more would not fit into the address space.
_MAX_FREE_THREADS = 16
#: ffmpeg's exit status after a signal stopped it (``ffmpeg.c``, ``exit_program``).
_STOPPED_BY_SIGNAL = 255
_NEEDED_ENCODERS: Final = {
    "video_transcode": {"libx264", "aac"},
    "video_frame_extract": {"mjpeg"},
    "video_thumbnail_strip": {"mjpeg"},
    "audio_transcode": {"aac", "libmp3lame"},
    "audio_normalize": {"aac", "libmp3lame"},
    "audio_waveform": {"pcm_f32le"},
}
_VERSION = re.compile(r"version n?(\d+)\.(\d+)(\S*)")
_ENCODER = re.compile(r"^ [VAS][A-Z.]{5} (\S+)", re.MULTILINE)
_FILTER = re.compile(r"^ [A-Z.]{2,3} (\S+) +\S+->", re.MULTILINE)
_SHELL_CHARACTERS = frozenset(";&|`$<>")
_REFUSED_SUFFIXES = (".m3u8", ".mpd", ".mkv")
_REFUSED_FORMATS = frozenset({"hls", "dash", "matroska"})
_GRAPH_OPTIONS = frozenset({"-filter_complex", "-vf", "-af", "-filter:v", "-filter:a"})
_ABSOLUTE_PATH = re.compile(r"(?:file:)?/[^\s:'\"]+")
_MAX_REASON_CHARS = 200


# --- the programs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FfmpegTools:
    """The two programs of this machine; looking for them never fails, using them may.

    Attributes:
        ffmpeg: absolute path.
        ffprobe: absolute path.
        version: of ffmpeg, such as ``5.1.9``; ``n7.1`` becomes ``7.1``. Empty when it cannot be used.
        ffprobe_version: likewise.
        encoders: names of what ffmpeg can write.
        filters: names of its filters.
        problem: why they cannot be used, or ``None``.
    """

    ffmpeg: Path
    ffprobe: Path
    version: str = ""
    ffprobe_version: str = ""
    encoders: frozenset[str] = field(default=frozenset(), repr=False)
    filters: frozenset[str] = field(default=frozenset(), repr=False)
    problem: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> FfmpegTools:
        """Return the programs that the settings name, else those on ``PATH``. It runs usable ones once per process."""
        return cls.find(settings.ffmpeg_path, settings.ffprobe_path)

    @classmethod
    def find(cls, ffmpeg: Path | None = None, ffprobe: Path | None = None) -> FfmpegTools:
        """Return the programs named, else those on ``PATH``; blocks for a tenth of a second the first time."""
        paths = [
            Path(shutil.which(named or name) or named or name)
            for name, named in (("ffmpeg", ffmpeg), ("ffprobe", ffprobe))
        ]
        return _asked(*(path.absolute() if path.exists() else path for path in paths))

    async def usable(self) -> FfmpegTools:
        """Return these tools, or what is found now when they had a problem: ffmpeg may have been installed since.

        Raises:
            FfmpegNotFound: one of them is missing or older than 5.1, or the extra ``av`` is not installed.
        """
        if self.problem is None:
            return self
        found = await asyncio.get_running_loop().run_in_executor(_threads, self.find, self.ffmpeg, self.ffprobe)
        return found.require()

    def require(self) -> FfmpegTools:
        """Return these tools when they can be used; raises as :meth:`usable` does."""
        if self.problem is not None:
            raise FfmpegNotFound(self.problem, action=f"install ffmpeg 5.1 or newer, and run: {install_command('av')}")
        return self

    @property
    def capabilities(self) -> frozenset[str]:
        """What can be built, by the encoders there are; everything while ffmpeg is missing, which is another error."""
        if self.problem is not None:
            return frozenset(_NEEDED_ENCODERS)
        return frozenset(name for name, needed in _NEEDED_ENCODERS.items() if needed <= self.encoders)

    @property
    def converts_colours(self) -> bool:
        """Whether HDR is tone mapped and wide gamut converted."""
        return self.filters >= CONVERSION_FILTERS


#: Usable programs by their paths. A failure is not kept: a program may be installed, or a busy machine become quiet.
_found: dict[tuple[Path, Path], FfmpegTools] = {}
#: One thread: on a machine without ffmpeg every build looks for it.
_threads = ThreadPoolExecutor(1, thread_name_prefix="rindle-ffmpeg")


def _asked(ffmpeg: Path, ffprobe: Path) -> FfmpegTools:
    known = _found.get((ffmpeg, ffprobe))
    if known is None:
        known = _ask_both(ffmpeg, ffprobe)
        if known.problem is None:
            _found[ffmpeg, ffprobe] = known
    return known


def _ask_both(ffmpeg: Path, ffprobe: Path) -> FfmpegTools:
    if importlib.util.find_spec("ffmpeg") is None:
        problem = f"the package ffmpeg-python is not installed ({install_command('av')})"
        return FfmpegTools(ffmpeg, ffprobe, problem=problem)
    questions: tuple[list[Path | str], ...] = (
        [ffmpeg, "-version"],
        [ffprobe, "-version"],
        [ffmpeg, "-v", "error", "-encoders"],
        [ffmpeg, "-v", "error", "-filters"],
    )
    with contextlib.ExitStack() as stack:
        started: list[subprocess.Popen[str]] = []
        try:
            started.extend(stack.enter_context(_ask(question)) for question in questions)
            outputs = [process.communicate(timeout=30)[0] for process in started]
        except (OSError, subprocess.TimeoutExpired):
            for process in started:
                process.kill()
            return FfmpegTools(ffmpeg, ffprobe, problem="ffmpeg or ffprobe cannot be run on this machine")
    versions: list[str] = []
    for name, text in zip(("ffmpeg", "ffprobe"), outputs, strict=False):
        found = _VERSION.search(text)
        # A build of a development branch names a commit ("N-109-gabc") and is newer than any floor.
        if found is not None and (int(found[1]), int(found[2])) < FFMPEG_FLOOR:
            return FfmpegTools(ffmpeg, ffprobe, problem=f"{name} {found[1]}.{found[2]} is too old, 5.1 is needed")
        if found is None and " version " not in text:
            return FfmpegTools(ffmpeg, ffprobe, problem=f"{name} does not report its version")
        versions.append("".join((f"{found[1]}.{found[2]}", found[3])) if found else "development")
    encoders, filters = frozenset(_ENCODER.findall(outputs[2])), frozenset(_FILTER.findall(outputs[3]))
    return FfmpegTools(ffmpeg, ffprobe, versions[0], versions[1], encoders=encoders, filters=filters)


def _ask(question: Sequence[Path | str]) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - a program the operator installed or named
        question, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


# --- limits ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AvLimits:
    """What one run of ffmpeg or ffprobe may take.

    Attributes:
        max_duration_seconds: of the input (``-t``); what is longer is refused, not cut.
        max_output_bytes: size at which encoding stops (``-fs``); an output that reached it is refused.
        memory_bytes: address space. x264's threads do not start in much less than a gigabyte.
        wall_floor_seconds: shortest wall limit; the limit is four times the duration and two minutes.
        wall_ceiling_seconds: longest wall limit, and the one where the duration is unknown.
        stall_seconds: longest time without a word from ffmpeg, which reports twice a second while it works.
        probe_seconds: wall limit of ffprobe.
        nice: added to the worker's niceness.
        threads: threads per codec; ``None`` lets ffmpeg choose.
    """

    max_duration_seconds: int = 7_200
    max_output_bytes: int = 500_000_000
    memory_bytes: int = 4 << 30
    wall_floor_seconds: float = 600
    wall_ceiling_seconds: float = 14_400
    stall_seconds: float = 120
    probe_seconds: float = 60
    nice: int = 10
    threads: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> AvLimits:
        """Return the limits that the settings name."""
        return cls(
            max_duration_seconds=settings.av_max_duration_seconds,
            max_output_bytes=settings.av_max_output_bytes,
            memory_bytes=settings.av_memory_bytes,
            wall_floor_seconds=settings.av_wall_floor_seconds,
            wall_ceiling_seconds=settings.av_wall_ceiling_seconds,
            stall_seconds=settings.av_stall_seconds,
            probe_seconds=settings.av_probe_seconds,
            nice=settings.av_nice,
            threads=settings.av_threads,
        )

    def wall_seconds(self, duration_ms: int | None) -> float:
        """Return the wall limit of one run over media that lasts so long."""
        if duration_ms is None:
            return self.wall_ceiling_seconds
        return min(max(4 * duration_ms / 1000 + 120, self.wall_floor_seconds), self.wall_ceiling_seconds)

    @property
    def thread_options(self) -> dict[str, int]:
        """``-threads`` for inputs and outputs, where it is not ffmpeg's own choice."""
        if self.threads is None and usable_cores() <= _MAX_FREE_THREADS:
            return {}
        return {"threads": self.threads or _MAX_FREE_THREADS}

    def encoding(self, duration_ms: int | None) -> ChildLimits:
        """Return the limits of ffmpeg; the CPU may be busy with all threads for all of the wall time."""
        wall = self.wall_seconds(duration_ms)
        return ChildLimits(
            wall_seconds=wall,
            stall_seconds=self.stall_seconds,
            cpu_seconds=int(wall * min(self.threads or _MAX_FREE_THREADS, usable_cores())) + 1,
            memory_bytes=self.memory_bytes,
            file_bytes=self.max_output_bytes + _INDEX_BYTES,
            nice=self.nice,
        )

    def probing(self) -> ChildLimits:
        """Return the limits of ffprobe, which reads headers and writes no file."""
        wall = self.probe_seconds
        return ChildLimits(wall, wall, int(wall * usable_cores()) + 1, self.memory_bytes, 1 << 20, self.nice)


# --- command lines -----------------------------------------------------------------------------------------------


def confinement() -> dict[str, str]:
    """Return the input options without which nothing is opened, by ffmpeg and ffprobe alike.

    The pixel limit is the decoder's own: the size in a header may be small and that of a later frame enormous.

    Source: FFmpeg "Format Options" (``protocol_whitelist``, ``format_whitelist``) and "Codec Options"
    (``codec_whitelist``, ``max_pixels``).
    """
    return {
        "protocol_whitelist": PROTOCOL_WHITELIST,
        "format_whitelist": FORMAT_WHITELIST,
        "codec_whitelist": CODEC_WHITELIST,
        "max_pixels": str(PIXEL_CEILING),
    }


def as_input(path: Path) -> str:
    """Return the one spelling of a path that ffmpeg takes for nothing else, whatever its name is."""
    return f"file:{path.absolute()}"


def opened(path: Path, limits: AvLimits, **options: Any) -> Any:
    """Return ffmpeg-python's node of an input: confined, at most ``max_duration_seconds`` of it."""
    import ffmpeg  # an extra, and needed by no process that only imports the worker's parts

    return ffmpeg.input(
        as_input(path), **confinement(), **{"t": limits.max_duration_seconds, **limits.thread_options, **options}
    )


def written(nodes: Sequence[Any], path: Path | None, limits: AvLimits, **options: Any) -> list[str]:
    """Return the arguments, without the program, of a command that writes ``nodes`` to ``path``.

    A path of ``None`` decodes and writes nothing. An option whose value is ``None`` is a bare flag.

    Raises:
        UnsafeCommand: see :func:`validate_argv`.
    """
    import ffmpeg

    if path is None:
        target, options["f"] = "-", "null"
    else:
        target, options["fs"] = as_input(path), limits.max_output_bytes
        options |= limits.thread_options
    node = ffmpeg.output(*nodes, target, **options)
    return compiled(node)


def compiled(node: Any) -> list[str]:
    """Return the checked arguments of a graph of ffmpeg-python, global options first."""
    arguments = [*GLOBAL_OPTIONS, *node.compile()[1:]]
    validate_argv(arguments)
    return arguments


def validate_argv(arguments: Sequence[str]) -> None:
    """Refuse a command line that is not confined. Ours never are refused; this stands against a later mistake.

    Raises:
        UnsafeCommand: ``missing_protocol_whitelist`` (an input without it, or without the format or codec whitelist),
            ``unsupported_ingest_format`` (an input that is a playlist or names its container), ``invalid_format``
            (NUL, newline or a shell's character in a value that is no filter graph).
    """
    since_input: dict[str, str] = {}
    for number, argument in enumerate(arguments):
        before = arguments[number - 1] if number else ""
        if before == "-i":
            _validate_input(argument, since_input)
            since_input = {}
        elif argument.startswith("-") and number + 1 < len(arguments):
            since_input[argument] = arguments[number + 1]
        if before not in _GRAPH_OPTIONS and (
            _SHELL_CHARACTERS & set(argument) or any(character in argument for character in "\0\n\r")
        ):
            raise UnsafeCommand("a value of the command line holds a character it must not", code="invalid_format")


def _validate_input(name: str, options: dict[str, str]) -> None:
    for required in ("-protocol_whitelist", "-format_whitelist", "-codec_whitelist"):
        if not options.get(required):
            raise UnsafeCommand(f"an input has no {required[1:]}", code="missing_protocol_whitelist")
    if name.lower().endswith(_REFUSED_SUFFIXES) or options.get("-f") in _REFUSED_FORMATS:
        raise UnsafeCommand("an input is a playlist or names its container", code="unsupported_ingest_format")


# --- running -----------------------------------------------------------------------------------------------------


class Progress:
    """Reads ``-progress pipe:1`` and computes the progress of a run.

    Args:
        duration_ms: of the output; ``None`` when unknown, then only the end position is kept.
        report: called with whole percent from ``first`` to ``last``, each higher than the one before.
        first: percent at the start of this run.
        last: percent that this run never exceeds.

    Source: FFmpeg "Main options", ``-progress``; ``out_time_us`` is ``N/A`` until a frame is written.
    """

    def __init__(
        self, duration_ms: int | None, report: Callable[[int], None], *, first: int = 0, last: int = 99
    ) -> None:
        self._duration_ms = duration_ms
        self._report = report
        self._first, self._last = first, last
        self._told = first - 1
        self._rest = b""
        #: End of what was written so far, in milliseconds.
        self.position_ms: int | None = None

    def feed(self, data: bytes) -> None:
        """Take in what ffmpeg wrote to stdout."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        # A line is a key and a short value; what is longer is not ffmpeg's.
        self._rest = self._rest[-256:]
        for line in lines:
            key, _, value = line.strip().partition(b"=")
            if key == b"out_time_us" and value.lstrip(b"-").isdigit():
                self.position_ms = max(int(value) // 1000, self.position_ms or 0)
        if self.position_ms is None or not self._duration_ms:
            return
        span = self._last - self._first + 1
        percent = min(self._first + self.position_ms * span // self._duration_ms, self._last)
        if percent > self._told:
            self._told = percent
            self._report(percent)


async def run_ffmpeg(
    tools: FfmpegTools, arguments: Sequence[str], limits: ChildLimits, directory: Path, progress: Progress | None = None
) -> bytes:
    """Run ffmpeg to a good end and return the last 64 KiB of its stderr.

    Args:
        tools: usable programs.
        arguments: what :func:`written` returned.
        limits: what the run may take.
        directory: run directory.
        progress: fed with ffmpeg's reports.

    Raises:
        ProcessTimeout: the wall, stall or CPU limit was reached; not retryable for the CPU limit.
        FfmpegFailed: ffmpeg reported an error, or a signal killed it (``detail["signal"]``).
        FfmpegNotFound: the program is gone.
        UnsupportedCodec: it has no decoder for a track, or may not open it.
        ProcessorCapabilityMissing: it has no encoder for the output.
        OutputTooLarge: the kernel ended it for the size of its file.
        InsufficientDiskHeadroom: the disk is full.
    """
    feed = (lambda data: None) if progress is None else progress.feed
    ended = await _run([str(tools.ffmpeg), *arguments], limits, directory, feed)
    if ended.status == 0 and not ended.timed_out:
        return ended.last_words
    error = _failure(ended, limits, directory)
    log.warning("ffmpeg failed", extra={"code": error.code, "status": ended.status, **error.detail})
    raise error


async def run_ffprobe(
    tools: FfmpegTools,
    arguments: Sequence[str],
    limits: ChildLimits,
    directory: Path,
    on_output: Callable[[bytes], None],
) -> Ended:
    """Run ffprobe; only failures that the file cannot cause are raised.

    Raises:
        ProcessTimeout: the limit of a probe was reached.
        FfmpegNotFound: the program is gone.
        FfmpegFailed: a signal killed it.
    """
    ended = await _run([str(tools.ffprobe), *arguments], limits, directory, on_output)
    if ended.timed_out or ended.status < 0 or ended.status == CANNOT_RUN:
        raise _failure(ended, limits, directory)
    return ended


async def _run(
    command: Sequence[str], limits: ChildLimits, directory: Path, on_output: Callable[[bytes], None]
) -> Ended:
    try:
        return await run_child(command, limits, directory, on_output=on_output)
    except OSError as error:
        raise disk_error(error, directory, "the process cannot be started") from error


def _failure(ended: Ended, limits: ChildLimits, directory: Path) -> RindleError:
    """Return the error for a failed run."""
    signalled = ended.status < 0 or ended.status == _STOPPED_BY_SIGNAL
    # ffmpeg catches SIGXCPU and ends like after any other signal; the CPU time distinguishes the two.
    if ended.status == -signal.SIGXCPU or (signalled and ended.cpu_seconds >= limits.cpu_seconds):
        return ProcessTimeout(
            "the build used up its CPU time and was ended",
            detail={"part": "cpu_seconds", "limit": limits.cpu_seconds},
            retryable=False,
        )
    if ended.timed_out:
        return ProcessTimeout(
            "the build took longer than its limit and was ended",
            detail={"wall_seconds": limits.wall_seconds, "stall_seconds": limits.stall_seconds},
        )
    if ended.status == CANNOT_RUN:
        return FfmpegNotFound("ffmpeg or ffprobe is not there any more")
    if ended.status == -signal.SIGXFSZ:
        return OutputTooLarge(
            "the variant is larger than it may be", detail={"limit": limits.file_bytes - _INDEX_BYTES}
        )
    if signalled:
        name = signal.Signals(-ended.status).name if ended.status < 0 else "unknown"
        return FfmpegFailed("ffmpeg was killed by a signal", detail={"signal": name})
    words = ended.last_words.decode(errors="replace")
    if os.strerror(errno.ENOSPC) in words:
        return no_room(directory)
    if (codec := refused_codec(ended.last_words)) is not None:
        return UnsupportedCodec("a track of the original uses a codec that is not decoded", detail={"codec": codec})
    if "no decoder found" in words or re.search(r"Decoder \([^)]*\) not found", words):
        return UnsupportedCodec("ffmpeg has no decoder for a track of the original")
    if "Unknown encoder" in words or "Unrecognized option 'fps_mode'" in words:
        return ProcessorCapabilityMissing("this ffmpeg cannot write the output of the recipe")
    return FfmpegFailed(
        "ffmpeg could not make the variant", detail={"status": ended.status, "reason": _redacted(words)}
    )


def disk_error(error: OSError, directory: Path, what: str) -> RindleError:
    """Return the error for a failure of the operating system around a run; always retryable."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_room(directory)
    return FfmpegFailed(what, detail={"errno": error.errno})


def no_room(directory: Path, required_bytes: int | None = None) -> InsufficientDiskHeadroom:
    """Return the error for a disk that is too full, with what is free on it."""
    facts = {"free_bytes": free_bytes(directory)}
    return InsufficientDiskHeadroom(
        "the scratch disk has too little room for this build",
        detail=facts if required_bytes is None else {**facts, "required_bytes": required_bytes},
    )


def free_bytes(directory: Path) -> int:
    """Return what is free for us on the file system that holds, or will hold, ``directory``."""
    place = next((path for path in (directory, *directory.absolute().parents) if path.exists()), Path("/"))
    return shutil.disk_usage(place).free


def _redacted(words: str) -> str:
    """Return the last line of ffmpeg's complaints without paths and control characters."""
    lines = [line for line in words.splitlines() if line.strip()]
    line = _ABSOLUTE_PATH.sub("<path>", lines[-1]) if lines else ""
    return "".join(character for character in line if character.isprintable())[:_MAX_REASON_CHARS]
