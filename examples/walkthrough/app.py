"""The site: sign-in, the page, and the one route that makes an upload the photo of a badge."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, select_autoescape
from rindle import AssetState, MediaAsset, MediaAttachment, RindleError
from rindle.contrib.jinja import install_jinja
from rindle.http import create_router
from rindle.states import UNVALIDATED
from sqlalchemy import String, cast, exists, select
from sqlalchemy.orm import selectinload
from starlette.middleware.sessions import SessionMiddleware

from access import OwnerOrStaff
from media import Badge, rindle, sessions
from models import Member

templates = Environment(loader=FileSystemLoader("templates"), autoescape=select_autoescape(), enable_async=True)
install_jinja(templates, rindle)  # templates may call picture_tag


async def actor_of(request: Request) -> Member | None:
    """Return the signed-in member: one query per request. Rindle passes the member to the authorizer."""
    member_id = request.session.get("member_id")
    if member_id is None:
        return None
    async with sessions() as session:
        return await session.get(Member, member_id)


async def signed_in(request: Request) -> Member:
    """Return the signed-in member, or refuse the request."""
    member = await actor_of(request)
    if member is None:
        raise HTTPException(401, "sign in first")
    return member


app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_KEY"], same_site="lax")
app.mount("/static", StaticFiles(directory="static"), name="static")
# The lifespan of these routes also runs the relay that sends committed work to Temporal.
routes = create_router(rindle, profiles={"badge": Badge}, actor_from_request=actor_of, authorizer=OwnerOrStaff())
app.include_router(routes, prefix="/media")


@app.get("/")
async def index(request: Request) -> HTMLResponse:
    """Show the badges of all members; photos that the caller may not see are left out."""
    me = await actor_of(request)
    badge_of_member = (
        (MediaAttachment.owner_type == "member")
        & (MediaAttachment.owner_id == cast(Member.id, String))
        & (MediaAttachment.slot == "badge")
    )
    statement = (
        select(Member, MediaAsset)
        .outerjoin(MediaAttachment, badge_of_member)
        .outerjoin(MediaAsset, MediaAsset.id == MediaAttachment.asset_id)
        # What picture_tag and the authorizer need of all photos: two queries for the whole page.
        .options(selectinload(MediaAsset.variants), selectinload(MediaAsset.attachments))
        .order_by(Member.id)
    )
    async with sessions() as session:
        badges = [(member, photo) for member, photo in await session.execute(statement)]
    html = await templates.get_template("index.html").render_async(
        me=me, badges=badges, unfinished=await unfinished_upload(me)
    )
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})  # the page contains signed URLs


async def unfinished_upload(me: Member | None) -> str | None:
    """Return the asset that the member uploaded last and that is not on the badge yet: the page continues with it."""
    if me is None:
        return None
    statement = (
        select(MediaAsset.id)
        .where(
            MediaAsset.profile == "badge",
            MediaAsset.uploaded_by == str(me.id),
            MediaAsset.state.not_in([AssetState.STAGED, AssetState.QUARANTINED, AssetState.DELETED]),
            ~exists().where(MediaAttachment.asset_id == MediaAsset.id),
        )
        .order_by(MediaAsset.inserted_at.desc())
        .limit(1)
    )
    async with sessions() as session:
        return await session.scalar(statement)


@app.put("/badge")
async def replace_badge(
    me: Annotated[Member, Depends(signed_in)], asset_id: Annotated[str, Body(embed=True)]
) -> dict[str, str]:
    """Put a validated upload on the caller's badge; the photo before it is purged."""
    asset = await rindle.asset(asset_id)
    if asset.state in UNVALIDATED:
        raise HTTPException(409, "this photo is not validated yet")
    async with sessions.begin() as session:
        member = await session.get_one(Member, me.id)
        member.badge_since = datetime.now(UTC)
        # uploaded_by: an id from a browser may be the id of another member's upload.
        await rindle.attach(asset, member, "badge", uploaded_by=str(me.id), session=session)
    # Both changes are committed here, before the browser gets its answer.
    return {"asset_id": asset_id}


@app.post("/session")
async def sign_in(request: Request, member_id: Annotated[int, Form()]) -> RedirectResponse:
    """Sign in. Put your own sign-in here: this one has no password."""
    async with sessions() as session:
        if await session.get(Member, member_id) is None:
            raise HTTPException(404, "there is no such member")
    request.session["member_id"] = member_id
    return RedirectResponse("/", 303)


@app.exception_handler(RindleError)
async def refused(request: Request, error: RindleError) -> JSONResponse:
    """Answer with the status of the error; its message contains nothing confidential."""
    return JSONResponse({"error": error.to_dict()}, error.http_status)
