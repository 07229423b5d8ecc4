"""Who gets which URL: state, ownership by profile, authorizer, capability, and what is signed in."""

from __future__ import annotations

import base64
import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from rindle import Profile, telemetry
from rindle.delivery.urls import IssuedUrl, UrlOptions, issue_url
from rindle.errors import (
    AssetNotDeliverable,
    CapabilityUnsupported,
    InvalidArgument,
    InvalidKey,
    InvalidStorageResponse,
    ProfileMismatch,
    StorageAdapterException,
    Unauthorized,
    UnknownProfile,
    UnknownVariant,
    VariantNotReady,
)
from rindle.protocols import Storage
from rindle.security import is_digest_of
from rindle.states import DELIVERABLE, UNVALIDATED, AssetState, VariantState
from rindle.storage.local import URL_LABEL, LocalStorage
from rindle.storage.memory import MemoryStorage
from tests.gallery import BASE_URL, SECRET, VARIANTS, Gallery, opened, variant_of
from tests.unit.delivery.conftest import MEMBERS, grant_of


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def note(name: str, metadata: Any, measurements: Any) -> None:
        if name.startswith("rindle.delivery."):
            seen.append({"name": name, **metadata})

    remove = telemetry.add_handler(note)
    yield seen
    remove()


# --- originals ---------------------------------------------------------------------------------------------------


async def test_a_private_url_is_signed_with_our_type_and_the_setting_s_life(
    gallery: Gallery, private: type[Profile], events: list[Any]
) -> None:
    asset = await gallery.available(private)

    grant = grant_of(gallery, await gallery.rindle.url(private, asset))

    assert (grant.key, grant.mime, grant.disposition) == (asset.storage_key, "image/png", None)
    assert abs(grant.expires_at - time.time() - 900) < 60
    assert events == [{"name": "rindle.delivery.signed", "profile": "private", "adapter": "local", "mode": "private"}]


async def test_a_public_url_is_plain_and_does_not_expire(
    gallery: Gallery, public: type[Profile], events: list[Any]
) -> None:
    asset = await gallery.available(public)

    issued = await issue_url(gallery.rindle.services, public, asset, UrlOptions(expires_in=60))

    assert (issued.url, issued.expires_at) == (f"{BASE_URL}/p/{asset.storage_key}", None)
    assert events[0]["mode"] == "public"


@pytest.mark.parametrize("state", AssetState)
async def test_only_judged_assets_are_delivered(gallery: Gallery, private: type[Profile], state: AssetState) -> None:
    asset = await gallery.in_state(private, state)
    assert asset.state == state

    if state in DELIVERABLE:
        assert await gallery.rindle.url(private, asset)
        assert await gallery.rindle.variant_url(private, asset, "thumb")
        return
    for refused in (gallery.rindle.url(private, asset), gallery.rindle.variant_url(private, asset, "thumb")):
        with pytest.raises(AssetNotDeliverable) as error:
            await refused
        assert (error.value.code, error.value.state) == ("asset_not_deliverable", state)
    if state in UNVALIDATED:
        assert await gallery.rindle.url(private, asset, allow_unvalidated=True)
    else:
        with pytest.raises(AssetNotDeliverable):
            await gallery.rindle.url(private, asset, allow_unvalidated=True)


async def test_one_profile_s_rules_never_release_another_s_files(
    gallery: Gallery, private: type[Profile], public: type[Profile], events: list[Any]
) -> None:
    asset = await gallery.ready(private)

    for refused in (gallery.rindle.url(public, asset), gallery.rindle.variant_url(public, asset, "thumb")):
        with pytest.raises(ProfileMismatch):
            await refused

    assert events == []


async def test_a_raw_key_is_signed_under_the_type_of_its_extension(gallery: Gallery, private: type[Profile]) -> None:
    known = grant_of(gallery, await gallery.rindle.url(private, "private/a/photo.jpg"))
    unknown = grant_of(gallery, await gallery.rindle.url(private, "private/a/blob"))
    active = grant_of(gallery, await gallery.rindle.url(private, "private/a/logo.svg", disposition="inline"))

    assert (known.mime, known.disposition) == ("image/jpeg", None)
    assert (unknown.mime, unknown.disposition) == (None, None)
    assert str(active.disposition).startswith('attachment; filename="logo.svg"')


