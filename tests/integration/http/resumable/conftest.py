"""A mount for resumable uploads: real SQLite, real local storage, assembly called by hand, no Temporal."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from rindle import MediaUploadSession, Rindle
from rindle.db.streams import find_stream
from rindle.http.resumable import SameActor, resumable_router
from tests.gallery import opened
from tests.integration.http.site import CLOSED_PORT
from tests.integration.http.tus.conftest import MAX_BYTES, actor_of, make_profiles
from tests.patience import PATIENCE_SECONDS
from tests.tus import SECRET, assembled, session_of

PARTIAL = "application/partial-upload"


def digest(content: bytes, algorithm: str = "sha-256") -> str:
    value = hashlib.new(algorithm.replace("-", ""), content).digest()
    return f"{algorithm}=:{base64.b64encode(value).decode()}:"


class Mount:
    """The mounts at ``/files``, open to everyone, and ``/avatars``, and a client without a server."""

    def __init__(self, rindle: Rindle, client: httpx.AsyncClient, app: FastAPI, media: Path) -> None:
        self.rindle, self.client, self.app, self.media = rindle, client, app, media

    async def call(self, method: str, url: str = "/files/", content: Any = None, **headers: str) -> httpx.Response:
        """Send a request; underscores in the names of headers stand for hyphens, empty values for no header."""
        named = {name.replace("_", "-"): value for name, value in headers.items() if value}
        return await self.client.request(method, url, headers=named, content=content)

    async def create(self, content: Any = None, *, complete: str = "?0", **headers: str) -> str:
        """Create an upload that is not complete, and return its URL."""
        answer = await self.call("POST", "/files/", content, upload_complete=complete, **headers)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["location"])

    async def patch(
        self, url: str, offset: int, content: Any, *, complete: str = "?0", **headers: str
    ) -> httpx.Response:
        """Append ``content`` at ``offset``."""
        typed = {"content_type": PARTIAL, "upload_complete": complete, "upload_offset": str(offset), **headers}
        return await self.call("PATCH", url, content, **typed)

    async def state(self, url: str) -> tuple[int, str, str | None]:
        """Return offset, completeness and length of an upload."""
        answer = await self.call("HEAD", url)
        assert answer.status_code == 204
        found = answer.headers
        return int(found["upload-offset"]), found["upload-complete"], found.get("upload-length")

    async def row(self, url: str) -> MediaUploadSession:
        """Return the session of an upload as it is now."""
        return await self.session(session_of(url))

    async def session(self, session_id: str) -> MediaUploadSession:
        """Return a session as it is now."""
        found = await self.rindle.database.read(find_stream, session_id)
        assert found is not None
        return found.session

    async def assembled(self, session_id: str) -> tuple[str, bytes]:
        """Do what the workflow does when all bytes have arrived; returns the state and the object."""
        await assembled(self.rindle.services, session_id)
        row = await self.session(session_id)
        return row.state, (self.media / row.upload_key).read_bytes()


@pytest.fixture
async def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mount]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    monkeypatch.setattr("rindle.http.resumable.call.ASSEMBLY_SECONDS", 0.0)
    # On a busy machine a request takes long to yield to another one.
    monkeypatch.setattr("rindle.uploads.leases.WAIT_SECONDS", PATIENCE_SECONDS)
    async with opened(tmp_path, make_profiles) as gallery:
        app = FastAPI()
        plain = resumable_router(
            gallery.rindle, profile="plain", secrets=[SECRET], allow_anonymous=True, actor_from_request=actor_of
        )
        avatar = resumable_router(
            gallery.rindle,
            profile="avatar",
            secrets=[SECRET],
            authorizer=SameActor(),
            actor_from_request=actor_of,
            max_size=MAX_BYTES * 2,
        )
        app.mount("/files", plain)
        app.mount("/avatars", avatar)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://files.test") as client:
            yield Mount(gallery.rindle, client, app, tmp_path / "objects")
