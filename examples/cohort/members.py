"""The pages of members: the list, and the photo that each may choose, replace and remove."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.cohort.media import AVATAR, MemberAvatar, reading, rindle, writing
from examples.cohort.models import Member
from examples.cohort.pages import accepted, all_media, done, media_of, our_form, page, put_in, templates
from examples.cohort.security import actor_of, sign_in
from rindle.errors import NotFound, Unauthorized
from rindle.http.forms import UploadForm

templates.globals.update(AVATAR=AVATAR)


async def find(session: AsyncSession, handle: str) -> Member:
    """Return a member.

    Raises:
        NotFound: no member has that handle.
    """
    member = await session.scalar(select(Member).where(Member.handle == handle))
    if member is None:
        raise NotFound("no member with this handle", detail={"entity": "member"})
    return member


async def member_at(handle: str) -> Member:
    """Return the member whose page it is."""
    async with reading() as session:
        return await find(session, handle)


def own_page(request: Request, handle: str) -> str:
    """Return the actor, who must be the member whose page it is.

    Raises:
        Unauthorized: another actor, or none.
    """
    actor = actor_of(request)
    if actor is None or actor != handle:
        raise Unauthorized("only members themselves may change what is theirs")
    return actor


shown = APIRouter(include_in_schema=False)
our_own = Depends(our_form([MemberAvatar]))
forms = APIRouter(include_in_schema=False, dependencies=[our_own])
OurForm = Annotated[UploadForm, our_own]
Actor = Annotated[str, Depends(own_page)]
Owner = Annotated[Member, Depends(member_at)]


@shown.get("/")
async def index(request: Request) -> Response:
    """Everybody, with their photos."""
    async with reading() as session:
        faces = await all_media(session, "member", AVATAR)
    return await page(request, "index.html", faces=faces)


@shown.get("/members/{handle}")
async def member_page(request: Request, member: Owner) -> Response:
    """One member; the page on which their photo is chosen, replaced and removed."""
    asset = await media_of(member, AVATAR)
    return await page(request, "member.html", member=member, asset=asset, accept=accepted(MemberAvatar))


@shown.get("/members/{handle}/avatar")
async def avatar(request: Request, member: Owner) -> Response:
    """The part of the member's page that changes, for ``place.js``."""
    return await page(request, "_avatar.html", member=member, asset=await media_of(member, AVATAR))


@forms.post("/session")
async def switch(request: Request, form: OurForm) -> Response:
    """Go on as somebody else."""
    async with reading() as session:
        member = await find(session, form.fields.get("actor", ""))
    sign_in(request, member.handle)
    return RedirectResponse(f"/members/{member.handle}", 303)


@forms.post("/members/{handle}/avatar")
async def choose(request: Request, member: Owner, actor: Actor, form: OurForm) -> Response:
    """Make an uploaded photo the member's own, replacing the one before it."""
    await put_in(member, AVATAR, MemberAvatar, form, actor=actor)
    return done(request)


@forms.post("/members/{handle}/avatar/remove", dependencies=[Depends(own_page)])
async def remove(request: Request, member: Owner) -> Response:
    """Take the member's photo away; Rindle deletes it, with all that was made of it, in the background."""
    async with writing.begin() as session:
        await rindle.detach(member, AVATAR, session=session)
    return done(request)


def install(app: FastAPI) -> None:
    """Add the pages to the site."""
    app.include_router(shown)
    app.include_router(forms)
