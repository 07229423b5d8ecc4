"""Mux's REST API, asked by Mux's own client."""

from __future__ import annotations

from collections.abc import Callable

import mux_python
import pytest
import urllib3

from tests.integration.mux.client import Sdk, error_of, misfits
from tests.patience import until_blocking
from tests.servers.mux import FakeMux

Urls = Callable[[str], str]


def settings(url: str, **more: object) -> dict[str, object]:
    """Return what an application sends to make an asset."""
    return {"inputs": [{"url": url}], "playback_policies": ["signed"], **more}


def test_the_client_of_these_tests_refuses_what_its_models_do_not_describe() -> None:
    good = {
        "data": {"id": "a", "created_at": "1", "status": "ready", "playback_ids": [{"id": "b", "policy": "signed"}]}
    }
    assert list(misfits(good, "AssetResponse")) == []

    bad = {"data": {"id": 1, "stattus": "ready", "playback_ids": [{"id": "b", "policy": "secret"}], "tracks": {}}}
    assert list(misfits(bad, "AssetResponse")) == [
        "answer.data.id: 1 is no str",
        "answer.data.stattus: unknown to Asset",
        "answer.data.playback_ids[0].policy: 'secret' is none of ['public', 'signed', 'drm']",
        "answer.data.tracks: not a list",
    ]


