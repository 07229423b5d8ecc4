"""``picture_tag``, ``video_tag``, ``audio_tag``: what a page shows in every state, and that no text becomes markup."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from rindle import MediaAsset, Profile
from rindle.delivery.attributes import attributes_of
from rindle.delivery.markup import _tag
from rindle.errors import (
    InvalidArgument,
    ProfileMismatch,
    StorageAdapterException,
    Unauthorized,
    UnknownProfile,
    UnknownVariant,
)
from rindle.protocols import Storage
from rindle.states import DELIVERABLE, AssetState, VariantState
from rindle.storage.memory import MemoryStorage
from tests.gallery import BASE_URL, VARIANTS, Gallery, opened, variant_of
from tests.unit.delivery.conftest import grant_of

PREVIEW = "data:image/webp;base64,UklGRg=="

#: What the probes tell of a film and of a song.
FILM = {"kind": "video", "width": 1920, "height": 1080, "has_video_track": True, "has_audio_track": True}
SONG = {"kind": "audio", "width": None, "height": None, "has_audio_track": True}


class Elements(HTMLParser):
    """The elements of a piece of markup with their attributes, as a browser reads them."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def attrs(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def image(markup: str) -> dict[str, str | None]:
    [found] = Elements(markup).attrs("img")
    return found


def sources(markup: str) -> list[dict[str, str | None]]:
    return Elements(markup).attrs("source")


def player(markup: str) -> dict[str, str | None]:
    """The attributes of the video or audio element."""
    [found] = [attrs for name, attrs in Elements(markup).found if name in ("video", "audio")]
    return found


# --- what is shown -----------------------------------------------------------------------------------------------


async def test_the_whole_tag_of_a_public_asset(gallery: Gallery, public: type[Profile]) -> None:
    asset = await gallery.ready(public)
    thumb, large = variant_of(asset, "thumb"), variant_of(asset, "large")

    tag = await gallery.rindle.picture_tag(
        public, asset, [("thumb", "(max-width: 480px)"), "large"], class_="photo", alt="Tom & Ada", loading="lazy"
    )

    assert isinstance(tag, Markup)
    assert tag == (
        "<picture>"
        f'<source media="(max-width: 480px)" srcset="{BASE_URL}/p/{thumb.storage_key}" type="image/webp">'
        f'<source srcset="{BASE_URL}/p/{large.storage_key}" type="image/jpeg">'
        '<img alt="Tom &amp; Ada" class="photo" height="600" loading="lazy" width="800" '
        f'src="{BASE_URL}/p/{asset.storage_key}">'
        "</picture>"
    )


async def test_without_variants_there_is_the_image_alone(gallery: Gallery, public: type[Profile]) -> None:
    asset = await gallery.ready(public)

    tag = await gallery.rindle.picture_tag(public, asset)

    assert tag == (f'<picture><img alt="" height="600" width="800" src="{BASE_URL}/p/{asset.storage_key}"></picture>')


async def test_sources_take_all_their_forms_and_keep_their_order(gallery: Gallery, public: type[Profile]) -> None:
    asset = await gallery.ready(public)

    tag = await gallery.rindle.picture_tag(
        public,
        asset,
        ["large", {"name": "thumb", "media": "print", "type": "image/x-own"}, ["thumb", None], ("large", "screen")],
    )

    found = sources(tag)
    assert [one.get("media") for one in found] == [None, "print", None, "screen"]
    assert [one["type"] for one in found] == ["image/jpeg", "image/x-own", "image/webp", "image/jpeg"]


async def test_candidates_carry_the_stored_widths(gallery: Gallery, public: type[Profile]) -> None:
    asset = await gallery.ready(public)
    thumb, large = variant_of(asset, "thumb"), variant_of(asset, "large")

    tag = await gallery.rindle.picture_tag(
        public, asset, [{"name": ["thumb", "large"], "sizes": "50vw"}, {"name": ["thumb"]}]
    )

    both, one = sources(tag)
    assert both == {
        "sizes": "50vw",
        "srcset": f"{BASE_URL}/p/{thumb.storage_key} 64w, {BASE_URL}/p/{large.storage_key} 640w",
    }
    assert one == {"srcset": f"{BASE_URL}/p/{thumb.storage_key} 64w", "type": "image/webp"}


