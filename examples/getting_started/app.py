"""The application with its own routes: the five calls of Rindle, one after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from rindle import RindleError
from rindle.http import create_router

from media import MemberPhoto, engine, rindle, transaction
from models import Base, Member
from pages import actor_of, router

Actor = Annotated[str, Depends(actor_of)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Create the application's table and its first member."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with transaction.begin() as session:
        if await session.get(Member, 1) is None:
            session.add(Member(id=1, name="Alice"))
    yield


app = FastAPI(lifespan=lifespan)
app.state.script = "upload.js"
app.include_router(router)
app.mount("/static", StaticFiles(directory="static"), name="static")
# Serves local files, and runs the relay that sends committed work to Temporal.
serving = create_router(rindle, profiles={"photo": MemberPhoto}, allow_anonymous=True, include={"local"})
app.include_router(serving, prefix="/media")


@app.post("/uploads")
async def ticket(actor: Actor, filename: Annotated[str, Body()], size: Annotated[int, Body(ge=0)]) -> dict[str, Any]:
    """Return a ticket: the browser sends the file to its address, not to this application."""
    upload = await rindle.initiate_upload("photo", filename=filename, size=size, actor=actor)
    signed = await rindle.sign_url(upload.id)
    grant = signed.presigned
    return {"id": upload.id, "method": grant.method, "url": grant.url, "headers": dict(grant.headers)}


@app.post("/uploads/{upload_id}/done")
async def done(actor: Actor, upload_id: str) -> dict[str, str]:
    """Verify that the bytes arrived and make them Alice's photo, in the application's own transaction."""
    verified = await rindle.verify_completion(upload_id)
    async with transaction.begin() as session:
        member = await session.get_one(Member, int(actor))
        # uploaded_by: an id from a browser may be the id of another user's upload.
        await rindle.attach(verified.asset.id, member, "photo", uploaded_by=actor, session=session)
    return {"asset_id": verified.asset.id}


@app.exception_handler(RindleError)
async def refused(request: Any, error: RindleError) -> Response:
    """Answer with the status of the error; its message contains nothing confidential."""
    return JSONResponse({"error": error.to_dict()}, error.http_status)
