"""One time line: sound that starts late, has gaps or an odd clock is at the same moment in every output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rindle.errors import ContentRejected, RindleError
from rindle.media.av_probe import AudioTrack, AvProbe, Media
from rindle.media.av_processor import AvOutput, AvProcessor, _Span
from rindle.media.ffmpeg import AvLimits, FfmpegTools
from rindle.recipes import AudioVariant, VariantSpec, VideoVariant, WaveformVariant
from tests.media.clips import H264, Clips, ffmpeg, moving, tone

M4A, OUTLINE = AudioVariant("m4a_128k"), WaveformVariant()
NORMALIZED = AudioVariant("mp3_128k", normalize=True, two_pass=True)
FILM = VideoVariant("web_720p")
#: Seconds by which a beep may be off: encoders begin a frame early, and a bucket of six seconds lasts 6 ms.
CLOSE = 0.03


def beeps(seconds: float, *at: float, rate: int = 48_000) -> tuple[str, ...]:
    """Return the input of a silence with a beep of 0.15 s at each of these seconds."""
    heard = "+".join(f"between(t,{start},{start}+0.15)" for start in at)
    return ("-f", "lavfi", "-i", f"aevalsrc='0.9*sin(2*PI*1000*t)*({heard})':s={rate}:d={seconds}")


def heard(path: Path) -> list[float]:
    """Return the seconds at which a file beeps, as a player plays it that heeds timestamps."""
    place = ("-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", "8000", "-f", "f32le", "-")
    ask = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-map", "0:a:0", *place]
    values = np.frombuffer(subprocess.run(ask, capture_output=True, check=True).stdout, dtype="<f4")
    loud = np.flatnonzero(np.abs(values) > np.abs(values).max() / 2) / 8000
    return [float(second) for second in loud[np.diff(loud, prepend=-1) > 0.1]]


def shown(path: Path, seconds: float) -> list[float]:
    """Return the seconds at which an outline beeps, under a player of a file of so many seconds."""
    highs = np.array([high for _, high in json.loads(path.read_bytes())["peaks"]])
    loud = np.flatnonzero(highs > highs.max() / 2) * seconds / 1000
    return [float(second) for second in loud[np.diff(loud, prepend=-1) > 0.1]]


async def built(source: Path, spec: VariantSpec, directory: Path, limits: AvLimits | None = None) -> AvOutput:
    """Build one variant."""
    return await AvProcessor(FfmpegTools.find(), limits).build(source, spec, directory / f"made{spec.extension}")


async def check(
    source: Path, directory: Path, seconds: float, at: Sequence[float], *, film: bool = True, close: float = CLOSE
) -> None:
    """Build an output of each kind and look for the beeps."""
    played: list[float] = []
    length_ms = 0
    for spec in (*([FILM] if film else []), NORMALIZED, M4A):
        made = await built(source, spec, directory)
        length_ms, played = made.duration_ms or 0, heard(made.path)
        assert length_ms / 1000 == pytest.approx(seconds, abs=0.12), spec
        assert played == pytest.approx(at, abs=close), spec
    outline = await built(source, OUTLINE, directory)
    # Under the player of the M4A, within one bucket to each side.
    assert shown(outline.path, length_ms / 1000) == pytest.approx(
        played, abs=max(2 * length_ms / 1_000_000, close - CLOSE)
    )


@pytest.fixture
def probe() -> AvProbe:
    return AvProbe(FfmpegTools.find())


@pytest.mark.parametrize("offset", [10, 100_000])
async def test_a_file_may_begin_at_any_time(offset: int, clips: Clips, tmp_path: Path, probe: AvProbe) -> None:
    late = ("-output_ts_offset", str(offset))
    source = clips.made(f"from-{offset}.mkv", *moving(seconds=4), *beeps(4, 1, 3), *H264, "-c:a", "libopus", *late)
    link = tmp_path / "source"
    link.symlink_to(source)

    assert (await probe.probe(link)).duration_ms == pytest.approx(4000, abs=50)
    await check(link, tmp_path, 4, [1, 3])


async def test_sound_that_starts_late_keeps_its_place(clips: Clips, tmp_path: Path, probe: AvProbe) -> None:
    delayed = (*moving(seconds=4), "-itsoffset", "0.7", *beeps(3.3, 0.8, 2.3))
    source = clips.made("late-sound.mp4", *delayed, *H264, "-c:a", "aac")

    assert (await probe.probe(source)).duration_ms == pytest.approx(4000, abs=30)
    await check(source, tmp_path, 4, [1.5, 3])


async def test_sound_longer_than_its_film_is_whole(clips: Clips, tmp_path: Path, probe: AvProbe) -> None:
    delayed = (*moving(seconds=3), "-itsoffset", "1.5", *beeps(3, 0.5, 2.5))
    source = clips.made("long-sound.mp4", *delayed, *H264, "-c:a", "aac")

    assert (await probe.probe(source)).duration_ms == pytest.approx(4500, abs=30)
    await check(source, tmp_path, 4.5, [2, 4])


@pytest.mark.parametrize("name", ["gap.webm", "gap.mp4"])
async def test_a_gap_in_the_sound_is_silence(name: str, clips: Clips, tmp_path: Path) -> None:
    hole = ("-af", "aselect='lt(t,2)+gt(t,4)'")
    codec = ("-c:a", "libopus") if name.endswith("webm") else (*H264, "-c:a", "aac")
    frames = () if name.endswith("webm") else moving(seconds=6)
    source = clips.made(name, *frames, *beeps(6, 1, 5), *hole, *codec)

    await check(source, tmp_path, 6, [1, 5], film=bool(frames))


async def test_late_sound_whose_format_changes_is_neither_doubled_nor_lost(tmp_path: Path) -> None:
    """A broadcast: the sound begins half a second late, and goes from stereo at 48 kHz to mono at 44.1 kHz."""
    parts = {name: tmp_path / f"{name}.ts" for name in ("film", "first", "second")}
    ffmpeg(*moving(seconds=6), *H264, parts["film"])
    ffmpeg(*beeps(2.5, 0.5, 1.5), "-ac", "2", "-c:a", "aac", "-output_ts_offset", "0.5", parts["first"])
    ffmpeg(*beeps(3, 1, rate=44_100), "-c:a", "aac", "-output_ts_offset", "3", parts["second"])
    sound, source = tmp_path / "sound.ts", tmp_path / "source.ts"
    sound.write_bytes(parts["first"].read_bytes() + parts["second"].read_bytes())
    copied = ("-map", "0", "-map", "1", "-c", "copy", "-copyts", "-muxdelay", "0", "-muxpreload", "0")
    ffmpeg("-copyts", "-i", parts["film"], "-copyts", "-i", sound, *copied, source)

    await check(source, tmp_path, 6.03, [1, 2, 4], close=0.06)


# --- what files say of themselves --------------------------------------------------------------------------------


async def test_joined_ogg_files_are_one_recording(tmp_path: Path, probe: AvProbe) -> None:
    """ffprobe speaks of the last part only, and counts its samples by the rate of the first."""
    parts = [tmp_path / "first.ogg", tmp_path / "second.ogg"]
    ffmpeg(*beeps(3, 1), "-c:a", "libvorbis", parts[0])
    ffmpeg(*beeps(2, 1, rate=44_100), "-c:a", "libvorbis", "-serial_offset", "77", parts[1])
    source = tmp_path / "source"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))

    assert (await probe.probe(source)).duration_ms == pytest.approx(5000, abs=30)
    await check(source, tmp_path, 5, [1, 4], film=False, close=0.06)


def flac(clips: Clips, path: Path, *, factor: int = 3) -> Path:
    """Write three seconds of FLAC whose header states a multiple of them."""
    content = bytearray(clips.made("song.flac", *tone(3), "-c:a", "flac").read_bytes())
    # STREAMINFO: 36 bits of the count of samples, the last four of byte 21 first.
    count = int.from_bytes(content[22:26], "big") * factor
    content[22:26] = count.to_bytes(4, "big")
    path.write_bytes(content)
    return path


async def test_a_wrong_header_is_measured_before_the_output_is_refused(
    clips: Clips, tmp_path: Path, probe: AvProbe
) -> None:
    source = flac(clips, tmp_path / "source")
    assert (await probe.probe(source)).duration_ms == 9000

    made = await built(source, M4A, tmp_path)

    assert made.duration_ms == pytest.approx(3000, abs=30)
    assert made.source_duration_ms == pytest.approx(3000, abs=30)


async def test_a_wrong_header_is_measured_before_it_is_too_long(clips: Clips, tmp_path: Path, probe: AvProbe) -> None:
    source = flac(clips, tmp_path / "source")

    assert await probe.measure_ms(source, at_most_seconds=5) == pytest.approx(3000, abs=30)
    assert (await built(source, M4A, tmp_path, AvLimits(max_duration_seconds=5))).duration_ms == pytest.approx(
        3000, abs=30
    )
    with pytest.raises(ContentRejected) as refused:
        await built(source, M4A, tmp_path, AvLimits(max_duration_seconds=2))
    assert refused.value.code == "media_too_long"


async def test_a_file_that_is_cut_off_is_no_wrong_header(clips: Clips, tmp_path: Path, probe: AvProbe) -> None:
    whole = clips.made("song.mkv", *moving(seconds=4), *tone(4), *H264, "-c:a", "libopus").read_bytes()
    source = tmp_path / "source"
    source.write_bytes(whole[: len(whole) * 6 // 10])

    assert await probe.measure_ms(source, at_most_seconds=60) is None
    for spec in (M4A, FILM):
        with pytest.raises(RindleError) as refused:
            await built(source, spec, tmp_path)
        assert refused.value.code == "output_duration_mismatch"


async def test_subtitles_and_chapters_do_not_count_for_length(tmp_path: Path, probe: AvProbe) -> None:
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:30,000\nhello\n")
    for name, codecs in (("film.mkv", ("-c:a", "libopus", "-c:s", "ass")), ("film.mp4", ("-c:s", "mov_text"))):
        source = tmp_path / name
        ffmpeg(*moving(), *tone(), "-i", words, "-map", "0", "-map", "1", "-map", "2", *H264, *codecs, source)
        link = tmp_path / f"{name}-source"
        link.symlink_to(source)

        assert (await probe.probe(link)).duration_ms == pytest.approx(2010, abs=30)


@pytest.mark.parametrize(
    ("rate", "found_ms", "agrees"),
    [(8_000, 3_168, True), (8_000, 3_530, True), (8_000, 3_600, False), (48_000, 3_290, True), (48_000, 3_330, False)],
)
def test_the_delay_of_an_encoder_is_allowed(rate: int, found_ms: int, agrees: bool) -> None:
    """A frame lasts six times as long at 8 kHz as at 48 kHz."""
    track = AudioTrack(index=0, codec="mp3", sample_rate=rate, channels=1, duration_ms=found_ms)
    found = Media(frozenset({"mp3"}), found_ms, 1, None, track, {})

    assert _Span(3_000, certain=True).agrees(found) is agrees


# --- loudness ----------------------------------------------------------------------------------------------------


def loudness(path: Path) -> float:
    """Return the integrated loudness of a file in LUFS; -70 for silence."""
    ask = ["ffmpeg", "-nostdin", "-hide_banner", "-i", str(path), "-af", "ebur128", "-f", "null", "-"]
    said = subprocess.run(ask, capture_output=True, text=True, check=True).stderr
    return float(said[said.rindex("I:") :].split()[1])


def peak(path: Path) -> float:
    """Return the highest sample of a file, in dB."""
    ask = ["ffmpeg", "-nostdin", "-hide_banner", "-i", str(path), "-af", "volumedetect", "-f", "null", "-"]
    said = subprocess.run(ask, capture_output=True, text=True, check=True).stderr
    return float(said[said.rindex("max_volume:") :].split()[1])


def sample_rate(path: Path) -> int:
    """Return the sample rate of a file, in hertz."""
    ask = ["ffprobe", "-v", "error", "-show_entries", "stream=sample_rate", "-of", "csv=p=0", str(path)]
    return int(subprocess.run(ask, capture_output=True, check=True).stdout)


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("silence.wav", ("-f", "lavfi", "-i", "anullsrc=duration=2")),
        ("quiet.wav", (*tone(4), "-af", "volume=-75dB", "-c:a", "pcm_s24le")),
        ("click.wav", tone(0.05)),
        ("short.wav", tone(0.35)),
    ],
)
async def test_what_has_no_loudness_is_as_loud_as_the_source(
    name: str, source: tuple[str, ...], two_pass: bool, clips: Clips, tmp_path: Path
) -> None:
    path = clips.made(f"loudness-{name}", *source)

    made = await built(path, AudioVariant("mp3_128k", normalize=True, two_pass=two_pass), tmp_path)

    assert peak(made.path) == pytest.approx(max(peak(path), -91), abs=3)


@pytest.mark.parametrize("two_pass", [False, True])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("hot.wav", (*tone(4, hertz=1000), "-af", "volume=45dB", "-c:a", "pcm_f32le")),
        ("square.wav", ("-f", "lavfi", "-i", "aevalsrc='sgn(sin(4000*t))|sgn(sin(4000*t))':s=48000:d=4")),
    ],
)
async def test_what_is_louder_than_full_scale_is_brought_to_the_target(
    name: str, source: tuple[str, ...], two_pass: bool, clips: Clips, tmp_path: Path
) -> None:
    path = clips.made(f"loudness-{name}", *source)

    made = await built(path, AudioVariant("mp3_128k", normalize=True, two_pass=two_pass), tmp_path)

    assert loudness(made.path) == pytest.approx(-16, abs=1)


@pytest.mark.parametrize(("rate", "made_rate"), [(8_000, 8_000), (37_800, 32_000), (44_056, 44_100), (96_000, 48_000)])
async def test_a_rate_that_the_encoder_lacks_becomes_the_nearest(
    rate: int, made_rate: int, clips: Clips, tmp_path: Path
) -> None:
    made = await built(clips.made(f"rate-{rate}.wav", *tone(2, rate=rate)), NORMALIZED, tmp_path)

    assert sample_rate(made.path) == made_rate
