"""The page: the photos of all members, from one query over the application's table and Rindle's."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, select_autoescape
from rindle import AssetState, MediaAsset, MediaAttachment
from rindle.contrib.jinja import install_jinja
from sqlalchemy import String, cast, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from media import engine, rindle
from models import Member

templates = Environment(loader=FileSystemLoader("templates"), autoescape=select_autoescape(), enable_async=True)
install_jinja(templates, rindle)  # templates may call picture_tag

AT_REST = {AssetState.READY, AssetState.DEGRADED, AssetState.QUARANTINED}
router = APIRouter()


async def actor_of(request: Request) -> str:
    """Return the caller. Put your sign-in here; until then every request is from member 1."""
    return "1"


@router.get("/")
async def index(request: Request) -> HTMLResponse:
    """Show all members with their photos."""
    photo_of_member = (
        (MediaAttachment.owner_type == "member")
        & (MediaAttachment.owner_id == cast(Member.id, String))
        & (MediaAttachment.slot == "photo")
    )
    all_members = (
        select(Member, MediaAsset)
        .outerjoin(MediaAttachment, photo_of_member)
        .outerjoin(MediaAsset, MediaAsset.id == MediaAttachment.asset_id)
        .options(selectinload(MediaAsset.variants))
        .order_by(Member.id)
    )
    ready_photos = (
        select(MediaAsset)
        .where(MediaAsset.profile == "photo", MediaAsset.state == AssetState.READY, MediaAsset.width >= 200)
        .options(selectinload(MediaAsset.variants))
        .order_by(MediaAsset.inserted_at.desc())
        .limit(10)
    )
    async with AsyncSession(engine) as session:
        rows = await session.execute(all_members)
        members: list[tuple[Member, MediaAsset | None]] = [(member, photo) for member, photo in rows]
        newest = (await session.scalars(ready_photos)).all()
    html = await templates.get_template("index.html").render_async(
        members=members,
        newest=newest,
        is_waiting=any(photo is not None and photo.state not in AT_REST for _, photo in members),
        script=request.app.state.script,
    )
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})  # the page contains signed URLs
