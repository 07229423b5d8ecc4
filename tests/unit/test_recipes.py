"""Recipes: their digests, what comes out of them, and the options that are refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.errors import ProfileError
from rindle.recipes import (
    AudioVariant,
    FrameVariant,
    ImageVariant,
    VariantSpec,
    VideoVariant,
    WaveformVariant,
    is_av_work,
    parse_variant,
    recipe_digest,
)
from rindle.states import OutputKind


def variant_problems(**options: Any) -> list[str]:
    """Parse one variant and return what is wrong with it."""
    with pytest.raises(ProfileError) as caught:
        parse_variant(options)
    found: list[str] = caught.value.detail["problems"]
    return found


# --- digests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "digest"),
    [
        (
            {"mode": "fit", "width": 64, "height": 64},
            "3a9ab2f60b2d26217471f22cc329252acba546c6341111a3ef89a8d9978d30a7",
        ),
        (
            {"kind": "video", "preset": "web_720p"},
            "7adba05438de4278fad4a4e708b2bfe66b1f35cbf1e80469258fcc886d5725b8",
        ),
        (
            {"kind": "image", "preset": "video_poster_scene"},
            "db97d75dfcc0b3e2a4f935bb1b027b54d3b4d5ed4d0942be7e4ebd47411a2e50",
        ),
        (
            {"kind": "audio", "preset": "m4a_128k"},
            "c3c6fdc6f3880830a1ae59dedfc7f639e1e7d87959ad09e6bd10aa8e9fa37cd7",
        ),
        (
            {"kind": "waveform", "preset": "overview"},
            "e90e9ae2ae6459537c222ce9188798d31fcb22e033f7ac9c45147beb02439a75",
        ),
    ],
)
def test_the_published_digests_hold_for_ever(declared: dict[str, Any], digest: str) -> None:
    assert recipe_digest(parse_variant(declared)) == digest


@pytest.mark.parametrize(
    "spelled_out",
    [
        {"kind": "image", "mode": "fit", "width": 64, "height": 64, "format": "jpeg"},
        {"mode": "fit", "width": 64, "height": 64, "quality": None, "upscale": None},
        {"mode": "fit", "width": 64, "height": 64, "upscale": False, "gravity": "centre", "background": "#FFFFFF"},
        {"mode": "fit", "width": 64, "height": 64, "animated": False, "keep_icc": False, "lossless": False},
    ],
)
def test_defaults_spelled_out_do_not_change_a_digest(spelled_out: dict[str, Any]) -> None:
    assert recipe_digest(parse_variant(spelled_out)) == recipe_digest(ImageVariant("fit", 64, 64))


def test_every_option_that_changes_bytes_changes_the_digest() -> None:
    base: dict[str, Any] = {"mode": "fit", "width": 64, "height": 64, "format": "webp"}
    changes: list[dict[str, Any]] = [
        {},
        {"mode": "fill"},
        {"width": 65},
        {"height": None},
        {"format": "avif"},
        {"quality": 80},
        {"quality": 81},
        {"upscale": True},
        {"gravity": "north"},
        {"background": "#000000"},
        {"background": None},
        {"animated": True},
        {"keep_icc": True},
        {"lossless": True},
    ]
    recipes: list[dict[str, Any]] = [base | change for change in changes]
    recipes += [
        {"kind": "image", "preset": "video_poster_scene"},
        {"kind": "image", "preset": "video_thumbnail_strip"},
        {"kind": "video", "preset": "web_720p"},
        {"kind": "video", "preset": "web_480p"},
        {"kind": "video", "preset": "web_720p", "faststart": False},
        {"kind": "video", "preset": "web_720p", "frame": "pad"},
        {"kind": "audio", "preset": "m4a_128k"},
        {"kind": "audio", "preset": "mp3_128k"},
        {"kind": "audio", "preset": "m4a_128k", "channels": 1},
        {"kind": "audio", "preset": "m4a_128k", "normalize": True},
        {"kind": "audio", "preset": "m4a_128k", "normalize": True, "two_pass": True},
        {"kind": "waveform", "preset": "overview"},
    ]
    digests = [recipe_digest(parse_variant(recipe)) for recipe in recipes]
    assert len(set(digests)) == len(recipes)


def test_a_raised_recipe_revision_enters_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_digest(ImageVariant("fit", 64, 64))
    monkeypatch.setattr(ImageVariant, "recipe_revision", 2)
    normal = '[["format","jpeg"],["height",64],["mode","fit"],["recipe_revision",2],["width",64]]'
    assert recipe_digest(ImageVariant("fit", 64, 64)) == hashlib.sha256(normal.encode()).hexdigest() != before


@given(
    st.sampled_from(["fit", "fill", "crop", "pad", "stretch"]),
    st.integers(1, 20_000),
    st.integers(1, 20_000),
    st.sampled_from(["jpeg", "png", "webp", "avif"]),
    st.none() | st.integers(1, 100),
    st.randoms(use_true_random=False),
)
def test_the_order_of_options_never_matters(
    mode: str, width: int, height: int, output: str, quality: int | None, random: Any
) -> None:
    options = {"mode": mode, "width": width, "height": height, "format": output, "quality": quality}
    shuffled = list(options.items())
    random.shuffle(shuffled)
    typed = ImageVariant(mode, width, height, output, quality)
    assert parse_variant(dict(shuffled)) == typed
    assert recipe_digest(parse_variant(dict(shuffled))) == recipe_digest(typed)


# --- recipes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "output_kind", "content_type", "extension", "capabilities"),
    [
        (ImageVariant("fit", 1), "image", "image/jpeg", ".jpg", {"image_resize"}),
        (ImageVariant("fit", 1, format="png"), "image", "image/png", ".png", {"image_resize"}),
        (ImageVariant("fit", 1, format="webp"), "image", "image/webp", ".webp", {"image_resize"}),
        (ImageVariant("fit", 1, format="avif"), "image", "image/avif", ".avif", {"image_resize"}),
        (FrameVariant("video_poster_scene"), "image", "image/jpeg", ".jpg", {"video_frame_extract"}),
        (FrameVariant("video_thumbnail_strip"), "image", "image/jpeg", ".jpg", {"video_thumbnail_strip"}),
        (VideoVariant("web_480p"), "video", "video/mp4", ".mp4", {"video_transcode"}),
        (AudioVariant("m4a_128k"), "audio", "audio/mp4", ".m4a", {"audio_transcode"}),
        (
            AudioVariant("mp3_128k", normalize=True),
            "audio",
            "audio/mpeg",
            ".mp3",
            {"audio_transcode", "audio_normalize"},
        ),
        (WaveformVariant(), "waveform", "application/json", ".json", {"audio_waveform"}),
    ],
)
def test_a_recipe_says_what_comes_out_and_what_it_takes(
    spec: VariantSpec, output_kind: str, content_type: str, extension: str, capabilities: set[str]
) -> None:
    assert spec.output_kind is OutputKind(output_kind)
    assert (spec.content_type, spec.extension) == (content_type, extension)
    assert spec.required_capabilities == capabilities
    assert is_av_work(spec) is not isinstance(spec, ImageVariant)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"width": 1}, "mode"),
        ({"mode": "zoom", "width": 1}, "mode"),
        ({"mode": ["fit"], "width": 1}, "mode"),
        ({"mode": "fit"}, "mode"),
        ({"mode": "fill"}, "mode"),
        ({"mode": "crop", "width": 1}, "mode"),
        ({"mode": "pad", "height": 1}, "mode"),
        ({"mode": "stretch", "height": 1}, "mode"),
        ({"mode": "fit", "width": 0}, "width"),
        ({"mode": "fit", "width": -1}, "width"),
        ({"mode": "fit", "width": True}, "width"),
        ({"mode": "fit", "width": 1.5}, "width"),
        ({"mode": "fit", "height": "1"}, "height"),
        ({"mode": "fit", "width": 1, "format": "gif"}, "format"),
        ({"mode": "fit", "width": 1, "quality": 0}, "quality"),
        ({"mode": "fit", "width": 1, "quality": 101}, "quality"),
        ({"mode": "fit", "width": 1, "gravity": "middle"}, "gravity"),
        ({"mode": "fit", "width": 1, "background": "white"}, "background"),
        ({"mode": "fit", "width": 1, "upscale": 1}, "upscale"),
        ({"mode": "fit", "width": 1, "animated": True}, "animated"),
        ({"mode": "fit", "width": 1, "lossless": True}, "lossless"),
        ({"mode": "fit", "width": 1, "from_variant": "large"}, "from_variant"),
        ({"mode": "fit", "width": 1, "codec": "h264"}, "codec"),
        ({"kind": "document"}, "kind"),
        ({"kind": 3}, "kind"),
        ({"kind": "image", "preset": "poster"}, "preset"),
        ({"kind": "image", "preset": "video_poster_scene", "width": 10}, "width"),
        ({"kind": "video"}, "preset"),
        ({"kind": "video", "preset": "web_4k"}, "preset"),
        ({"kind": "video", "preset": "web_720p", "bitrate": 1}, "bitrate"),
        ({"kind": "video", "preset": "web_720p", "faststart": "yes"}, "faststart"),
        ({"kind": "video", "preset": "web_720p", "frame": "crop"}, "frame"),
        ({"kind": "audio", "preset": "web_720p"}, "preset"),
        ({"kind": "audio", "preset": "m4a_128k", "channels": 3}, "channels"),
        ({"kind": "audio", "preset": "m4a_128k", "two_pass": True}, "two_pass"),
        ({"kind": "audio", "preset": "m4a_128k", "bitrate_kbps": 192}, "bitrate_kbps"),
        ({"kind": "waveform", "preset": "detail"}, "preset"),
        ({"kind": "waveform", "preset": "overview", "peaks": 10}, "peaks"),
        ({"kind": "waveform", "sample_rate": 8000}, "sample_rate"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], option: str) -> None:
    assert [problem.partition(":")[0] for problem in variant_problems(**options)] == [option]


def test_an_unknown_kind_is_answered_with_the_known_ones() -> None:
    (problem,) = variant_problems(kind="document")
    assert "image, video, audio, waveform" in problem


def test_a_typed_variant_is_checked_when_it_is_made() -> None:
    with pytest.raises(ProfileError, match="width"):
        ImageVariant("crop", width=10)
    with pytest.raises(ProfileError, match="preset"):
        VideoVariant("web_1080p")
