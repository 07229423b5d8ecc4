"""A mount for tus uploads: real SQLite, real local storage, the workflow's assembly called by hand, no Temporal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from rindle import MediaUploadSession, Profile, Rindle
from rindle.http.tus import SameActor, tus_router
from rindle.protocols import Storage
from tests.gallery import opened
from tests.integration.http.site import CLOSED_PORT
from tests.patience import PATIENCE_SECONDS
from tests.tus import SECRET, TusClient, assembled

MAX_BYTES = 1 << 20


class Mount(TusClient):
    """The mount at ``/files`` and a client without a server."""

    def __init__(self, rindle: Rindle, client: httpx.AsyncClient, app: FastAPI, media: Path) -> None:
        super().__init__(rindle, client)
        self.app, self.media = app, media

    async def assembled(self, url: str) -> MediaUploadSession:
        """Do what the workflow does when all bytes have arrived."""
        row = await self.row(url)
        await assembled(self.rindle.services, row.id)
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
    # On a busy machine a request takes long to yield to another one.
    monkeypatch.setattr("rindle.uploads.leases.WAIT_SECONDS", PATIENCE_SECONDS)
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
            yield Mount(gallery.rindle, client, app, tmp_path / "objects")


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
