"""``Content-Disposition`` for any name and any type."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.delivery.disposition import content_disposition

_HEADER = re.compile(
    r"(?:attachment|inline); filename=\"[A-Za-z0-9._-]{1,255}\"; "
    r"filename\*=UTF-8''(?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+"
)


def header(disposition: str | None, filename: str | None, content_type: str | None = "image/png") -> str | None:
    return content_disposition(disposition, filename, default_filename="stored.png", content_type=content_type)


def test_nothing_asked_for_gives_no_header() -> None:
    assert header(None, None) is None


def test_the_example_of_the_specification() -> None:
    assert header("attachment", "../my clip?.mp4", "video/mp4") == (
        "attachment; filename=\"my_clip_.mp4\"; filename*=UTF-8''my%20clip%3F.mp4"
    )


def test_the_unicode_name_travels_in_the_extended_form_only() -> None:
    assert header("attachment", "Übersicht–März.png") == (
        "attachment; filename=\"bersicht_M_rz.png\"; filename*=UTF-8''%C3%9Cbersicht%E2%80%93M%C3%A4rz.png"
    )


@pytest.mark.parametrize(
    ("disposition", "filename", "expected"),
    [
        ("attachment", None, 'attachment; filename="stored.png"'),
        ("attachment", "mine.png", 'attachment; filename="mine.png"'),
        ("inline", None, 'inline; filename="download"'),
        ("inline", "mine.png", 'inline; filename="mine.png"'),
        (None, "mine.png", 'inline; filename="mine.png"'),
        ("whatever", None, 'inline; filename="download"'),
    ],
)
def test_type_and_name_follow_what_was_asked_for(disposition: str | None, filename: str | None, expected: str) -> None:
    found = header(disposition, filename)

    assert found is not None and found.startswith(f"{expected}; filename*=")


@pytest.mark.parametrize(
    "content_type",
    [
        "image/svg+xml",
        "text/html",
        "text/xml",
        "application/xhtml+xml",
        "image/heic",
        "application/zip",
        "TEXT/HTML; x=y",
    ],
)
@pytest.mark.parametrize("disposition", [None, "inline", "attachment"])
def test_what_is_not_safe_to_show_is_always_an_attachment(content_type: str, disposition: str | None) -> None:
    found = header(disposition, None, content_type)

    assert found is not None and found.startswith("attachment; ")


@pytest.mark.parametrize(
    "content_type",
    [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/avif",
        "image/gif",
        "video/mp4",
        "audio/mpeg",
        "application/pdf",
        "text/plain",
    ],
)
def test_common_media_may_be_shown(content_type: str) -> None:
    assert header(None, None, content_type) is None
    assert str(header("inline", None, content_type)).startswith("inline; ")


def test_an_unknown_type_forces_nothing() -> None:
    assert header(None, None, None) is None


@given(st.text(max_size=400), st.sampled_from(["attachment", "inline", None]))
def test_no_name_breaks_out_of_the_header(filename: str, disposition: str | None) -> None:
    found = header(disposition, filename)

    assert found is not None and _HEADER.fullmatch(found), found
    name = unquote(found.partition("''")[2])
    assert "/" not in name and "\\" not in name and len(name.encode()) <= 255
    assert not any(ord(char) < 32 or char in "\x7f\u202e\u2066" for char in name)
