"""LocalStorage over real HTTP: every line of the delivery table, and what browsers and attackers try beside it."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rindle.errors import CapabilityUnsupported, StorageNotFound
from rindle.events import PUBLIC_EVENTS
from rindle.http.local import local_router
from rindle.storage.grant import Grant
from rindle.storage.local import URL_LABEL, LocalStorage
from tests.contract.serving import listening, send_raw, serving
from tests.patience import PATIENCE_SECONDS, until

SECRET, OLD_SECRET = "s" * 32, "o" * 32
KEY = "avatars/1/a.bin"
BODY = b"0123456789abcdef"
GUARDS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-site",
}


@dataclass
class Site:
    """A served storage and what its router reported."""

    storage: LocalStorage
    address: str
    client: httpx.AsyncClient
    events: list[tuple[str, dict[str, Any], dict[str, float]]] = field(default_factory=list)

    async def url(self, key: str = KEY, **options: Any) -> str:
        return await self.storage.url(key, **{"expires_in": 60, **options})

    async def get(self, url: str | None = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(url or await self.url(), headers=named)

    def token(self, **facts: Any) -> str:
        """A URL signed with any claims."""
        grant = Grant(**{"method": "GET", "key": KEY, "expires_at": 2**40, **facts})
        return f"{self.address}/{grant.token(SECRET, URL_LABEL)}"


def emit_into(events: list[Any]) -> Callable[..., None]:
    return lambda name, metadata, measurements: events.append((name, dict(metadata), dict(measurements)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "media"
    (root / "avatars" / "1").mkdir(parents=True)
    (root / KEY).write_bytes(BODY)
    return root


@pytest.fixture(params=[False])
async def site(root: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site of its own for each test; parametrize it indirectly with ``True`` for strict range parsing."""
    with listening() as (listener, address):
        storage = LocalStorage(root, base_url=address, secrets=[SECRET, OLD_SECRET], public_base_url=f"{address}/p")
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            site = Site(storage, address, client)
            app = FastAPI()
            router = local_router(
                storage,
                is_public=lambda key: key.startswith("public/"),
                emit=emit_into(site.events),
                strict_range_parsing=request.param,
            )
            app.include_router(router)
            with serving(app, listener):
                yield site


# --- whole objects ------------------------------------------------------------------------------------------------


async def test_a_signed_url_serves_the_object_and_its_headers(site: Site) -> None:
    asked_at = int(time.time())
    answer = await site.get(await site.url(content_type="image/png", content_disposition="inline"))
    answered_at = int(time.time())

    assert (answer.status_code, answer.content) == (200, BODY)
    headers = answer.headers
    assert headers["content-type"] == "image/png"
    assert headers["content-disposition"] == "inline"
    assert headers["content-length"] == "16"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"] == f'"{(await site.storage.head(KEY)).etag}"'
    assert headers["last-modified"].endswith(" GMT")
    assert {name: headers[name] for name in GUARDS} == GUARDS
    private, max_age = headers["cache-control"].split(", ")
    assert private == "private"
    expires_in = range(asked_at + 60 - answered_at - 1, 60 + 1)  # what was left of a minute when it was answered
    assert int(max_age.removeprefix("max-age=")) in expires_in


async def test_a_head_is_a_get_without_its_body(site: Site) -> None:
    url = await site.url(content_type="image/png")
    got = await site.get(url)
    head = await site.client.head(url, headers={"Range": "bytes=4-7"})  # a range means nothing with HEAD

    assert (head.status_code, head.content) == (200, b"")
    same = ("content-type", "content-length", "etag", "last-modified", "accept-ranges")
    assert [head.headers[name] for name in same] == [got.headers[name] for name in same]


async def test_the_type_is_bytes_unless_the_url_says_otherwise(site: Site) -> None:
    assert (await site.get()).headers["content-type"] == "application/octet-stream"
    assert "content-disposition" not in (await site.get()).headers


