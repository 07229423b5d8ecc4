"""Command lines that make a video: exact where the recipe is exact."""

from __future__ import annotations

import pytest

from rindle.media import video
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
