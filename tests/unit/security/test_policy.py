"""Upload policies: declarations refused early, bytes decide."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from rindle.errors import InvalidArgument, UploadRejected
from rindle.security import UploadPolicy, check_declared, granted_type, validate_upload

CORPUS = os.environ.get("RINDLE_CORPUS")


def picture(path: Path, kind: str) -> Path:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(out, kind)
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    return picture(tmp_path / "source", "JPEG")


IMAGES = UploadPolicy("avatar", ("image/*",), ("jpg", ".PNG", ".mp4"), 10_000)


def refusal(path: Path, filename: str | None, policy: UploadPolicy) -> UploadRejected:
    with pytest.raises(UploadRejected) as caught:
        validate_upload(path, filename, policy)
    return caught.value


def test_a_file_within_the_policy_gives_its_sniffed_type(jpeg: Path) -> None:
    assert validate_upload(jpeg, "Me.JPG", IMAGES) == "image/jpeg"
    assert validate_upload(jpeg, "me.jpg", UploadPolicy("p", ("image/jpg",))) == "image/jpeg"


def test_an_empty_policy_restricts_nothing(jpeg: Path) -> None:
    for name in (None, "noext", "me.jpeg", "me.unheard", "shell.php.jpg"):
        assert validate_upload(jpeg, name, UploadPolicy("p")) == "image/jpeg"


def test_jpeg_bytes_named_png_mismatch_where_the_profile_is_strict(jpeg: Path) -> None:
    error = refusal(jpeg, "me.png", UploadPolicy("p", ("image/png", "image/jpeg"), strict_extension=True))
    assert (error.code, error.http_status) == ("extension_mime_mismatch", 422)
    assert error.detail == {"profile": "p", "limit": "image/jpeg", "found": ".png"}


def test_jpeg_bytes_are_refused_as_a_type_when_only_png_is_allowed(jpeg: Path) -> None:
    error = refusal(jpeg, "me.png", UploadPolicy("p", ("image/png",)))
    assert error.code == "mime_not_allowed"
    assert error.message == "JPEG images are not accepted here. Send one of these: PNG images."
    assert "'p'" in (error.operator or "")
    assert "image/png" in (error.operator or "")


@pytest.mark.parametrize(
    ("filename", "code"),
    [
        (None, "missing_extension"),
        ("photo", "missing_extension"),
        (".jpg", "missing_extension"),
        ("photo.gif", "extension_not_allowed"),
        ("photo.jpg.exe", "extension_not_allowed"),
        ("photo.jp\u200bg", "extension_not_allowed"),
        ("photo.mp4", "extension_mime_mismatch"),
    ],
)
def test_the_name_is_judged_by_its_sanitised_extension(jpeg: Path, filename: str | None, code: str) -> None:
    assert refusal(jpeg, filename, IMAGES).code == code


def test_a_file_over_the_limit_is_refused_with_limit_and_size(jpeg: Path) -> None:
    size = jpeg.stat().st_size
    error = refusal(jpeg, "me.jpg", UploadPolicy("avatar", max_bytes=size - 1))
    assert (error.code, error.http_status) == ("max_bytes_exceeded", 413)
    assert error.detail == {"profile": "avatar", "limit": size - 1, "found": size}
    assert validate_upload(jpeg, "me.jpg", UploadPolicy("avatar", max_bytes=size)) == "image/jpeg"


def test_the_first_reason_in_order_is_given(jpeg: Path, tmp_path: Path) -> None:
    tight = UploadPolicy("p", ("image/png",), (".png",), 1)
    assert refusal(jpeg, None, tight).code == "mime_not_allowed"
    png = picture(tmp_path / "png", "PNG")
    assert refusal(png, None, tight).code == "missing_extension"
    assert refusal(png, "x.jpg", tight).code == "extension_not_allowed"
    assert refusal(png, "x.png", tight).code == "max_bytes_exceeded"
    noise = tmp_path / "noise"
    noise.write_bytes(b"\x00" * 10)
    assert refusal(noise, None, tight).code == "unknown_mime"
    empty = tmp_path / "empty"
    empty.touch()
    assert refusal(empty, None, tight).code == "empty_upload"
    assert refusal(tmp_path / "absent", None, tight).code == "unknown_mime"


@pytest.mark.parametrize(
    "content", [b"<svg/>", b"<html>", b"<?xml version='1.0'?><a/>", b"#!/usr/bin/env python3\nprint()\n"]
)
def test_active_content_must_be_named_by_the_policy(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for policy in (UploadPolicy("p"), UploadPolicy("p", ("image/*", "text/*"))):
        assert refusal(path, None, policy).code == "mime_not_allowed"


def test_svg_is_accepted_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"<svg/>")
    assert validate_upload(path, "logo.svg", UploadPolicy("p", ("image/svg+xml",))) == "image/svg+xml"


def test_a_playlist_in_any_disguise_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"#EXTM3U\n/etc/passwd\n")
    assert refusal(path, "clip.mp4", UploadPolicy("p", ("video/*", "audio/*"))).code == "mime_not_allowed"
    assert refusal(path, "clip.mp4", UploadPolicy("p")).code == "extension_mime_mismatch"
    assert refusal(path, "clip.txt", UploadPolicy("p")).code == "extension_mime_mismatch"


@pytest.mark.parametrize(
    ("filename", "size", "code"),
    [
        ("a.gif", 1, "extension_not_allowed"),
        ("a", 1, "missing_extension"),
        (None, None, "missing_extension"),
        ("a.jpg", 10_001, "max_bytes_exceeded"),
        ("a.gif", 10_001, "extension_not_allowed"),
    ],
)
def test_declarations_outside_the_policy_are_refused_before_anything_exists(
    filename: str | None, size: int | None, code: str
) -> None:
    with pytest.raises(UploadRejected) as caught:
        check_declared(IMAGES, filename, size)
    assert caught.value.code == code
    assert "'avatar'" in (caught.value.operator or "")
    assert "avatar" not in caught.value.message


def test_declarations_within_the_policy_pass() -> None:
    check_declared(IMAGES, "../a.JPG", 10_000)
    check_declared(IMAGES, "a.png", None)
    check_declared(IMAGES, "a.png", 0)
    check_declared(UploadPolicy("p"), None, None)


@pytest.mark.parametrize("size", [-1, True, 1.5])
def test_a_size_that_is_no_byte_count_is_a_bad_call(size: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_declared(IMAGES, "a.jpg", size)
    assert caught.value.detail == {"option": "size"}


@pytest.mark.parametrize(
    ("allowed", "filename", "granted"),
    [
        (("image/*",), "a.JPG", "image/jpeg"),
        (("video/mp4",), "a.mov", "video/mp4"),
        ((), "a.png", "image/png"),
        (("image/*",), "a.html", "application/octet-stream"),
        ((), "a.svg", "application/octet-stream"),
        (("image/svg+xml",), "a.svg", "image/svg+xml"),
        (("image/png",), "a", "image/png"),
        (("image/png", "image/jpeg"), "a", "application/octet-stream"),
        (("image/*",), None, "application/octet-stream"),
        ((), "a.unknown", "application/octet-stream"),
    ],
)
def test_the_type_of_a_ticket_follows_from_profile_and_extension(
    allowed: tuple[str, ...], filename: str | None, granted: str
) -> None:
    assert granted_type(UploadPolicy("p", allowed), filename) == granted


@pytest.mark.skipif(not CORPUS, reason="RINDLE_CORPUS is not set")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("logo.svg", "mime_not_allowed"),
        ("document.pdf", "mime_not_allowed"),
        ("looks_like_svg.webp", None),
        ("photo_iphone13.heic", None),
    ],
)
def test_real_files_against_an_image_policy(name: str, code: str | None) -> None:
    path = Path(CORPUS or "") / name
    if code is None:
        assert validate_upload(path, name, UploadPolicy("p", ("image/*",))).startswith("image/")
    else:
        assert refusal(path, name, UploadPolicy("p", ("image/*",))).code == code