@pytest.mark.parametrize(
    "moves",
    [
        (VariantState.STALE,),
        (VariantState.MISSING,),
        (VariantState.STALE, VariantState.QUEUED),
        (VariantState.STALE, VariantState.QUEUED, VariantState.PROCESSING),
        (VariantState.STALE, VariantState.QUEUED, VariantState.PROCESSING, VariantState.FAILED),
    ],
)
async def test_only_ready_variants_are_rendered(
    gallery: Gallery, private: type[Profile], moves: tuple[VariantState, ...]
) -> None:
    asset = await gallery.move_variant(await gallery.ready(private), "thumb", *moves)

    tag = await gallery.rindle.picture_tag(private, asset, ["thumb", "large"])

    assert [one["type"] for one in sources(tag)] == ["image/jpeg"]


async def test_a_stale_variant_is_rendered_on_request(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.move_variant(await gallery.ready(private), "thumb", VariantState.STALE)

    tag = await gallery.rindle.picture_tag(private, asset, ["thumb"], stale_mode="serve_stale")

    assert len(sources(tag)) == 1


@pytest.mark.parametrize("state", AssetState)
async def test_an_asset_that_cannot_be_delivered_shows_the_placeholder_and_nothing_of_its_own(
    gallery: Gallery, private: type[Profile], state: AssetState
) -> None:
    asset = await gallery.in_state(private, state)

    with_placeholder = await gallery.rindle.picture_tag(private, asset, ["thumb"], placeholder="/none.svg", alt="A")
    alone = await gallery.rindle.picture_tag(private, asset, ["thumb"], alt="A")

    if state in DELIVERABLE:
        assert str(image(with_placeholder)["src"]).startswith(f"{BASE_URL}/")
        return
    assert image(with_placeholder)["src"] == "/none.svg"
    assert "src" not in image(alone) and image(alone)["alt"] == "A"
    assert sources(with_placeholder) == sources(alone) == []
    assert BASE_URL not in with_placeholder + alone


async def test_no_asset_shows_the_placeholder_or_alt(gallery: Gallery, private: type[Profile]) -> None:
    assert await gallery.rindle.picture_tag(private, None, ["thumb"], placeholder="/none.svg", alt="nobody") == (
        '<picture><img alt="nobody" src="/none.svg"></picture>'
    )
    assert await gallery.rindle.picture_tag(private, None) == '<picture><img alt=""></picture>'
    assert await gallery.rindle.picture_tag(private, None, placeholder="auto") == '<picture><img alt=""></picture>'


async def test_the_stored_preview_is_used_on_request(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private, facts={"media_metadata": {"placeholder": PREVIEW}})

    preferred = await gallery.rindle.picture_tag(private, asset, placeholder="auto", prefer_placeholder=True)
    delivered = await gallery.rindle.picture_tag(private, asset, placeholder="auto")

    assert image(preferred)["src"] == PREVIEW
    assert str(image(delivered)["src"]).startswith(BASE_URL)


async def test_a_condemned_asset_shows_not_even_its_preview(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private, facts={"media_metadata": {"placeholder": PREVIEW}})
    asset = await gallery.moved(asset.id, AssetState.QUARANTINED)

    assert "src" not in image(await gallery.rindle.picture_tag(private, asset, placeholder="auto"))


@pytest.mark.parametrize("stored", ["javascript:alert(1)", "https://elsewhere.test/x", 7, None])
async def test_only_a_data_uri_of_a_picture_is_a_preview(gallery: Gallery, private: type[Profile], stored: Any) -> None:
    asset = await gallery.ready(private, facts={"media_metadata": {"placeholder": stored}})

    tag = await gallery.rindle.picture_tag(private, asset, placeholder="auto", prefer_placeholder=True)

    assert str(image(tag)["src"]).startswith(BASE_URL)


async def test_the_original_is_not_delivered_when_nobody_wants_it(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private)

    tag = await gallery.rindle.picture_tag(private, asset, ["thumb"], fallback="none")

    assert len(sources(tag)) == 1 and "src" not in image(tag)


async def test_another_profile_s_asset_shows_the_placeholder_and_nothing_of_its_own(
    gallery: Gallery, private: type[Profile], public: type[Profile], caplog: pytest.LogCaptureFixture
) -> None:
    asset = await gallery.ready(private, facts={"media_metadata": {"placeholder": PREVIEW}})

    tag = await gallery.rindle.picture_tag(public, asset, ["thumb"], placeholder="/none.svg", alt="A")
    preview = await gallery.rindle.picture_tag(public, asset, ["thumb"], placeholder="auto", alt="A")

    assert tag == '<picture><img alt="A" src="/none.svg"></picture>'
    assert preview == '<picture><img alt="A"></picture>'
    [first, _] = [record for record in caplog.records if record.name == "rindle.delivery.markup"]
    facts = (first.levelname, first.code, first.asset_id, first.profile)  # type: ignore[attr-defined]
    assert facts == ("WARNING", "profile_mismatch", asset.id, "private")


async def test_the_caller_chooses_what_an_unusable_asset_does_to_a_page(
    gallery: Gallery, private: type[Profile], film: type[Profile], song: type[Profile]
) -> None:
    asset = await gallery.ready(private)

    tags: list[tuple[Any, type[Profile]]] = [
        (gallery.rindle.picture_tag, gallery.rindle.profiles.get("public")),
        (gallery.rindle.video_tag, film),
        (gallery.rindle.audio_tag, song),
    ]
    for tag, profile in tags:
        assert BASE_URL not in await tag(profile, asset)
        omitted = await tag(profile, asset, placeholder="/none.svg", on_error="omit")
        assert omitted == Markup() and isinstance(omitted, Markup)
        with pytest.raises(ProfileMismatch) as refused:
            await tag(profile, asset, on_error="raise")
        assert refused.value.code == "profile_mismatch"


class Mute(MemoryStorage):
    """A store that fails to make the URLs of some objects."""

    def __init__(self, failing: str) -> None:
        super().__init__()
        self.failing = failing

    async def url(self, key: str, **wanted: Any) -> str:
        if self.failing in key:
            raise RuntimeError("no answer")
        return await super().url(key, **wanted)


@pytest.mark.parametrize(("failing", "shown"), [("thumb-", (0, True)), (".png", (1, False))])
async def test_a_store_that_fails_costs_its_object_or_the_tag_or_the_page(
    tmp_path: Path, failing: str, shown: tuple[int, bool]
) -> None:
    def make_profiles(store: Storage) -> list[type[Profile]]:
        class Plain(Profile):
            name = "plain"
            storage = store
            variants = VARIANTS

        return [Plain]

    async with opened(tmp_path, make_profiles, storage=Mute(failing)) as gallery:
        asset = await gallery.ready(gallery.rindle.profiles.get("plain"))

        tag = await gallery.rindle.picture_tag("plain", asset, ["thumb"])
        omitted = await gallery.rindle.picture_tag("plain", asset, ["thumb"], on_error="omit")
        with pytest.raises(StorageAdapterException):
            await gallery.rindle.picture_tag("plain", asset, ["thumb"], on_error="raise")

    assert (len(sources(tag)), "src" in image(tag)) == shown
    assert omitted == Markup()


@pytest.mark.parametrize("on_error", ["placeholder", "omit", "raise"])
async def test_a_misspelled_variant_is_a_mistake_of_the_template_whatever_the_asset_is(
    gallery: Gallery, private: type[Profile], film: type[Profile], song: type[Profile], on_error: str
) -> None:
    ready, foreign = await gallery.ready(private), await gallery.ready(song, facts=SONG)

    for asset in (ready, foreign, None):
        for wanted in (["thmb"], [("thmb", "print")], ["thumb", {"name": ["thumb", "thmb"]}]):
            with pytest.raises(UnknownVariant) as refused:
                await gallery.rindle.picture_tag(private, asset, wanted, on_error=on_error, placeholder="/none.svg")
            assert refused.value.code == "unknown_variant"
        with pytest.raises(UnknownVariant):
            await gallery.rindle.video_tag(film, asset, ["web_720"], on_error=on_error)
        with pytest.raises(UnknownVariant):
            await gallery.rindle.video_tag(film, asset, ["web_720p"], poster="psoter", on_error=on_error)
        with pytest.raises(UnknownVariant):
            await gallery.rindle.audio_tag(song, asset, ["m4a"], on_error=on_error)
        with pytest.raises(InvalidArgument, match="list of sources"):
            await gallery.rindle.picture_tag(private, asset, "thumb", on_error=on_error)


async def test_an_unknown_profile_is_a_mistake_of_the_template(gallery: Gallery) -> None:
    with pytest.raises(UnknownProfile):
        await gallery.rindle.picture_tag("nobody.Knows", None)


# --- denial ------------------------------------------------------------------------------------------------------


async def test_a_denied_variant_is_left_out(gallery: Gallery, guarded: type[Profile]) -> None:
    asset = await gallery.ready(guarded)

    tag = await gallery.rindle.picture_tag(
        guarded, asset, ["thumb", "large"], actor="stranger", placeholder="/none.svg", prefer_placeholder=True
    )

    assert [one["type"] for one in sources(tag)] == ["image/webp"]
    assert image(tag)["src"] == "/none.svg"


async def test_a_denied_original_raises_or_leaves_nothing(gallery: Gallery, guarded: type[Profile]) -> None:
    asset = await gallery.ready(guarded)

    with pytest.raises(Unauthorized):
        await gallery.rindle.picture_tag(guarded, asset, ["thumb"], actor="stranger", placeholder="/none.svg")
    empty = await gallery.rindle.picture_tag(guarded, asset, ["thumb"], actor="stranger", on_denied="empty")

    assert empty == Markup() and isinstance(empty, Markup)


async def test_a_picture_of_denied_variants_alone_is_empty_and_never_a_bare_element(
    gallery: Gallery, guarded: type[Profile]
) -> None:
    asset = await gallery.ready(guarded)
    options: dict[str, Any] = {"actor": "stranger", "fallback": "none"}

    empty = await gallery.rindle.picture_tag(guarded, asset, ["large"], on_denied="empty", **options)
    some = await gallery.rindle.picture_tag(guarded, asset, ["thumb", "large"], on_denied="empty", **options)
    stand_in = await gallery.rindle.picture_tag(
        guarded, asset, ["large"], on_denied="empty", placeholder="/none.svg", **options
    )

    assert empty == Markup() and isinstance(empty, Markup)
    assert len(sources(some)) == 1
    assert image(stand_in)["src"] == "/none.svg"


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"width": "800", "height": "600"}),
        ({"width": 400}, {"width": "400", "height": "300"}),
        ({"height": 300}, {"width": "400", "height": "300"}),
        ({"width": 400, "height": 100}, {"width": "400", "height": "100"}),
        ({"width": False}, {}),
        ({"width": False, "height": 100}, {"height": "100"}),
        ({"width": "100%"}, {"width": "100%"}),
        ({"attrs": {"width": 400}}, {"width": "400", "height": "300"}),
    ],
)
async def test_sizes_reserve_the_place_without_distorting(
    gallery: Gallery, private: type[Profile], given: dict[str, Any], expected: dict[str, str]
) -> None:
    asset = await gallery.ready(private)

    found = image(await gallery.rindle.picture_tag(private, asset, **given))

    assert {name: found[name] for name in ("width", "height") if name in found} == expected