@pytest.mark.parametrize(
    "mime", ["text/html", "image/svg+xml", "text/xml", "application/xhtml+xml", "TEXT/HTML; charset=utf-8"]
)
@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, "attachment"),
        ("inline", "attachment"),
        ('inline; filename="a.svg"', 'attachment; filename="a.svg"'),
        ("attachment", "attachment"),
    ],
)
async def test_active_content_is_never_shown_in_place(site: Site, mime: str, asked: str | None, given: str) -> None:
    answer = await site.get(await site.url(content_type=mime, content_disposition=asked))

    assert answer.headers["content-disposition"] == given
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_large_object_is_streamed(site: Site, root: Path) -> None:
    body = os.urandom(1024 * 1024) * 40
    (root / KEY).write_bytes(body)
    url = await site.url()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    received = 0
    async with site.client.stream("GET", url) as answer:
        async for piece in answer.aiter_raw():
            assert piece == body[received : received + len(piece)]
            received += len(piece)

    assert received == len(body)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < len(body) // 2


async def test_many_readers_are_served_at_once(site: Site, root: Path) -> None:
    body = os.urandom(300_000)
    (root / KEY).write_bytes(body)
    url = await site.url()

    answers = await asyncio.gather(*(site.get(url) for _ in range(50)))

    assert all(answer.content == body for answer in answers)


# --- ranges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given", "body"),
    [
        ("bytes=4-7", "bytes 4-7/16", b"4567"),
        ("bytes=-4", "bytes 12-15/16", b"cdef"),
        ("bytes=10-", "bytes 10-15/16", b"abcdef"),
        ("bytes=10-99", "bytes 10-15/16", b"abcdef"),
        ("bytes=0-0", "bytes 0-0/16", b"0"),
        ("bytes=-99", "bytes 0-15/16", BODY),
        ("bytes=0-9223372036854775808", "bytes 0-15/16", BODY),
    ],
)
async def test_one_range_is_served(site: Site, asked: str, given: str, body: bytes) -> None:
    answer = await site.get(range=asked)

    assert (answer.status_code, answer.content) == (206, body)
    assert answer.headers["content-range"] == given
    assert answer.headers["content-length"] == str(len(body))
    assert {name: answer.headers[name] for name in GUARDS} == GUARDS
    first = int(given.split()[1].split("-")[0])
    assert site.events == [
        (
            "rindle.delivery.range_request",
            {"profile": "avatars", "adapter": "local"},
            {"offset": first, "length": len(body), "file_size": 16},
        )
    ]


@pytest.mark.parametrize("asked", ["bytes=16-", "bytes=99-100", "bytes=-0", "bytes=9223372036854775808-"])
async def test_a_range_behind_the_end_is_416(site: Site, asked: str) -> None:
    answer = await site.get(range=asked)

    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */16"
    assert site.events == []


MALFORMED = ["bytes=0-0,1-1", "bytes=0-0,1-1," * 500, "bytes=7-4", "bytes=a-b", "bytes=", "items=0-1"]


@pytest.mark.parametrize("asked", MALFORMED)
async def test_several_or_malformed_ranges_get_everything(site: Site, asked: str) -> None:
    answer = await site.get(range=asked)

    assert (answer.status_code, answer.content) == (200, BODY)
    facts = {"profile": "avatars", "adapter": "local", "reason": "range_unparseable"}
    assert site.events == [("rindle.delivery.range_fallback", facts, {})]


@pytest.mark.parametrize("site", [True], indirect=True)
@pytest.mark.parametrize("asked", MALFORMED)
async def test_strict_parsing_refuses_them(site: Site, asked: str) -> None:
    answer = await site.get(range=asked)

    assert (answer.status_code, answer.text) == (416, "range_unparseable")
    assert answer.headers["content-range"] == "bytes */16"
    assert (await site.get(range="bytes=4-7")).status_code == 206


async def test_two_range_headers_are_several_ranges(site: Site) -> None:
    answer = await site.client.get(await site.url(), headers=[("Range", "bytes=0-0"), ("Range", "bytes=1-1")])

    assert (answer.status_code, answer.content) == (200, BODY)


async def test_an_empty_file_has_no_ranges(site: Site, root: Path) -> None:
    (root / KEY).write_bytes(b"")

    answer = await site.get(range="bytes=0-4")

    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


