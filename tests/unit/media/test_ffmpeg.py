"""Command lines: exact where the recipe is exact, confined always; and what is read from what ffmpeg says."""

from __future__ import annotations

import array
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import (
    FfmpegFailed,
    InsufficientDiskHeadroom,
    RindleError,
    UnsafeCommand,
    UnsupportedEphemeralRuntime,
)
from rindle.media import audio, video, waveform
from rindle.media.av_probe import AudioTrack, Media, VideoTrack
from rindle.media.av_processor import check_headroom, check_runtime
from rindle.media.ffmpeg import FORMAT_WHITELIST, AvLimits, Progress, validate_argv
from rindle.recipes import AudioVariant, FrameVariant, ImageVariant, VideoVariant, WaveformVariant

SOURCE, DEST = Path("/run/build/source"), Path("/run/build/variant.mp4")
LIMITS = AvLimits(threads=2)
PLAIN = AvLimits()
SOUND = AudioTrack(index=1, codec="aac", sample_rate=48_000, channels=2, duration_ms=20_000)


def picture(width: int, height: int, **facts: Any) -> VideoTrack:
    """Return a track of square pixels, upright unless told otherwise."""
    given = {"square_width": width, "square_height": height, "has_square_samples": True, "tagged_rotation": 0, **facts}
    return VideoTrack(index=2, codec="h264", width=width, height=height, duration_ms=20_000, **given)


def media(track: VideoTrack | None = None, sound: AudioTrack | None = SOUND) -> Media:
    """Return a source of twenty seconds."""
    return Media(frozenset({"mp4"}), 20_000, 2, track, sound, {})


def option(arguments: list[str], name: str) -> str:
    """Return the value of an option that stands there once."""
    assert arguments.count(name) == 1
    return arguments[arguments.index(name) + 1]


# --- transcodes --------------------------------------------------------------------------------------------------


def test_web_720p_is_this_command() -> None:
    command = video.transcode_command(media(picture(1920, 1080)), VideoVariant("web_720p"), SOURCE, DEST, PLAIN)

    given, output = command[: command.index("-i") + 2], command[command.index("-i") + 2 :]
    assert given[:8] == ["-hide_banner", "-nostdin", "-v", "error", "-y", "-nostats", "-progress", "pipe:1"]
    assert option(given, "-protocol_whitelist") == "file,crypto,data"
    assert option(given, "-format_whitelist") == (
        "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,wav,ogg,flac,aac,mpegts,avi"
    )
    assert option(given, "-t") == "7200"
    assert given[-1] == "file:/run/build/source"
    graph = "[0:2]scale=1280:720:force_divisible_by=2:force_original_aspect_ratio=decrease[s0];[s0]setsar=1[s1]"
    assert output[:6] == ["-filter_complex", graph, "-map", "[s1]", "-map", "0:1?"]
    assert output[-1] == "file:/run/build/variant.mp4"
    told = {
        "-c:v": "libx264",
        "-pix_fmt": "yuv420p",
        "-crf": "23",
        "-maxrate": "2500k",
        "-bufsize": "5000k",
        "-c:a": "aac",
        "-b:a": "128k",
        "-movflags": "+faststart",
        "-map_metadata": "-1",
        "-map_chapters": "-1",
        "-fs": "500000000",
    }
    assert {name: option(output, name) for name in told} == told
    assert {"-sn", "-dn"} <= set(output)
    known = {*told, *told.values(), *output[:6], "-sn", "-dn", output[-1]}
    assert not set(output) - known - {"-threads", "16"}  # only a machine of more than 16 cores limits the threads


def test_a_slow_network_gets_a_slow_stream() -> None:
    command = video.transcode_command(media(picture(1920, 1080)), VideoVariant("web_480p"), SOURCE, DEST, LIMITS)

    assert (option(command, "-maxrate"), option(command, "-bufsize")) == ("1200k", "2400k")
    assert "scale=854:480" in option(command, "-filter_complex")


@pytest.mark.parametrize(
    ("size", "frame", "graph"),
    [
        ((1080, 1920), "fit", "scale=720:1280:"),  # portrait stays portrait
        ((640, 360), "fit", "scale=640:360:"),  # never enlarged
        ((3840, 200), "fit", "scale=1280:200:"),
        ((640, 360), "pad", "scale=1280:720:"),  # exactly the box
        ((1080, 1920), "pad", "scale=1280:720:"),  # which is never turned
    ],
)
def test_the_box(size: tuple[int, int], frame: str, graph: str) -> None:
    spec = VideoVariant("web_720p", frame=frame)
    made = option(video.transcode_command(media(picture(*size)), spec, SOURCE, DEST, LIMITS), "-filter_complex")

    assert graph in made
    assert ("pad=1280:720:(ow-iw)/2:(oh-ih)/2:black" in made) == (frame == "pad")
    assert made.endswith("setsar=1[s2]" if frame == "pad" else "setsar=1[s1]")


def test_wide_pixels_are_made_square_and_a_tag_turns_the_picture() -> None:
    track = picture(288, 524, square_width=524, square_height=288, has_square_samples=False, tagged_rotation=90)
    graph = option(
        video.transcode_command(media(track), VideoVariant("web_720p"), SOURCE, DEST, LIMITS), "-filter_complex"
    )

    assert graph.startswith("[0:2]transpose=clock[s0];[s0]scale=288:524[s1];")


def test_silent_video_maps_no_sound() -> None:
    command = video.transcode_command(
        media(picture(640, 360), None), VideoVariant("web_720p", faststart=False), SOURCE, DEST, LIMITS
    )

    assert command.count("-map") == 1
    assert "-movflags" not in command


