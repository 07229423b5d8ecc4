"""The site: ``uvicorn examples.cohort.app:app``. Worker and command line load ``examples.cohort.app:rindle``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.cohort import lessons, members, streaming, talks
from examples.cohort.media import (
    LESSON_PROFILES,
    LESSONS,
    MEDIA_URL,
    TALK_PROFILES,
    MemberAvatar,
    engine,
    rindle,
    secrets,
)
from examples.cohort.models import prepare
from examples.cohort.pages import error_response
from examples.cohort.security import OwnUploads, actor_of, cookie_secret, form_is_ours
from rindle import RindleError
from rindle.http import create_router
from rindle.http.tus import tus_router

__all__ = ["app", "rindle"]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Bring the database up to date; the lifespan of Rindle's router then hands committed work to Temporal."""
    await prepare(engine)
    yield
    await engine.dispose()


def content_security_policy() -> str:
    """Return a policy that allows our own files and, when the media are in a bucket or streamed, those addresses."""
    store = ""
    if MEDIA_URL and (at := urlsplit(MEDIA_URL)).netloc:
        store = f" {at.scheme}://{at.netloc}"
    elif os.environ.get("MEDIA_BUCKET"):
        store = " https:"
    connect, play, work = store, store, ""
    if streaming.is_configured():
        connect += f" {streaming.sources()} {streaming.upload_targets()}"
        play += f" blob: {streaming.sources()}"  # what the script has loaded, or the browser itself
        work = "worker-src blob:; "
    return (
        f"default-src 'self'; connect-src 'self'{connect}; media-src 'self'{play}; img-src 'self' data: blob:{store}; "
        f"{work}frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )


class SafeHeaders:
    """Adds the headers every page should have; what Rindle serves brings stricter ones of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.added = {
            "Content-Security-Policy": content_security_policy(),
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and put the headers on its answer."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.added.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, answer)


app = FastAPI(title="Cohort", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(SafeHeaders)
app.add_middleware(SessionMiddleware, secret_key=cookie_secret(secrets), session_cookie="cohort", same_site="lax")
app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
for path, directory in streaming.SCRIPTS.items() if streaming.is_configured() else ():
    if directory.is_dir():
        app.mount(path, StaticFiles(directory=directory))
app.include_router(
    create_router(
        rindle,
        profiles={profile.name: profile for profile in (MemberAvatar, *LESSON_PROFILES, *TALK_PROFILES)},
        actor_from_request=actor_of,
        authorizer=OwnUploads(),
        csrf=form_is_ours,
        webhooks={"mux": streaming.webhook_secrets} if streaming.is_configured() else None,
    ),
    prefix="/media",
)
for profile in LESSONS.values():
    app.mount(
        lessons.files_of(profile),
        tus_router(rindle, profile=profile, actor_from_request=actor_of, authorizer=OwnUploads()),
    )
lessons.install(app)
members.install(app)
talks.install(app)
app.add_exception_handler(RindleError, error_response)