# --- attributes --------------------------------------------------------------------------------------------------


async def test_attributes_are_renamed_sorted_and_dropped(gallery: Gallery, private: type[Profile]) -> None:
    tag = await gallery.rindle.picture_tag(
        private,
        None,
        attrs={"data-own": "1", "class": "lost"},
        class_="kept",
        data_user_id=7,
        aria_hidden="true",
        hidden=True,
        title=None,
        draggable=False,
        alt="x",
    )

    assert tag == (
        '<picture><img alt="x" aria-hidden="true" class="kept" data-own="1" data-user-id="7" hidden></picture>'
    )


async def test_delivery_options_never_become_attributes(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private)

    tag = await gallery.rindle.picture_tag(
        private,
        asset,
        ["thumb"],
        actor="alice-the-actor",
        expires_in=77,
        stale_mode="serve_stale",
        strict=True,
        disposition="inline",
        filename="x.png",
        fallback="original",
        placeholder="/none.svg",
        on_denied="empty",
    )

    assert set(image(tag)) == {"alt", "width", "height", "src"}
    assert "alice" not in tag


@pytest.mark.parametrize(
    "name",
    ["onclick", "ONLOAD", "on", "src", "SRC", "srcset", "poster", "a b", "1x", "x>y", 'x"', "", "a/b", "é", "a\n"],
)
async def test_attributes_that_could_run_or_lie_are_refused(
    gallery: Gallery, private: type[Profile], name: str
) -> None:
    with pytest.raises(ValueError, match="attribute") as refused:
        await gallery.rindle.picture_tag(private, None, attrs={name: "x"})

    assert isinstance(refused.value, InvalidArgument)


