"""Assets over HTTP: their state and variants, their URLs, cancelling and queueing builds again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rindle.states import AssetState, VariantState
from rindle.storage.local import LocalStorage
from tests.gallery import BASE_URL, png
from tests.integration.http.site import ASSET_FIELDS, RFC_3339_UTC, Ruling, Site, error_of, site


async def test_an_asset_is_shown_with_its_variants(web: Site) -> None:
    asset = await web.gallery.ready(web.avatar, "thumb", actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}")

    shown = answer.json()["asset"]
    variants = {variant["name"]: variant for variant in shown["variants"]}
    assert set(answer.json()) == {"asset"}
    assert set(shown) == ASSET_FIELDS | {"kind", "width", "height", "duration_ms", "error_code", "variants"}
    assert (shown["state"], shown["kind"], shown["width"], shown["height"]) == ("degraded", "image", 800, 600)
    assert variants["thumb"] == {
        "name": "thumb",
        "state": "ready",
        "progress": 100,
        "width": 64,
        "height": 64,
        "duration_ms": None,
        "content_type": "image/webp",
        "byte_size": 99,
        "error_code": None,
    }
    assert (variants["large"]["state"], variants["large"]["error_code"]) == ("failed", "render_failed")
    assert asset.storage_key not in answer.text and "alice" not in answer.text


async def test_urls_of_originals_and_variants_serve_the_bytes(web: Site) -> None:
    asset = await web.gallery.available(web.avatar, actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}/url")
    fallback = await web.call("GET", f"/assets/{asset.id}/url?variant=thumb&disposition=attachment")
    redirect = await web.call("GET", f"/assets/{asset.id}/url?redirect=1")

    assert set(answer.json()) == {"url", "expires_at"} and RFC_3339_UTC.fullmatch(answer.json()["expires_at"])
    assert answer.headers["cache-control"] == redirect.headers["cache-control"] == "no-store"
    served = await web.client.get(answer.json()["url"])
    assert (served.content, served.headers["content-type"]) == (png(), "image/png")
    assert "content-disposition" not in served.headers
    saved = await web.client.get(fallback.json()["url"])
    assert saved.content == png() and saved.headers["content-disposition"].startswith("attachment")
    assert redirect.status_code == 302 and redirect.headers["referrer-policy"] == "no-referrer"
    assert (await web.client.get(redirect.headers["location"])).content == png()


async def test_a_public_url_is_served_and_does_not_expire(web: Site) -> None:
    asset = await web.gallery.available(web.rindle.profiles.get("banner"), actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}/url")
    private = await web.gallery.available(web.avatar)

    assert answer.json() == {"url": f"{BASE_URL}/p/{asset.storage_key}", "expires_at": None}
    assert (await web.client.get(answer.json()["url"])).content == png()
    assert (await web.client.get(f"{BASE_URL}/p/{private.storage_key}")).status_code == 404


async def test_a_public_key_is_served_only_once_its_asset_was_judged(web: Site) -> None:
    banner = web.rindle.profiles.get("banner")
    unjudged = await web.gallery.uploaded(banner, actor="alice")
    assert (await web.client.get(f"{BASE_URL}/p/{unjudged.storage_key}")).status_code == 404
    for key in ("banner/x", "banner/../avatar/x/y", f"banner/{unjudged.id}/other.png"):
        assert (await web.client.get(f"{BASE_URL}/p/{key}")).status_code == 404


async def test_an_svg_is_never_shown_in_place(web: Site) -> None:
    data = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    logo = web.rindle.profiles.get("logo")
    asset = await web.gallery.available(logo, filename="logo.svg", data=data, actor="alice")

    url = (await web.call("GET", f"/assets/{asset.id}/url?disposition=inline")).json()["url"]
    served = await web.client.get(url)

    assert served.headers["content-disposition"].startswith('attachment; filename="logo.svg"')
    assert served.headers["x-content-type-options"] == "nosniff"
    assert served.headers["content-security-policy"] == "default-src 'none'; sandbox"


@pytest.mark.parametrize("variant", ["nothing_of_the_kind", "original", "THUMB", "..%2f..", "dyn_x", "%27", ""])
async def test_a_variant_the_profile_does_not_declare_is_refused(web: Site, variant: str) -> None:
    asset = await web.gallery.ready(web.avatar, actor="alice")

    assert error_of(await web.call("GET", f"/assets/{asset.id}/url?variant={variant}")) == (422, "unknown_variant")


@pytest.mark.parametrize("query", ["varaint=thumb", "Variant=thumb", "variant=thumb&fallbck=none", "name=thumb"])
async def test_a_misspelled_query_parameter_is_refused_and_never_the_original(web: Site, query: str) -> None:
    asset = await web.gallery.ready(web.avatar, actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}/url?{query}")

    assert error_of(answer) == (422, "unknown_options")
    assert len(answer.json()["error"]["detail"]["options"]) == 1


async def test_a_client_may_refuse_the_original(web: Site) -> None:
    asset = await web.gallery.available(web.avatar, actor="alice")

    answer = await web.call("GET", f"/assets/{asset.id}/url?variant=thumb&fallback=none")

    assert error_of(answer) == (409, "variant_not_ready")


@pytest.mark.parametrize("state", [AssetState.STAGED, AssetState.ANALYZING, AssetState.QUARANTINED, AssetState.DELETED])
async def test_an_asset_that_is_not_delivered_has_no_url(tmp_path: Path, state: AssetState) -> None:
    async with site(tmp_path, authorizer=Ruling()) as web:
        asset = await web.gallery.in_state(web.avatar, state)

        answer = await web.call("GET", f"/assets/{asset.id}/url", actor="admin")

        assert error_of(answer) == (409, "asset_not_deliverable")
        assert answer.json()["error"]["detail"] == {"state": state}


async def test_builds_are_cancelled_and_queued_again(web: Site) -> None:
    asset = await web.gallery.available(web.avatar, actor="alice")
    path = f"/assets/{asset.id}"

    cancelled = await web.call("POST", f"{path}/cancel")
    twice = await web.call("POST", f"{path}/cancel")
    one = await web.call("POST", f"{path}/requeue", json={"variant_names": ["thumb"]})
    rest = await web.call("POST", f"{path}/requeue")
    unknown = await web.call("POST", f"{path}/requeue", json={"variant_names": ["x"]})

    assert (cancelled.status_code, cancelled.json()) == (202, {"asset_id": asset.id, "cancelled": 2})
    assert error_of(twice) == (409, "not_processing")
    assert one.status_code == 202 and one.json()["enqueued"] == 1
    assert rest.json() == {
        "asset_id": asset.id,
        "selected": 1,
        "enqueued": 1,
        "skipped": 0,
        "errors": 0,
        "failures": [],
    }
    assert error_of(unknown) == (422, "unknown_variant_names")
    states = {row.name: row.state for row in (await web.rindle.asset(asset.id)).variants}
    assert states == {"thumb": VariantState.QUEUED, "large": VariantState.QUEUED}
    audit = [event for event in await web.rindle.timeline(asset.id) if event.audit]
    assert [event.actor for event in audit] == ["alice"] * 3


async def test_the_clock_of_a_url_is_not_ahead_of_the_url(web: Site) -> None:
    asset = await web.gallery.available(web.avatar, actor="alice")

    answer = (await web.call("GET", f"/assets/{asset.id}/url")).json()

    told = datetime.fromisoformat(answer["expires_at"].replace("Z", "+00:00"))
    [storage] = web.rindle.storages.values()
    assert isinstance(storage, LocalStorage)
    grant = storage.grant_of(answer["url"].rpartition("/")[2], "GET")
    assert told <= grant.expires <= datetime.now(UTC) + timedelta(seconds=900)
