"""Shared by all pages: templates, forms and their guards, and error responses."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, select_autoescape
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from examples.cohort.media import reading, rindle, writing
from examples.cohort.models import Member
from examples.cohort.security import TOKEN_FIELD, TOKEN_HEADER, actor_of, form_token, has_our_token
from examples.cohort.texts import TEXTS
from rindle import (
    AssetState,
    MediaAsset,
    MediaAttachment,
    MediaProviderAsset,
    MediaVariant,
    Profile,
    ProviderState,
    RindleError,
    StreamingPolicy,
    VariantState,
)
from rindle.contrib.jinja import install_jinja
from rindle.delivery.urls import is_servable
from rindle.errors import Unauthorized, UnknownProfile, UploadRejected, VariantNotReady
from rindle.http.forms import UploadForm, reading_form
from rindle.http.inline import MAX_INLINE_BYTES

log = logging.getLogger(__name__)

#: States in which nothing more will happen by itself, so a page need not look again.
AT_REST = frozenset({AssetState.READY, AssetState.DEGRADED, AssetState.QUARANTINED, AssetState.DELETED})
#: States without anything to show: not validated yet, rejected, deleted.
UNSEEN = frozenset({"staged", "validating", "analyzing", "promoting", "quarantined", "deleted"})
#: States at the streaming provider in which nothing more will happen by itself.
SETTLED = frozenset({ProviderState.READY, ProviderState.ERRORED, ProviderState.DELETED})


def badge(asset: MediaAsset, streaming: ProviderState | None = None) -> str:
    """Return the text of the badge; ``place.js`` updates it."""
    match asset.state:
        case AssetState.READY if is_being_streamed(streaming):
            return "Preparing the stream"
        case AssetState.READY if streaming in (ProviderState.ERRORED, ProviderState.DELETED):
            return "Incomplete"
        case AssetState.READY:
            return "Ready"
        case AssetState.QUARANTINED:
            return "Refused"
        case AssetState.DELETED:
            return "Removed"
        case AssetState.DEGRADED:
            is_cancelled = any(row.state == VariantState.CANCELLED for row in asset.variants)
            return "Cancelled" if is_cancelled else "Incomplete"
    done = percent(asset)
    return f"Processing {done} %" if done else "Processing"


def percent(asset: MediaAsset) -> int:
    """Return how far the slowest variant is: that is what people wait for."""
    return min(progress(asset).values(), default=0)


def progress(asset: MediaAsset) -> dict[str, int]:
    """Return how far each variant is that anybody still waits for, in per cent."""
    waited_for = (row for row in asset.variants if row.state not in (VariantState.FAILED, VariantState.CANCELLED))
    return {row.name: 100 if row.state == VariantState.READY else row.progress for row in waited_for}


async def link(profile: str | type[Profile], asset: MediaAsset, variant: str | MediaVariant) -> str | None:
    """Return the address of a variant, or ``None`` when there is nothing to show; a list of many must not stop for one.

    Never the original: it may hold the place where it was taken.
    """
    try:
        return await rindle.variant_url(profile, asset, variant, fallback="none")
    except VariantNotReady:
        return None
    except RindleError as error:
        log.warning("a variant cannot be shown", extra={"asset_id": asset.id, "code": error.code})
        return None


def is_being_streamed(streaming: ProviderState | None) -> bool:
    """Whether the provider has still to say that a lesson can be streamed."""
    return streaming is not None and streaming not in SETTLED


async def stream_state(asset: MediaAsset) -> ProviderState | None:
    """Return where a lesson stands at its streaming provider, ``None`` for one that is not streamed."""
    streaming = _streaming_of(asset)
    if streaming is None:
        return None
    async with reading() as session:
        state = await session.scalar(
            select(MediaProviderAsset.state).where(
                MediaProviderAsset.asset_id == asset.id, MediaProviderAsset.provider_name == streaming.provider
            )
        )
    # There is no row before its video has been built.
    return ProviderState.PENDING if state is None else ProviderState(state)


def _streaming_of(asset: MediaAsset) -> StreamingPolicy | None:
    try:
        return rindle.profiles.get(asset.profile).delivery_policy().streaming
    except UnknownProfile:
        return None


async def still(profile: str, asset: MediaAsset, variant: str) -> str:
    """Return the address of a JPEG for the ``<img>`` itself, or ``"auto"``: the tiny preview while it is being made."""
    return await link(profile, asset, variant) or "auto"


def ready(asset: MediaAsset) -> set[str]:
    """Return the names of the variants that are finished, by the recipes of today."""
    try:
        profile = rindle.profiles.get(asset.profile)
    except UnknownProfile:  # of an older release; a list of many must not stop for it
        return set()
    return {row.name for row in asset.variants if is_servable(profile, row)}


def size(count: int | None) -> str:
    """Return a number of bytes as people read it."""
    if count is None:
        return "–"
    return f"{count} B" if count < 1000 else f"{count / 1000:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def clock(duration_ms: int | None) -> str:
    """Return a duration as people read it: ``1:05``."""
    minutes, seconds = divmod(round((duration_ms or 0) / 1000), 60)
    return f"{minutes}:{seconds:02}"


def accepted(profile: type[Profile]) -> str:
    """Return what a file input offers to choose."""
    return ",".join([*profile.allow_mime, *profile.allow_extensions])


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
    TOKEN_FIELD=TOKEN_FIELD,
    TOKEN_HEADER=TOKEN_HEADER,
    UNSEEN=UNSEEN,
    badge=badge,
    is_being_streamed=is_being_streamed,
    link=link,
    percent=percent,
    progress=progress,
    ready=ready,
    still=still,
    ticket=rindle.subscription_ticket,
)
templates.filters.update(clock=clock, size=size)


async def page(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """Render a page with what all of them show."""
    async with reading() as session:
        people = await all_members(session)
    html = await templates.get_template(template).render_async(
        request=request,
        people=people,
        me=actor_of(request),
        token=form_token(request),
        notice=request.session.pop("notice", None),
        texts=TEXTS[_place(request)[0]],
        **context,
    )
    # Signed addresses and the form token are in it.
    return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})


async def all_members(session: AsyncSession) -> Sequence[Member]:
    """Return all members in the order they joined."""
    return (await session.scalars(select(Member).order_by(Member.id))).all()


async def media_of(owner: Any, slot: str) -> MediaAsset | None:
    """Return what is in an owner's slot, with its variants."""
    attachment = await rindle.attachment_for(owner, slot, load=["variants"])
    return attachment.asset if attachment else None


