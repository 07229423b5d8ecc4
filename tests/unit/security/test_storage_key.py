"""Storage keys: made plain, checked strictly."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.errors import InvalidKey
from rindle.security import key_segment, original_key, validate_key, variant_key

TEXT = st.text(st.one_of(st.characters(), st.sampled_from("./\\-_ AÉ%2e\x00\u202e．／")), max_size=300)


def test_an_original_lies_under_its_profile_and_asset() -> None:
    key = original_key("My Profile", "asset/../1", "cat. PNG")
    profile, asset, name = key.split("/")
    assert (profile, asset) == ("my-profile", "asset----1")
    assert uuid.UUID(name.removesuffix(".png")).version == 4
    assert name.endswith(".png")


def test_nothing_of_the_file_name_but_its_extension_reaches_the_key() -> None:
    assert original_key("p", "a", "../../Secret Name.JPG", token="t0") == "p/a/t0.jpg"
    assert original_key("p", "a", "johnsmith", token="t0") == "p/a/t0"
    assert original_key("p", "a", None, token="t0") == "p/a/t0"


def test_two_originals_never_share_a_key() -> None:
    assert original_key("p", "a", "x.jpg") != original_key("p", "a", "x.jpg")


def test_a_variant_key_belongs_to_one_build_of_one_recipe() -> None:
    digest = "0" * 64
    assert variant_key("avatar", "a1", "thumb", digest, 3, ".webp") == f"avatar/a1/thumb-{digest}-3.webp"
    assert variant_key("avatar", "a1", "thumb", digest, 3, "webp") == f"avatar/a1/thumb-{digest}-3.webp"
    assert variant_key("avatar", "a1", "thumb", digest, 4, "webp") != variant_key(
        "avatar", "a1", "thumb", digest, 3, "webp"
    )


@pytest.mark.parametrize(
    ("value", "segment"),
    [
        ("My Profile", "my-profile"),
        ("asset/../1", "asset----1"),
        ("--x--", "x"),
        ("../..", "none"),
        ("", "none"),
        ("É", "none"),
    ],
)
def test_a_segment_is_lower_case_and_trimmed(value: str, segment: str) -> None:
    assert key_segment(value, fallback="none") == segment


@given(TEXT, TEXT, TEXT, TEXT)
def test_keys_made_of_anything_are_valid_and_keep_their_three_segments(
    profile: str, asset: str, filename: str, variant: str
) -> None:
    for key in (
        original_key(profile, asset, filename),
        original_key(profile, asset, filename, token=variant),
        variant_key(profile, asset, variant, "a" * 64, 1, filename),
    ):
        assert validate_key(key) == key
        assert re.fullmatch(r"[a-z0-9_-]+/[a-z0-9_-]+/[a-z0-9_-]+(\.[a-z0-9.]+)?", key)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "p/a/b.jpg",
        "p/a/..b",
        "p/.well-known",
        "ünïcode/ключ",
        "p/a b",
        "p/a*[x]?",
        "p/100%",
        "x" * 1024,
        "p/.rindle",
    ],
)
def test_ordinary_keys_pass_unchanged(key: str) -> None:
    assert validate_key(key) == key


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "//host/share",
        "\\\\host\\share",
        "C:/windows",
        "c:x",
        "a/../b",
        "..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "a\\b",
        "a\x00b",
        "a\nb",
        "a\x7fb",
        "a\u202eb",
        "a\u200bb",
        "a\ud800b",
        "a/．．/b",
        "a/‥/b",
        "a／..／b",
        "a/%2e%2e/b",
        "a%2fb",
        "a%5Cb",
        "a%00",
        "a/%252e%252e/b",
        ".rindle/tmp/x",
        ".RINDLE/tmp/x",
        ".rindle",
        "x" * 1025,
        "é" * 513,
    ],
)
def test_keys_that_could_leave_the_store_are_refused(key: str) -> None:
    with pytest.raises(InvalidKey) as caught:
        validate_key(key)
    assert caught.value.code == "invalid_key"
    assert not caught.value.retryable
    if len(key) > 8:  # shorter ones may be part of the sentence
        assert key not in str(caught.value)


@given(TEXT)
def test_whatever_passes_stays_inside_when_joined_to_a_root(key: str) -> None:
    try:
        validate_key(key)
    except InvalidKey:
        return
    assert not key.startswith("/")
    assert all(part not in ("", ".", "..") for part in key.replace("\\", "/").split("/"))
    assert len(key.encode()) <= 1024
    assert "\x00" not in key
