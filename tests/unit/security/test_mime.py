"""What a file is, by its bytes."""

from __future__ import annotations

import io
import os
import struct
import wave
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rindle.errors import UploadRejected
from rindle.security import (
    canonical_mime,
    extension_matches,
    extension_of_mime,
    is_active_content,
    is_inline_safe,
    mime_allowed,
    mime_of_extension,
    sniff,
)

CORPUS = os.environ.get("RINDLE_CORPUS")
CORPUS_FILES = sorted(path for path in Path(CORPUS).iterdir() if path.suffix != ".md") if CORPUS else []


def iso(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + b"\x00\x00\x02\x00" + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body + struct.pack(">I", 8) + b"mdat" + b"\x00" * 64


def ebml(doctype: bytes) -> bytes:
    element = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08"
    header = element + b"\x42\x82" + bytes([0x80 | len(doctype)]) + doctype
    return b"\x1aE\xdf\xa3" + bytes([0x80 | len(header)]) + header + b"\x18S\x80g\x01" + b"\xff" * 32


def ogg(packet: bytes) -> bytes:
    return b"OggS\x00\x02" + b"\x00" * 20 + bytes([1, len(packet)]) + packet


def picture(name: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(out, name, **options)
    return out.getvalue()


def wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\x00\x01" * 100)
    return out.getvalue()


MP3_FRAME = b"\xff\xfb\x90\x64" + b"\x00" * 413  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz: 417 bytes
ADTS_FRAME = b"\xff\xf1\x50\x80\x02\x1f\xfc" + b"\x00" * 9  # AAC-LC, 44.1 kHz, stereo: 16 bytes


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (picture("JPEG"), "image/jpeg"),
        (picture("PNG"), "image/png"),
        (picture("GIF"), "image/gif"),
        (picture("WEBP"), "image/webp"),
        (picture("TIFF"), "image/tiff"),
        (picture("BMP"), "image/bmp"),
        (picture("AVIF"), "image/avif"),
        (iso(b"avif", b"mif1"), "image/avif"),
        (iso(b"avis", b"msf1"), "image/avif"),
        (iso(b"heic", b"mif1"), "image/heic"),
        (iso(b"mif1", b"mif1", b"heic"), "image/heic"),
        (iso(b"mif1", b"mif1", b"avif"), "image/avif"),
        (iso(b"mif1", b"mif1"), "image/heif"),
        (iso(b"msf1", b"hevc"), "image/heic-sequence"),
        (iso(b"M4A ", b"mp42", b"isom"), "audio/mp4"),
        (iso(b"qt  "), "video/quicktime"),
        (iso(b"isom", b"iso2", b"avc1", b"mp41"), "video/mp4"),
        (iso(b"mp42", b"M4A "), "video/mp4"),
        (iso(b"M4V ", b"isom"), "video/mp4"),
        (iso(b"XXXX", b"isom"), "video/mp4"),
        (iso(b"3gp4", b"isom"), "video/3gpp"),
        (ebml(b"webm"), "video/webm"),
        (ebml(b"matroska"), "video/x-matroska"),
        (ogg(b"\x01vorbis\x00"), "audio/ogg"),
        (ogg(b"OpusHead\x01"), "audio/ogg"),
        (ogg(b"\x80theora\x03"), "video/ogg"),
        (wav(), "audio/wav"),
        (b"fLaC\x00\x00\x00\x22", "audio/flac"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00", "audio/mpeg"),
        (MP3_FRAME * 2, "audio/mpeg"),
        (ADTS_FRAME * 2, "audio/aac"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"plain words\n", "text/plain"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- hi -->\n<!DOCTYPE svg>\n<svg/>", "image/svg+xml"),
        (b"<!-- GIF89a --><svg:svg/>", "image/svg+xml"),
        ("\ufeff<svg/>".encode("utf-16-le"), "image/svg+xml"),
        (b"  <!DOCTYPE html><p>", "text/html"),
        (b"<HTML>", "text/html"),
        (b"<script>alert(1)</script>", "text/html"),
        (b"<?xml version='1.0'?><feed/>", "text/xml"),
        (b"<?xml version='1.0'?><MPD/>", "application/dash+xml"),
        (b"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\nfile:///etc/passwd\n", "application/vnd.apple.mpegurl"),
        (b"#!/bin/sh\nrm -rf /\n", "text/x-shellscript"),
    ],
)
def test_the_first_bytes_tell_the_type(head: bytes, mime: str, tmp_path: Path) -> None:
    assert sniff(head) == mime
    path = tmp_path / "photo.jpg"
    path.write_bytes(head)
    assert sniff(path) == mime == sniff(str(path))


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"GIF89a/*\x00*/=1;alert(1)//", "image/gif"),
        (picture("JPEG") + b"<?php system($_GET[0]); __HALT_COMPILER();", "image/jpeg"),
        (picture("JPEG") + b"PK\x03\x04", "image/jpeg"),
        (picture("PNG") + b"<html><script>", "image/png"),
        (picture("WEBP")[:12] + b"<svg xmlns=", "image/webp"),
    ],
)
def test_a_polyglot_is_what_it_begins_with(head: bytes, mime: str) -> None:
    assert sniff(head) == mime


