"""Real files through ffprobe: what is told of them, what is condemned, and what is only an outage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rindle.errors import ContentRejected, FfmpegNotFound, RindleError
from rindle.media.av_probe import MAX_TAGS, AvProbe
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import AvLimits, FfmpegTools
from rindle.recipes import WaveformVariant
from rindle.states import MediaKind
from rindle.testing.plugin_contracts import ProbeContract
from tests.media.clips import H264, Clips, ffmpeg, moving, tone
from tests.patience import PATIENCE_SECONDS

CORPUS = Path(os.environ["RINDLE_CORPUS"]) if os.environ.get("RINDLE_CORPUS") else None
CORPUS_VIDEOS = sorted(CORPUS.glob("video_*")) if CORPUS else []


@pytest.fixture
def probe(tmp_path: Path) -> AvProbe:
    return AvProbe(FfmpegTools.find(), scratch=tmp_path / "scratch")


class TestAvProbeContract(ProbeContract):
    """The bundled probe keeps the contract of every probe."""

    mime = "video/mp4"

    @pytest.fixture
    def probe(self) -> AvProbe:
        return AvProbe(FfmpegTools.find())

    @pytest.fixture
    def good_file(self, clips: Clips) -> Path:
        return clips.film()


def test_sound_and_video_are_accepted_and_nothing_else(probe: AvProbe) -> None:
    assert all(probe.accepts(mime) for mime in ("video/mp4", "video/webm", "audio/mpeg", "audio/x-of-nobody"))
    assert not any(probe.accepts(mime) for mime in ("image/gif", "application/vnd.apple.mpegurl", "text/plain"))


async def test_a_film(probe: AvProbe, clips: Clips, tmp_path: Path) -> None:
    facts = await probe.probe(clips.film())

    assert (facts.kind, facts.width, facts.height) == (MediaKind.VIDEO, 320, 180)
    assert facts.duration_ms == pytest.approx(2000, abs=60)
    assert (facts.has_video_track, facts.has_audio_track) == (True, True)
    assert [stream["codec"] for stream in facts.metadata["streams"]] == ["h264", "aac"]
    assert not list((tmp_path / "scratch").iterdir())


async def test_silent_video_has_no_sound(probe: AvProbe, clips: Clips) -> None:
    assert (await probe.probe(clips.silent())).has_audio_track is False


@pytest.mark.parametrize(("degrees", "size"), [(90, (180, 320)), (180, (320, 180)), (270, (180, 320))])
async def test_sizes_are_those_of_the_picture_as_it_is_shown(
    probe: AvProbe, clips: Clips, degrees: int, size: tuple[int, int]
) -> None:
    for turned in (clips.rotated(degrees), clips.tagged_rotation(degrees)):
        facts = await probe.probe(turned)
        assert (facts.width, facts.height) == size


async def test_wide_pixels_count_for_their_width(probe: AvProbe, clips: Clips) -> None:
    facts = await probe.probe(clips.anamorphic())

    assert (facts.width, facts.height) == (524, 288)


@pytest.mark.parametrize("name", ["covered.mp3", "covered.m4a"])
async def test_a_cover_picture_makes_no_video_of_a_song(probe: AvProbe, clips: Clips, name: str) -> None:
    facts = await probe.probe(clips.covered(name))

    assert (facts.kind, facts.width, facts.height, facts.has_video_track) == (MediaKind.AUDIO, None, None, None)
    assert facts.has_audio_track is True


async def test_the_picture_behind_a_cover_is_found(probe: AvProbe, clips: Clips) -> None:
    facts = await probe.probe(clips.covered_film())

    assert (facts.width, facts.height) == (320, 180)


async def test_a_browsers_recording_says_not_how_long_it_is(probe: AvProbe, clips: Clips) -> None:
    facts = await probe.probe(clips.live_recording())

    assert (facts.kind, facts.duration_ms) == (MediaKind.VIDEO, None)


async def test_a_sound_renamed_to_mp4_is_a_sound(probe: AvProbe, clips: Clips, tmp_path: Path) -> None:
    renamed = tmp_path / "lesson.mp4"
    renamed.write_bytes(clips.song().read_bytes())

    assert (await probe.probe(renamed)).kind is MediaKind.AUDIO


async def test_tags_are_kept_as_text_and_bounded(probe: AvProbe, tmp_path: Path) -> None:
    """Control characters, markup and a title of 100 KB arrive as harmless text of bounded length."""
    path = tmp_path / "hostile.mp4"
    script = "<script>alert('x')</script>\x01\x1b[31m\tend"
    many = [part for number in range(200) for part in ("-metadata", f"key{number}={number}")]
    ffmpeg(
        *tone(1), "-movflags", "use_metadata_tags", "-metadata", f"title={script}",
        "-metadata", "comment=" + "ü" * 50_000, "-metadata", "n" * 300 + "=long name", *many, path,
    )  # fmt: skip

    facts = await probe.probe(path)

    assert facts.metadata["tags"]["title"] == "<script>alert('x')</script>[31m\tend"
    assert facts.metadata["tags"]["comment"] == "ü" * 512
    found = [facts.metadata["tags"], *(stream["tags"] for stream in facts.metadata["streams"])]
    assert sum(map(len, found)) == MAX_TAGS
    assert all(len(name.encode()) <= 128 for tags in found for name in tags)
    assert len(json.dumps(facts.metadata)) < 10_000


def truncated(clips: Clips) -> bytes:
    """Return an MP4 whose index, at its end, is cut off."""
    whole = clips.film().read_bytes()
    return whole[: whole.rindex(b"moov")]


def without_size(clips: Clips) -> bytes:
    """Return a film whose track says it is 0 × 0."""
    whole = bytearray(clips.silent().read_bytes())
    for name, offset in ((b"avc1", 28), (b"avcC", 0)):
        at = whole.index(name)
        if offset:
            whole[at + offset : at + offset + 4] = bytes(4)
        else:
            whole[at : at + 4] = b"free"  # the decoder's own idea of the size
    return bytes(whole)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda clips: b"", id="empty"),
        pytest.param(lambda clips: b"\x00" * 4096, id="zeros"),
        pytest.param(truncated, id="truncated"),
        pytest.param(without_size, id="0x0"),
        pytest.param(lambda clips: b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 200_000, id="subtitle bomb"),
        pytest.param(lambda clips: b"#EXTM3U\n#EXTINF:1,\nfilm.mp4\n#EXT-X-ENDLIST\n", id="playlist"),
    ],
)
async def test_what_is_no_media_is_condemned(
    probe: AvProbe, clips: Clips, tmp_path: Path, content: Callable[[Clips], bytes]
) -> None:
    path = tmp_path / "lesson.mp4"
    path.write_bytes(content(clips))

    with pytest.raises(ContentRejected) as verdict:
        await probe.probe(path)

    assert verdict.value.code == "decode_failed"
    assert not verdict.value.retryable
    assert str(tmp_path) not in verdict.value.message
    assert not list((tmp_path / "scratch").iterdir())


async def test_subtitles_beside_a_film_are_only_described(probe: AvProbe, clips: Clips, tmp_path: Path) -> None:
    words = tmp_path / "bomb.srt"
    words.write_text("".join(f"{n}\n00:00:00,{n % 999:03} --> 00:00:01,000\n{'x' * 200}\n\n" for n in range(1, 5_000)))
    path = tmp_path / "film.mp4"
    ffmpeg("-i", clips.film(), "-i", words, "-map", "0", "-map", "1", "-c", "copy", "-c:s", "mov_text", path)

    facts = await probe.probe(path)

    assert [stream["type"] for stream in facts.metadata["streams"]] == ["video", "audio", "subtitle"]


async def test_a_film_without_frames_has_no_duration(probe: AvProbe, tmp_path: Path) -> None:
    path = tmp_path / "nothing.mp4"
    ffmpeg(*moving(), *H264, "-frames:v", "0", "-f", "mp4", path)

    try:
        assert (await probe.probe(path)).duration_ms is None
    except ContentRejected as verdict:  # newer ones write no track at all
        assert verdict.code == "decode_failed"


async def test_8k_is_told_as_it_is_and_left_to_the_pixel_limit(probe: AvProbe, tmp_path: Path) -> None:
    path = tmp_path / "8k.mp4"
    ffmpeg(*moving("7680x4320", 0.04), *H264, path)

    facts = await probe.probe(path)

    assert (facts.width, facts.height) == (7680, 4320)


async def test_endless_sound_is_told_as_long_as_it_claims(probe: AvProbe, tmp_path: Path) -> None:
    """A header that claims 100 hours is believed here, so that the profile's limit of duration refuses it."""
    path = tmp_path / "endless.wav"
    ffmpeg(*tone(1, rate=8000), "-c:a", "pcm_u8", path)
    with path.open("r+b") as file:
        size = 8000 * 3600 * 100
        head = bytearray(file.read(256))
        at = head.index(b"data")
        head[at + 4 : at + 8] = size.to_bytes(4, "little")
        file.seek(0)
        file.write(head)
        file.truncate(size + at + 8)

    assert (await probe.probe(path)).duration_ms == pytest.approx(360_000_000, rel=0.01)


