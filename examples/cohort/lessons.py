"""The pages of courses: videos and recordings, their progress, and the buttons of the teacher."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel
from sqlalchemy import select

from examples.cohort.media import LESSON, LESSONS, reading, rindle, writing
from examples.cohort.models import Course
from examples.cohort.pages import (
    accepted,
    all_media,
    done,
    media_of,
    our_form,
    our_script,
    page,
    put_in,
    stream_state,
)
from examples.cohort.security import actor_of
from rindle import MediaAsset, Profile
from rindle.capabilities import capabilities_of
from rindle.errors import NotFound, Unauthorized
from rindle.http.forms import UploadForm

#: The module of Uppy that browsers send lessons with, where one is named; see ``static/resumable.js``.
UPPY = Path(os.environ["COHORT_UPPY"]) if os.environ.get("COHORT_UPPY") else None


def _strategy() -> str:
    """Return how browsers send a lesson: so that it survives a reload, where that is possible."""
    offered = capabilities_of(rindle.storages["media"])
    if "multipart_upload" in offered:
        return "multipart"
    return "tus" if UPPY and "tus_upload" in offered else "presigned_put"


STRATEGY = _strategy()


class NewFile(BaseModel):
    """A file that a script is about to send."""

    filename: str
    size: int
    content_type: str | None = None


def files_of(profile: type[Profile]) -> str:
    """Return the path at which files of a profile are sent by tus."""
    return f"/files/{profile.name}"


async def course_at(slug: str) -> Course:
    """Return the course whose page it is.

    Raises:
        NotFound: no course has that name.
    """
    async with reading() as session:
        course = await session.scalar(select(Course).where(Course.slug == slug))
    if course is None:
        raise NotFound("no course with this name", detail={"entity": "course"})
    return course


At = Annotated[Course, Depends(course_at)]


def own_course(request: Request, course: At) -> str:
    """Return the actor, who must be the teacher of the course.

    Raises:
        Unauthorized: another actor, or none.
    """
    actor = actor_of(request)
    if actor is None or actor != course.teacher.handle:
        raise Unauthorized("only the teacher of a course may change its lesson")
    return actor


async def lesson_at(course: At) -> MediaAsset:
    """Return the course's lesson.

    Raises:
        NotFound: it has none.
    """
    asset = await media_of(course, LESSON)
    if asset is None:
        raise NotFound("the course has no lesson", detail={"entity": "asset"})
    return asset


shown = APIRouter(prefix="/lessons", include_in_schema=False)
our_own = Depends(our_form(LESSONS.values()))
forms = APIRouter(prefix="/lessons", include_in_schema=False, dependencies=[our_own])
scripts = APIRouter(prefix="/lessons", include_in_schema=False, dependencies=[Depends(our_script)])
OurForm = Annotated[UploadForm, our_own]
Actor = Annotated[str, Depends(own_course)]
Current = Annotated[MediaAsset, Depends(lesson_at)]


@shown.get("")
async def index(request: Request) -> Response:
    """All courses, with their lessons."""
    async with reading() as session:
        courses = (await session.scalars(select(Course).order_by(Course.id))).all()
        lessons = await all_media(session, "course", LESSON)
    return await page(request, "lessons.html", courses=courses, lessons=lessons)


@shown.get("/{slug}")
async def lesson_page(request: Request, course: At) -> Response:
    """One course; the page on which its lesson is watched, and by its teacher chosen, cancelled and removed."""
    return await _page(request, "lesson.html", course)


@shown.get("/{slug}/media")
async def media(request: Request, course: At) -> Response:
    """The part of the lesson's page that changes, for ``place.js``."""
    return await _page(request, "_lesson.html", course)


@forms.post("/{slug}/media")
async def choose(request: Request, course: At, actor: Actor, form: OurForm) -> Response:
    """Make an uploaded file the lesson of the course, replacing the one before it."""
    await put_in(course, LESSON, LESSONS[course.kind], form, actor=actor)
    return done(request)


@scripts.post("/{slug}/media/upload", status_code=201)
async def begin(course: At, actor: Actor, file: NewFile) -> dict[str, str | None]:
    """Open an upload that survives a reload and a lost connection; the script sends the file by tus."""
    profile = LESSONS[course.kind]
    opened = await rindle.initiate_tus_upload(
        profile,
        length=file.size,
        path=files_of(profile),
        filename=file.filename,
        content_type=file.content_type,
        actor=actor,
    )
    return {"asset_id": opened.session.asset_id, "upload_url": opened.upload_url}


@forms.post("/{slug}/media/remove", dependencies=[Depends(own_course)])
async def remove(request: Request, course: At) -> Response:
    """Take the lesson away; Rindle stops what is being made of it and deletes everything, in the background."""
    async with writing.begin() as session:
        await rindle.detach(course, LESSON, session=session)
    return done(request)


@forms.post("/{slug}/media/cancel")
async def cancel(request: Request, actor: Actor, lesson: Current) -> Response:
    """Stop making variants; what is ready stays."""
    await rindle.cancel_processing(lesson, actor=actor)
    return done(request)


@forms.post("/{slug}/media/build")
async def build(request: Request, actor: Actor, lesson: Current) -> Response:
    """Make again what was cancelled or has failed."""
    await rindle.requeue_variants(lesson, actor=actor)
    return done(request)


async def _page(request: Request, template: str, course: Course) -> Response:
    profile = LESSONS[course.kind]
    asset = await media_of(course, LESSON)
    return await page(
        request,
        template,
        course=course,
        profile=profile,
        asset=asset,
        streaming=await stream_state(asset) if asset else None,
        accept=accepted(profile),
        strategy=STRATEGY,
    )


def install(app: FastAPI) -> None:
    """Add the pages to the site."""
    app.include_router(shown)
    app.include_router(forms)
    app.include_router(scripts)
    if UPPY:
        app.get("/uppy.mjs", include_in_schema=False, response_class=FileResponse)(lambda: UPPY)
