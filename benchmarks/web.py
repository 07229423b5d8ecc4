"""The web server of the memory benchmark: the local store's own route, and one that takes a body in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from fastapi import FastAPI, Request

from benchmarks import application
from rindle.http.local import local_router
from rindle.storage.local import LocalStorage


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

    @app.get("/up")
    async def up() -> dict[str, bool]:
        return {"up": True}

    @app.post("/take/{filename}")
    async def take(filename: str, request: Request) -> dict[str, str]:
        asset = await rindle.upload("photo", request.stream(), filename=filename, actor="bench")
        return {"asset_id": asset.id}

    return app