async def test_the_events_are_the_registered_ones(site: Site) -> None:
    await site.get(range="bytes=0-1")
    await site.get(range="bytes=nonsense")

    for name, metadata, measurements in site.events:
        assert set(metadata) == set(PUBLIC_EVENTS[name].metadata)
        assert set(measurements) == set(PUBLIC_EVENTS[name].measurements)


# --- conditions ---------------------------------------------------------------------------------------------------


async def test_a_good_copy_is_not_sent_again(site: Site) -> None:
    first = await site.get()
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)

    for headers in (
        {"if_none_match": etag},
        {"if_none_match": f'"other", W/{etag}'},
        {"if_none_match": "*"},
        {"if_none_match": etag, "range": "bytes=0-1"},
        {"if_modified_since": modified},
        {"if_modified_since": later},
    ):
        answer = await site.get(**headers)
        assert (answer.status_code, answer.content) == (304, b""), headers
        assert answer.headers["etag"] == etag


async def test_an_old_copy_is_replaced(site: Site) -> None:
    modified = (await site.get()).headers["last-modified"]

    for headers in (
        {"if_none_match": '"other"'},
        {"if_none_match": '"other"', "if_modified_since": modified},  # the ETag decides
        {"if_modified_since": "Thu, 01 Jan 1970 00:00:00 GMT"},
        {"if_modified_since": "nonsense"},
        {"if_modified_since": "99999999999999999999"},
    ):
        assert (await site.get(**headers)).status_code == 200, headers


async def test_if_range_continues_the_same_version_only(site: Site) -> None:
    first = await site.get()
    etag, modified = first.headers["etag"], first.headers["last-modified"]
    site.events.clear()

    for condition in (etag, modified):
        assert (await site.get(range="bytes=4-7", if_range=condition)).status_code == 206
    for condition in ('"other"', f"W/{etag}", "Thu, 01 Jan 1970 00:00:00 GMT", "nonsense"):
        answer = await site.get(range="bytes=4-7", if_range=condition)
        assert (answer.status_code, answer.content) == (200, BODY), condition
    assert len(site.events) == 2


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_a_missing_object_is_404(site: Site, root: Path) -> None:
    for key in ("avatars/1/none", "avatars/1", "avatars"):
        answer = await site.get(await site.url(key))
        assert (answer.status_code, answer.text) == (404, "not found")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


async def test_an_expired_link_says_so(site: Site) -> None:
    answer = await site.get(site.token(expires_at=1))

    assert (answer.status_code, answer.text) == (403, "forbidden")
    assert answer.headers["x-rindle-reason"] == "expired"


async def test_what_we_did_not_sign_is_forbidden_before_any_lookup(site: Site) -> None:
    good = await site.url()
    body, _, mac = good.rpartition("/")[2].partition(".")
    other_purpose = Grant(method="GET", key=KEY, expires_at=2**40).token(SECRET, "rindle:tus")
    other_secret = Grant(method="GET", key=KEY, expires_at=2**40).token("x" * 32, URL_LABEL)
    longer = Grant(method="GET", key=KEY, expires_at=2**41).token(SECRET, URL_LABEL).partition(".")[0]

    for token in (
        "",
        f"?token={body}.{mac}",
        "x",
        ".",
        f"{body}.",
        f".{mac}",
        f"{longer}.{mac}",
        other_purpose,
        other_secret,
        "%00",
        "a" * 9000,
    ):
        answer = await site.get(f"{site.address}/{token}")
        assert (answer.status_code, answer.text) == (403, "forbidden"), token
        assert "x-rindle-reason" not in answer.headers


async def test_a_rotated_secret_still_opens_old_links(site: Site) -> None:
    token = Grant(method="GET", key=KEY, expires_at=2**40).token(OLD_SECRET, URL_LABEL)

    assert (await site.get(f"{site.address}/{token}")).status_code == 200


async def test_a_token_works_for_its_method_only(site: Site) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60)

    assert (await site.get(grant.url)).status_code == 403
    assert (await site.client.put(await site.url(), content=b"x")).status_code == 403
    assert (await site.get()).content == BODY


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_are_405(site: Site, method: str) -> None:
    answer = await site.client.request(method, await site.url())

    assert answer.status_code == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD", "PUT"}


