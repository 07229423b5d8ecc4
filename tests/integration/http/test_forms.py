"""Forms with a file: who may send one is decided before the file is read, and what one may cost is limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Request

from rindle import MediaAsset
from rindle.errors import Unauthenticated, Unauthorized
from rindle.http import forms
from tests.gallery import png
from tests.integration.http.site import LongBody, Site, count_of, error_of, site

BOUNDARY = "-----x"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "X-User": "alice"}


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


class LongForm(LongBody):
    """A form whose file has 64 MB; it counts how much of it was read."""

    def __init__(self, *fields: bytes) -> None:
        super().__init__(b"\0")
        self._start = b"".join(fields) + part("file", png(), "a.png").removesuffix(b"\r\n")

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        yield self._start
        async with aclosing(super().pieces()) as pieces:
            async for piece in pieces:
                yield piece
        yield b"\r\n" + END


async def send(web: Site, form: LongForm | bytes, **headers: str) -> httpx.Response:
    """Send a form as a browser without scripts does."""
    if isinstance(form, bytes):
        return await web.client.post("/media/uploads/inline", content=form, headers={**HEADERS, **headers})
    async with aclosing(form.pieces()) as body:
        return await web.client.post("/media/uploads/inline", content=body, headers={**HEADERS, **headers})


class OnlyLogos:
    """Allows uploads to one profile."""

    def authorize(self, actor: Any, action: str, subject: Any) -> None:
        if subject.profile != "logo":
            raise Unauthorized


def signed_out(request: Request) -> str:
    raise Unauthenticated("sign in first")


async def has_token(request: Request) -> bool:
    async with request.form() as fields:
        return fields.get("csrf") == "token"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"csrf": has_token, "authorizer": OnlyLogos()}, (403, "unauthorized")),
        ({"csrf": lambda request: False}, (403, "unauthorized")),
        ({"csrf": has_token, "actor_from_request": signed_out}, (401, "unauthenticated")),
    ],
    ids=["denied", "forged", "signed out"],
)
async def test_who_may_send_a_file_is_decided_before_it_is_read(
    tmp_path: Path, rules: dict[str, Any], expected: tuple[int, str]
) -> None:
    form = LongForm(part("csrf", b"token"), part("profile", b"avatar"))
    async with site(tmp_path, **rules) as web:
        answer = await send(web, form)

        assert error_of(answer) == expected
        assert form.consumed <= 65536
        assert await web.rindle.database.read(count_of, MediaAsset) == 0
        scratch = web.rindle.services.settings.scratch
        assert not scratch.exists() or list(scratch.rglob("*")) == []


async def test_the_whole_form_is_limited(tmp_path: Path) -> None:
    many = b"".join(part(f"field{number}", b"x") for number in range(40))
    long_field = part("note", b"x" * (70 * 1024))
    file = part("profile", b"avatar") + part("file", png(), "a.png")
    async with site(tmp_path, csrf=lambda request: True, max_inline_bytes=1 << 20) as web:
        form = LongForm(part("profile", b"avatar"))
        assert error_of(await send(web, form)) == (413, "max_bytes_exceeded")
        assert form.consumed < 4 << 20
        assert error_of(await send(web, long_field + file + END)) == (413, "max_bytes_exceeded")
        assert error_of(await send(web, many + file + END)) == (400, "invalid_argument")
        assert await web.rindle.database.read(count_of, MediaAsset) == 0


@pytest.mark.parametrize(
    "body",
    [
        part("file", png(), "a.png") + part("profile", b"avatar") + END,
        part("profile", b"avatar") + part("file", png(), "a.png") + part("next", b"/a") + END,
        part("profile", b"avatar") + part("file", png(), "a.png") + part("file", png(), "b.png") + END,
        part("profile", b"avatar") + part("other", png(), "a.png") + END,
        part("profile", b"avatar") + part("file", b"", "") + END,
        part("profile", b"avatar") + part("file", png(), "a.png"),
        part("profile", b"avatar") + b"rubbish",
        f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n".encode() + END,
        END,
    ],
    ids=["file first", "next last", "two files", "other field", "empty input", "cut", "malformed", "nameless", "empty"],
)
async def test_a_form_that_cannot_be_taken_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    async with site(tmp_path, csrf=lambda request: True) as web:
        assert error_of(await send(web, body)) == (400, "invalid_argument")
        assert await web.rindle.database.read(count_of, MediaAsset) == 0


async def test_a_form_may_have_more_fields(tmp_path: Path) -> None:
    fields = part("profile", b"avatar") + part("note", "größer".encode())
    body = fields + part("file", png(), 'фото \\"1\\".png') + part("button", b"1") + END
    async with site(tmp_path, csrf=lambda request: True) as web:
        answer = await send(web, body)
        asset = answer.json()["asset"]

        assert (answer.status_code, asset["byte_size"]) == (201, len(png()))
        assert asset["filename"].endswith(".png")


@pytest.mark.parametrize("start", [part("profile", b"avatar"), LongForm(part("profile", b"avatar"))._start, b""])
async def test_a_form_that_stalls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(forms, "IDLE_SECONDS", 0.2)

    async def stalled() -> AsyncIterator[bytes]:
        yield start
        await asyncio.Event().wait()

    async with site(tmp_path, csrf=lambda request: True) as web:
        answer = await web.client.post("/media/uploads/inline", content=stalled(), headers=HEADERS)

        assert error_of(answer) == (408, "upload_stalled")
        assert await web.rindle.database.read(count_of, MediaAsset) == 0


async def test_a_raw_body_that_stalls_is_given_up(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "IDLE_SECONDS", 0.2)

    async def stalled() -> AsyncIterator[bytes]:
        yield png()[:20]
        await asyncio.Event().wait()

    answer = await web.call("POST", "/uploads/inline?profile=avatar&filename=a.png", content=stalled())

    assert error_of(answer) == (408, "upload_stalled")