async def all_media(session: AsyncSession, owner_type: str, slot: str) -> dict[str, MediaAsset]:
    """Return what is in a slot of all owners, by owner id, in one query: Rindle's models are the application's to
    read."""
    statement = (
        select(MediaAttachment)
        .where(MediaAttachment.owner_type == owner_type, MediaAttachment.slot == slot)
        .options(joinedload(MediaAttachment.asset).joinedload(MediaAsset.variants))
    )
    return {row.owner_id: row.asset for row in (await session.scalars(statement)).unique()}


# --- forms -------------------------------------------------------------------------------------------------------


def our_form(profiles: Iterable[type[Profile]]) -> Callable[[Request], AsyncIterator[UploadForm]]:
    """Return the dependency of the forms that may bring a file of one of ``profiles``; without any they bring none.

    A parameter declared with FastAPI's ``Form`` or ``UploadFile`` would make it read the whole body, with the file,
    before anything can be checked.
    """
    largest = min(max((profile.max_bytes or 0 for profile in profiles), default=0), MAX_INLINE_BYTES)

    async def form(request: Request) -> AsyncIterator[UploadForm]:
        """Yield the form, read up to its file; refuse one that another site made.

        Raises:
            Unauthorized: ``form_expired``.
            UploadRejected: ``max_bytes_exceeded``.
        """
        async with reading_form(request, max_bytes=largest) as found:
            if not has_our_token(request, found.fields.get(TOKEN_FIELD)):
                raise Unauthorized("this form does not belong to your session", code="form_expired")
            yield found

    return form


async def our_script(request: Request) -> None:
    """Refuse a request of a script that another site made.

    Raises:
        Unauthorized: ``form_expired``.
    """
    if not has_our_token(request, None):
        raise Unauthorized("this page does not belong to your session", code="form_expired")


async def put_in(owner: Any, slot: str, profile: type[Profile], form: UploadForm, *, actor: str) -> None:
    """Put an upload into a slot, replacing what was there.

    The form's ``asset_id`` names one that the browser has put into the store already; without scripts the form brings
    the file.

    Raises:
        UploadRejected: ``nothing_chosen``, or an error of the profile.
        NotFound: the upload is somebody else's.
        ProfileMismatch: it is of another profile.
    """
    asset_id = form.fields.get("asset_id")
    if not asset_id:
        if form.filename is None:
            raise UploadRejected("no file was chosen", code="nothing_chosen")
        async with aclosing(form.file()) as pieces:
            asset_id = (await rindle.upload(profile, pieces, filename=form.filename, actor=actor)).id
    await keep_in(owner, slot, profile, asset_id, actor=actor)


async def keep_in(owner: Any, slot: str, profile: type[Profile], asset_id: str, *, actor: str) -> None:
    """Put what a browser has uploaded into a slot, replacing what was there.

    The id came from that browser: Rindle makes sure that it is this member's own upload, and of this profile.

    Raises:
        NotFound: the upload is somebody else's.
        ProfileMismatch: it is of another profile.
    """
    async with writing.begin() as session:
        await rindle.attach(asset_id, owner, slot, profile=profile, uploaded_by=actor, session=session)


def done(request: Request) -> Response:
    """Answer a form: scripts want no page."""
    return Response(status_code=204) if wants_json(request) else RedirectResponse("/" + "/".join(_place(request)), 303)


# --- what goes wrong ---------------------------------------------------------------------------------------------


def wants_json(request: Request) -> bool:
    """Whether a script sent the request."""
    return "application/json" in request.headers.get("accept", "")


async def error_response(request: Request, error: Exception) -> Response:
    """Answer an error of the library: JSON for scripts, a sentence on the page for people."""
    assert isinstance(error, RindleError)  # noqa: S101 - what it is registered for
    if wants_json(request):
        return JSONResponse({"error": error.to_dict()}, error.http_status)
    place = _place(request)
    sentence = TEXTS[place[0]].get(error.code, TEXTS[place[0]]["unexpected"])
    if request.method == "POST" and len(place) == 2:
        request.session["notice"] = sentence
        return RedirectResponse("/" + "/".join(place), 303)
    return await page(request, "error.html", status=error.http_status, sentence=sentence)


def _place(request: Request) -> list[str]:
    """Return the section of the site and, if there is one, the page that a form or a part belongs to."""
    parts = request.url.path.split("/")[1:3]
    return parts if parts[0] in TEXTS else ["members"]
