"""The pages of talks: members send a video to the streaming provider themselves, in chunks, past the site."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import Response

from examples.cohort import streaming
from examples.cohort.media import TALK, Talk, reading, rindle, writing
from examples.cohort.members import Actor, Owner, own_page
from examples.cohort.models import Member
from examples.cohort.pages import accepted, all_media, done, keep_in, media_of, our_form, page, stream_state, templates
from rindle.errors import UploadRejected
from rindle.http.forms import UploadForm

templates.globals.update(TALK=TALK)

shown = APIRouter(prefix="/talks", include_in_schema=False)
our_own = Depends(our_form([]))
forms = APIRouter(prefix="/talks", include_in_schema=False, dependencies=[our_own])
OurForm = Annotated[UploadForm, our_own]


@shown.get("")
async def index(request: Request) -> Response:
    """All members, with their talks."""
    async with reading() as session:
        talks = await all_media(session, "member", TALK)
    return await page(request, "talks.html", talks=talks, can_stream=streaming.is_configured())


@shown.get("/{handle}")
async def talk_page(request: Request, member: Owner) -> Response:
    """One member's talk; the page on which it is watched, and by its member sent, cancelled and removed."""
    return await _page(request, "talk.html", member)


@shown.get("/{handle}/media")
async def media(request: Request, member: Owner) -> Response:
    """The part of the talk's page that changes, for ``place.js``."""
    return await _page(request, "_talk.html", member)


@forms.post("/{handle}/media")
async def choose(request: Request, member: Owner, actor: Actor, form: OurForm) -> Response:
    """Make a video that the provider has prepared the member's talk, replacing the one before it.

    Raises:
        UploadRejected: ``nothing_chosen``: only the script of the page sends videos.
    """
    asset_id = form.fields.get("asset_id")
    if not asset_id:
        raise UploadRejected("no asset was named", code="nothing_chosen")
    await keep_in(member, TALK, Talk, asset_id, actor=actor)
    return done(request)


@forms.post("/{handle}/media/remove", dependencies=[Depends(own_page)])
async def remove(request: Request, member: Owner) -> Response:
    """Take the member's talk away; Rindle deletes it at the provider, in the background."""
    async with writing.begin() as session:
        await rindle.detach(member, TALK, session=session)
    return done(request)


async def _page(request: Request, template: str, member: Member) -> Response:
    asset = await media_of(member, TALK)
    return await page(
        request,
        template,
        member=member,
        asset=asset,
        streaming=await stream_state(asset) if asset else None,
        accept=accepted(Talk),
        can_stream=streaming.is_configured(),
    )


def install(app: FastAPI) -> None:
    """Add the pages to the site."""
    app.include_router(shown)
    app.include_router(forms)