def test_an_asset_is_fetched_and_becomes_ready(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    request = mux_python.CreateAssetRequest(
        inputs=[mux_python.InputSettings(url=film_url("film.mp4"))],
        playback_policies=[mux_python.PlaybackPolicy.SIGNED],
        passthrough="c0ffee",
        max_resolution_tier="1080p",
    )

    made = sdk.assets.create_asset(request).data
    assert (made.status, made.passthrough, made.duration) == ("preparing", "c0ffee", None)
    assert [address.policy for address in made.playback_ids] == ["signed"]
    assert (made.progress.state, made.progress.progress) == ("ingesting", 0)

    mux.release_ingest()
    until_blocking(lambda: sdk.assets.get_asset(made.id).data.status == "ready")
    ready = sdk.assets.get_asset(made.id).data
    assert (ready.id, ready.created_at, ready.passthrough) == (made.id, made.created_at, "c0ffee")
    assert ready.duration == pytest.approx(2, abs=0.2)
    assert (ready.aspect_ratio, ready.resolution_tier, ready.max_stored_resolution) == ("16:9", "720p", "SD")
    assert [(track.type, track.max_width, track.max_height) for track in ready.tracks] == [
        ("video", 320, 180),
        ("audio", None, None),
    ]
    info = sdk.assets.get_asset_input_info(made.id).data
    assert [track.encoding for track in info[0].file.tracks] == ["h264", "aac"]


def test_the_older_names_of_settings_still_work(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    old = {"input": [{"url": film_url("film.mp4")}], "playback_policy": ["public"]}

    made = sdk.assets.create_asset(old).data
    assert [address.policy for address in made.playback_ids] == ["public"]


def test_an_asset_without_a_policy_has_no_list_of_playback_ids(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    assert sdk.assets.create_asset({"inputs": [{"url": film_url("film.mp4")}]}).data.playback_ids is None


@pytest.mark.parametrize(
    ("name", "kind"), [("missing.mp4", "download_failed"), ("garbage.mp4", "invalid_input")], ids=str
)
def test_a_film_that_is_none_ends_errored(mux: FakeMux, sdk: Sdk, film_url: Urls, name: str, kind: str) -> None:
    made = sdk.assets.create_asset(settings(film_url(name))).data

    until_blocking(lambda: sdk.assets.get_asset(made.id).data.status == "errored")
    failed = sdk.assets.get_asset(made.id).data
    assert failed.errors.type == kind
    assert len(failed.errors.messages) == 1
    assert (failed.progress.state, failed.progress.progress) == ("errored", -1)
    assert [event.type for event in mux.events] == ["video.asset.created", "video.asset.errored"]


def test_an_asset_can_fail_for_a_reason_of_mux(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    made = sdk.assets.create_asset(settings(film_url("film.mp4"))).data

    mux.fail_asset(made.id, "internal_error", "one", "two")

    failed = sdk.assets.get_asset(made.id).data
    assert (failed.status, failed.errors.type, failed.errors.messages) == ("errored", "internal_error", ["one", "two"])


def test_a_deleted_asset_is_gone(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    made = sdk.assets.create_asset(settings(film_url("film.mp4"))).data

    sdk.assets.delete_asset(made.id)

    for again in (sdk.assets.get_asset, sdk.assets.delete_asset):
        with pytest.raises(mux_python.exceptions.NotFoundException) as refused:
            again(made.id)
        status, kind, messages = error_of(refused.value)
        assert (status, kind) == (404, "not_found")
        assert messages == ["The requested resource either doesn't exist or you don't have access to it."]
    assert mux.assets == []
    assert mux.events[-1].type == "video.asset.deleted"
    mux.release_ingest()  # nothing comes of a film that is gone
    other = sdk.assets.create_asset(settings(film_url("film.mp4"))).data
    until_blocking(lambda: sdk.assets.get_asset(other.id).data.status == "ready")
    assert [event.type for event in mux.events if event.about == made.id][-1] == "video.asset.deleted"


def test_lists_begin_with_the_newest_and_come_in_pages(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    made = [sdk.assets.create_asset(settings(film_url("film.mp4"), passthrough=str(n))).data for n in range(5)]
    newest = [asset.id for asset in reversed(made)]

    assert [asset.id for asset in sdk.assets.list_assets().data] == newest
    assert [asset.id for asset in sdk.assets.list_assets(limit=2, page=2).data] == newest[2:4]

    first = sdk.assets.list_assets(limit=3)
    sdk.assets.create_asset(settings(film_url("film.mp4")))  # moves no page that a cursor holds
    rest = sdk.assets.list_assets(limit=3, cursor=first.next_cursor)
    assert [asset.id for asset in [*first.data, *rest.data]] == newest
    assert rest.next_cursor is None


REFUSED = {
    "no input": ({"playback_policies": ["signed"]}, "inputs"),
    "an input without a URL": ({"inputs": [{}]}, "inputs"),
    "a URL of a file": (settings("file:///etc/passwd"), "inputs"),
    "an unknown policy": ({**settings("http://a/b"), "playback_policies": ["secret"]}, "playback_policies"),
    "drm without its configuration": ({**settings("http://a/b"), "playback_policies": ["drm"]}, "playback_policies"),
    "a long passthrough": (settings("http://a/b", passthrough="x" * 256), "passthrough"),
    "an unknown tier": (settings("http://a/b", max_resolution_tier="8k"), "max_resolution_tier"),
    "a long title": (settings("http://a/b", meta={"title": "x" * 513}), "meta.title"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_be_are_refused(mux: FakeMux, sdk: Sdk, case: str) -> None:
    body, named = REFUSED[case]

    with pytest.raises(mux_python.ApiException) as refused:
        sdk.assets.create_asset(body)

    status, kind, messages = error_of(refused.value)
    assert (status, kind) == (400, "invalid_parameters")
    assert [message.partition(":")[0] for message in messages] == [named]
    assert mux.assets == []


@pytest.mark.parametrize("parameters", [{"limit": 101}, {"limit": 0}, {"page": 0}, {"cursor": "unknown"}], ids=str)
def test_pages_that_cannot_be_are_refused(sdk: Sdk, parameters: dict[str, object]) -> None:
    with pytest.raises(mux_python.ApiException) as refused:
        sdk.assets.list_assets(**parameters)
    assert error_of(refused.value)[:2] == (400, "invalid_parameters")


def test_a_wrong_access_token_is_refused(mux: FakeMux) -> None:
    token_id, secret = mux.token
    for token in ((token_id, "wrong"), ("wrong", secret), ("", "")):
        stranger = Sdk(mux, token)
        with pytest.raises(mux_python.exceptions.UnauthorizedException) as refused:
            stranger.assets.list_assets()
        assert error_of(refused.value)[:2] == (401, "unauthorized")
        stranger.close()


def test_a_replaced_access_token_is_refused(mux: FakeMux, sdk: Sdk) -> None:
    new = Sdk(mux, mux.rotate_token())

    assert new.assets.list_assets().data == []
    with pytest.raises(mux_python.exceptions.UnauthorizedException):
        sdk.assets.list_assets()
    new.close()


def test_too_many_requests_are_told_when_to_come_back(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    mux.plan_fault("POST", "/video/v1/assets", status=429, retry_after=7)

    with pytest.raises(mux_python.ApiException) as refused:
        sdk.assets.create_asset(settings(film_url("film.mp4")))
    assert error_of(refused.value)[:2] == (429, "too_many_requests")
    assert refused.value.headers["Retry-After"] == "7"
    assert mux.assets == []

    sdk.assets.create_asset(settings(film_url("film.mp4")))
    assert len(mux.assets) == 1


def test_an_answer_can_be_lost_after_the_deed(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    mux.plan_fault("POST", "/video/v1/assets", status=503, is_done_first=True)

    with pytest.raises(mux_python.exceptions.ServiceException) as failed:
        sdk.assets.create_asset(settings(film_url("film.mp4"), passthrough="c0ffee"))

    assert error_of(failed.value)[0] == 503
    assert [asset.passthrough for asset in sdk.assets.list_assets().data] == ["c0ffee"]


def test_a_silent_server_is_waited_for_as_long_as_the_caller_will(mux: FakeMux, sdk: Sdk) -> None:
    mux.plan_fault("GET", "/video/v1/assets", is_silent=True)

    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        sdk.assets.list_assets(_request_timeout=0.2)

    mux.answer_the_silent()
    assert sdk.assets.list_assets().data == []
    assert mux.requests == 2 * [("GET", "/video/v1/assets")]


def test_passthrough_can_be_changed(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    made = sdk.assets.create_asset(settings(film_url("film.mp4"), passthrough="before")).data

    changed = sdk.assets.update_asset(made.id, {"passthrough": "after", "meta": {"title": "Friday"}}).data

    assert (changed.passthrough, changed.meta.title) == ("after", "Friday")
    with pytest.raises(mux_python.ApiException) as refused:
        sdk.assets.update_asset(made.id, {"passthrough": "x" * 256})
    assert error_of(refused.value)[:2] == (400, "invalid_parameters")


def test_playback_ids_come_and_go(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    made = sdk.assets.create_asset(settings(film_url("film.mp4"))).data

    public = sdk.assets.create_asset_playback_id(made.id, {"policy": "public"}).data
    assert sdk.assets.get_asset_playback_id(made.id, public.id).data.policy == "public"
    found = sdk.playback_ids.get_asset_or_livestream_id(public.id).data
    assert (found.object.id, found.object.type, found.policy) == (made.id, "asset", "public")

    sdk.assets.delete_asset_playback_id(made.id, public.id)
    with pytest.raises(mux_python.exceptions.NotFoundException):
        sdk.playback_ids.get_asset_or_livestream_id(public.id)
    with pytest.raises(mux_python.ApiException) as refused:
        sdk.assets.create_asset_playback_id(made.id, {"policy": "secret"})
    assert error_of(refused.value)[:2] == (400, "invalid_parameters")


def test_the_private_half_of_a_key_is_told_once(sdk: Sdk) -> None:
    made = sdk.keys.create_signing_key().data

    assert made.private_key
    assert sdk.keys.get_signing_key(made.id).data.private_key is None
    assert made.id in [key.id for key in sdk.keys.list_signing_keys().data]

    sdk.keys.delete_signing_key(made.id)
    with pytest.raises(mux_python.exceptions.NotFoundException):
        sdk.keys.get_signing_key(made.id)
