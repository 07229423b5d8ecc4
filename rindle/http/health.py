"""Health routes for load balancers and monitors: liveness of the process, readiness of its services."""

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
    """This process and all its services answer."""

    status: Literal["ready"] = "ready"
    database: Literal["ok"] = Field(default="ok", description="The database answered a query.")
    temporal: Literal["ok"] = Field(default="ok", description="Temporal answered for its namespace.")
    threads: Literal["ok"] = Field(default="ok", description="A call passed through the threads of this process.")
    warnings: list[str] = Field(default=[], description="What does not work, such as plug-ins; the process can serve.")


def health_router(rindle: Rindle) -> APIRouter:
    """Return ``/livez`` and ``/readyz`` (GET and HEAD), open to everyone and never cached.

    ``/livez`` answers 200 as soon as the event loop runs it, without a request to a service: restart a process that
    does not answer. ``/readyz`` answers 200 when the database, Temporal and this process's own threads answer, else 503
    with the code ``temporal_unavailable`` (only Temporal is missing) or ``inspection_failed``; ``detail`` has ``ok`` or
    ``no answer`` for each and nothing else. A plug-in whose calls never return does not make the process unready: it is
    named in ``warnings``. While only Temporal is unreachable, uploads still succeed and their work starts later: raise
    an alarm, but do not take every web process out of service.

    The response takes 3 s at most. Probes that arrive together, or within a second, share one check, so probes cannot
    overload the database or Temporal.
    """
    routes = _Health(HealthCheck(rindle.database, rindle.temporal))
    router = APIRouter(route_class=RindleRoute, tags=["health"])
    router.add_api_route(
        "/livez",
        routes.live,
        methods=["GET"],
        response_model=LiveAnswer,
        operation_id="rindle_live",
        summary="Liveness of this process",
        responses=documented(common=["unexpected"]),
    )
    router.add_api_route(
        "/readyz",
        routes.ready,
        methods=["GET"],
        response_model=ReadyAnswer,
        operation_id="rindle_ready",
        summary="Readiness: whether database, Temporal and threads answer",
        responses=documented("inspection_failed", "temporal_unavailable", common=["unexpected"]),
    )
    router.add_api_route("/livez", routes.live, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/readyz", routes.ready, methods=["HEAD"], include_in_schema=False)
    return router


class _Health:
    def __init__(self, check: HealthCheck) -> None:
        self._check = check

    async def live(self) -> LiveAnswer:
        """Answer at once, without a request to a service. Restart a process that does not answer."""
        return LiveAnswer()

    async def ready(self) -> ReadyAnswer:
        """Answer 503 and name the missing services when one of them does not answer within 3 s."""
        found = await self._check.health()
        if not found.is_ready:
            raise _missing(found)
        return ReadyAnswer(warnings=list(found.warnings))


def _missing(found: Health) -> RindleError:
    detail = {name: "no answer" if name in found.missing else "ok" for name in ("database", "temporal", "threads")}
    error = TemporalUnavailable if found.missing == ("temporal",) else InspectionFailed
    return error(f"not ready: no answer from {' and '.join(found.missing)}", detail=detail)
