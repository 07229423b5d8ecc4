"""The pages, and the two forms that change something. Uploading itself is Rindle's router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Form, Request, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from examples.cohort.media import AVATAR, MemberAvatar, reading, rindle, writing
from examples.cohort.models import Member
from examples.cohort.security import TOKEN_FIELD, TOKEN_HEADER, actor_of, form_is_ours, form_token, sign_in
from rindle import AssetState, MediaAsset, MediaAttachment, RindleError
from rindle.delivery import install_jinja
from rindle.errors import NotFound, Unauthorized, UploadRejected, VariantNotReady

#: Bytes of a form besides its file.
FORM_OVERHEAD_BYTES = 64 * 1024

#: What people read instead of a code; ``avatar.js`` shows the same sentences.
TEXTS: Mapping[str, str] = {
    "max_bytes_exceeded": "That photo is larger than 15 MB. Please choose a smaller one.",
    "max_pixels_exceeded": "That picture has more pixels than we can take (60 million).",
    "empty_upload": "That file is empty.",
    "extension_not_allowed": "Please choose a JPEG, PNG, WebP or HEIC photo.",
    "missing_extension": "Please choose a JPEG, PNG, WebP or HEIC photo.",
    "mime_not_allowed": "That file is not a photo, whatever its name says. It was refused.",
    "unknown_mime": "That file is not a photo, whatever its name says. It was refused.",
    "extension_mime_mismatch": "The file's content does not match its name. It was refused.",
    "decode_failed": "That photo is damaged and cannot be opened. Is there another copy?",
    "quarantined": "That file was refused.",
    "not_found": "That photo is not yours, or it is gone.",
    "unauthorized": "You can only change your own photo.",
    "form_expired": "This form is too old. Please try again.",
    "upload_session_expired": "That took too long. Please start again.",
    "upload_cancelled": "Upload cancelled.",
    "storage_transient": "The store is not answering. Please try again in a moment.",
    "state_conflict": "Somebody else was changing this at the same moment. Please try again.",
    "network": "The connection was lost. Please try again.",
    "nothing_chosen": "Please choose a photo first.",
    "unexpected": "Something went wrong. Please try again.",
}

#: What the badge says for an asset's state.
BADGES: Mapping[str, str] = {
    **dict.fromkeys(AssetState, "Processing"),
    AssetState.READY: "Ready",
    AssetState.DEGRADED: "Incomplete",
    AssetState.QUARANTINED: "Refused",
    AssetState.DELETED: "Removed",
}

#: States in which nothing more will happen by itself, so a page need not look again.
AT_REST = frozenset({AssetState.READY, AssetState.DEGRADED, AssetState.QUARANTINED, AssetState.DELETED})


async def still(asset: MediaAsset, variant: str) -> str:
    """Return the address of a JPEG for the ``<img>`` itself, or ``"auto"``: the tiny preview while it is being made.

    Never the original: it may hold the place where it was taken.
    """
    try:
        return await rindle.variant_url(AVATAR, asset, variant, fallback="none")
    except VariantNotReady:
        return "auto"


def size(count: int | None) -> str:
    """Return a number of bytes as people read it."""
    if count is None:
        return "–"
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(),
    enable_async=True,
    trim_blocks=True,
    lstrip_blocks=True,
)
install_jinja(templates, rindle)
templates.globals.update(
    AT_REST=AT_REST,
    AVATAR=AVATAR,
    BADGES=BADGES,
    TEXTS=TEXTS,
    TOKEN_FIELD=TOKEN_FIELD,
    TOKEN_HEADER=TOKEN_HEADER,
    accept=",".join([*MemberAvatar.allow_mime, *MemberAvatar.allow_extensions]),
    still=still,
    variant_url=rindle.variant_url,
)
templates.filters["size"] = size


async def page(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """Render a page with what all of them show."""
    async with reading() as session:
        people = await everybody(session)
    html = await templates.get_template(template).render_async(
        request=request,
        people=people,
        me=actor_of(request),
        token=form_token(request),
        notice=request.session.pop("notice", None),
        **context,
    )
    # Signed addresses and the form token are in it.
    return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})


async def everybody(session: AsyncSession) -> Sequence[Member]:
    """Return all members in the order they joined."""
    return (await session.scalars(select(Member).order_by(Member.id))).all()


async def find(session: AsyncSession, handle: str) -> Member:
    """Return a member.

    Raises:
        NotFound: nobody has that handle.
    """
    member = await session.scalar(select(Member).where(Member.handle == handle))
    if member is None:
        raise NotFound("there is no such member", detail={"entity": "member"})
    return member


async def photo_of(member: Member) -> MediaAsset | None:
    """Return a member's photo with its variants."""
    attachment = await rindle.attachment_for(member, AVATAR, load=["variants"])
    return attachment.asset if attachment else None