@pytest.mark.parametrize("key", ["../x", "a/../b", "/etc/passwd", "a\0b", "a\\b", "", "a//b", ".rindle/tmp/x"])
async def test_a_raw_key_that_leads_elsewhere_is_refused(gallery: Gallery, private: type[Profile], key: str) -> None:
    with pytest.raises(InvalidKey):
        await gallery.rindle.url(private, key)


async def test_an_unknown_profile_is_refused(gallery: Gallery) -> None:
    with pytest.raises(UnknownProfile):
        await gallery.rindle.url("nobody.Knows", "a/b")


@pytest.mark.parametrize("expires_in", [0, -1, 604_801, True, 1.5, "60"])
async def test_a_life_out_of_range_is_refused(gallery: Gallery, private: type[Profile], expires_in: Any) -> None:
    with pytest.raises(InvalidArgument) as error:
        await gallery.rindle.url(private, "a/b", expires_in=expires_in)

    assert error.value.detail["option"] == "expires_in"


async def test_a_call_s_life_beats_the_profile_s_which_beats_the_setting(
    gallery: Gallery, guarded: type[Profile]
) -> None:
    issue, services = issue_url, gallery.rindle.services

    by_profile = await issue(services, guarded, "a/b", UrlOptions(actor="member"))
    by_call = await issue(services, guarded, "a/b", UrlOptions(actor="member", expires_in=604_800))

    assert abs(by_profile.expires_at.timestamp() - time.time() - 60) < 30  # type: ignore[union-attr]
    for issued in (by_profile, by_call):
        assert grant_of(gallery, issued.url).expires_at >= issued.expires_at.timestamp()  # type: ignore[union-attr]
    assert abs(by_call.expires_at.timestamp() - time.time() - 604_800) < 30  # type: ignore[union-attr]


def test_the_repr_of_an_issued_url_keeps_the_credential_to_itself() -> None:
    assert "secret" not in repr(IssuedUrl("https://x/?secret", None))


async def test_an_attachment_is_named_after_the_upload(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private, filename="Our holiday.PNG")

    original = await gallery.rindle.url(private, asset, disposition="attachment")
    thumb = await gallery.rindle.variant_url(private, asset, "thumb", disposition="attachment")
    named = await gallery.rindle.url(private, asset, filename="übung.png")

    assert str(grant_of(gallery, original).disposition).startswith('attachment; filename="Our_holiday.PNG"')
    assert str(grant_of(gallery, thumb).disposition).startswith('attachment; filename="Our_holiday.webp"')
    assert str(grant_of(gallery, named).disposition).startswith('inline; filename="bung.png"')


async def test_a_public_url_cannot_carry_headers_and_says_so(gallery: Gallery, public: type[Profile]) -> None:
    asset = await gallery.available(public)

    for options in ({"disposition": "attachment"}, {"filename": "x.png"}):
        with pytest.raises(CapabilityUnsupported) as error:
            await gallery.rindle.url(public, asset, **options)
        assert (error.value.code, error.value.capability) == ("delivery_unsupported", "response_headers")


class Person:
    id = 7


@pytest.mark.parametrize(
    ("actor", "name"),
    [
        ("alice@example.com", "alice@example.com"),
        (Person(), "7"),
        (("a", "b"), hashlib.sha256(b"('a', 'b')").hexdigest()),
        ("x" * 300, hashlib.sha256(repr("x" * 300).encode()).hexdigest()),
    ],
)
async def test_a_digest_of_the_actor_s_name_is_bound_as_audit_data(
    gallery: Gallery, private: type[Profile], actor: Any, name: str
) -> None:
    url = await gallery.rindle.url(private, "a/b", actor=actor)

    assert is_digest_of(grant_of(gallery, url).subject, name, [SECRET], URL_LABEL)
    claims = base64.urlsafe_b64decode(url.rpartition("/")[2].partition(".")[0] + "==")
    assert f'"{name}"'.encode() not in claims


async def test_a_url_for_nobody_says_so(gallery: Gallery, private: type[Profile]) -> None:
    assert grant_of(gallery, await gallery.rindle.url(private, "a/b")).subject == "anonymous"


# --- authorizer --------------------------------------------------------------------------------------------------


async def test_only_the_object_returned_is_authorized(
    gallery: Gallery, guarded: type[Profile], events: list[Any]
) -> None:
    asset = await gallery.ready(guarded)

    await gallery.rindle.variant_url(guarded, asset, "thumb", actor="stranger")

    [(actor, action, subject)] = MEMBERS.asked
    assert (actor, action) == ("stranger", "deliver")
    assert (subject.profile, subject.mode, subject.asset_id, subject.variant) == (
        "guarded",
        "private",
        asset.id,
        "thumb",
    )
    assert subject.key == variant_of(asset, "thumb").storage_key
    assert len(events) == 1


