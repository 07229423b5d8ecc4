"""Recordings as browsers and phones make them, through the whole pipeline: their kind and real length decide."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.media.clips import H264, Clips, ffmpeg, moving, tone
from tests.stage import Stage

AAC, OPUS = ("-c:a", "aac"), ("-c:a", "libopus")
FRAGMENTS = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-f", "mp4")
#: Name, how it is written, and the type it has in the end.
RECORDINGS = {
    "samsung.m4a": ((*AAC, "-f", "3gp"), "audio/3gpp"),
    "android.m4a": ((*AAC, "-f", "mp4"), "audio/mp4"),
    "iphone.m4a": ((*AAC, "-f", "ipod"), "audio/mp4"),
    "safari.mp4": ((*AAC, *FRAGMENTS), "audio/mp4"),
    "chrome.weba": ((*OPUS, "-f", "webm", "-live", "1"), "audio/webm"),
    "firefox.ogg": ((*OPUS, "-f", "ogg"), "audio/ogg"),
    "recorder.mka": (("-c:a", "flac", "-f", "matroska"), "audio/x-matroska"),
}


async def test_a_profile_of_audio_accepts_the_recordings_of_browsers_and_phones(
    lite_stage: Stage, clips: Clips
) -> None:
    await lite_stage.member()
    found = {}
    for name, (options, _) in RECORDINGS.items():
        source = clips.made(f"voice-{name}", *tone(2), *options)
        asset = await lite_stage.ready("voice", source, filename=name)
        found[name] = (asset.state, asset.kind, asset.content_type)

    assert found == {name: ("ready", "audio", mime) for name, (_, mime) in RECORDINGS.items()}


async def test_a_film_is_no_recording_whatever_its_name_and_brand(lite_stage: Stage, clips: Clips) -> None:
    await lite_stage.member()
    film = clips.made("film-of-audio.m4a", *moving(), *tone(), *H264, *AAC, "-f", "mp4")

    asset = await lite_stage.ready("voice", film, filename="voice.m4a")

    assert (asset.state, asset.error_code) == ("quarantined", "mime_not_allowed")


async def test_a_length_is_measured_before_a_recording_is_too_long(lite_stage: Stage, clips: Clips) -> None:
    """ADTS states no length; ffprobe takes the bit rate of the silence at the start for that of the whole."""
    silence, noise = "anullsrc=duration=5:sample_rate=44100", "anoisesrc=duration=5:sample_rate=44100:amplitude=0.5"
    joined = ("-filter_complex", "[0][1]concat=n=2:v=0:a=1", *AAC, "-q:a", "3")
    source = clips.made("guessed.aac", "-f", "lavfi", "-i", silence, "-f", "lavfi", "-i", noise, *joined)
    await lite_stage.member()

    asset = await lite_stage.ready("voice", source, filename="guessed.aac")

    assert (asset.state, asset.error_code) == ("ready", None)
    assert abs((asset.duration_ms or 0) - 10_000) < 100


def tagged(clips: Clips, path: Path) -> None:
    """Write a FLAC behind an ID3 tag, as taggers for MP3 leave it."""
    song = clips.made("plain.flac", *tone(2), "-c:a", "flac").read_bytes()
    path.write_bytes(b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256) + song)


def padded(clips: Clips, path: Path) -> None:
    """Write an MP3 behind zeros."""
    song = clips.made("plain.mp3", *tone(2), "-c:a", "libmp3lame", "-id3v2_version", "0").read_bytes()
    path.write_bytes(bytes(4096) + song)


def camcorder(clips: Clips, path: Path) -> None:
    """Write AVCHD: packets with a time before each."""
    ffmpeg(*moving(), *tone(), *H264, "-c:a", "ac3", "-f", "mpegts", "-mpegts_m2ts_mode", "1", path)


def wide_first(clips: Clips, path: Path) -> None:
    """Write a QuickTime file without ``ftyp``."""
    film = clips.made("plain.mov", *moving(), *tone(), *H264, *AAC).read_bytes()
    length = int.from_bytes(film[:4], "big")
    path.write_bytes(b"\x00\x00\x00\x08wide" + (length - 8).to_bytes(4, "big") + b"free" + film[16:])


def panasonic(clips: Clips, path: Path) -> None:
    """Write an MP4 of a brand that only one maker uses."""
    film = clips.film().read_bytes()
    length = int.from_bytes(film[:4], "big")
    path.write_bytes(film[:8] + b"pana" + film[12:16] + b"pana" * ((length - 16) // 4) + film[length:])


#: Name, how it is written, and its type.
ODD_FILES: dict[str, tuple[Callable[[Clips, Path], None], str]] = {
    "tagged.flac": (tagged, "audio/flac"),
    "padded.mp3": (padded, "audio/mpeg"),
    "camcorder.mts": (camcorder, "video/mp2t"),
    "wide.mov": (wide_first, "video/quicktime"),
    "panasonic.mp4": (panasonic, "video/mp4"),
}


async def test_containers_with_something_before_them_are_accepted(lite_stage: Stage, clips: Clips) -> None:
    await lite_stage.member()
    found = {}
    for name, (write, _) in ODD_FILES.items():
        source = lite_stage.home / name
        write(clips, source)
        asset = await lite_stage.ready("talk", source, filename=name)
        found[name] = (asset.state, asset.content_type)

    assert found == {name: ("ready", mime) for name, (_, mime) in ODD_FILES.items()}
