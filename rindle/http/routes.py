"""Tables of routes: path, endpoint, response model and error codes of each.

The endpoints are in the modules of their subjects; error responses are in :mod:`rindle.http.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from rindle.http.access_log import scrub_access_logs
from rindle.http.errors import RindleRoute, documented


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    Attributes:
        endpoint: method of the class that has the endpoints.
        name: stable operation id, without the prefix ``rindle_``.
        answer: model of the body; ``None`` when the endpoint makes its own responses.
        errors: error codes of this route, in addition to the common ones.
        responses: further responses, in OpenAPI's form.
        options: further keywords of FastAPI's ``add_api_route``.
    """

    method: str
    path: str
    endpoint: Callable[..., Any]
    name: str
    summary: str
    answer: type[BaseModel] | None = None
    status: int = 200
    errors: tuple[str, ...] = ()
    responses: Mapping[int | str, dict[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def router_of(routes: Iterable[Route], endpoints: object, *, tag: str) -> APIRouter:
    """Return a router of ``routes``, with the methods of ``endpoints``."""
    scrub_access_logs()
    router = APIRouter(route_class=RindleRoute, tags=[tag])
    for route in routes:
        router.add_api_route(
            route.path,
            MethodType(route.endpoint, endpoints),
            methods=[route.method],
            status_code=route.status,
            response_model=route.answer,
            operation_id=f"rindle_{route.name}",
            summary=route.summary,
            responses={**route.responses, **documented(*route.errors)},
            **route.options,
        )
    return router
