"""Pages of the example: a file of another kind is refused, and one bad row of a list costs its own picture only."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from rindle import MediaAsset, Rindle, VideoVariant
from rindle.db.models import MediaVariant
from rindle.errors import ProfileMismatch
from rindle.presets import Web
from tests.gallery import Gallery, variant_of

FILM = {"kind": "video", "width": 1920, "height": 1080, "has_video_track": True, "has_audio_track": True}
RECORDING = {"kind": "audio", "width": None, "height": None, "has_audio_track": True}
WAV = (
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data"
    + bytes(4)
)


class Cohort:
    """The example application in this process, on a database of its own, and a visitor."""

    def __init__(self, media: ModuleType, client: httpx.AsyncClient) -> None:
        self.media, self.client = media, client
        self.rindle: Rindle = media.rindle
        self.gallery = Gallery(self.rindle)

    async def page(self, path: str) -> str:
        answer = await self.client.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[-500:])
        return answer.text

    async def sign_in(self, handle: str) -> None:
        answer = await self.post("/session", actor=handle)
        assert answer.status_code == 303

    async def post(self, path: str, *, as_script: bool = False, **fields: str) -> httpx.Response:
        headers = {"Accept": "application/json"} if as_script else {}
        found = re.search(r'name="form_token" value="([^"]+)"', await self.page("/"))
        assert found is not None
        return await self.client.post(path, data={"form_token": found[1], **fields}, headers=headers)

    async def recording(self, actor: str) -> MediaAsset:
        return await self.gallery.ready(
            self.media.AudioLesson, filename="a.wav", data=WAV, actor=actor, facts=RECORDING
        )


@pytest.fixture
async def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cohort]:
    monkeypatch.setenv("RINDLE_HOME", str(tmp_path))
    monkeypatch.setenv("RINDLE_TMP_DIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("RINDLE_SECRETS", "cohort-secret-of-at-least-32-bytes")
    for name in ("COHORT_DATABASE_URL", "DATABASE_URL", "MEDIA_BUCKET", "COHORT_MEDIA_URL"):
        monkeypatch.delenv(name, raising=False)
    _forget()  # it reads its settings when it is imported
    app = importlib.import_module("examples.cohort.app")
    media = sys.modules["examples.cohort.media"]
    try:
        await sys.modules["examples.cohort.models"].prepare(media.engine)
        transport = httpx.ASGITransport(app.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://cohort.test") as client:
            yield Cohort(media, client)
    finally:
        await media.rindle.close()
        await media.engine.dispose()
        _forget()


async def test_a_recording_is_refused_as_a_photo_and_as_a_video(cohort: Cohort) -> None:
    recording = await cohort.recording("alice")
    await cohort.sign_in("alice")

    for path in ("/members/alice/avatar", "/lessons/sea-floor/media"):
        answer = await cohort.post(path, as_script=True, asset_id=recording.id)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "profile_mismatch")

    told = await cohort.post("/members/alice/avatar", asset_id=recording.id)
    assert "was not uploaded as a photo" in await cohort.page(told.headers["location"])
    assert await cohort.rindle.attachment_for(("member", "1"), "avatar") is None


async def test_the_declaration_holds_without_a_word_from_the_page(cohort: Cohort) -> None:
    recording = await cohort.recording("alice")

    with pytest.raises(ProfileMismatch):
        await cohort.rindle.attach(recording, ("member", "1"), "avatar")


async def test_one_bad_row_does_not_take_a_list_down(cohort: Cohort) -> None:
    recording = await cohort.recording("alice")
    photo = await cohort.gallery.ready(cohort.media.MemberAvatar, filename="bob.png", actor="bob")
    # As before slots were declared.
    await cohort.rindle.attach(recording, ("member", "1"), "avatar", profile="audio_lesson")
    await cohort.rindle.attach(photo, ("member", "2"), "avatar")

    front = await cohort.page("/")

    assert 'alt="Photo of Alice' in front  # without a source: nothing of the recording is shown
    assert front.count("<source") == 2 and recording.id not in _addresses(front)
    assert "<source" not in await cohort.page("/members/alice")


async def test_lists_show_nothing_outdated_after_a_change_of_a_recipe(cohort: Cohort) -> None:
    class Older(Web):
        """The lesson of an earlier release, with another recipe of one variant."""

        name = "lesson"
        storage = "media"
        allow_mime = ("image/*",)
        extra_variants: dict[str, Any] = {"scrub_strip": VideoVariant(preset="web_480p")}

    earlier = Rindle(
        engine=cohort.media.engine, profiles=[Older], storages=cohort.rindle.storages, settings=cohort.media.settings
    )
    asset = await Gallery(earlier).ready(Older, facts=FILM)
    outdated: MediaVariant = variant_of(asset, "scrub_strip")
    await cohort.rindle.attach(asset, ("course", "1"), "lesson", profile="lesson")

    assert variant_of(asset, "poster").storage_key in await _keys(cohort, "/lessons")
    shown = await _keys(cohort, "/lessons/sea-floor")
    assert variant_of(asset, "poster").storage_key in shown
    assert outdated.storage_key not in shown and asset.storage_key not in shown


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith("examples.cohort")]:
        del sys.modules[name]


def _addresses(page: str) -> str:
    return " ".join(re.findall(r'(?:src|srcset|href|poster)="([^"]*)"', page))


async def _keys(cohort: Cohort, path: str) -> set[str]:
    """Return the keys of the objects that a page links to."""
    storage: Any = cohort.rindle.storages["media"]
    tokens = re.findall(r'"/media/local/([^"]+)"', await cohort.page(path))
    return {storage.grant_of(token, "GET").key for token in tokens}