@pytest.mark.parametrize(
    "attrs", [{"fallbck": "none"}, {"placehoder": "/x.svg"}, {"hx-get": "/x"}, {"Fallback": "none"}]
)
async def test_a_misspelled_option_is_refused_and_never_the_original(
    gallery: Gallery, private: type[Profile], film: type[Profile], song: type[Profile], attrs: dict[str, Any]
) -> None:
    photo, video, audio = await gallery.ready(private), await gallery.ready(film), await gallery.ready(song)
    tags: list[tuple[Any, type[Profile], MediaAsset]] = [
        (gallery.rindle.picture_tag, private, photo),
        (gallery.rindle.video_tag, film, video),
        (gallery.rindle.audio_tag, song, audio),
    ]

    for tag, profile, asset in tags:
        for misspelled in ({"attrs": attrs}, attrs):
            with pytest.raises(InvalidArgument) as refused:
                await tag(profile, asset, **misspelled)
            assert refused.value.detail == {"option": next(iter(attrs))}


async def test_each_element_accepts_its_own_attributes(
    gallery: Gallery, private: type[Profile], film: type[Profile], song: type[Profile]
) -> None:
    everywhere: dict[str, Any] = {
        "class_": "a",
        "id": "b",
        "lang": "en",
        "data_x_y": 1,
        "aria_label": "c",
        "TITLE": "d",
    }
    options = {"loading": "lazy", "decoding": "async", "fetchpriority": "high"}
    players = {"muted": True, "loop": True, "autoplay": True, "crossorigin": "anonymous"}

    picture = await gallery.rindle.picture_tag(private, None, **everywhere, **options)
    video = await gallery.rindle.video_tag(film, None, **everywhere, **players, playsinline=True, controls=True)
    audio = await gallery.rindle.audio_tag(song, None, **everywhere, **players)

    named = {"class", "id", "lang", "data-x-y", "aria-label", "title"}
    assert set(image(picture)) == named | set(options) | {"alt"}
    assert set(player(video)) == named | set(players) | {"playsinline", "controls", "preload"}
    assert set(player(audio)) == named | set(players) | {"controls", "preload"}
    for tag, profile in ((gallery.rindle.audio_tag, song), (gallery.rindle.video_tag, film)):
        with pytest.raises(InvalidArgument):
            await tag(profile, None, alt="an attribute of images only")


