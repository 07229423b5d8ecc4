"""Command lines that make a video: exact where the recipe is exact."""

from __future__ import annotations

import pytest

from rindle.media import video
from rindle.media.av_colour import Colour
from rindle.recipes import VideoVariant
from tests.unit.media.sources import DEST, LIMITS, PLAIN, SOURCE, media, option, picture


def test_web_720p_is_this_command() -> None:
    command = video.transcode_command(media(picture(1920, 1080)), VideoVariant("web_720p"), SOURCE, DEST, PLAIN)

    given, output = command[: command.index("-i") + 2], command[command.index("-i") + 2 :]
    assert given[:8] == ["-hide_banner", "-nostdin", "-v", "error", "-y", "-nostats", "-progress", "pipe:1"]
    assert option(given, "-protocol_whitelist") == "file"
    assert option(given, "-format_whitelist") == (
        "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mp3,wav,ogg,flac,aac,mpegts,avi"
    )
    assert option(given, "-t") == "7200"
    assert given[-1] == "file:/run/build/source"
    graph = option(output, "-filter_complex")
    assert [part.partition("=")[0].rpartition("]")[2] for part in graph.split(";")] == [
        "setparams", "scale", "format", "pad", "setsar", "setparams",
    ]  # fmt: skip
    assert output[:6] == ["-filter_complex", graph, "-map", "[s5]", "-map", "0:1?"]
    assert output[-1] == "file:/run/build/variant.mp4"
    told = {
        "-c:v": "libx264",
        "-pix_fmt": "yuv420p",
        "-crf": "23",
        "-maxrate": "2500k",
        "-bufsize": "5000k",
        "-fpsmax": "60",
        "-c:a": "aac",
        "-b:a": "128k",
        "-af": "aresample=async=1",
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
    assert "pad=852:480:" in option(command, "-filter_complex")


@pytest.mark.parametrize(
    ("size", "frame", "canvas"),
    [
        ((1080, 1920), "fit", "720:1280"),  # portrait stays portrait
        ((640, 360), "fit", "640:360"),  # never enlarged
        ((641, 361), "fit", "640:360"),  # even
        ((3840, 200), "fit", "1280:66"),
        ((4000, 4), "fit", "1280:2"),  # never below 2 x 2
        ((1, 1), "fit", "2:2"),
        ((640, 360), "pad", "1280:720"),  # exactly the box
        ((1080, 1920), "pad", "1280:720"),  # which is never turned
    ],
)
def test_the_box(size: tuple[int, int], frame: str, canvas: str) -> None:
    spec = VideoVariant("web_720p", frame=frame)
    made = option(video.transcode_command(media(picture(*size)), spec, SOURCE, DEST, LIMITS), "-filter_complex")

    assert f"pad={canvas}:(ow-iw)/2:(oh-ih)/2:black" in made


def test_the_box_is_that_of_the_largest_frames() -> None:
    command = video.transcode_command(
        media(picture(320, 180)), VideoVariant("web_720p"), SOURCE, DEST, LIMITS, largest=(180, 640)
    )

    assert "pad=180:640:" in option(command, "-filter_complex")


def test_wide_pixels_are_made_square_and_a_tag_turns_the_picture() -> None:
    track = picture(288, 524, square_width=524, square_height=288, has_square_samples=False, tagged_rotation=90)
    graph = option(
        video.transcode_command(media(track), VideoVariant("web_720p"), SOURCE, DEST, LIMITS), "-filter_complex"
    )

    assert graph.startswith("[0:2]transpose=clock[s0];")
    assert "iw*sar" in graph


@pytest.mark.parametrize(
    ("rate", "limited"), [(0.0, False), (59.94, False), (60.0, False), (119.88, True), (240, True)]
)
def test_fast_frames_are_dropped_before_they_are_scaled(rate: float, limited: bool) -> None:
    track = picture(640, 360, frame_rate=rate)
    graph = option(
        video.transcode_command(media(track), VideoVariant("web_720p"), SOURCE, DEST, LIMITS), "-filter_complex"
    )

    assert graph.startswith("[0:2]fps=60") == limited


def test_the_poster_is_bright_of_another_scene_or_clear() -> None:
    plain, pq = Colour(), Colour(transfer="smpte2084", primaries="bt2020", matrix="bt2020nc")

    assert video.poster_time({}, {}, plain) is None
    assert video.poster_time({0.0: 15.9, 1.0: 12}, {1.0: 0.9}, plain) is None
    assert video.poster_time({0.0: 17, 1.0: 30, 2.0: 41, 3.0: 90}, {}, plain) == 2.0
    assert video.poster_time({0.0: 17, 1.0: 30}, {}, plain) == 0.0
    assert video.poster_time({0.0: 90, 1.0: 15, 2.0: 20}, {1.0: 0.8, 2.0: 0.5}, plain) == 2.0
    assert video.poster_time({0.0: 20, 1.0: 25}, {}, pq) == 1.0  # PQ gives darkness more levels


def test_measurements_are_read_by_the_times_of_their_frames() -> None:
    text = "frame:0    pts:0       pts_time:0\nlavfi.signalstats.YAVG=12.5\nframe:1    pts:512     pts_time:0.04\nlavfi"

    assert video.measured(text) == {0.0: 12.5}


def test_silent_video_maps_no_sound() -> None:
    command = video.transcode_command(
        media(picture(640, 360), None), VideoVariant("web_720p", faststart=False), SOURCE, DEST, LIMITS
    )

    assert command.count("-map") == 1
    assert "-movflags" not in command
