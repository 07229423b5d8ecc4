"""Routes for load balancers and monitors: does this process run, and do the services it needs answer?"""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from rindle.app import Rindle
from rindle.errors import InspectionFailed, RindleError, TemporalUnavailable
from rindle.http.errors import RindleRoute, documented
from rindle.operations.health import Health, HealthCheck


class LiveAnswer(BaseModel):
    """The process runs."""

    status: Literal["live"] = "live"


class ReadyAnswer(BaseModel):
    """Everything that this process needs answers."""

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = Field("ok", description="The database answered a query.")
    temporal: Literal["ok"] = Field("ok", description="Temporal answered for its namespace.")


def health_router(rindle: Rindle) -> APIRouter:
    """Return ``/livez`` and ``/readyz`` (GET and HEAD), open to everybody and never cached.

    ``/livez`` answers 200 as soon as the event loop gets to it and asks nobody: restart a process that does not.
    ``/readyz`` answers 200 when the database and Temporal answer, else 503 with the code ``inspection_failed`` (no
    database) or ``temporal_unavailable``; ``detail`` says ``ok`` or ``no answer`` for both and nothing else. While only
    Temporal is away uploads still succeed and their work starts later, so alarm on it, but do not take every web
    process out of service for it.

    The answer takes 3 s at most. Probes that come together, or within a second, share one look, so nobody can load the
    database or Temporal through them.
    """
    routes = _Health(HealthCheck(rindle.database, rindle.temporal))
    router = APIRouter(route_class=RindleRoute, tags=["health"])
    router.add_api_route(
        "/livez",
        routes.live,
        methods=["GET"],
        response_model=LiveAnswer,
        operation_id="rindle_live",
        summary="Say that this process runs",
        responses=documented(common=["unexpected"]),
    )
    router.add_api_route(
        "/readyz",
        routes.ready,
        methods=["GET"],
        response_model=ReadyAnswer,
        operation_id="rindle_ready",
        summary="Say whether database and Temporal answer",
        responses=documented("inspection_failed", "temporal_unavailable", common=["unexpected"]),
    )
    router.add_api_route("/livez", routes.live, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/readyz", routes.ready, methods=["HEAD"], include_in_schema=False)
    return router


class _Health:
    def __init__(self, check: HealthCheck) -> None:
        self._check = check

    async def live(self) -> LiveAnswer:
        """Answer at once; no service is asked. Without an answer the process should be restarted."""
        return LiveAnswer()

    async def ready(self) -> ReadyAnswer:
        """Answer 503 and name what is missing when the database or Temporal does not answer within 3 s."""
        found = await self._check.health()
        if not found.is_ready:
            raise _missing(found)
        return ReadyAnswer()


def _missing(found: Health) -> RindleError:
    detail = {name: "no answer" if name in found.missing else "ok" for name in ("database", "temporal")}
    error = TemporalUnavailable if found.database else InspectionFailed
    return error(f"not ready: no answer from {' and '.join(found.missing)}", detail=detail)