@pytest.mark.parametrize(
    "item",
    [1, ("a", "b", "c"), {"media": "x"}, {"name": "x", "href": "y"}, {"name": []}, {"name": [1]}, {"name": None}],
)
async def test_a_source_that_cannot_be_meant_is_refused(gallery: Gallery, private: type[Profile], item: Any) -> None:
    with pytest.raises(ValueError, match="source"):
        await gallery.rindle.picture_tag(private, None, [item])


@pytest.mark.parametrize(
    "options", [{"on_denied": "x"}, {"on_error": "x"}, {"fallback": "x"}, {"stale_mode": "x"}, {"expires_in": 0}]
)
async def test_options_out_of_range_are_refused(
    gallery: Gallery, private: type[Profile], options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument):
        await gallery.rindle.picture_tag(private, None, **options)


# --- video and audio ---------------------------------------------------------------------------------------------


async def test_the_whole_tag_of_a_film(gallery: Gallery, film: type[Profile]) -> None:
    asset = await gallery.ready(film, facts=FILM)
    large, small, poster = (variant_of(asset, name).storage_key for name in ("web_720p", "web_480p", "poster"))

    tag = await gallery.rindle.video_tag(
        film,
        asset,
        [("web_480p", "(max-width: 480px)"), "web_720p"],
        poster="poster",
        tracks=[{"src": "/en.vtt", "kind": "captions", "srclang": "en", "label": "English & more", "default": True}],
        controls=True,
        width=640,
    )

    assert isinstance(tag, Markup)
    assert tag == (
        f'<video controls height="360" poster="{BASE_URL}/p/{poster}" preload="metadata" width="640">'
        f'<source media="(max-width: 480px)" type="video/mp4" src="{BASE_URL}/p/{small}">'
        f'<source type="video/mp4" src="{BASE_URL}/p/{large}">'
        f'<source type="image/png" src="{BASE_URL}/p/{asset.storage_key}">'
        '<track default kind="captions" label="English &amp; more" srclang="en" src="/en.vtt">'
        "</video>"
    )


