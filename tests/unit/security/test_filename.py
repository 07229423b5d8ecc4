"""File names of strangers."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.security import clean_extension, display_name, normalize_extension, sanitize_filename

#: Any text at all, unpaired surrogates included, with the characters that matter made likely.
HOSTILE = st.text(
    st.one_of(st.characters(), st.sampled_from("./\\_-. \x00\x07\x7f\u202e\u2028éфCONcom1txjpg%２．／\ud800")),
    max_size=400,
)


@pytest.mark.parametrize(
    ("given_name", "stored"),
    [
        ("../weird/\x07photo name?.JPG", "photo_name_.JPG"),
        ("\x00////", "upload"),
        ("../my clip?.mp4", "my_clip_.mp4"),
        ("", "upload"),
        (".", "upload"),
        ("..", "upload"),
        ("...", "upload"),
        ("C:\\Users\\Bob\\cat.png", "cat.png"),
        ("\\\\server\\share\\cat.png", "cat.png"),
        ("фото.jpg", "upload.jpg"),
        ("фото.жпг", "upload"),
        ("фото", "upload"),
        ("写真.tar.gz", "tar.gz"),
        ("été.jpg", "t_.jpg"),
        (".htaccess", "htaccess"),
        ("..hidden.png", "hidden.png"),
        ("__a__b__.png", "a__b__.png"),
        ("photo.jpg.", "photo.jpg"),
        ("shell.php.jpg", "shell.php.jpg"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("com1.tar.gz", "_com1.tar.gz"),
        ("console.txt", "console.txt"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie_x.png"),
        ('"><img src=x>.png', "img_src_x_.png"),
        ("%2e%2e%2fpasswd", "2e_2e_2fpasswd"),
    ],
)
def test_a_stored_name_is_plain_and_keeps_what_it_can(given_name: str, stored: str) -> None:
    assert sanitize_filename(given_name) == stored


def test_a_long_name_keeps_its_extension_within_255_bytes() -> None:
    assert sanitize_filename("a" * 300 + ".jpeg") == "a" * 250 + ".jpeg"
    assert sanitize_filename("a." + "b" * 300) == ("a." + "b" * 300)[:255]


@given(HOSTILE)
def test_a_stored_name_never_leaves_its_alphabet_whatever_comes_in(name: str) -> None:
    stored = sanitize_filename(name)
    assert re.fullmatch(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]{0,254})", stored)
    assert not stored.endswith(".")
    assert sanitize_filename(stored) == stored


@pytest.mark.parametrize(
    ("given_name", "shown"),
    [
        ("../my clip?.mp4", "my clip?.mp4"),
        ("Ünïcode/фото отпуск.jpg", "фото отпуск.jpg"),
        ("e\u0301te\u0301.jpg", "été.jpg"),
        ("\u202egpj.exe", "gpj.exe"),
        ("a\r\nb\x00.png", "ab.png"),
        ("  ", "upload"),
        ("..", "upload"),
        ("\ud800.png", ".png"),
    ],
)
def test_the_shown_name_keeps_letters_and_loses_tricks(given_name: str, shown: str) -> None:
    assert display_name(given_name) == shown


@given(HOSTILE)
def test_the_shown_name_fits_a_header_whatever_comes_in(name: str) -> None:
    shown = display_name(name)
    assert 1 <= len(shown.encode()) <= 255
    assert not set(shown) & set("/\\\r\n\x00\u202e\u2028")
    assert unicodedata.is_normalized("NFC", shown)


def test_a_long_shown_name_is_cut_between_characters_and_keeps_its_extension() -> None:
    shown = display_name("я" * 300 + ".jpg")
    assert shown == "я" * 125 + ".jpg"
    assert len(shown.encode()) == 254


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("Photo.JPG", ".jpg"),
        ("a.tar.gz", ".gz"),
        ("x. PNG", ".png"),
        ("README", ""),
        (".htaccess", ""),
        ("dir.d/file", ""),
        ("a.b\\c", ""),
        ("x.жпг", ""),
        ("x." + "a" * 40, "." + "a" * 15),
        ("x.", ""),
    ],
)
def test_the_key_extension_is_what_follows_the_last_dot(name: str, extension: str) -> None:
    assert clean_extension(name) == extension


@pytest.mark.parametrize(
    ("raw", "extension"),
    [(" PNG", ".png"), (" JPG ", ".jpg"), ("..png", ".png"), ("tar..gz", ".tar.gz"), ("", ""), ("..", ""), ("é", "")],
)
def test_a_bare_extension_has_one_form(raw: str, extension: str) -> None:
    assert normalize_extension(raw) == extension


@given(HOSTILE)
def test_extensions_are_short_and_plain_whatever_comes_in(name: str) -> None:
    for extension in (clean_extension(name), normalize_extension(name)):
        assert re.fullmatch(r"(?:\.[a-z0-9][a-z0-9.]{0,14})?", extension)
        assert ".." not in extension