@pytest.mark.parametrize("path", CORPUS_VIDEOS, ids=lambda path: path.name)
async def test_videos_of_the_corpus(probe: AvProbe, path: Path, tmp_path: Path) -> None:
    """Width and height are those of the frame that ffmpeg itself shows."""
    facts = await probe.probe(path)

    shown = tmp_path / "shown.png"
    ffmpeg("-i", path, "-frames:v", "1", "-update", "1", shown)
    with Image.open(shown) as frame:
        assert (facts.width, facts.height) == frame.size
    assert facts.duration_ms == pytest.approx(1200, abs=20)
    assert facts.has_audio_track is True


# --- outages -----------------------------------------------------------------------------------------------------


def script(path: Path, body: str) -> Path:
    """Write a program that stands for ffprobe."""
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o700)
    return path


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("trap '' TERM; while :; do sleep 0.1; done", "process_timeout"),
        ("kill -SEGV $$", "ffmpeg_failed"),
        ("kill -KILL $$", "ffmpeg_failed"),
        ("exit 0", "probe_failed"),
        ("exec /nowhere/ffprobe", "ffmpeg_not_found"),
    ],
)
async def test_an_outage_is_no_verdict(clips: Clips, tmp_path: Path, body: str, code: str) -> None:
    tools = FfmpegTools(Path("/bin/true"), script(tmp_path / "ffprobe", body))

    seconds = 0.5 if code == "process_timeout" else PATIENCE_SECONDS

    with pytest.raises(RindleError) as failed:
        await AvProbe(tools, AvLimits(probe_seconds=seconds)).probe(clips.film())

    assert (failed.value.code, failed.value.retryable) == (code, True)
    assert not isinstance(failed.value, ContentRejected)