async def test_the_whole_tag_of_a_song(gallery: Gallery, song: type[Profile]) -> None:
    asset = await gallery.ready(song, facts={**SONG, "content_type": None}, filename="song")

    tag = await gallery.rindle.audio_tag(song, asset, ["m4a_128k"], class_="player")

    assert tag == (
        '<audio class="player" controls preload="metadata">'
        f'<source type="audio/mp4" src="{BASE_URL}/p/{variant_of(asset, "m4a_128k").storage_key}">'
        f'<source type="audio/mpeg" src="{BASE_URL}/p/{asset.storage_key}">'
        "</audio>"
    )
    assert "controls" not in player(await gallery.rindle.audio_tag(song, asset, controls=False))


@pytest.mark.parametrize("made", [(), ("poster",)])
async def test_without_a_ready_variant_the_element_plays_the_original_itself(
    gallery: Gallery, film: type[Profile], made: tuple[str, ...]
) -> None:
    asset = await gallery.ready(film, *(made or ("none",)), facts=FILM)

    tag = await gallery.rindle.video_tag(film, asset, ["web_720p"], poster="poster")

    assert sources(tag) == []
    assert player(tag)["src"] == f"{BASE_URL}/p/{asset.storage_key}"
    assert ("poster" in player(tag)) == ("poster" in made)


async def test_a_film_nobody_may_have_the_original_of_plays_its_variants_only(
    gallery: Gallery, film: type[Profile]
) -> None:
    asset = await gallery.ready(film, "web_720p", facts=FILM)

    tag = await gallery.rindle.video_tag(film, asset, ["web_720p"], poster="poster", fallback="none")

    assert [one["type"] for one in sources(tag)] == ["video/mp4"]
    assert "src" not in player(tag) and "poster" not in player(tag)


async def test_a_stale_transcode_plays_on_request(gallery: Gallery, film: type[Profile]) -> None:
    asset = await gallery.move_variant(await gallery.ready(film, facts=FILM), "web_720p", VariantState.STALE)

    fresh = await gallery.rindle.video_tag(film, asset, ["web_720p"], fallback="none")
    stale = await gallery.rindle.video_tag(film, asset, ["web_720p"], fallback="none", stale_mode="serve_stale")

    assert (len(sources(fresh)), len(sources(stale))) == (0, 1)


@pytest.mark.parametrize("poster", ["/static/title.jpg", "https://elsewhere.test/title.jpg?a=1&b=2", PREVIEW])
async def test_a_poster_may_be_an_address_of_the_application(
    gallery: Gallery, film: type[Profile], poster: str
) -> None:
    assert player(await gallery.rindle.video_tag(film, None, poster=poster)) == {
        "poster": poster,
        "preload": "metadata",
    }


@pytest.mark.parametrize("state", [state for state in AssetState if state not in DELIVERABLE])
async def test_nothing_of_an_undeliverable_asset_is_played(
    gallery: Gallery, private: type[Profile], state: AssetState
) -> None:
    asset = await gallery.in_state(private, state)

    for tag in (gallery.rindle.video_tag, gallery.rindle.audio_tag):
        alone = await tag(private, asset, ["thumb"], preload="none", controls=False)
        instead = await tag(private, asset, ["thumb"], preload=None, controls=False, placeholder="/quiet.mp3")
        assert player(alone).keys() - {"width", "height"} == {"preload"}
        assert player(instead).keys() - {"width", "height"} == {"src"} and player(instead)["src"] == "/quiet.mp3"
        assert sources(alone) == sources(instead) == []