@pytest.mark.parametrize("key", ["../outside", "/etc/passwd", ".rindle/tmp/x", "avatars/1/link", "linked/x"])
async def test_even_a_signed_key_stays_in_the_root(site: Site, root: Path, tmp_path: Path, key: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (root / "avatars" / "1" / "link").symlink_to(tmp_path / "outside")
    (root / "linked").symlink_to(tmp_path)

    answer = await site.get(site.token(key=key))

    assert (answer.status_code, answer.text) == (403, "forbidden")


def test_a_router_without_signed_urls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CapabilityUnsupported) as caught:
        local_router(LocalStorage(tmp_path))

    assert caught.value.code == "delivery_unsupported"


# --- public objects -----------------------------------------------------------------------------------------------


async def test_public_profiles_need_no_signature(site: Site, root: Path) -> None:
    key = "public/1/a b+ü.jpg"
    (root / "public" / "1").mkdir(parents=True)
    (root / key).write_bytes(BODY)

    answer = await site.get(await site.storage.url(key, public=True), range="bytes=0-3")

    assert (answer.status_code, answer.content) == (206, b"0123")
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["content-type"] == "image/jpeg"
    assert {name: answer.headers[name] for name in GUARDS} == GUARDS


async def test_private_objects_are_not_found_there(site: Site) -> None:
    for path in (KEY, "public/1/none.jpg", "public/../avatars/1/a.bin"):
        answer = await site.get(f"{site.address}/p/{path}")
        assert answer.status_code == 404, path
        assert BODY not in answer.content


@pytest.mark.parametrize("path", ["public/%2e%2e/avatars/1/a.bin", "public//avatars", "public/..%2f..%2fetc/passwd"])
async def test_public_paths_stay_in_the_root(site: Site, path: str) -> None:
    assert await send_raw("GET", f"{site.address}/p/{path}", {}) in (403, 404)


@pytest.mark.parametrize(("name", "mime"), [("a.svg", "image/svg+xml"), ("a.html", "text/html")])
async def test_public_active_content_is_a_download(site: Site, root: Path, name: str, mime: str) -> None:
    (root / "public" / "1").mkdir(parents=True)
    (root / "public" / "1" / name).write_bytes(b"<svg/>")

    answer = await site.get(f"{site.address}/p/public/1/{name}")

    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["content-type"] in (mime, "application/octet-stream")


async def test_public_objects_cannot_be_written(site: Site) -> None:
    assert (await site.client.put(f"{site.address}/p/public/1/x.jpg", content=b"x")).status_code == 405


async def test_without_a_rule_nothing_is_public(root: Path) -> None:
    storage = LocalStorage(root, base_url="http://test", secrets=[SECRET], public_base_url="http://test/p")
    app = FastAPI()
    app.include_router(local_router(storage))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get(f"/p/{KEY}")).status_code == 404


# --- uploads ------------------------------------------------------------------------------------------------------


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


async def test_an_upload_answers_200_and_its_etag(site: Site) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, content_type="image/png")

    answer = await site.client.put(grant.url, content=b"hello", headers=dict(grant.headers))

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == f'"{(await site.storage.head("avatars/1/new")).etag}"'


async def test_a_second_upload_is_412(site: Site, root: Path) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60)
    await site.client.put(grant.url, content=b"hello")

    answer = await site.client.put(grant.url, content=b"world")

    assert answer.status_code == 412
    assert (root / "avatars/1/new").read_bytes() == b"hello"


@pytest.mark.parametrize("announced", [5 * 1024**3, 8 * 1024**2 + 1])
async def test_a_body_announced_too_large_is_413_before_it_is_sent(site: Site, root: Path, announced: int) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, max_bytes=8 * 1024**2)

    assert await send_raw("PUT", grant.url, {"Content-Length": str(announced)}) == 413
    assert files(root) == {KEY}


