"""Real variants through real ffmpeg, read back with ffprobe by hand, Pillow and a decoder."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rindle.errors import RindleError
from rindle.media import av_processor
from rindle.media import ffmpeg as ffmpeg_module
from rindle.media.av_processor import AvOutput, AvProcessor
from rindle.media.ffmpeg import AvLimits, FfmpegTools
from rindle.recipes import AudioVariant, FrameVariant, ImageVariant, VariantSpec, VideoVariant, WaveformVariant
from rindle.testing.plugin_contracts import ProcessorContract
from tests.media.clips import H264, Clips, ffmpeg, moving, tone
from tests.media.pictures import difference, opened

CORPUS = Path(os.environ["RINDLE_CORPUS"]) if os.environ.get("RINDLE_CORPUS") else None
CORPUS_VIDEOS = sorted(CORPUS.glob("video_*")) if CORPUS else []
POSTER, STRIP = FrameVariant("video_poster_scene"), FrameVariant("video_thumbnail_strip")
EVERY_RECIPE = (
    VideoVariant("web_720p"),
    VideoVariant("web_480p", frame="pad"),
    AudioVariant("m4a_128k"),
    AudioVariant("mp3_128k", channels=1, normalize=True),
    AudioVariant("m4a_128k", normalize=True, two_pass=True),
    POSTER,
    STRIP,
    WaveformVariant(),
)


#: Builds one variant of a source: what was said of it, and the progress told.
Build = Callable[..., Awaitable[tuple[AvOutput, list[int]]]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build one variant; returns what was said of it and the progress told. Nothing else may be left."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()

    async def build(source: Path, spec: VariantSpec, limits: AvLimits | None = None) -> tuple[AvOutput, list[int]]:
        before = source.read_bytes()
        told: list[int] = []
        dest = run_dir / f"made{spec.extension}"
        try:
            processor = AvProcessor(FfmpegTools.find(), limits)
            built = await processor.build(source, spec, dest, progress=told.append)
        except BaseException:
            assert list(run_dir.iterdir()) == []
            raise
        assert [path.name for path in run_dir.iterdir()] == [dest.name]
        assert (built.path, built.byte_size) == (dest, dest.stat().st_size)
        assert built.content_type == spec.content_type
        assert told == sorted(set(told))
        assert all(0 <= percent <= 99 for percent in told)
        assert source.read_bytes() == before
        return built, told

    return build


def seen(path: Path) -> dict:
    """Return what ffprobe says of a file, asked by hand."""
    ask = ["ffprobe", "-v", "error", "-print_format", "json", "-show_format", "-show_streams", str(path)]
    return json.loads(subprocess.run(ask, capture_output=True, check=True).stdout)


def frame(path: Path, at: float = 0.0, matrix: str = "auto") -> Image.Image:
    """Return one frame of a video as it is shown: by its tags, else in BT.601 or the matrix given."""
    shown = ["-vf", f"scale=in_color_matrix={matrix}:in_range=auto,format=rgb24"]
    ask = ["ffmpeg", "-v", "error", "-ss", str(at), "-i", str(path), "-frames:v", "1", *shown, "-f", "image2pipe"]
    return opened(subprocess.run([*ask, "-c:v", "png", "-"], capture_output=True, check=True).stdout).convert("RGB")


class TestAvProcessorContract(ProcessorContract):
    """The bundled processor keeps the contract of every processor."""

    @pytest.fixture
    def processor(self) -> AvProcessor:
        return AvProcessor(FfmpegTools.find())

    @pytest.fixture
    def source(self, clips: Clips) -> Path:
        return clips.film()

    @pytest.fixture(params=EVERY_RECIPE, ids=lambda spec: spec.preset)
    def recipe(self, request: pytest.FixtureRequest) -> VariantSpec:
        return request.param


# --- video -------------------------------------------------------------------------------------------------------


async def test_a_film_becomes_an_mp4_for_every_browser(build: Build, clips: Clips) -> None:
    built, told = await build(clips.film("1920x1080", 3), VideoVariant("web_720p"))

    assert (built.width, built.height) == (1280, 720)
    assert built.duration_ms == pytest.approx(3000, abs=250)
    assert told[-1] == 99
    streams = {stream["codec_type"]: stream for stream in seen(built.path)["streams"]}
    assert {kind: stream["codec_name"] for kind, stream in streams.items()} == {"video": "h264", "audio": "aac"}
    assert streams["video"]["pix_fmt"] == "yuv420p"
    whole = built.path.read_bytes()
    assert whole.index(b"moov") < whole.index(b"mdat")
    assert difference(frame(built.path, 1), frame(clips.film("1920x1080", 3), 1, "bt709")) < 0.02


async def test_the_index_stays_behind_when_nobody_streams(build: Build, clips: Clips) -> None:
    built, _ = await build(clips.film(), VideoVariant("web_720p", faststart=False))

    whole = built.path.read_bytes()
    assert whole.index(b"moov") > whole.index(b"mdat")


@pytest.mark.parametrize(
    ("size", "spec", "made"),
    [
        ("320x180", VideoVariant("web_720p"), (320, 180)),
        ("321x181", VideoVariant("web_720p"), (320, 180)),
        ("720x1600", VideoVariant("web_720p"), (576, 1280)),
        ("1000x1000", VideoVariant("web_480p"), (480, 480)),
        ("720x1600", VideoVariant("web_480p", frame="pad"), (854, 480)),
        ("320x180", VideoVariant("web_480p", frame="pad"), (854, 480)),
    ],
)
async def test_sizes(build: Build, clips: Clips, size: str, spec: VariantSpec, made: tuple[int, int]) -> None:
    built, _ = await build(
        clips.made(f"odd-{size}.mp4", *moving(size, 0.4), "-c:v", "libx264", "-pix_fmt", "yuv444p"), spec
    )

    assert (built.width, built.height) == made


@pytest.mark.parametrize("degrees", [90, 180, 270])
async def test_portrait_stays_portrait_and_upright(build: Build, clips: Clips, degrees: int) -> None:
    """A display matrix turns the picture, and so does a mere tag, which players and not ffmpeg obey."""
    by_matrix, by_tag = clips.rotated(degrees), clips.tagged_rotation(degrees)
    shown = {by_matrix: frame(by_matrix, 1), by_tag: frame(clips.film(), 1).rotate(-degrees, expand=True)}
    for source, upright in shown.items():
        built, _ = await build(source, VideoVariant("web_720p"))

        assert (built.width, built.height) == upright.size
        assert difference(frame(built.path, 1), upright) < 0.04
        assert difference(frame(built.path, 1), upright.rotate(180)) > 0.5
        assert not any("side_data_list" in stream for stream in seen(built.path)["streams"])


async def test_wide_pixels_become_square(build: Build, clips: Clips) -> None:
    built, _ = await build(clips.anamorphic(), VideoVariant("web_720p"))

    assert (built.width, built.height) == (524, 288)
    assert seen(built.path)["streams"][0]["sample_aspect_ratio"] == "1:1"


async def test_silent_video_is_no_failure(build: Build, clips: Clips) -> None:
    built, _ = await build(clips.silent(), VideoVariant("web_720p"))

    assert [stream["codec_type"] for stream in seen(built.path)["streams"]] == ["video"]


async def test_a_cover_picture_never_becomes_the_film(build: Build, clips: Clips) -> None:
    source = clips.covered_film()
    built, _ = await build(source, VideoVariant("web_720p"))

    assert (built.width, built.height) == (320, 180)
    assert [stream["codec_type"] for stream in seen(built.path)["streams"]] == ["video", "audio"]


async def test_nothing_of_where_and_by_whom_it_was_made_stays(build: Build, clips: Clips, tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.mp4"
    private = ("-metadata", "location=+48.85+002.29/", "-metadata", "title=Our flat", "-metadata", "artist=Me")
    ffmpeg("-i", clips.film(), "-c", "copy", "-movflags", "use_metadata_tags", *private, tagged)

    for spec in EVERY_RECIPE:
        built, _ = await build(tagged, spec)
        whole = built.path.read_bytes()
        assert b"+48.85" not in whole
        assert b"Our flat" not in whole
        built.path.unlink()


async def test_subtitles_and_data_are_left_out(build: Build, clips: Clips, tmp_path: Path) -> None:
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:09,000\nhello\n")
    source = tmp_path / "subtitled.mkv"
    ffmpeg("-i", clips.film(), "-i", words, "-map", "0", "-map", "1", "-c", "copy", source)

    built, _ = await build(source, VideoVariant("web_720p"))

    assert [stream["codec_type"] for stream in seen(built.path)["streams"]] == ["video", "audio"]
    assert built.duration_ms == pytest.approx(2000, abs=250)  # and not the subtitles' nine seconds


@pytest.mark.parametrize(("kind", "length"), [("live_recording", 2000), ("transport_stream", 2000), ("uneven", 4480)])
async def test_frames_keep_their_time(build: Build, clips: Clips, kind: str, length: int) -> None:
    built, told = await build(getattr(clips, kind)(), VideoVariant("web_720p"))

    assert built.duration_ms == pytest.approx(length, abs=300)
    assert told[-1] >= 95


async def test_a_change_of_size_in_the_middle_is_survived(build: Build, clips: Clips, tmp_path: Path) -> None:
    joined = tmp_path / "joined.ts"
    joined.write_bytes(
        clips.transport_stream().read_bytes() + clips.made("tall.ts", *moving("180x320"), *tone(), *H264).read_bytes()
    )

    built, _ = await build(joined, VideoVariant("web_720p"))

    assert (built.width, built.height) == (320, 180)


@pytest.mark.parametrize("path", CORPUS_VIDEOS, ids=lambda path: path.name)
async def test_videos_of_the_corpus(build: Build, path: Path) -> None:
    for spec in EVERY_RECIPE:
        built, _ = await build(path, spec)
        if spec == VideoVariant("web_720p"):
            assert (built.width, built.height) == frame(path).size
            assert difference(frame(built.path, 0.5), frame(path, 0.5)) < 0.03
        built.path.unlink()


# --- sound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "codec"), [("m4a_128k", "aac"), ("mp3_128k", "mp3")])
async def test_sound(build: Build, clips: Clips, preset: str, codec: str) -> None:
    for source in (clips.film(), clips.covered(), clips.covered("covered.m4a")):
        built, told = await build(source, AudioVariant(preset))

        assert (built.width, built.height) == (None, None)
        (stream,) = seen(built.path)["streams"]
        assert stream["codec_name"] == codec
        assert told[-1] == 99


async def test_six_channels_are_kept_mixed_or_what_the_format_can(build: Build, clips: Clips) -> None:
    found = {}
    for spec in (
        AudioVariant("m4a_128k"),
        AudioVariant("m4a_128k", channels=2),
        AudioVariant("mp3_128k"),
        AudioVariant("mp3_128k", channels=1),
    ):
        built, _ = await build(clips.surround(), spec)
        found[spec.preset, spec.channels] = seen(built.path)["streams"][0]["channels"]
        built.path.unlink()

    assert found == {
        ("m4a_128k", None): 6,
        ("m4a_128k", 2): 2,
        ("mp3_128k", None): 2,
        ("mp3_128k", 1): 1,
    }


def loudness(path: Path) -> float:
    """Return the integrated loudness of a file in LUFS."""
    ask = ["ffmpeg", "-nostdin", "-hide_banner", "-i", str(path), "-af", "ebur128", "-f", "null", "-"]
    told = subprocess.run(ask, capture_output=True, text=True, check=True).stderr
    return float(told[told.rindex("I:") :].split()[1])


@pytest.mark.parametrize("two_pass", [False, True])
async def test_loudness_is_brought_to_the_target(
    build: Build, clips: Clips, two_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Sequence[str]] = []

    async def run_ffmpeg(tools: FfmpegTools, command: Sequence[str], *rest: Any) -> bytes:
        runs.append(command)
        return await ffmpeg_module.run_ffmpeg(tools, command, *rest)

    monkeypatch.setattr(av_processor, "run_ffmpeg", run_ffmpeg)
    source = clips.made("quiet.wav", *tone(8), "-af", "volume=-20dB")
    built, told = await build(source, AudioVariant("m4a_128k", normalize=True, two_pass=two_pass))

    assert loudness(source) < -35
    assert loudness(built.path) == pytest.approx(-16, abs=1.5)
    assert seen(built.path)["streams"][0]["sample_rate"] == "44100"
    assert len(runs) == (2 if two_pass else 1)
    assert 49 in told or not two_pass  # where the first of two ends


async def test_a_guessed_duration_is_measured_before_the_output_is_held_to_it(build: Build, clips: Clips) -> None:
    guessed = float(seen(clips.guessed_song())["format"]["duration"])
    assert abs(guessed - 4) > 0.25  # else this would test nothing

    built, _ = await build(clips.guessed_song(), AudioVariant("m4a_128k"))

    assert built.duration_ms == pytest.approx(4000, abs=100)


async def test_sound_that_is_shorter_than_its_film_is_whole(build: Build, clips: Clips, tmp_path: Path) -> None:
    source = tmp_path / "short-sound.mkv"
    ffmpeg(*moving(seconds=3), *tone(1), *H264, "-c:a", "aac", source)

    built, _ = await build(source, AudioVariant("mp3_128k"))

    assert built.duration_ms == pytest.approx(1000, abs=100)


# --- waveform ----------------------------------------------------------------------------------------------------


async def test_a_waveform_shows_where_it_is_loud(build: Build, clips: Clips) -> None:
    fading = clips.made("half.wav", *tone(4), "-af", "volume=0:enable='gte(t,2)'")
    built, _ = await build(fading, WaveformVariant())

    outline = json.loads(built.path.read_text())
    assert set(outline) == {"length", "sample_rate", "peaks"}
    assert (outline["length"], outline["sample_rate"], len(outline["peaks"])) == (1000, 44_100, 1000)
    assert (built.width, built.height, built.duration_ms) == (None, None, None)
    lows, highs = zip(*outline["peaks"], strict=True)
    assert all(-1 <= low <= high <= 1 for low, high in outline["peaks"])
    assert max(highs[:490]) == pytest.approx(0.125, abs=0.01)
    assert min(lows[:490]) == pytest.approx(-0.125, abs=0.01)
    assert max(highs[510:]) == pytest.approx(0, abs=0.001)
    assert all(value == round(value, 6) for peak in outline["peaks"] for value in peak)


async def test_a_click_has_a_waveform(build: Build, clips: Clips) -> None:
    built, _ = await build(clips.made("click.wav", *tone(0.05)), WaveformVariant())

    assert len(json.loads(built.path.read_text())["peaks"]) == 1000


# --- pictures ----------------------------------------------------------------------------------------------------


async def test_a_poster_is_not_black_when_the_film_is_not(build: Build, clips: Clips) -> None:
    built, _ = await build(clips.dark_start(), POSTER)

    poster = opened(built.path)
    assert poster.size == (built.width, built.height) == (320, 180)
    assert np.asarray(poster.convert("L")).mean() > 16
    assert np.asarray(frame(clips.dark_start())).mean() < 5


async def test_a_black_film_has_a_black_poster(build: Build, clips: Clips) -> None:
    black = clips.made("black.mp4", "-f", "lavfi", "-i", "color=black:size=320x180:rate=25:duration=1", *H264)

    built, _ = await build(black, POSTER)

    assert np.asarray(opened(built.path)).mean() < 16


async def test_a_poster_is_upright_square_and_as_large_as_the_film(build: Build, clips: Clips) -> None:
    for source, size in (
        (clips.rotated(90), (180, 320)),
        (clips.tagged_rotation(90), (180, 320)),
        (clips.anamorphic(), (524, 288)),
    ):
        built, _ = await build(source, POSTER)
        assert (built.width, built.height) == size
    assert difference(opened(built.path), frame(clips.anamorphic())) < 0.05


@pytest.mark.parametrize("kind", ["film", "silent", "rotated", "transport_stream", "live_recording", "uneven"])
async def test_a_strip_has_four_tiles(build: Build, clips: Clips, kind: str) -> None:
    built, _ = await build(getattr(clips, kind)(), STRIP)

    assert opened(built.path).size == (built.width, built.height) == (640, 90)


async def test_the_tiles_of_a_strip_are_spread_over_the_film(build: Build, clips: Clips) -> None:
    """Four seconds, each of its own grey: each tile shows its own second."""
    shades = ("202020", "606060", "a0a0a0", "e0e0e0")
    inputs = [
        part for shade in shades for part in ("-f", "lavfi", "-i", f"color=0x{shade}:size=160x90:rate=25:duration=1")
    ]
    source = clips.made("shades.mp4", *inputs, "-filter_complex", "[0][1][2][3]concat=n=4", *H264)

    built, _ = await build(source, STRIP)

    strip = np.asarray(opened(built.path).convert("L"), dtype=float)
    tiles = [strip[20:70, tile * 160 + 20 : tile * 160 + 140].mean() for tile in range(4)]
    assert tiles == pytest.approx([0x20, 0x60, 0xA0, 0xE0], abs=8)


@pytest.mark.parametrize("frames", [1, 2, 3])
async def test_a_strip_of_fewer_than_four_frames_repeats_the_last(build: Build, clips: Clips, frames: int) -> None:
    source = clips.made(f"frames-{frames}.mp4", *moving(rate=5), "-frames:v", str(frames), *H264)

    built, _ = await build(source, STRIP)

    strip = np.asarray(opened(built.path).convert("L"), dtype=float)
    assert strip[:, 480:].std() > 20  # the last tile shows a picture


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [AudioVariant("m4a_128k"), WaveformVariant()], ids=lambda spec: spec.kind)
async def test_no_sound_no_variant(build: Build, clips: Clips, spec: VariantSpec) -> None:
    with pytest.raises(RindleError) as failed:
        await build(clips.silent(), spec)

    assert (failed.value.code, failed.value.retryable) == ("missing_audio_track", False)


async def test_a_picture_of_a_picture_is_not_ours(build: Build, clips: Clips) -> None:
    with pytest.raises(RindleError) as failed:
        await build(clips.film(), ImageVariant("fit", width=10))

    assert failed.value.code == "processor_capability_missing"


async def test_an_encoding_nobody_knows(build: Build, clips: Clips, tmp_path: Path) -> None:
    strange = tmp_path / "strange.mp4"
    strange.write_bytes(clips.silent().read_bytes().replace(b"avc1", b"zzzz"))

    with pytest.raises(RindleError) as failed:
        await build(strange, VideoVariant("web_720p"))

    assert (failed.value.code, failed.value.retryable) == ("unsupported_codec", False)


async def test_what_reaches_the_size_limit_was_cut_and_is_refused(build: Build, clips: Clips) -> None:
    noise = ("-f", "lavfi", "-i", "nullsrc=s=320x180:d=4:r=25,geq=random(1)*255:128:128")
    source = clips.made("noise.mp4", *noise, *tone(4), *H264)

    for spec, limit in (
        (VideoVariant("web_720p"), 100_000),
        (AudioVariant("mp3_128k"), 20_000),
        (WaveformVariant(), 50_000),
    ):
        with pytest.raises(RindleError) as failed:
            await build(source, spec, AvLimits(max_output_bytes=limit))
        assert (failed.value.code, failed.value.retryable) == ("output_too_large", False)
        assert failed.value.detail["limit_bytes"] == limit


async def test_what_is_longer_than_the_limit_is_refused_and_not_cut(build: Build, clips: Clips) -> None:
    for source in (clips.film("320x180", 3), clips.guessed_song()):
        with pytest.raises(RindleError) as failed:
            await build(source, AudioVariant("m4a_128k"), AvLimits(max_duration_seconds=2))
        assert (failed.value.code, failed.value.retryable) == ("media_too_long", False)


async def test_a_film_whose_second_half_is_missing_is_no_variant(build: Build, clips: Clips, tmp_path: Path) -> None:
    whole = clips.made("front.mp4", *moving(seconds=4), *tone(4), *H264, "-c:a", "aac", "-movflags", "+faststart")
    half = tmp_path / "half.mp4"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])

    with pytest.raises(RindleError) as failed:
        await build(half, VideoVariant("web_720p"))

    assert (failed.value.code, failed.value.retryable) == ("output_duration_mismatch", True)
    assert failed.value.detail["expected_ms"] == pytest.approx(4000, abs=60)


@pytest.mark.parametrize("spec", EVERY_RECIPE, ids=lambda spec: spec.preset)
async def test_a_film_without_frames_is_a_typed_failure(
    build: Build, clips: Clips, tmp_path: Path, spec: VariantSpec
) -> None:
    empty = tmp_path / "empty.mp4"
    ffmpeg(*moving(), *tone(), *H264, "-frames:v", "0", "-frames:a", "0", "-f", "mp4", empty)

    with pytest.raises(RindleError) as failed:
        await build(empty, spec)

    assert failed.value.code in {
        "decode_failed",
        "ffmpeg_failed",
        "output_missing",
        "missing_audio_track",
        "output_kind_mismatch",
    }


async def test_frames_per_second_of_a_film_are_kept(build: Build, clips: Clips) -> None:
    built, _ = await build(clips.silent(rate=50), VideoVariant("web_720p"))

    assert Fraction(seen(built.path)["streams"][0]["avg_frame_rate"]) == 50


def test_built_says_nothing_of_how_it_was_made() -> None:
    fields = set(AvOutput.__slots__)

    assert fields == {"path", "byte_size", "content_type", "width", "height", "duration_ms", "source_duration_ms"}