async def test_a_preview_picture_is_never_played(gallery: Gallery, film: type[Profile]) -> None:
    asset = await gallery.ready(film, facts={**FILM, "media_metadata": {"placeholder": PREVIEW}})

    tag = await gallery.rindle.video_tag(film, asset, placeholder="auto", prefer_placeholder=True)

    assert player(tag)["src"] == f"{BASE_URL}/p/{asset.storage_key}"


async def test_a_stand_in_is_the_last_source(gallery: Gallery, film: type[Profile]) -> None:
    asset = await gallery.ready(film, facts=FILM)

    tag = await gallery.rindle.video_tag(
        film, asset, ["web_720p"], placeholder="/sorry.mp4", prefer_placeholder=True, width=False, height=False
    )

    assert [one["src"] for one in sources(tag)][-1] == "/sorry.mp4" and len(sources(tag)) == 2
    assert player(tag) == {"preload": "metadata"}


async def test_a_denied_film_raises_or_leaves_nothing(gallery: Gallery, premiere: type[Profile]) -> None:
    asset = await gallery.ready(premiere, facts=FILM)
    options: dict[str, Any] = {"poster": "poster", "actor": "stranger"}

    with pytest.raises(Unauthorized):
        await gallery.rindle.video_tag(premiere, asset, ["web_720p"], **options)
    empty = await gallery.rindle.video_tag(premiere, asset, ["web_720p"], on_denied="empty", **options)
    teaser = await gallery.rindle.video_tag(premiere, asset, ["web_720p"], fallback="none", **options)
    alone = await gallery.rindle.video_tag(premiere, asset, ["web_720p"], on_denied="empty", fallback="none", **options)

    assert empty == alone == Markup() and isinstance(empty, Markup)
    assert sources(teaser) == [] and str(player(teaser)["poster"]).startswith(BASE_URL)


async def test_a_film_to_be_saved_keeps_its_poster_on_the_page(gallery: Gallery, premiere: type[Profile]) -> None:
    asset = await gallery.ready(premiere, facts=FILM)
    asked = {"actor": "member", "expires_in": 77}

    tag = await gallery.rindle.video_tag(
        premiere, asset, ["web_720p"], poster="poster", disposition="attachment", filename="film.mp4", **asked
    )

    assert set(player(tag)) == {"height", "poster", "preload", "width"}
    poster, *rest = (
        grant_of(gallery, str(url)) for url in (player(tag)["poster"], *(one["src"] for one in sources(tag)))
    )
    assert (poster.disposition, len(rest)) == (None, 2)
    assert all(str(grant.disposition).startswith('attachment; filename="film.mp4"') for grant in rest)


@pytest.mark.parametrize(
    "wrong",
    [
        {"variants": [{"name": ["web_720p", "web_480p"]}]},
        {"variants": [{"name": "web_720p", "sizes": "50vw"}]},
        {"variants": [{"name": "web_720p", "href": "x"}]},
        {"tracks": [{"kind": "captions"}]},
        {"tracks": [{"src": "/en.vtt", "onload": "x"}]},
        {"tracks": ["/en.vtt"]},
        {"attrs": {"poster": "/x.jpg"}},
        {"onplay": "x"},
        {"fallback": "x"},
        {"on_denied": "x"},
        {"on_error": "x"},
    ],
)
async def test_players_refuse_what_cannot_be_meant(
    gallery: Gallery, film: type[Profile], wrong: dict[str, Any]
) -> None:
    for tag in (gallery.rindle.video_tag, gallery.rindle.audio_tag):
        with pytest.raises(InvalidArgument):
            await tag(film, None, **wrong)