async def test_a_body_that_grows_too_large_is_413(site: Site, root: Path) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, max_bytes=100_000)
    piece = b"10000\r\n" + bytes(65_536) + b"\r\n"  # chunked: nothing is announced

    status = await send_raw("PUT", grant.url, {"Transfer-Encoding": "chunked"}, piece * 4)

    assert status == 413
    assert files(root) == {KEY}


@pytest.mark.parametrize("body", [b"", b"four", b"sixsix"])
async def test_a_body_of_another_length_is_400(site: Site, root: Path, body: bytes) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, content_length=5)

    async def chunked() -> AsyncIterator[bytes]:
        yield body

    announced = await site.client.put(grant.url, content=body)
    unannounced = await site.client.put(grant.url, content=chunked())

    assert (announced.status_code, unannounced.status_code) == (400, 400)
    assert files(root) == {KEY}


async def test_an_unannounced_body_of_the_right_length_is_taken(site: Site, root: Path) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, content_length=6, max_bytes=6)

    async def chunked() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    assert (await site.client.put(grant.url, content=chunked())).status_code == 200
    assert (root / "avatars/1/new").read_bytes() == b"abcdef"


async def test_a_body_of_another_type_is_403(site: Site, root: Path) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, content_type="image/png")

    for headers in ({}, {"Content-Type": "text/html"}):
        assert (await site.client.put(grant.url, content=b"<script>", headers=headers)).status_code == 403
    assert files(root) == {KEY}


async def test_an_expired_grant_takes_nothing(site: Site, root: Path) -> None:
    answer = await site.client.put(site.token(method="PUT", key="avatars/1/new", expires_at=1), content=b"x")

    assert (answer.status_code, answer.headers["x-rindle-reason"]) == (403, "expired")
    assert files(root) == {KEY}


async def test_of_many_uploads_with_one_grant_one_is_kept(site: Site, root: Path) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60)

    answers = await asyncio.gather(
        *(site.client.put(grant.url, content=bytes([number]) * 300_000) for number in range(8))
    )

    # The newest body replaces the others; those that come after the object was written are too late.
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200 and set(statuses[1:]) <= {409, 412}
    assert files(root) == {KEY, "avatars/1/new"}


async def test_what_is_uploaded_is_served(site: Site) -> None:
    body = os.urandom(3_000_000)
    grant = await site.storage.presigned_put("avatars/1/new", 60, content_length=len(body))

    assert (await site.client.put(grant.url, content=body)).status_code == 200
    assert (await site.get(await site.url("avatars/1/new"))).content == body
    assert (await site.get(await site.url("avatars/1/new"), range="bytes=100000-199999")).content == body[
        100_000:200_000
    ]


# --- clients that go away -----------------------------------------------------------------------------------------


def open_files(root: Path) -> set[str]:
    """Paths below ``root`` that this process holds open; empty where the system does not tell."""
    targets = set()
    for handle in Path("/proc/self/fd").glob("*"):
        try:
            targets.add(os.readlink(handle))
        except FileNotFoundError:
            continue
    return {target for target in targets if target.startswith(str(root))}


@pytest.mark.usefixtures("quiet_log")
async def test_a_reader_that_goes_away_ends_quietly(site: Site, root: Path) -> None:
    (root / KEY).write_bytes(bytes(64 * 1024 * 1024))
    url = await site.url()

    async with site.client.stream("GET", url) as answer, aclosing(answer.aiter_raw()) as pieces:
        assert len(await anext(pieces)) > 0
    # The stream was left in the middle: httpx has closed the connection.

    await until(lambda: not open_files(root))


@pytest.mark.usefixtures("quiet_log")
async def test_a_writer_that_goes_away_leaves_nothing(site: Site, root: Path) -> None:
    grant = await site.storage.presigned_put("avatars/1/new", 60, content_length=1_000_000)
    host, port = site.address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    target = grant.url.removeprefix(site.address)
    writer.write(f"PUT {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n".encode() + bytes(400_000))
    await writer.drain()

    await until(lambda: files(root) != {KEY})
    writer.close()
    await until(lambda: files(root) == {KEY})
    with pytest.raises(StorageNotFound):
        await site.storage.head("avatars/1/new")
