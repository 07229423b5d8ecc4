"""The same application with Rindle's routes instead of our own: only the attachment is our own code."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from rindle import RindleError
from rindle.http import create_router

from app import lifespan
from media import MemberPhoto, rindle, transaction
from models import Member
from pages import actor_of, router

app = FastAPI(lifespan=lifespan)
app.state.script = "upload_with_router.js"
app.include_router(router)
app.mount("/static", StaticFiles(directory="static"), name="static")
# Without an authorizer, actors can use only their own uploads; allow_anonymous confirms that this is intended.
routes = create_router(rindle, profiles={"photo": MemberPhoto}, actor_from_request=actor_of, allow_anonymous=True)
app.include_router(routes, prefix="/media")


@app.put("/photo")
async def choose(
    actor: Annotated[str, Depends(actor_of)], asset_id: Annotated[str, Body(embed=True)]
) -> dict[str, str]:
    """Make an upload Alice's photo."""
    async with transaction.begin() as session:
        member = await session.get_one(Member, int(actor))
        await rindle.attach(asset_id, member, "photo", uploaded_by=actor, session=session)
    return {"asset_id": asset_id}


@app.exception_handler(RindleError)
async def refused(request: Any, error: RindleError) -> Response:
    """Answer with the status of the error; its message contains nothing confidential."""
    return JSONResponse({"error": error.to_dict()}, error.http_status)
