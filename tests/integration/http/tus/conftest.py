"""A mount for tus uploads: real SQLite, real local storage, the workflow's assembly called by hand, no Temporal."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from rindle import MediaUploadSession, Profile, Rindle
from rindle.db.streams import find_stream
from rindle.http.tus import SameActor, tus_router
from rindle.protocols import Storage
from rindle.security.upload_token import read_upload
from rindle.uploads import assembly
from tests.gallery import opened
from tests.integration.http.site import CLOSED_PORT

SECRET = "a secret of the tests, long enough to sign with"
BYTES = "application/offset+octet-stream"
MAX_BYTES = 1 << 20


def encoded(**pairs: str | bytes) -> str:
    values = {key: value.encode() if isinstance(value, str) else value for key, value in pairs.items()}
    return ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in values.items())


class Mount:
    """The mount at ``/files`` and a client without a server."""

    def __init__(self, rindle: Rindle, client: httpx.AsyncClient, media: Path) -> None:
        self.rindle, self.client, self.media = rindle, client, media

    async def call(self, method: str, url: str = "/files/", content: Any = None, **headers: str) -> httpx.Response:
        """Send a request; underscores in the names of headers stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in {"tus_resumable": "1.0.0", **headers}.items()}
        sent = {name: value for name, value in named.items() if value}
        return await self.client.request(method, url, headers=sent, content=content)

    async def create(self, length: int | None = 10, content: Any = None, **headers: str) -> str:
        """Create an upload and return its URL."""
        sized = {"upload_defer_length": "1"} if length is None else {"upload_length": str(length)}
        typed = {} if content is None else {"content_type": BYTES}
        answer = await self.call("POST", "/files/", content, **sized, **typed, **headers)
        assert answer.status_code == 201, answer.text
        return answer.headers["location"]

    async def patch(self, url: str, offset: int, content: Any, **headers: str) -> httpx.Response:
        return await self.call(
            "PATCH", url, content, **{"upload_offset": str(offset), "content_type": BYTES, **headers}
        )

    async def offset(self, url: str) -> int:
        answer = await self.call("HEAD", url)
        assert answer.status_code == 204
        return int(answer.headers["upload-offset"])

    async def row(self, url: str) -> MediaUploadSession:
        session_id = read_upload(url.rpartition("/")[2], [SECRET]).session_id
        found = await self.rindle.database.read(find_stream, session_id)
        assert found is not None
        return found.session

    async def assembled(self, url: str) -> MediaUploadSession:
        """Do what the workflow does when all bytes have arrived."""
        row = await self.row(url)
        await assembly.assemble(self.rindle.services, row.id)
        return await self.row(url)

    def files(self) -> set[str]:
        """Return the files of unfinished uploads."""
        return {path.name for path in (self.media / ".rindle" / "tus").glob("*")}


def actor_of(request: Request) -> str | None:
    return request.headers.get("X-User")


@pytest.fixture
async def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mount]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    monkeypatch.setattr("rindle.http.tus.patch.ASSEMBLY_SECONDS", 0.0)
    monkeypatch.setattr("rindle.http.tus.create.ASSEMBLY_SECONDS", 0.0)
    monkeypatch.setattr("rindle.http.tus.create.JOIN_SECONDS", 0.0)
    async with opened(tmp_path, make_profiles) as gallery:
        app = FastAPI()
        plain = tus_router(
            gallery.rindle, profile="plain", secrets=[SECRET], allow_anonymous=True, actor_from_request=actor_of
        )
        avatar = tus_router(
            gallery.rindle,
            profile="avatar",
            secrets=[SECRET],
            authorizer=SameActor(),
            actor_from_request=actor_of,
            max_size=1 << 30,
        )
        app.mount("/files", plain)
        app.mount("/avatars", avatar)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://files.test") as client:
            yield Mount(gallery.rindle, client, tmp_path / "objects")


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Avatar(Profile):
        name = "avatar"
        storage = store
        variants = {}
        allow_extensions = [".png", ".bin"]
        max_bytes = MAX_BYTES

    class Plain(Profile):
        name = "plain"
        storage = store
        variants = {}

    return [Avatar, Plain]
