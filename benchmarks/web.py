"""The web server of the benchmarks: the local store's own route, one that takes a body in, and both protocols.

``POST /bare`` writes a body into a file, as an application with two hands would: what its server and this machine allow
at most.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI, Request

from benchmarks import application
from rindle.http.local import local_router
from rindle.http.resumable import resumable_router
from rindle.http.tus import tus_router
from rindle.storage.local import LocalStorage

#: What ``/bare`` writes at once.
_WRITE_BYTES = 512 * 1024


def create_app() -> FastAPI:
    """Return the web application; uvicorn's ``--factory`` calls it."""
    rindle = application.rindle
    storage = rindle.storages["local"]
    assert isinstance(storage, LocalStorage)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with rindle:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(local_router(storage), prefix=urlsplit(storage.base_url or "").path)

    for profile in ("photo", "archive", "bucket_photo", "bucket_archive"):
        if profile in rindle.profiles:
            app.mount(f"/tus/{profile}", tus_router(rindle, profile=profile, allow_anonymous=True))
            app.mount(f"/resumable/{profile}", resumable_router(rindle, profile=profile, allow_anonymous=True))

    @app.get("/up")
    async def up() -> dict[str, bool]:
        return {"up": True}

    @app.post("/bare")
    async def bare(request: Request) -> None:
        gathered = bytearray()
        with tempfile.TemporaryFile(dir=storage.root, buffering=0) as file:
            async for piece in request.stream():
                gathered += piece
                if len(gathered) >= _WRITE_BYTES:
                    await asyncio.to_thread(file.write, gathered)
                    gathered = bytearray()
            await asyncio.to_thread(file.write, gathered)

    @app.post("/take/{profile}/{filename}")
    async def take(profile: str, filename: str, request: Request) -> dict[str, str]:
        asset = await rindle.upload(profile, request.stream(), filename=filename, actor="bench")
        return {"asset_id": asset.id}

    return app
