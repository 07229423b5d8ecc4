"""Decoders that may be opened: those of ordinary files, and no others, whoever opens the file."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rindle.errors import ContentRejected, RindleError, UnsupportedCodec
from rindle.media.av_probe import AvProbe
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import AvLimits, FfmpegTools, confinement, opened, run_ffmpeg, written
from rindle.recipes import FrameVariant, VideoVariant
from tests.media.clips import ffmpeg, moving, tone

#: Codecs that hardly anybody has, with the options that write them: old games, old screen recorders, research.
UNUSUAL = {
    "cinepak": ("-c:v", "cinepak"),
    "zmbv": ("-c:v", "zmbv"),
    "snow": ("-pix_fmt", "yuv420p", "-strict", "-2", "-c:v", "snow"),
    "flashsv": ("-c:v", "flashsv"),
    "huffyuv": ("-pix_fmt", "yuv422p", "-c:v", "huffyuv"),
}
#: Files that people have: a name and the options that write it.
USUAL = {
    "phone.mp4": ("-c:v", "libx264", "-c:a", "aac"),
    "hevc.mov": ("-c:v", "libx265", "-x265-params", "log-level=error", "-c:a", "aac"),
    "browser.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libvorbis"),
    "camera.avi": ("-c:v", "mjpeg", "-c:a", "pcm_s16le"),
    "xvid.avi": ("-c:v", "mpeg4", "-c:a", "libmp3lame"),
    "divx3.avi": ("-c:v", "msmpeg4", "-c:a", "adpcm_ima_wav"),
    "broadcast.ts": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "bluray.mkv": ("-c:v", "libx264", "-c:a", "ac3"),
    "edit.mov": ("-c:v", "prores", "-c:a", "pcm_s24le"),
    "screen.mov": ("-c:v", "png", "-c:a", "alac"),
    "phone.3gp": ("-s", "176x144", "-c:v", "h263", "-ar", "8000", "-ac", "1", "-c:a", "aac"),
    "theora.ogv": ("-c:v", "libtheora", "-c:a", "flac"),
    "archive.mkv": ("-c:v", "ffv1", "-c:a", "flac"),
    "dictaphone.wav": ("-vn", "-c:a", "adpcm_ms"),
    "telephone.wav": ("-vn", "-c:a", "pcm_mulaw"),
    "song.flac": ("-vn", "-c:a", "flac"),
    "song.m4a": ("-vn", "-c:a", "aac"),
    "voice.ogg": ("-vn", "-c:a", "libspeex", "-ar", "16000"),
}


@pytest.fixture(scope="module")
def tools() -> FfmpegTools:
    return FfmpegTools.find().require()


@pytest.fixture
def unusual(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A film of a codec that is not listed, in a container that is."""
    path = tmp_path / "film.avi"
    ffmpeg(*moving("128x128"), *tone(), *UNUSUAL[request.param], "-c:a", "pcm_s16le", path)
    return path


@pytest.mark.parametrize("unusual", UNUSUAL, indirect=True)
async def test_a_codec_that_is_not_listed_is_refused_by_name(unusual: Path, tools: FfmpegTools, tmp_path: Path) -> None:
    with pytest.raises(ContentRejected) as refused:
        await AvProbe(tools).probe(unusual)
    assert refused.value.code == "codec_not_allowed"
    assert refused.value.detail["codec"] in UNUSUAL
    for spec in (VideoVariant("web_720p"), FrameVariant("video_poster_scene")):
        dest = tmp_path / f"made{spec.extension}"
        with pytest.raises(RindleError) as failed:
            await AvProcessor(tools).build(unusual, spec, dest)
        assert failed.value.code == "codec_not_allowed"
        assert not dest.exists()


@pytest.mark.parametrize("unusual", ["cinepak"], indirect=True)
async def test_ffmpeg_itself_refuses_it_too(unusual: Path, tools: FfmpegTools, tmp_path: Path) -> None:
    """The probe refuses the file before; this is what ffmpeg does when it sees it."""
    limits = AvLimits()
    dest = tmp_path / "made.mp4"
    with pytest.raises(UnsupportedCodec) as refused:
        await run_ffmpeg(tools, written([opened(unusual, limits)["v"]], dest, limits), limits.encoding(2000), tmp_path)
    assert refused.value.detail == {"codec": "cinepak"}


@pytest.mark.parametrize("name", USUAL)
async def test_files_that_people_have_are_read(name: str, tools: FfmpegTools, tmp_path: Path) -> None:
    path = tmp_path / name
    ffmpeg(*moving(), *tone(), *USUAL[name], path)
    found = await AvProbe(tools).probe(path)
    assert found.has_audio_track
    assert bool(found.has_video_track) == ("-vn" not in USUAL[name])


async def test_subtitles_and_covers_do_not_stop_a_film(tools: FfmpegTools, tmp_path: Path) -> None:
    words, cover, film = tmp_path / "words.srt", tmp_path / "cover.png", tmp_path / "film.mkv"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    ffmpeg(*moving(), "-frames:v", "1", cover)
    inputs = (*moving(), *tone(), "-i", words, "-i", cover)
    streams = ("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-c:v:0", "libx264", "-c:v:1", "copy", "-c:a", "aac")
    ffmpeg(*inputs, *streams, "-c:s", "ass", "-disposition:v:1", "attached_pic", film)
    found = await AvProbe(tools).probe(film)
    assert (found.has_video_track, found.has_audio_track) == (True, True)


@pytest.mark.parametrize("address", ["data:audio/wav,RIFF", "crypto:{file}", "subfile,,start,0,end,0,,:{file}"])
async def test_no_protocol_but_files_is_opened(address: str, tools: FfmpegTools, tmp_path: Path) -> None:
    file = tmp_path / "tone.wav"
    ffmpeg(*tone(), file)
    options = [part for name, value in confinement().items() for part in (f"-{name}", value)]

    async def words(address: str) -> str:
        command = [tools.ffprobe, "-v", "error", *options, "-i", address]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        return (await process.communicate())[1].decode()

    assert await words(f"file:{file}") == ""
    assert "not on whitelist" in await words(address.format(file=file))