def test_only_the_first_8192_bytes_count() -> None:
    assert sniff(b"a" * 8192 + b"\x00\xff" * 100) == "text/plain"


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\x00\x93\x01\x02\xfe\xc8\x00\x81" * 4])
def test_unrecognisable_content_is_an_unknown_type(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(UploadRejected) as caught:
            sniff(source)
        assert caught.value.code == "unknown_mime"


def test_a_missing_file_and_a_directory_are_an_unknown_type(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UploadRejected) as caught:
            sniff(path)
        assert caught.value.code == "unknown_mime"
        assert str(tmp_path) not in str(caught.value)


@given(
    st.binary(max_size=300),
    st.sampled_from(
        [
            b"",
            b"\xff\xfb",
            b"\xff\xf1",
            b"OggS",
            b"\x1aE\xdf\xa3",
            b"\x00\x00\x00\x14ftyp",
            b"RIFF",
            b"<?",
            b"<!--",
            b"G",
        ]
    ),
)
def test_damaged_heads_never_break_the_judgement(tail: bytes, head: bytes) -> None:
    try:
        assert "/" in sniff(head + tail)
    except UploadRejected as refusal:
        assert refusal.code == "unknown_mime"


@pytest.mark.parametrize(
    ("alias", "canonical"),
    [
        ("image/jpg", "image/jpeg"),
        ("audio/x-wav", "audio/wav"),
        ("audio/wave", "audio/wav"),
        ("audio/x-m4a", "audio/mp4"),
        ("audio/mp3", "audio/mpeg"),
        ("video/x-m4v", "video/mp4"),
        ("audio/x-flac", "audio/flac"),
        ("application/x-pdf", "application/pdf"),
        ("IMAGE/PNG; charset=binary", "image/png"),
    ],
)
def test_aliases_have_one_name(alias: str, canonical: str) -> None:
    assert canonical_mime(alias) == canonical


@pytest.mark.parametrize(
    ("extension", "mime"),
    [
        (" JPG ", "image/jpeg"),
        (".jfif", "image/jpeg"),
        (".tif", "image/tiff"),
        (".TIFF", "image/tiff"),
        (".heic", "image/heif"),
        (".heif", "image/heic"),
        (".mp4", "video/quicktime"),
        (".m4v", "video/mp4"),
        (".mov", "video/mp4"),
        (".m4a", "audio/mp4"),
        (".m4a", "video/mp4"),
        (".webm", "video/x-matroska"),
        (".mkv", "video/webm"),
        (".ogg", "video/ogg"),
        (".oga", "audio/ogg"),
        (".ogv", "audio/ogg"),
        (".txt", "text/plain"),
        (".unknown", "image/png"),
        ("", "image/png"),
    ],
)
def test_extensions_of_one_family_go_together(extension: str, mime: str) -> None:
    assert extension_matches(extension, mime)


@pytest.mark.parametrize(
    ("extension", "mime"),
    [
        (".png", "image/jpeg"),
        (".jpg", "image/heic"),
        (".mp4", "audio/mpeg"),
        (".m4a", "audio/mpeg"),
        (".mp4", "application/vnd.apple.mpegurl"),
        (".txt", "application/vnd.apple.mpegurl"),
        (".txt", "text/html"),
        (".txt", "image/jpeg"),
        (".php", "image/jpeg"),
        (".jpg", "image/svg+xml"),
    ],
)
def test_a_known_extension_of_another_type_does_not_fit(extension: str, mime: str) -> None:
    assert not extension_matches(extension, mime)


@pytest.mark.parametrize(
    ("extension", "mime"),
    [
        (".jpg", "image/jpeg"),
        (".mp4", "video/mp4"),
        (".mov", "video/quicktime"),
        (".m4a", "audio/mp4"),
        (".webm", "video/webm"),
        (".heif", "image/heif"),
        (".heic", "image/heic"),
        (".svg", "image/svg+xml"),
        (".ogv", "video/ogg"),
    ],
)
def test_types_and_usual_extensions_name_each_other(extension: str, mime: str) -> None:
    assert mime_of_extension(extension) == mime
    assert extension_of_mime(mime) == extension


def test_unknown_names_have_no_counterpart() -> None:
    assert mime_of_extension(".xyz") is None
    assert mime_of_extension("") is None
    assert extension_of_mime("application/x-unheard-of") is None


@pytest.mark.parametrize(
    "mime",
    [
        "image/svg+xml",
        "text/html",
        "application/xhtml+xml",
        "application/xml",
        "text/xml",
        "application/atom+xml",
        "text/javascript",
        "application/javascript",
        "text/x-php",
        "text/x-shellscript",
        "text/x-script.python",
    ],
)
def test_content_that_can_run_is_active_and_never_inline(mime: str) -> None:
    assert is_active_content(mime)
    assert not is_inline_safe(mime)


@pytest.mark.parametrize(
    "mime",
    [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/avif",
        "image/gif",
        "video/mp4",
        "audio/flac",
        "application/pdf",
        "text/plain",
    ],
)
def test_the_safe_list_is_shown_in_place(mime: str) -> None:
    assert is_inline_safe(mime)
    assert not is_active_content(mime)


@pytest.mark.parametrize("mime", ["image/tiff", "image/heic", "application/zip", "text/csv", "application/json"])
def test_other_harmless_types_are_saved_rather_than_shown(mime: str) -> None:
    assert not is_inline_safe(mime)
    assert not is_active_content(mime)


def test_a_family_covers_its_types_but_no_active_content() -> None:
    assert mime_allowed("image/png", ["image/*"])
    assert not mime_allowed("video/mp4", ["image/*"])
    assert not mime_allowed("image/svg+xml", ["image/*"])
    assert mime_allowed("image/svg+xml", ["image/*", "image/svg+xml"])
    assert mime_allowed("image/jpeg", ["image/jpg"])


@pytest.mark.parametrize("path", CORPUS_FILES, ids=lambda path: path.name)
def test_real_files_are_what_their_extension_says(path: Path) -> None:
    assert sniff(path) == mime_of_extension(path.suffix)
    assert extension_matches(path.suffix, sniff(path))