async def test_a_denial_yields_no_url_no_fallback_and_no_event(
    gallery: Gallery, guarded: type[Profile], events: list[Any]
) -> None:
    asset = await gallery.ready(guarded)

    for refused in (
        gallery.rindle.url(guarded, asset, actor="stranger"),
        gallery.rindle.variant_url(guarded, asset, "large", actor="stranger"),
    ):
        with pytest.raises(Unauthorized) as denied:
            await refused
        assert denied.value.code == "forbidden"

    assert events == []


async def test_public_profiles_are_authorized_too(tmp_path: Path) -> None:
    def make_profiles(store: Storage) -> list[type[Profile]]:
        class Open(Profile):
            name = "open"
            storage = store
            variants = {}
            delivery = {"public": True, "authorizer": MEMBERS}

        return [Open]

    async with opened(tmp_path, make_profiles) as gallery:
        with pytest.raises(Unauthorized):
            await gallery.rindle.url("open", "open/a/b.png")
        assert await gallery.rindle.url("open", "open/a/b.png", actor="member")


# --- variants ----------------------------------------------------------------------------------------------------


async def test_a_ready_variant_is_served(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private)
    thumb = variant_of(asset, "thumb")

    by_name = grant_of(gallery, await gallery.rindle.variant_url(private, asset, "thumb"))
    by_row = grant_of(gallery, await gallery.rindle.variant_url(private, asset, thumb))

    assert by_name.key == by_row.key == thumb.storage_key
    assert by_name.mime == "image/webp"


_UNSERVED = {
    VariantState.QUEUED: (VariantState.STALE, VariantState.QUEUED),
    VariantState.PROCESSING: (VariantState.STALE, VariantState.QUEUED, VariantState.PROCESSING),
    VariantState.FAILED: (VariantState.STALE, VariantState.QUEUED, VariantState.PROCESSING, VariantState.FAILED),
    VariantState.CANCELLED: (VariantState.STALE, VariantState.QUEUED, VariantState.CANCELLED),
    VariantState.MISSING: (VariantState.MISSING,),
    VariantState.PURGED: (VariantState.PURGED,),
    VariantState.STALE: (VariantState.STALE,),
}


@pytest.mark.parametrize("state", _UNSERVED)
async def test_a_variant_that_is_not_ready_gives_way_to_the_original(
    gallery: Gallery, private: type[Profile], state: VariantState
) -> None:
    asset = await gallery.move_variant(await gallery.ready(private), "thumb", *_UNSERVED[state])
    assert variant_of(asset, "thumb").state == state

    fallback = grant_of(gallery, await gallery.rindle.variant_url(private, asset, "thumb"))

    assert fallback.key == asset.storage_key
    with pytest.raises(VariantNotReady) as error:
        await gallery.rindle.variant_url(private, asset, "thumb", fallback="none")
    assert error.value.detail == {"variant": "thumb", "state": state}


