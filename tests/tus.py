"""A tus client without a server, for tests that say themselves what each request is."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import patch

import httpx
from fastapi import FastAPI

from rindle import MediaUploadSession, Rindle
from rindle.activities.source_cache import SourceCache
from rindle.db.streams import find_stream
from rindle.http.tus import tus_router
from rindle.security.upload_token import read_upload
from rindle.services import Services
from rindle.uploads import assembly

SECRET = "a secret of the tests, long enough to sign with"
BYTES = "application/offset+octet-stream"


def encoded(**pairs: str | bytes) -> str:
    """Return ``Upload-Metadata``."""
    values = {key: value.encode() if isinstance(value, str) else value for key, value in pairs.items()}
    return ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in values.items())


def checksum(content: bytes, algorithm: str = "sha1") -> str:
    """Return ``Upload-Checksum``."""
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


async def assembled(services: Services, session_id: str) -> None:
    """Do what the workflow does when all bytes of an upload have arrived."""
    cache = SourceCache(services.settings.scratch / "sources")
    try:
        await assembly.assemble(services, session_id, open_original=cache.open_local)
    finally:
        await cache.close()


class TusClient:
    """Sends requests to the mount at ``/files``."""

    def __init__(self, rindle: Rindle, client: httpx.AsyncClient) -> None:
        self.rindle, self.client = rindle, client

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
        return str(answer.headers["location"])

    async def patch(self, url: str, offset: int, content: Any, **headers: str) -> httpx.Response:
        """Append ``content`` at ``offset``."""
        return await self.call(
            "PATCH", url, content, **{"upload_offset": str(offset), "content_type": BYTES, **headers}
        )

    async def offset(self, url: str) -> int:
        """Return where the upload continues."""
        answer = await self.call("HEAD", url)
        assert answer.status_code == 204
        return int(answer.headers["upload-offset"])

    async def row(self, url: str) -> MediaUploadSession:
        """Return the session of an upload as it is now."""
        found = await self.rindle.database.read(find_stream, session_of(url))
        assert found is not None
        return found.session


def session_of(url: str) -> str:
    """Return the id of the session that a URL names."""
    return read_upload(url.rpartition("/")[2], [SECRET]).session_id


@asynccontextmanager
async def tus_client(rindle: Rindle, profile: str) -> AsyncIterator[TusClient]:
    """Mount the routes of one profile, open to everyone, and yield a client of them; they wait for no workflow."""
    app = FastAPI()
    app.mount("/files", tus_router(rindle, profile=profile, secrets=[SECRET], allow_anonymous=True))
    async with AsyncExitStack() as stack:
        for limit in ("patch.ASSEMBLY_SECONDS", "create.ASSEMBLY_SECONDS", "create.JOIN_SECONDS"):
            stack.enter_context(patch(f"rindle.http.tus.{limit}", 0.0))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://files.test")
        yield TusClient(rindle, await stack.enter_async_context(client))