async def photos(session: AsyncSession) -> dict[str, MediaAsset]:
    """Return everybody's photo by member id, in one query: Rindle's models are the application's to read."""
    statement = (
        select(MediaAttachment)
        .where(MediaAttachment.owner_type == "member", MediaAttachment.slot == AVATAR)
        .options(joinedload(MediaAttachment.asset).joinedload(MediaAsset.variants))
    )
    return {row.owner_id: row.asset for row in (await session.scalars(statement)).unique()}


# --- what guards the forms ---------------------------------------------------------------------------------------


async def our_form(request: Request) -> None:
    """Refuse a form that another site made, and a body too large to be read at all.

    Raises:
        Unauthorized: ``form_expired``.
        UploadRejected: ``max_bytes_exceeded``.
    """
    announced = request.headers.get("content-length", "")
    if not announced.isdigit() or int(announced) > (MemberAvatar.max_bytes or 0) + FORM_OVERHEAD_BYTES:
        raise UploadRejected("the form is too large", code="max_bytes_exceeded")
    if not await form_is_ours(request):
        raise Unauthorized("this form does not belong to your session", code="form_expired")


def own_page(request: Request, handle: str) -> str:
    """Return the actor, who must be the member whose page it is.

    Raises:
        Unauthorized: somebody else, or nobody.
    """
    actor = actor_of(request)
    if actor is None or actor != handle:
        raise Unauthorized("only members themselves may change their photo")
    return actor


# --- pages -------------------------------------------------------------------------------------------------------

pages = APIRouter(include_in_schema=False)
forms = APIRouter(include_in_schema=False, dependencies=[Depends(our_form)])
Actor = Annotated[str, Depends(own_page)]


@pages.get("/")
async def index(request: Request) -> Response:
    """Everybody, with their photos."""
    async with reading() as session:
        faces = await photos(session)
    return await page(request, "index.html", faces=faces)


@pages.get("/members/{handle}")
async def member_page(request: Request, handle: str) -> Response:
    """One member; the page on which their photo is chosen, replaced and removed."""
    async with reading() as session:
        member = await find(session, handle)
    return await page(request, "member.html", member=member, asset=await photo_of(member))


@pages.get("/members/{handle}/avatar")
async def avatar(request: Request, handle: str) -> Response:
    """The part of the member's page that changes, for ``avatar.js``."""
    async with reading() as session:
        member = await find(session, handle)
    return await page(request, "_avatar.html", member=member, asset=await photo_of(member))


@forms.post("/session")
async def switch(request: Request, actor: Annotated[str, Form()]) -> Response:
    """Go on as somebody else."""
    async with reading() as session:
        member = await find(session, actor)
    sign_in(request, member.handle)
    return RedirectResponse(f"/members/{member.handle}", 303)


@forms.post("/members/{handle}/avatar")
async def choose(
    request: Request,
    handle: str,
    actor: Actor,
    asset_id: Annotated[str | None, Form()] = None,
    photo: UploadFile | None = None,
) -> Response:
    """Make an uploaded photo the member's own, replacing the one before it.

    ``asset_id`` names one that the browser has put into the store already; without scripts the form brings the file.
    """
    if not asset_id:
        if photo is None or not photo.filename:
            raise UploadRejected("no file was chosen", code="nothing_chosen")
        asset_id = (await rindle.upload(AVATAR, photo, filename=photo.filename, actor=actor)).id
    async with writing.begin() as session:
        # The id came from a browser: Rindle makes sure that it is this member's own upload.
        await rindle.attach(asset_id, await find(session, handle), AVATAR, uploaded_by=actor, session=session)
    return done(request, handle)


@forms.post("/members/{handle}/avatar/remove")
async def remove(request: Request, handle: str, actor: Actor) -> Response:
    """Take the member's photo away; Rindle deletes it, with all that was made of it, in the background."""
    async with writing.begin() as session:
        await rindle.detach(await find(session, handle), AVATAR, session=session)
    return done(request, handle)


def done(request: Request, handle: str) -> Response:
    """Answer a form: scripts want no page."""
    return Response(status_code=204) if wants_json(request) else RedirectResponse(f"/members/{handle}", 303)


# --- what goes wrong ---------------------------------------------------------------------------------------------


def wants_json(request: Request) -> bool:
    """Whether a script is asking rather than a person."""
    return "application/json" in request.headers.get("accept", "")


async def tell(request: Request, error: Exception) -> Response:
    """Answer an error of the library in the way it was asked: JSON for scripts, a sentence on the page for people."""
    assert isinstance(error, RindleError)  # noqa: S101 - what it is registered for
    if wants_json(request):
        return JSONResponse({"error": error.to_dict()}, error.http_status)
    sentence = TEXTS.get(error.code, TEXTS["unexpected"])
    handle = request.path_params.get("handle")
    if request.method == "POST" and handle is not None and actor_of(request) == handle:
        request.session["notice"] = sentence
        return RedirectResponse(f"/members/{handle}", 303)
    return await page(request, "error.html", status=error.http_status, sentence=sentence)


def install(app: FastAPI) -> None:
    """Add the pages to the site."""
    app.include_router(pages)
    app.include_router(forms)
    app.add_exception_handler(RindleError, tell)
