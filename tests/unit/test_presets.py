"""Ready-made profiles."""

from __future__ import annotations

from typing import Any

import pytest

from rindle.errors import ProfileError
from rindle.presets import MuxDirectUploadWeb, MuxWeb, Web
from rindle.profile import ProfileRegistry, StreamingPolicy
from rindle.recipes import FrameVariant, ImageVariant, VideoVariant


def made(**attributes: Any) -> type[Web]:
    """Declare a profile from the preset."""
    return type("Film", (Web,), {"storage": "main"} | attributes)


def problems_of(**attributes: Any) -> list[str]:
    with pytest.raises(ProfileError) as caught:
        made(**attributes)
    found: list[str] = caught.value.detail["problems"]
    return found


def test_web_brings_a_video_and_its_poster() -> None:
    assert made().variants == {"poster": FrameVariant("video_poster_scene"), "web_720p": VideoVariant("web_720p")}


def test_the_scrub_strip_is_opt_in() -> None:
    assert made(scrub_strip=True).variants["scrub_strip"] == FrameVariant("video_thumbnail_strip")
    assert "scrub_strip" not in made(scrub_strip=None).variants
    assert problems_of(scrub_strip="yes") == ["scrub_strip: must be True or False, not 'yes'"]


def test_extra_variants_come_beside_the_presets_own() -> None:
    film = made(extra_variants={"thumb": {"mode": "fit", "width": 64}})
    assert list(film.variants) == ["poster", "thumb", "web_720p"]
    assert film.variants["thumb"] == ImageVariant("fit", 64)


def test_a_subclass_of_a_preset_profile_keeps_its_extras() -> None:
    film = made(extra_variants={"thumb": {"mode": "fit", "width": 64}}, scrub_strip=True)
    longer = type("Longer", (film,), {"max_duration_seconds": 9000})
    assert longer.variants == film.variants
    assert longer.name != film.name


def test_defining_the_presets_variants_is_an_error() -> None:
    found = problems_of(variants={"web_720p": {"kind": "video", "preset": "web_480p"}}, max_bytes=0)
    assert [problem.partition(":")[0] for problem in found] == ["variants", "max_bytes"]


def test_an_extra_variant_of_the_presets_name_is_an_error() -> None:
    clash = {"poster": {"mode": "fit", "width": 1}, "scrub_strip": {"mode": "fit", "width": 1}}
    assert len(problems_of(extra_variants=clash)) == 1
    assert len(problems_of(extra_variants=clash, scrub_strip=True)) == 2
    assert len(problems_of(extra_variants=["thumb"])) == 1


def test_wrong_extra_variants_are_reported_like_any_other() -> None:
    assert problems_of(extra_variants={"thumb": {"mode": "fit"}}) == [
        "variants.thumb.mode: fit needs width, height or both"
    ]


def test_other_options_stay_open_and_unknown_ones_are_refused() -> None:
    assert made(delivery={"public": True}).delivery_policy().public
    assert [problem.partition(":")[0] for problem in problems_of(scrubstrip=True)] == ["scrubstrip"]


def test_the_preset_itself_is_no_profile_to_register() -> None:
    with pytest.raises(ProfileError, match="not a concrete subclass"):
        ProfileRegistry([Web])


def test_what_is_quick_is_built_first() -> None:
    class Course(Web):
        name = "course"
        storage = "media"
        scrub_strip = True
        extra_variants = {
            "small": {"kind": "video", "preset": "web_480p"},
            "listen": {"kind": "audio", "preset": "m4a_128k"},
            "outline": {"kind": "waveform"},
        }

    groups = ["gone", *Course.variants]

    assert Course.build_order(groups) == [
        *("poster", "scrub_strip", "outline", "listen", "small", "web_720p"),
        "gone",
    ]


def mux(base: type[Web] = MuxWeb, **attributes: Any) -> type[Web]:
    """Declare a profile from a preset for Mux."""
    return type("Film", (base,), {"storage": "main"} | attributes)


@pytest.mark.parametrize(
    ("base", "mode"), [(MuxWeb, "server_push"), (MuxDirectUploadWeb, "direct_creator_upload")], ids=["push", "direct"]
)
def test_mux_presets_stream_the_web_video_and_leave_the_rest_of_delivery(base: type[Web], mode: str) -> None:
    policy = mux(base, delivery={"signed_url_ttl_seconds": 60}).delivery_policy()
    assert policy.signed_url_ttl_seconds == 60
    assert policy.streaming == StreamingPolicy("mux", "signed", mode, "web_720p")


def test_mux_presets_lock_streaming() -> None:
    with pytest.raises(ProfileError) as caught:
        mux(delivery={"streaming": {"provider": "other"}})
    assert caught.value.detail["problems"] == [
        "delivery.streaming: the preset defines it; other options of delivery are yours"
    ]
    film = mux(delivery={"public": True})
    assert type("Series", (film,), {"storage": "main"}).delivery_policy() == film.delivery_policy()  # type: ignore[attr-defined]