async def test_a_player_costs_one_query_at_most(gallery: Gallery, film: type[Profile]) -> None:
    bare = await gallery.unloaded(await gallery.ready(film, facts=FILM))

    async with gallery.counting() as statements:
        await gallery.rindle.video_tag(film, bare)
        await gallery.rindle.video_tag(film, bare, poster="/title.jpg")
        assert statements == []
        await gallery.rindle.video_tag(film, bare, ["web_720p", "web_480p"], poster="poster")
        assert len(statements) == 1


# --- hostile texts -----------------------------------------------------------------------------------------------

HOSTILE = "\"'><script>alert(1)</script>&amp;\u202e<img src=x onerror=alert(1)>"


async def test_hostile_texts_stay_texts(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(
        private,
        filename=f"{HOSTILE}.png",
        facts={"media_metadata": {"placeholder": f"data:image/png,{HOSTILE}", "analyzer": {"caption": HOSTILE}}},
    )

    tag = await gallery.rindle.picture_tag(
        private,
        asset,
        [{"name": "thumb", "media": HOSTILE, "sizes": HOSTILE, "type": HOSTILE}],
        placeholder="auto",
        prefer_placeholder=True,
        alt=HOSTILE,
        title=Markup(HOSTILE),
        data_caption=asset.media_metadata["analyzer"]["caption"],
        filename=HOSTILE,
        disposition="attachment",
    )

    assert [name for name, _ in Elements(tag).found] == ["picture", "source", "img"]
    found = image(tag)
    assert found["alt"] == found["data-caption"] == HOSTILE
    assert found["src"] == f"data:image/png,{HOSTILE}"
    assert found["title"] == html.unescape(HOSTILE)
    assert sources(tag)[0]["media"] == HOSTILE
    assert "onerror" not in {name for _, attrs in Elements(tag).found for name in attrs}
    assert tag.count('alt="&#34;&#39;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;') == 1


async def test_hostile_texts_stay_texts_in_a_player(gallery: Gallery, film: type[Profile]) -> None:
    asset = await gallery.ready(film, facts=FILM, filename=f"{HOSTILE}.png")

    tag = await gallery.rindle.video_tag(
        film,
        asset,
        [{"name": "web_720p", "media": HOSTILE, "type": HOSTILE}],
        poster=f"/{HOSTILE}",
        tracks=[{"src": HOSTILE, "label": HOSTILE}],
        title=HOSTILE,
    )

    assert [name for name, _ in Elements(tag).found] == ["video", "source", "source", "track"]
    assert (player(tag)["title"], player(tag)["poster"]) == (HOSTILE, f"/{HOSTILE}")
    assert sources(tag)[0]["media"] == sources(tag)[0]["type"] == HOSTILE
    assert Elements(tag).attrs("track") == [{"src": HOSTILE, "label": HOSTILE}]


async def test_escaped_markup_is_not_escaped_again(gallery: Gallery, private: type[Profile]) -> None:
    tag = await gallery.rindle.picture_tag(private, None, alt=Markup("Tom &amp; Ada"), title="Tom &amp; Ada")

    assert tag == '<picture><img alt="Tom &amp; Ada" title="Tom &amp;amp; Ada"></picture>'


@given(
    st.dictionaries(st.text(max_size=12), st.text(max_size=40) | st.booleans() | st.none() | st.integers(), max_size=4)
)
def test_no_attribute_breaks_out_of_its_element(attrs: dict[str, Any]) -> None:
    try:
        checked = attributes_of("img", attrs)
    except InvalidArgument:
        return

    tag = _tag("img", checked)

    assert re.fullmatch(r'<img(?: [A-Za-z_:][A-Za-z0-9_.:-]*(?:="[^"<>]*")?)*>', tag, re.DOTALL)


# --- queries -----------------------------------------------------------------------------------------------------


async def test_a_page_costs_one_query_at_most(gallery: Gallery, private: type[Profile]) -> None:
    loaded = await gallery.ready(private)
    bare: MediaAsset = await gallery.unloaded(loaded)

    async with gallery.counting() as statements:
        first = await gallery.rindle.picture_tag(private, loaded, ["thumb", "large"])
        await gallery.rindle.picture_tag(private, bare)
        assert statements == []
        second = await gallery.rindle.picture_tag(private, bare, ["thumb", ("large", "print")])
        assert len(statements) == 1

    assert len(sources(first)) == len(sources(second)) == 2
