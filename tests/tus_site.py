"""The web process of tests with real tus clients: ``uvicorn tests.tus_site:app``, everything from the environment."""

from __future__ import annotations

from fastapi import FastAPI

from rindle.http.tus import tus_router
from tests.application import SECRET, make

rindle = make()
app = FastAPI()
app.mount("/files", tus_router(rindle, profile="plain", secrets=[SECRET], allow_anonymous=True))


@app.get("/")
async def ready() -> str:
    """Answer when the process serves."""
    return "ready"
