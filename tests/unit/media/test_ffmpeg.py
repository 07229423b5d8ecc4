"""What holds for every command line of ffmpeg: its confinement, its limits, and the progress read from it."""

from __future__ import annotations

import os

import pytest

from rindle.errors import UnsafeCommand
from rindle.media import audio, video, waveform
from rindle.media.codecs import CODEC_WHITELIST
from rindle.media.ffmpeg import FORMAT_WHITELIST, AvLimits, Progress, validate_argv
from rindle.recipes import AudioVariant, VideoVariant
from tests.unit.media.sources import DEST, LIMITS, PLAIN, SOURCE, media, option, picture

# --- confinement -------------------------------------------------------------------------------------------------


def every_command() -> list[list[str]]:
    """Return each kind of command line there is."""
    source = media(picture(1920, 1080))
    return [
        video.transcode_command(source, VideoVariant("web_720p"), SOURCE, DEST, LIMITS),
        video.transcode_command(source, VideoVariant("web_480p", frame="pad"), SOURCE, DEST, LIMITS),
        video.search_command(source, video.Section(key_frames=True), SOURCE, LIMITS),
        video.search_command(source, video.later_section(30), SOURCE, LIMITS),
        video.poster_command(source, SOURCE, DEST, LIMITS, section=video.later_section(30)),
        video.poster_command(source, SOURCE, DEST, LIMITS),
        *video.strip_commands(source, 20_000, SOURCE, DEST, LIMITS),
        *video.strip_commands(source, None, SOURCE, DEST, LIMITS),
        audio.encode_command(source, AudioVariant("m4a_128k"), SOURCE, DEST, LIMITS),
        audio.measure_command(source, SOURCE, LIMITS),
        waveform.samples_command(source, SOURCE, DEST, LIMITS),
    ]


def test_every_input_of_every_command_is_confined() -> None:
    for command in every_command():
        validate_argv(command)
        inputs = command.count("-i")
        assert inputs >= 1
        assert command.count("-protocol_whitelist") == command.count("-format_whitelist") == inputs
        assert command.count(FORMAT_WHITELIST) == command.count(CODEC_WHITELIST) == inputs
        assert option(command[: command.index("-i")], "-t") in ("7200", "60", "2")


@pytest.mark.parametrize("lost", ["-protocol_whitelist", "-format_whitelist", "-codec_whitelist"])
def test_a_command_whose_second_input_is_not_confined_is_refused(lost: str) -> None:
    command = every_command()[5]
    strip = next(iter(video.strip_commands(media(picture(640, 360)), 20_000, SOURCE, DEST, LIMITS)))
    for whole in (command, strip):
        last = len(whole) - 1 - whole[::-1].index(lost)
        with pytest.raises(UnsafeCommand) as refused:
            validate_argv([*whole[:last], *whole[last + 2 :]])
        assert refused.value.code == "missing_protocol_whitelist"


CONFINED = ["-protocol_whitelist", "file", "-format_whitelist", "mp4", "-codec_whitelist", "h264"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([*CONFINED, "-i", "file:/x/list.m3u8"], "unsupported_ingest_format"),
        ([*CONFINED, "-i", "file:/x/list.MPD"], "unsupported_ingest_format"),
        ([*CONFINED, "-i", "file:/x/film.mkv"], "unsupported_ingest_format"),
        ([*CONFINED, "-f", "hls", "-i", "file:/x/source"], "unsupported_ingest_format"),
        ([*CONFINED, "-f", "dash", "-i", "file:/x/source"], "unsupported_ingest_format"),
        ([*CONFINED, "-f", "matroska", "-i", "file:/x/source"], "unsupported_ingest_format"),
        ([*CONFINED, "-i", "file:/x/source\0"], "invalid_format"),
        ([*CONFINED, "-i", "file:/x/so\nurce"], "invalid_format"),
        *[([*CONFINED, "-i", "file:/x/source", f"a{sign}b"], "invalid_format") for sign in ";&|`$<>"],
    ],
)
def test_what_a_command_line_must_not_hold(arguments: list[str], code: str) -> None:
    with pytest.raises(UnsafeCommand) as refused:
        validate_argv(arguments)

    assert refused.value.code == code


def test_a_filter_graph_may_hold_what_a_shell_would_take_for_its_own() -> None:
    validate_argv([*CONFINED, "-i", "file:/x/source", "-filter_complex", "[0]scale=1:2;[0]null", "file:/x/out.mp4"])


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration_ms", "wall"),
    [(0, 600), (1_000, 600), (120_000, 600), (720_000, 3_000), (7_200_000, 14_400), (None, 14_400)],
)
def test_the_wall_limit_grows_with_the_media(duration_ms: int | None, wall: float) -> None:
    assert PLAIN.wall_seconds(duration_ms) == wall


def test_the_processor_may_be_busy_with_all_threads_for_all_of_the_wall_time() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = AvLimits(threads=1).encoding(1_000)

    assert limits.cpu_seconds == 601
    assert PLAIN.encoding(1_000).cpu_seconds == 600 * min(cores, 16) + 1
    assert limits.file_bytes > 500_000_000
    assert (limits.memory_bytes, limits.nice) == (4 << 30, 10)


# --- progress ----------------------------------------------------------------------------------------------------


def test_progress_rises_and_never_reaches_a_hundred() -> None:
    told: list[int] = []
    progress = Progress(10_000, told.append)
    progress.feed(b"frame=1\nout_time_us=N/A\nout_time_us=-7\nout_ti")
    progress.feed(b"me_us=1000000\nprogress=continue\nout_time_us=5000000\nout_time_us=4000000\n")
    progress.feed(b"out_time_us=5000001\nout_time_us=99000000\nprogress=end\n")

    assert told == [0, 50, 99]
    assert progress.position_ms == 99_000


@pytest.mark.parametrize(("first", "last", "told"), [(0, 49, [0, 25, 49]), (50, 99, [50, 75, 99])])
def test_two_passes_share_the_scale(first: int, last: int, told: list[int]) -> None:
    seen: list[int] = []
    progress = Progress(10_000, seen.append, first=first, last=last)
    for position in (0, 5_000_000, 10_000_000):
        progress.feed(b"out_time_us=%d\n" % position)

    assert seen == told


def test_without_a_duration_only_the_position_is_known() -> None:
    told: list[int] = []
    progress = Progress(None, told.append)
    progress.feed(b"out_time_us=2500000\n")
    progress.feed(b"x" * 1_000_000)

    assert told == []
    assert progress.position_ms == 2_500