# --- sound -------------------------------------------------------------------------------------------------------


def test_sound_is_mapped_by_its_number_and_nothing_else_is() -> None:
    command = audio.encode_command(media(), AudioVariant("mp3_128k", channels=1), SOURCE, DEST, LIMITS)

    assert option(command, "-map") == "0:1"
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


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{}",
        b"} {",
        b'{"input_i": "-1", "input_tp": "-1", "input_lra": "1", "input_thresh": "-9"}',
        b'{"input_i": "-inf", "input_tp": "-1", "input_lra": "1", "input_thresh": "-9", "target_offset": "0"}',
        b'{"input_i": [], "input_tp": "-1", "input_lra": "1", "input_thresh": "-9", "target_offset": "0"}',
    ],
)
def test_a_measurement_that_is_missing_or_not_finite_fails(said: bytes) -> None:
    with pytest.raises(FfmpegFailed):
        audio.read_loudness(said)


# --- confinement -------------------------------------------------------------------------------------------------


def every_command() -> list[list[str]]:
    """Return each kind of command line there is."""
    source = media(picture(1920, 1080))
    return [
        video.transcode_command(source, VideoVariant("web_720p"), SOURCE, DEST, LIMITS),
        video.transcode_command(source, VideoVariant("web_480p", frame="pad"), SOURCE, DEST, LIMITS),
        *video.poster_commands(source, SOURCE, DEST, LIMITS),
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
        assert command.count(FORMAT_WHITELIST) == inputs
        assert option(command[: command.index("-i")], "-t") in ("7200", "60")


@pytest.mark.parametrize("lost", ["-protocol_whitelist", "-format_whitelist"])
def test_a_command_whose_second_input_is_not_confined_is_refused(lost: str) -> None:
    command = every_command()[5]
    strip = next(iter(video.strip_commands(media(picture(640, 360)), 20_000, SOURCE, DEST, LIMITS)))
    for whole in (command, strip):
        last = len(whole) - 1 - whole[::-1].index(lost)
        with pytest.raises(UnsafeCommand) as refused:
            validate_argv([*whole[:last], *whole[last + 2 :]])
        assert refused.value.code == "missing_protocol_whitelist"


CONFINED = ["-protocol_whitelist", "file", "-format_whitelist", "mp4"]


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


def test_video_is_refused_where_the_process_may_be_frozen() -> None:
    for variable in ("LAMBDA_TASK_ROOT", "AWS_LAMBDA_FUNCTION_NAME", "VERCEL", "VERCEL_ENV", "NOW_REGION"):
        with pytest.raises(UnsupportedEphemeralRuntime):
            check_runtime(VideoVariant("web_720p"), {variable: "1"})
        check_runtime(VideoVariant("web_720p"), {variable: ""})
        for spec in (
            ImageVariant("fit", width=9),
            FrameVariant("video_poster_scene"),
            AudioVariant("m4a_128k"),
            WaveformVariant(),
        ):
            check_runtime(spec, {variable: "1"})


def test_a_full_disk_is_seen_before_the_download(tmp_path: Path) -> None:
    check_headroom(tmp_path / "not" / "yet", AvLimits(max_output_bytes=1), 1)
    with pytest.raises(InsufficientDiskHeadroom) as refused:
        check_headroom(tmp_path / "not" / "yet", AvLimits(max_output_bytes=1 << 60), 7)

    assert refused.value.retryable
    assert refused.value.detail["required_bytes"] == (2 << 60) + 7
    assert 0 < refused.value.detail["free_bytes"] < 1 << 60


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


# --- waveform ----------------------------------------------------------------------------------------------------


async def peaks_of(tmp_path: Path, values: list[float], length: int = 1000) -> list[list[float]]:
    """Return the peaks of raw samples."""
    samples, dest = tmp_path / "samples", tmp_path / "waveform.json"
    samples.write_bytes(array.array("f", values).tobytes())
    await waveform.write_peaks(samples, dest, length=length, sample_rate=48_000)
    outline = json.loads(dest.read_text())
    assert (outline["length"], outline["sample_rate"]) == (length, 48_000)
    assert waveform.length_of(dest) == length
    return outline["peaks"]


async def test_a_bucket_covers_exactly_its_share_of_the_samples(tmp_path: Path) -> None:
    count, length = 10_007, 1000
    values = [math.sin(number / 50) * number / count for number in range(count)]
    peaks = await peaks_of(tmp_path, values)

    for bucket, (low, high) in enumerate(peaks):
        share = values[bucket * count // length : (bucket + 1) * count // length]
        assert (low, high) == (pytest.approx(min(share), abs=1e-6), pytest.approx(max(share), abs=1e-6))


async def test_fewer_samples_than_buckets_repeat_the_nearest(tmp_path: Path) -> None:
    assert await peaks_of(tmp_path, [0.5, -0.25], 4) == [[0.5, 0.5], [0.5, 0.5], [-0.25, -0.25], [-0.25, -0.25]]


async def test_what_is_no_sample_is_cut_or_zero(tmp_path: Path) -> None:
    values = [math.nan, 7.0, -7.0, math.inf, -math.inf, -0.0000001]

    assert await peaks_of(tmp_path, values, 6) == [[0, 0], [1, 1], [-1, -1], [1, 1], [-1, -1], [0, 0]]
    assert await peaks_of(tmp_path, values, 1) == [[-1, 1]]


async def test_no_sample_is_no_waveform(tmp_path: Path) -> None:
    with pytest.raises(RindleError) as failed:
        await peaks_of(tmp_path, [])
    assert failed.value.code == "ffmpeg_failed"
