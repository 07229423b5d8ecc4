"""The site: ``uvicorn examples.cohort.app:app``. Worker and command line load ``examples.cohort.app:rindle``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.sessions import SessionMiddleware

from examples.cohort import views
from examples.cohort.media import AVATAR, MEDIA_URL, MemberAvatar, engine, rindle, settings
from examples.cohort.models import prepare
from examples.cohort.security import OwnUploads, actor_of, cookie_secret, form_is_ours
from rindle.http import create_router

__all__ = ["app", "rindle"]

STATIC = Path(__file__).parent / "static"


def _content_security_policy() -> str:
    """Return a policy that allows our own files and, when photos are in a bucket, the bucket's address."""
    store = ""
    if MEDIA_URL and urlsplit(MEDIA_URL).netloc:
        store = " {0.scheme}://{0.netloc}".format(urlsplit(MEDIA_URL))
    elif os.environ.get("MEDIA_BUCKET"):
        store = " https:"
    return (
        f"default-src 'self'; connect-src 'self'{store}; img-src 'self' data: blob:{store}; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )


POLICY = _content_security_policy()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Bring the database up to date, and hand committed work to Temporal while the site runs."""
    await prepare(engine)
    async with rindle:
        yield
    await engine.dispose()


app = FastAPI(title="Cohort", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(
    SessionMiddleware, secret_key=cookie_secret(settings.secrets), session_cookie="cohort", same_site="lax"
)
app.mount("/static", StaticFiles(directory=STATIC), name="static")
app.include_router(
    create_router(
        rindle,
        profiles={AVATAR: MemberAvatar},
        actor_from_request=actor_of,
        authorizer=OwnUploads(),
        csrf=form_is_ours,
    ),
    prefix="/media",
)
views.install(app)


@app.middleware("http")
async def guard(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    """Add the headers every page should have; what Rindle serves brings stricter ones of its own."""
    response = await proceed(request)
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("Referrer-Policy", "same-origin")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    return response
