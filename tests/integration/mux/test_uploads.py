"""Direct uploads: opened by Mux's own client, and filled by PUT as its script for browsers does."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import mux_python
import pytest

from tests.integration.mux.client import Sdk, error_of
from tests.media.clips import Clips
from tests.patience import PATIENCE_SECONDS, until_blocking
from tests.servers.mux import FakeMux

ORIGIN = "https://cohort.example"
#: Bytes in which a session keeps what it gets.
QUANTUM = 256 * 1024

Open = Callable[..., Any]


@pytest.fixture
def opened(sdk: Sdk) -> Open:
    """Open an upload with the settings an application sends, or others."""

    def call(**more: object) -> Any:
        asset = {"playback_policies": ["signed"], "passthrough": "c0ffee"}
        return sdk.uploads.create_direct_upload({"cors_origin": ORIGIN, "new_asset_settings": asset, **more}).data

    return call


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    """What sends bytes; it knows no access token."""
    with httpx.Client(trust_env=False, timeout=PATIENCE_SECONDS, headers={"Origin": ORIGIN}) as client:
        yield client


def put(browser: httpx.Client, url: str, data: bytes, first: int = 0, total: int | str = "*") -> httpx.Response:
    """Send one chunk."""
    told = f"bytes {first}-{first + len(data) - 1}/{total}"
    return browser.put(url, content=data, headers={"Content-Range": told})


def test_a_film_in_one_piece_becomes_an_asset(
    mux: FakeMux, sdk: Sdk, opened: Open, browser: httpx.Client, clips: Clips
) -> None:
    upload = opened()
    assert (upload.status, upload.timeout, upload.cors_origin, upload.asset_id) == ("waiting", 3600, ORIGIN, None)
    assert upload.new_asset_settings.passthrough == "c0ffee"

    assert browser.put(upload.url, content=clips.film().read_bytes()).status_code == 200

    done = sdk.uploads.get_direct_upload(upload.id).data
    assert (done.status, done.url) == ("asset_created", None)
    until_blocking(lambda: sdk.assets.get_asset(done.asset_id).data.status == "ready")
    asset = sdk.assets.get_asset(done.asset_id).data
    assert (asset.upload_id, asset.passthrough) == (upload.id, "c0ffee")
    assert asset.ingest_type == "on_demand_direct_upload"
    assert [found.id for found in sdk.assets.list_assets(upload_id=upload.id).data] == [asset.id]
    assert [event.type for event in mux.events] == [
        "video.upload.created",
        "video.asset.created",
        "video.upload.asset_created",
        "video.asset.ready",
    ]


def test_chunks_are_put_together(mux: FakeMux, opened: Open, browser: httpx.Client) -> None:
    data = os.urandom(2 * QUANTUM + 1000)
    url = opened().url

    first = put(browser, url, data[:QUANTUM], 0, len(data))
    assert (first.status_code, first.headers["range"]) == (308, f"bytes=0-{QUANTUM - 1}")
    second = put(browser, url, data[QUANTUM : 2 * QUANTUM], QUANTUM, len(data))
    assert (second.status_code, second.headers["range"]) == (308, f"bytes=0-{2 * QUANTUM - 1}")
    assert mux.assets == []
    assert put(browser, url, data[2 * QUANTUM :], 2 * QUANTUM, len(data)).status_code == 200

    (asset,) = mux.assets
    assert asset.source.read_bytes() == data
    assert browser.put(url, content=b"more").status_code == 200  # a finished session changes no more
    assert asset.source.read_bytes() == data
    assert len(mux.assets) == 1


def test_an_uneven_chunk_is_kept_in_part_and_sent_again(mux: FakeMux, opened: Open, browser: httpx.Client) -> None:
    data = os.urandom(3 * QUANTUM)
    url = opened().url

    short = put(browser, url, data[: QUANTUM + 5], 0, len(data))
    assert (short.status_code, short.headers["range"]) == (308, f"bytes=0-{QUANTUM - 1}")
    small = put(browser, url, data[QUANTUM : QUANTUM + 5], QUANTUM, len(data))
    assert (small.status_code, small.headers["range"]) == (308, f"bytes=0-{QUANTUM - 1}")
    again = put(browser, url, data[: 2 * QUANTUM], 0, len(data))
    assert (again.status_code, again.headers["range"]) == (308, f"bytes=0-{2 * QUANTUM - 1}")
    assert put(browser, url, data[QUANTUM:], QUANTUM, len(data)).status_code == 200

    assert mux.assets[0].source.read_bytes() == data


def test_a_session_says_where_it_stands(mux: FakeMux, opened: Open, browser: httpx.Client) -> None:
    url = opened().url

    def stands(total: int | str) -> httpx.Response:
        return browser.put(url, headers={"Content-Range": f"bytes */{total}"})

    assert (stands("*").status_code, stands("*").headers.get("range")) == (308, None)
    put(browser, url, bytes(QUANTUM))
    assert stands(2 * QUANTUM).headers["range"] == f"bytes=0-{QUANTUM - 1}"
    assert stands(QUANTUM).status_code == 200  # now the length is known, and all of it is here
    assert len(mux.assets) == 1


def test_what_arrived_before_the_line_broke_is_kept(opened: Open, browser: httpx.Client) -> None:
    url = opened().url
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as line:
        head = (
            f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Range: bytes 0-{4 * QUANTUM - 1}/{4 * QUANTUM}\r\nContent-Length: {4 * QUANTUM}\r\n\r\n"
        )
        line.sendall(head.encode() + bytes(QUANTUM + 100))

    def kept() -> str | None:
        return browser.put(url, headers={"Content-Range": "bytes */*"}).headers.get("range")

    until_blocking(lambda: kept() == f"bytes=0-{QUANTUM - 1}")


REFUSED = {
    "a gap": ("bytes 262144-262145/400000", b"ab", 503),
    "no numbers": ("bytes a-b/c", b"ab", 400),
    "backwards": ("bytes 5-4/10", b"ab", 400),
    "beyond its end": ("bytes 0-9/5", b"0123456789", 400),
    "fewer bytes than told": ("bytes 0-9/20", b"ab", 400),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_chunk_that_does_not_fit_is_refused(mux: FakeMux, opened: Open, browser: httpx.Client, case: str) -> None:
    told, data, status = REFUSED[case]
    url = opened().url

    assert browser.put(url, content=data, headers={"Content-Range": told}).status_code == status

    stands = browser.put(url, headers={"Content-Range": "bytes */*"})
    assert (stands.status_code, stands.headers.get("range")) == (308, None)
    assert mux.assets == []


def test_an_address_that_was_not_signed_is_refused(opened: Open, browser: httpx.Client) -> None:
    url = httpx.URL(opened().url)
    other = httpx.URL(opened().url)

    for forged in (
        url.copy_set_param("Signature", other.params["Signature"]),
        url.copy_set_param("Expires", "4000000000"),
        url.copy_with(query=None),
        url.copy_with(path="/mux-uploads/unknown"),
    ):
        answer = browser.put(forged, content=b"film")
        assert (answer.status_code, "SignatureDoesNotMatch" in answer.text) == (403, True)


def test_an_upload_times_out_without_a_word(mux: FakeMux, sdk: Sdk, opened: Open, browser: httpx.Client) -> None:
    upload = opened(timeout=86_400)
    mux.advance(86_400 - 3_600)  # an hour is left, for a request that is late
    assert sdk.uploads.get_direct_upload(upload.id).data.status == "waiting"

    mux.advance(3_601)

    assert sdk.uploads.get_direct_upload(upload.id).data.status == "timed_out"
    answer = browser.put(upload.url, content=b"film")
    assert (answer.status_code, "ExpiredToken" in answer.text) == (400, True)
    assert [event.type for event in mux.events] == ["video.upload.created"]


def test_a_cancelled_upload_becomes_no_asset(mux: FakeMux, sdk: Sdk, opened: Open, browser: httpx.Client) -> None:
    upload = opened()

    assert sdk.uploads.cancel_direct_upload(upload.id).data.status == "cancelled"

    assert browser.put(upload.url, content=b"film").status_code == 200
    assert mux.assets == []
    assert [event.type for event in mux.events] == ["video.upload.created", "video.upload.cancelled"]
    with pytest.raises(mux_python.exceptions.ForbiddenException) as refused:
        sdk.uploads.cancel_direct_upload(upload.id)
    assert error_of(refused.value)[:2] == (403, "forbidden")


def test_an_upload_that_has_its_asset_is_not_cancelled(sdk: Sdk, opened: Open, browser: httpx.Client) -> None:
    upload = opened()
    browser.put(upload.url, content=b"film")

    with pytest.raises(mux_python.exceptions.ForbiddenException):
        sdk.uploads.cancel_direct_upload(upload.id)
    assert sdk.uploads.get_direct_upload(upload.id).data.status == "asset_created"


def test_an_unknown_upload_is_not_there(sdk: Sdk) -> None:
    for ask in (sdk.uploads.get_direct_upload, sdk.uploads.cancel_direct_upload):
        with pytest.raises(mux_python.exceptions.NotFoundException) as refused:
            ask("unknown")
        assert error_of(refused.value)[:2] == (404, "not_found")


def test_an_upload_can_fail_for_a_reason_of_mux(mux: FakeMux, sdk: Sdk, opened: Open) -> None:
    upload = opened()

    mux.fail_upload(upload.id, "internal_error", "The file was lost.")

    failed = sdk.uploads.get_direct_upload(upload.id).data
    assert (failed.status, failed.error.type, failed.error.message) == (
        "errored",
        "internal_error",
        "The file was lost.",
    )
    assert mux.events[-1].type == "video.upload.errored"


@pytest.mark.parametrize(
    "body",
    [
        {"timeout": 59},
        {"timeout": 604_801},
        {"timeout": "an hour"},
        {"cors_origin": 5},
        {"new_asset_settings": {"passthrough": "x" * 256}},
        {"new_asset_settings": []},
    ],
    ids=str,
)
def test_an_upload_that_cannot_be_is_refused(mux: FakeMux, opened: Open, body: dict[str, object]) -> None:
    with pytest.raises(mux_python.ApiException) as refused:
        opened(**body)
    assert error_of(refused.value)[:2] == (400, "invalid_parameters")
    assert mux.uploads == []


def test_only_the_page_it_was_opened_for_may_send(opened: Open, browser: httpx.Client) -> None:
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-range,content-type"}
    url = opened().url

    allowed = browser.options(url, headers=asked)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert allowed.headers["access-control-allow-methods"] == "PUT"
    assert allowed.headers["access-control-allow-headers"] == "content-range,content-type"
    sent = put(browser, url, bytes(QUANTUM))
    assert sent.headers["access-control-allow-origin"] == ORIGIN
    assert "Range" in sent.headers["access-control-expose-headers"]

    for other in (browser.options(url, headers={**asked, "Origin": "https://evil.example"}), browser.options(url)):
        assert other.headers.get("access-control-allow-origin") in (None, ORIGIN)
    assert (
        "access-control-allow-origin"
        not in browser.options(url, headers={**asked, "Origin": "https://evil.example"}).headers
    )
    any_page = opened(cors_origin="*").url
    assert browser.options(any_page, headers=asked).headers["access-control-allow-origin"] == ORIGIN


def test_a_chunk_can_be_made_to_fail(mux: FakeMux, opened: Open, browser: httpx.Client) -> None:
    url = opened().url
    mux.plan_fault("PUT", "/mux-uploads/*", status=503)

    assert put(browser, url, bytes(QUANTUM)).status_code == 503
    assert put(browser, url, bytes(QUANTUM)).status_code == 308


def test_uploads_are_listed_newest_first(sdk: Sdk, opened: Open) -> None:
    made = [opened().id for _ in range(3)]

    assert [upload.id for upload in sdk.uploads.list_direct_uploads().data] == made[::-1]
    assert [upload.id for upload in sdk.uploads.list_direct_uploads(limit=2, page=2).data] == made[:1]
