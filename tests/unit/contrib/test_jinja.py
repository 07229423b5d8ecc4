"""``install_jinja``: templates call the media tags by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import Environment

from rindle import Profile
from rindle.contrib.jinja import install_jinja
from rindle.errors import InvalidArgument, Misconfigured, UnknownProfile, UnknownVariant
from rindle.presets import Web
from rindle.protocols import Storage
from tests.gallery import VARIANTS, Gallery, opened


class Elements(HTMLParser):
    """The elements of a page with their attributes, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Private(Profile):
        name = "private"
        storage = store
        variants = VARIANTS

    class Film(Web):
        name = "film"
        storage = store

    class Song(Profile):
        name = "song"
        storage = store
        variants = {"m4a_128k": {"kind": "audio", "preset": "m4a_128k"}}

    return [Private, Film, Song]


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[Gallery]:
    async with opened(tmp_path, make_profiles) as made:
        yield made


async def test_jinja_templates_call_them_by_name(gallery: Gallery) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("private"))
    env = Environment(enable_async=True, autoescape=True)
    install_jinja(env, gallery.rindle)

    page = await env.from_string(
        '<p>{{ picture_tag("private", asset, ["thumb"], alt=name) }}</p>'
        '{{ video_tag("film", none, poster="/x.jpg") }}{{ audio_tag("song", none) }}'
    ).render_async(asset=asset, name="<b>")

    found = Elements(page).found
    assert [name for name, _ in found] == ["p", "picture", "source", "img", "video", "audio"]
    assert dict(found)["img"]["alt"] == "<b>"


@pytest.mark.parametrize(
    ("mistake", "refusal"),
    [
        ('picture_tag("private", asset, ["thumb"], fallbck="none")', InvalidArgument),
        ('picture_tag("private", asset, ["thmub"])', UnknownVariant),
        ('picture_tag("privat", asset, ["thumb"])', UnknownProfile),
        ('picture_tag("private", asset, "thumb")', InvalidArgument),
        ('video_tag("film", none, poster="psoter")', UnknownVariant),
        ('audio_tag("song", none, fallbck="none")', InvalidArgument),
    ],
)
async def test_a_misspelled_word_in_a_template_is_an_error_and_never_the_original(
    gallery: Gallery, mistake: str, refusal: type[Exception]
) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("private"))
    env = Environment(enable_async=True, autoescape=True)
    install_jinja(env, gallery.rindle)

    with pytest.raises(refusal):
        await env.from_string("{{ " + mistake + " }}").render_async(asset=asset)


def test_a_synchronous_jinja_environment_is_refused_with_advice(gallery: Gallery) -> None:
    with pytest.raises(Misconfigured, match="enable_async"):
        install_jinja(Environment(autoescape=True), gallery.rindle)
