"""Inline uploads over HTTP: forms and raw bodies, their limits, and what they leave behind."""

from __future__ import annotations

import os
import re
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from fastapi import Request
from httpx import Response

from rindle import MediaAsset
from rindle.errors import UploadRejected
from tests.gallery import png
from tests.integration.http.site import ASSET_FIELDS, LongBody, Site, count_of, error_of, site


async def test_a_form_uploads_without_scripts(tmp_path: Path) -> None:
    async def has_token(request: Request) -> bool:
        return (await request.form()).get("csrf") == "token"

    async with site(tmp_path, csrf=has_token) as web:
        form = {"profile": "avatar", "csrf": "token", "next": "/me?tab=photo#top"}
        files = {"file": ("Me.png", png(), "text/html")}
        headers = {"X-User": "alice"}

        answer = await web.client.post("/media/uploads/inline", data=form, files=files, headers=headers)
        plain = await web.client.post("/media/uploads/inline", data={**form, "next": ""}, files=files, headers=headers)
        forged = await web.client.post(
            "/media/uploads/inline", data={**form, "csrf": "guess"}, files=files, headers=headers
        )

        asset = plain.json()["asset"]
        assert answer.status_code == 303 and answer.headers["cache-control"] == "no-store"
        assert re.fullmatch(r"/me\?tab=photo&asset_id=[0-9a-f-]{36}#top", answer.headers["location"])
        assert plain.status_code == 201 and set(plain.json()) == {"asset"} and set(asset) == ASSET_FIELDS
        assert (asset["state"], asset["content_type"], asset["filename"]) == ("analyzing", "image/png", "Me.png")
        assert error_of(forged) == (403, "unauthorized")
        assert (await web.rindle.asset(asset["id"])).uploaded_by == "alice"


async def test_a_raw_body_is_taken_in_too(web: Site) -> None:
    answer = await web.call("POST", "/uploads/inline?profile=avatar&filename=raw.png", content=png())

    assert answer.status_code == 201 and answer.json()["asset"]["byte_size"] == len(png())


async def test_a_repeated_request_with_its_key_returns_the_first_asset(web: Site) -> None:
    async def call(actor: str | None) -> Response:
        path = "/uploads/inline?profile=avatar&filename=raw.png"
        return await web.call("POST", path, actor=actor, content=png(), headers={"Idempotency-Key": "k"})

    first, again, other, anonymous = [await call(actor) for actor in ("alice", "alice", "bob", None)]

    assert [answer.status_code for answer in (first, again, other)] == [201, 201, 201]
    assert first.json()["asset"]["id"] == again.json()["asset"]["id"] != other.json()["asset"]["id"]
    assert error_of(anonymous) == (400, "invalid_argument")


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test",
        "/\\evil.test",
        "\\\\evil.test",
        "https://evil.test/",
        "javascript:alert(1)",
        "evil.test",
        "/\t/evil.test",
        "/a\r\nSet-Cookie: x=y",
        " /a",
        "/é",
        "/" + "a" * 3000,
    ],
)
async def test_next_leads_nowhere_else(web: Site, target: str) -> None:
    answer = await web.call(
        "POST", "/uploads/inline", data={"profile": "avatar", "next": target}, files={"file": ("a.png", png())}
    )

    assert error_of(answer) == (400, "invalid_argument")
    assert await web.rindle.database.read(count_of, MediaAsset) == 0


@pytest.mark.parametrize(
    ("filename", "data", "expected"),
    [
        ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", (422, "mime_not_allowed")),
        ("a.png", b"", (422, "empty_upload")),
        ("a.png", png() + b"EICAR", (422, "scanner_rejected")),
        ("a.exe", png(), (422, "extension_not_allowed")),
    ],
)
async def test_a_file_the_profile_refuses_leaves_nothing_behind(
    web: Site, filename: str, data: bytes, expected: tuple[int, str]
) -> None:
    form = await web.call("POST", "/uploads/inline", data={"profile": "avatar"}, files={"file": (filename, data)})
    raw = await web.call("POST", f"/uploads/inline?profile=avatar&filename={filename}", content=data)

    assert error_of(form) == error_of(raw) == expected
    assert await web.rindle.database.read(count_of, MediaAsset) == 0
    [storage] = web.rindle.storages.values()
    assert (await storage.list_keys("")).objects == ()


async def test_incomplete_inline_requests_are_explained(web: Site) -> None:
    file = {"file": ("a.png", png())}
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}

    answers = [
        await web.call("POST", "/uploads/inline", files=file),
        await web.call("POST", "/uploads/inline", data={"profile": "avatar"}),
        await web.call("POST", "/uploads/inline", data={"profile": "avatar", "file": "text"}, files={"x": ("", b"")}),
        await web.call("POST", "/uploads/inline", content=png()),
        await web.call("POST", "/uploads/inline?profile=avatar", content=png()),
        await web.call("POST", "/uploads/inline", content=b"--y\r\nrubbish", headers=multipart),
        await web.call("POST", "/uploads/inline", content=b"", headers={"Content-Type": "multipart/form-data"}),
    ]

    assert {error_of(answer) for answer in answers} == {(400, "invalid_argument")}
    unknown = await web.call("POST", "/uploads/inline?profile=internal&filename=a.png", content=png())
    assert error_of(unknown) == (422, "unknown_profile")


async def test_an_inline_body_over_the_limit_is_cut_short(tmp_path: Path) -> None:
    long = LongBody(b"\0")

    async with site(tmp_path, max_inline_bytes=1 << 20) as web:
        path = "/uploads/inline?profile=avatar&filename=a.png"
        async with aclosing(long.pieces()) as body:
            chunked = await web.call("POST", path, content=body)
        announced = await web.call("POST", path, content=png() + bytes(1 << 20))
        form = await web.call(
            "POST", "/uploads/inline", data={"profile": "avatar"}, files={"file": ("a.png", png() + bytes(1 << 20))}
        )

        assert {error_of(answer) for answer in (chunked, announced, form)} == {(413, "max_bytes_exceeded")}
        assert long.consumed < 4 << 20
        assert await web.rindle.database.read(count_of, MediaAsset) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_a_file_that_is_refused_halfway_is_closed_at_once(web: Site, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.touch()
    os.truncate(large, 33 << 20)  # sparse: no disk is used

    with pytest.raises(UploadRejected):
        await web.rindle.upload(web.avatar, large, filename="large.png")

    assert str(large) not in {os.path.realpath(handle) for handle in Path("/proc/self/fd").iterdir()}


async def test_an_inline_upload_does_not_fill_the_memory(web: Site) -> None:
    piece = bytes(1 << 18)

    async def photo() -> AsyncIterator[bytes]:
        yield png()  # what follows the image is nobody's business, but it has to pass
        for _ in range(96):
            yield piece

    tracemalloc.start()
    try:
        answer = await web.call("POST", "/uploads/inline?profile=banner&filename=a.png", content=photo())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert answer.status_code == 201 and answer.json()["asset"]["byte_size"] == len(png()) + (24 << 20)
    assert peak < 12 << 20  # half of the body; it would be more than all of it if it were held
