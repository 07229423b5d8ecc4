"""Containers of audio and video by their bytes, and by the kind that the probe finds in them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rindle.errors import UploadRejected
from rindle.rejections import sentence
from rindle.security import UploadPolicy, extension_matches, sniff, type_of_content, validate_upload
from rindle.security.readable import is_readable
from rindle.states import MediaKind
from tests.unit.security.test_mime import ADTS_FRAME, MP3_FRAME, iso

AUDIO, VIDEO = MediaKind.AUDIO, MediaKind.VIDEO
FLAC = b"fLaC\x00\x00\x00\x22" + bytes(34)


def box(kind: bytes, content: bytes = b"", *, large: bool = False) -> bytes:
    if large:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def id3(size: int, *, footer: bool = False) -> bytes:
    length = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    head = b"ID3\x04\x00" + (b"\x10" if footer else b"\x00") + length + b"\x01" * size
    return head + (b"3DI" + head[3:10] if footer else b"")


def packets(size: int, at: int, count: int = 5) -> bytes:
    return (bytes(at) + b"\x47" + b"\x11" * (size - at - 1)) * count


@pytest.mark.parametrize(
    ("content", "mime"),
    [
        pytest.param(id3(300) + FLAC, "audio/flac", id="FLAC behind a tag"),
        pytest.param(id3(60_000) + FLAC, "audio/flac", id="behind a tag with a cover"),
        pytest.param(id3(30, footer=True) + id3(40) + FLAC, "audio/flac", id="behind two tags and a footer"),
        pytest.param(id3(300) + ADTS_FRAME * 3, "audio/aac", id="AAC behind a tag"),
        pytest.param(id3(300) + bytes(500) + MP3_FRAME * 3, "audio/mpeg", id="MP3 behind a tag and padding"),
        pytest.param(id3(300), "audio/mpeg", id="a tag alone"),
        pytest.param(bytes(4096) + MP3_FRAME * 3, "audio/mpeg", id="MP3 behind zeros"),
        pytest.param(bytes(20_000) + MP3_FRAME * 3, "audio/mpeg", id="MP3 behind many zeros"),
        pytest.param(packets(188, 0), "video/mp2t", id="a transport stream"),
        pytest.param(packets(192, 4), "video/mp2t", id="AVCHD"),
        pytest.param(packets(204, 0), "video/mp2t", id="with parity"),
        pytest.param(box(b"wide") + box(b"mdat", b"x" * 99), "video/quicktime", id="wide first"),
        pytest.param(box(b"free", bytes(20_000)) + box(b"moov"), "video/quicktime", id="a long free box first"),
        pytest.param(box(b"skip", b"abc", large=True) + box(b"mdat"), "video/quicktime", id="skip first"),
        pytest.param(box(b"pnot", bytes(12)) + box(b"PICT") + box(b"mdat"), "video/quicktime", id="a preview first"),
        pytest.param(box(b"moov", bytes(50)), "video/quicktime", id="the index first"),
        pytest.param(box(b"free") + iso(b"M4A "), "audio/mp4", id="free before ftyp"),
        *(
            pytest.param(iso(brand), "video/mp4", id=repr(brand))
            for brand in (b"pana", b"CAEP", b"dby1", b"mp71", b"piff", b"nvr1", b"niko", b"XAVC", b"MSNV")
        ),
        pytest.param(iso(b"mqt "), "video/quicktime", id="Sony"),
        pytest.param(iso(b"3gr6"), "video/3gpp", id="3GPP release 6"),
        pytest.param(b"RF64\xff\xff\xff\xffWAVEds64" + bytes(40), "audio/wav", id="RF64"),
        pytest.param(b"caff\x00\x01\x00\x00desc", "audio/x-caf", id="CAF"),
        pytest.param(b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb" + bytes(40), "audio/x-w64", id="W64"),
    ],
)
def test_containers_are_recognised(content: bytes, mime: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    assert sniff(path) == mime


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(bytes(100_000) + MP3_FRAME * 3, id="zeros without an end"),
        pytest.param(box(b"free", bytes(100)) + b"\x00\x93\x01\x02\xfe\xc8\x00\x81" * 4, id="a free box before noise"),
        pytest.param(struct.pack(">I4s", 4, b"free") + bytes(99), id="a box that is too short"),
        pytest.param(box(b"ftyp", b"XYZ \x00\x00\x00\x00XYZ ") + box(b"meta", bytes(40)), id="a brand of images"),
    ],
)
def test_padding_alone_is_no_container(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(UploadRejected) as refused:
        sniff(path)
    assert refused.value.code == "unknown_mime"


@pytest.mark.parametrize(
    ("extension", "mime"),
    [
        *((f".{name}", "video/3gpp") for name in ("m4a", "m4b", "mp4", "3ga", "aac", "mov")),
        *((f".{name}", "audio/mp4") for name in ("mp4", "m4v", "3gp", "mov")),
        (".mts", "video/mp2t"),
        (".m2ts", "video/mp2t"),
        (".weba", "video/webm"),
        (".spx", "audio/ogg"),
    ],
)
def test_extensions_that_recorders_use(extension: str, mime: str) -> None:
    assert extension_matches(extension, mime)


# --- the kind decides --------------------------------------------------------------------------------------------

TALK = UploadPolicy("talk", ("audio/*",))
LESSON = UploadPolicy("lesson", ("video/*",))


@pytest.mark.parametrize(
    ("name", "content", "mime"),
    [
        ("samsung.m4a", iso(b"3gp4", b"isom"), "audio/3gpp"),
        ("android.m4a", iso(b"mp42", b"isom"), "audio/mp4"),
        ("iphone.m4a", iso(b"M4A ", b"isom"), "audio/mp4"),
        ("safari.mp4", iso(b"iso5", b"iso6", b"mp41"), "audio/mp4"),
        ("recorder.mov", iso(b"qt  "), "audio/mp4"),
    ],
)
def test_a_voice_recording_passes_the_gate_of_audio(name: str, content: bytes, mime: str, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(content)

    found = validate_upload(path, name, TALK)

    assert type_of_content(TALK, found, AUDIO) == mime


@pytest.mark.parametrize(
    ("sniffed", "kind", "mime"),
    [
        ("video/webm", AUDIO, "audio/webm"),
        ("video/x-matroska", AUDIO, "audio/x-matroska"),
        ("video/webm", VIDEO, "video/webm"),
        ("audio/mp4", VIDEO, "video/mp4"),
        ("audio/ogg", VIDEO, "video/ogg"),
        ("audio/mpeg", AUDIO, "audio/mpeg"),
        ("image/png", MediaKind.IMAGE, "image/png"),
    ],
)
def test_the_kind_gives_the_type(sniffed: str, kind: MediaKind, mime: str) -> None:
    assert type_of_content(UploadPolicy("any"), sniffed, kind) == mime


@pytest.mark.parametrize("sniffed", ["video/mp4", "video/webm", "video/quicktime", "audio/mp4"])
def test_a_film_is_no_voice_recording(sniffed: str) -> None:
    with pytest.raises(UploadRejected) as refused:
        type_of_content(TALK, sniffed, VIDEO)

    assert refused.value.code == "mime_not_allowed"
    assert refused.value.detail["found"].startswith("video/")


def test_a_brand_of_audio_may_hold_a_film() -> None:
    assert type_of_content(LESSON, "audio/mp4", VIDEO) == "video/mp4"


def test_a_film_container_without_a_film_stays_accepted_where_it_was() -> None:
    assert type_of_content(LESSON, "video/mp4", AUDIO) == "video/mp4"


@pytest.mark.parametrize("mime", ["image/png", "audio/mpeg", "video/x-msvideo", "text/plain"])
def test_only_ambiguous_containers_pass_for_their_other_type(mime: str, tmp_path: Path) -> None:
    contents = {
        "image/png": b"\x89PNG\r\n\x1a\n" + bytes(20),
        "audio/mpeg": MP3_FRAME * 3,
        "video/x-msvideo": b"RIFF\x00\x00\x00\x00AVI LIST",
        "text/plain": b"words\n",
    }
    path = tmp_path / "source"
    path.write_bytes(contents[mime])
    policy = LESSON if mime.startswith("audio/") else TALK

    with pytest.raises(UploadRejected) as refused:
        validate_upload(path, None, policy)
    assert refused.value.code == "mime_not_allowed"


# --- what is not read --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "container", "instead"),
    [
        (b"FLV\x01\x05\x00\x00\x00\x09", "FLV", "MP4"),
        (b"\x00\x00\x01\xba\x44" + bytes(40), "MPEG program stream", "MP4"),
        (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(40), "WMV", "MP4"),
        (
            bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b"),
            "WMA",
            "M4A",
        ),
        (b"caff\x00\x01\x00\x00desc", "CAF", "M4A"),
        (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb" + bytes(40), "W64", "M4A"),
        (b"FORM\x00\x00\x10\x00AIFFCOMM", "AIFF", "M4A"),
        (b"#!AMR\n" + bytes(40), "AMR", "M4A"),
        (b".snd\x00\x00\x00\x18" + bytes(40), "AU", "M4A"),
    ],
)
def test_a_container_that_is_not_read_is_named_with_what_to_send(
    content: bytes, container: str, instead: str, tmp_path: Path
) -> None:
    path = tmp_path / "source"
    path.write_bytes(content)
    policy = UploadPolicy("any", can_probe=is_readable)

    with pytest.raises(UploadRejected) as refused:
        validate_upload(path, None, policy)

    assert refused.value.code == "no_probe_for_mime"
    assert container in refused.value.message
    assert instead in refused.value.message
    assert sentence(refused.value.code, refused.value.detail) == refused.value.message