async def test_a_variant_never_built_gives_way_too(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.available(private)

    assert grant_of(gallery, await gallery.rindle.variant_url(private, asset, "thumb")).key == asset.storage_key


@pytest.mark.parametrize("fallback", ["original", "none"])
@pytest.mark.parametrize("name", ["thumbnail", "THUMB", "", "original", "thumb\0"])
async def test_a_misspelled_variant_is_refused_and_never_the_original(
    gallery: Gallery, private: type[Profile], events: list[Any], name: str, fallback: str
) -> None:
    asset = await gallery.ready(private)

    with pytest.raises(UnknownVariant):
        await gallery.rindle.variant_url(private, asset, name, fallback=fallback)

    assert events == []


async def test_a_stale_variant_is_served_on_request(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.move_variant(await gallery.ready(private), "thumb", VariantState.STALE)

    served = await gallery.rindle.variant_url(private, asset, "thumb", stale_mode="serve_stale", fallback="none")

    assert grant_of(gallery, served).key == variant_of(asset, "thumb").storage_key


async def test_another_asset_s_variant_is_refused(gallery: Gallery, private: type[Profile]) -> None:
    mine, theirs = await gallery.ready(private), await gallery.ready(private)

    with pytest.raises(InvalidArgument):
        await gallery.rindle.variant_url(private, mine, variant_of(theirs, "thumb"))


@pytest.mark.parametrize("options", [{"stale_mode": "yes"}, {"fallback": "thumb"}])
async def test_unknown_choices_are_refused(gallery: Gallery, private: type[Profile], options: dict[str, str]) -> None:
    asset = await gallery.ready(private)

    with pytest.raises(InvalidArgument):
        await gallery.rindle.variant_url(private, asset, "thumb", **options)


async def test_a_loaded_asset_costs_no_query_and_any_other_one(gallery: Gallery, private: type[Profile]) -> None:
    loaded = await gallery.ready(private)
    bare = await gallery.unloaded(loaded)

    async with gallery.counting() as statements:
        await gallery.rindle.variant_url(private, loaded, "thumb")
        await gallery.rindle.url(private, bare)
        assert statements == []
        served = await gallery.rindle.variant_url(private, bare, "thumb")
        assert len(statements) == 1

    assert grant_of(gallery, served).key == variant_of(loaded, "thumb").storage_key


async def test_urls_are_made_without_touching_the_storage(gallery: Gallery, private: type[Profile]) -> None:
    asset = await gallery.ready(private)
    [storage] = gallery.rindle.storages.values()
    assert isinstance(storage, LocalStorage)
    shutil.rmtree(storage.root)

    assert await gallery.rindle.url(private, asset)
    assert await gallery.rindle.variant_url(private, asset, "thumb")
    assert await gallery.rindle.picture_tag(private, asset, ["thumb"])


# --- stores ------------------------------------------------------------------------------------------------------


class Limited(MemoryStorage):
    """A store without some of its capabilities; ``answer`` stands for whatever its ``url`` does."""

    def __init__(self, *lacking: str, answer: Any = "https://store.test/x") -> None:
        super().__init__()
        self.lacking, self.answer, self.asked = frozenset(lacking), answer, []

    def capabilities(self) -> frozenset[str]:
        return super().capabilities() - self.lacking

    async def url(self, key: str, **wanted: Any) -> str:
        self.asked.append(wanted)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@asynccontextmanager
async def on(store: Storage, tmp_path: Path) -> AsyncIterator[Gallery]:
    def make_profiles(_: Storage) -> list[type[Profile]]:
        class Plain(Profile):
            name = "plain"
            storage = store
            variants = VARIANTS

        return [Plain]

    async with opened(tmp_path, make_profiles, storage=store) as gallery:
        yield gallery


async def test_a_store_that_cannot_sign_gets_no_unsigned_url_instead(tmp_path: Path) -> None:
    store = Limited("signed_url")
    async with on(store, tmp_path) as gallery:
        with pytest.raises(CapabilityUnsupported) as error:
            await gallery.rindle.url("plain", "plain/a/b.png")

    assert (error.value.code, error.value.capability) == ("delivery_unsupported", "signed_url")
    assert store.asked == []


async def test_a_store_that_cannot_bind_headers_refuses_them_and_active_content(tmp_path: Path) -> None:
    store = Limited("response_headers")
    async with on(store, tmp_path) as gallery:
        assert await gallery.rindle.url("plain", "plain/a/b.png") == "https://store.test/x"
        assert "content_type" not in store.asked[0] and "content_disposition" not in store.asked[0]
        for refused in (
            gallery.rindle.url("plain", "plain/a/b.png", disposition="attachment"),
            gallery.rindle.url("plain", "plain/a/b.png", filename="x"),
            gallery.rindle.url("plain", "plain/a/logo.svg"),
        ):
            with pytest.raises(CapabilityUnsupported) as error:
                await refused
            assert error.value.capability == "response_headers"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (KeyError("https://signed?secret"), StorageAdapterException),
        (None, InvalidStorageResponse),
        ("", InvalidStorageResponse),
    ],
)
async def test_a_foreign_adapter_that_breaks_its_contract_is_named_and_not_quoted(
    tmp_path: Path, answer: Any, expected: type[Exception]
) -> None:
    async with on(Limited(answer=answer), tmp_path) as gallery:
        with pytest.raises(expected) as error:
            await gallery.rindle.url("plain", "plain/a/b.png")

    assert error.value.detail["operation"] == "url"  # type: ignore[attr-defined]
    assert "secret" not in f"{error.value!r} {error.value.detail}"  # type: ignore[attr-defined]


def test_every_deliverable_state_is_told_from_every_other() -> None:
    assert not DELIVERABLE & UNVALIDATED
    assert {*AssetState} - DELIVERABLE - UNVALIDATED == {AssetState.QUARANTINED, AssetState.DELETED}
