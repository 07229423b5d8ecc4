"""The web process of tests with real clients: ``uvicorn tests.tus_site:app``, everything from the environment."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from rindle.http.resumable import resumable_router
from rindle.http.tus import tus_router
from rindle.http.uploads import upload_router
from tests.application import SECRET, Plain, make

rindle = make()
app = FastAPI()
rules: dict[str, Any] = {"profile": "plain", "secrets": [SECRET], "allow_anonymous": True}
mounts = (tus_router(rindle, path="/files", **rules), resumable_router(rindle, path="/resumable", **rules))
for mount in mounts:
    app.mount(str(mount.path), mount)
app.include_router(upload_router(rindle, profiles={"plain": Plain}, mounts=mounts, allow_anonymous=True))


@app.get("/")
async def ready() -> str:
    """Answer when the process serves."""
    return "ready"