async def test_a_missing_program_is_no_verdict(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(RindleError) as failed:
        await AvProbe(FfmpegTools.find(ffprobe=tmp_path / "ffprobe")).probe(clips.film())

    assert (failed.value.code, failed.value.retryable) == ("ffmpeg_not_found", True)


async def test_a_missing_file_is_no_verdict(probe: AvProbe, tmp_path: Path) -> None:
    with pytest.raises(RindleError) as failed:
        await probe.probe(tmp_path / "gone")

    assert (failed.value.code, failed.value.retryable) == ("probe_failed", True)


async def test_a_flood_of_description_is_cut_off_and_condemned(clips: Clips, tmp_path: Path) -> None:
    flood = script(tmp_path / "ffprobe", "head -c 40000000 /dev/zero | tr '\\0' x; sleep 60")

    with pytest.raises(ContentRejected):
        await AvProbe(FfmpegTools(Path("/bin/true"), flood)).probe(clips.film())


async def test_a_program_that_is_installed_later_is_found(clips: Clips, tmp_path: Path) -> None:
    programs = {name: tmp_path / name for name in ("ffmpeg", "ffprobe")}
    tools = FfmpegTools.find(programs["ffmpeg"], programs["ffprobe"])
    probe, processor = AvProbe(tools), AvProcessor(tools)
    for step in (probe.probe(clips.song()), processor.build(clips.song(), WaveformVariant(), tmp_path / "outline")):
        with pytest.raises(FfmpegNotFound):
            await step

    for name, path in programs.items():
        path.symlink_to(str(shutil.which(name)))

    assert (await probe.probe(clips.song())).kind is MediaKind.AUDIO
    assert (await processor.build(clips.song(), WaveformVariant(), tmp_path / "outline")).byte_size > 0


# --- versions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "version"),
    [("n7.1-4-gdeadbee", "7.1-4-gdeadbee"), ("5.1.9-0+deb12u1", "5.1.9-0+deb12u1"), ("N-118-g0", "development")],
)
def test_versions_may_read_strangely(tmp_path: Path, said: str, version: str) -> None:
    tool = script(tmp_path / "tool", f"echo 'tool version {said} Copyright'")
    found = FfmpegTools.find(tool, tool)

    assert (found.version, found.ffprobe_version, found.problem) == (version, version, None)
    assert found.require() is found


@pytest.mark.parametrize("said", ["tool version 5.0.3 Copyright", "tool version 4.4 Copyright", "hello"])
def test_a_program_that_is_too_old_is_not_used(tmp_path: Path, said: str) -> None:
    tool = script(tmp_path / "tool", f"echo '{said}'")

    with pytest.raises(RindleError) as failed:
        FfmpegTools.find(tool, tool).require()

    assert (failed.value.code, failed.value.retryable) == ("ffmpeg_not_found", True)


def test_what_can_be_built_depends_on_the_encoders(tmp_path: Path) -> None:
    tool = script(tmp_path / "tool", "echo 'tool version 6.1'; echo ' VFS..D mjpeg   MJPEG'")

    assert FfmpegTools.find(tool, tool).capabilities == {"video_frame_extract", "video_thumbnail_strip"}
    assert "video_transcode" in FfmpegTools.find().capabilities
