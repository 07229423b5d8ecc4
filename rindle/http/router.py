"""All routes together, as a router to include or as an application to mount."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI

from rindle import telemetry
from rindle.app import Rindle
from rindle.delivery import urls
from rindle.errors import Misconfigured
from rindle.http.access import Access, ActorFromRequest, CsrfCheck
from rindle.http.assets import asset_routes
from rindle.http.events import event_routes
from rindle.http.health import health_router
from rindle.http.inline import MAX_INLINE_BYTES
from rindle.http.local import local_router
from rindle.http.script import script_router
from rindle.http.uploads import upload_routes
from rindle.profile import Profile
from rindle.protocols import Authorizer
from rindle.security import key_segment
from rindle.storage.local import LocalStorage

#: The parts a router can be made of.
PARTS = frozenset({"uploads", "assets", "events", "local", "script", "health"})
# Those that ask who is calling.
_GUARDED_PARTS = frozenset({"uploads", "assets", "events"})


def create_router(
    rindle: Rindle,
    *,
    profiles: Mapping[str, type[Profile]],
    actor_from_request: ActorFromRequest | None = None,
    authorizer: Authorizer | None = None,
    allow_anonymous: bool = False,
    csrf: CsrfCheck | None = None,
    max_inline_bytes: int = MAX_INLINE_BYTES,
    include: Collection[str] | None = None,
) -> APIRouter:
    """Return every route of Rindle; ``app.include_router(create_router(...), prefix="/media")``.

    Its lifespan runs ``async with rindle``. FastAPI merges it into that of the application that includes the router,
    beside a lifespan of the application's own. What is only *mounted* hears nothing of starts and stops: there, write
    ``async with rindle:`` into the outer application's lifespan.

    A ``LocalStorage`` used by one of ``profiles`` is served below the last segment of its ``base_url``: with the prefix
    ``/media``, ``LocalStorage(base_url="https://example.com/media/local")`` and its public files below ``/local/p``.

    Args:
        profiles: names clients use, and the profiles they mean; others do not exist here.
        actor_from_request: says who is calling, sync or async; see :class:`rindle.http.access.Access`.
        authorizer: decides about every action; without it actors reach their own uploads only.
        allow_anonymous: do without an authorizer, on purpose.
        csrf: accepts state-changing requests that lack the header ``X-Rindle: 1``.
        max_inline_bytes: largest file that may pass through the application, 64 MiB by default.
        include: which of ``uploads``, ``assets``, ``events``, ``local``, ``script`` and ``health``; all when left
            out. The last one answers to everybody; see :func:`rindle.http.health.health_router`.

    Raises:
        Misconfigured: there is neither an authorizer nor ``allow_anonymous=True``, ``include`` names an unknown part,
            or a ``base_url`` has no path of its own.
        UnknownProfile: a profile is not registered with ``rindle``.
    """
    parts = PARTS if include is None else frozenset(include)
    if parts - PARTS:
        raise Misconfigured(f"include knows {', '.join(sorted(PARTS))}, not {', '.join(sorted(parts - PARTS))}")

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with rindle:
            yield

    router = APIRouter(lifespan=lifespan)
    if parts & _GUARDED_PARTS:
        access = Access(
            rindle,
            profiles=profiles,
            actor_from_request=actor_from_request,
            authorizer=authorizer,
            allow_anonymous=allow_anonymous,
            csrf=csrf,
        )
        if "uploads" in parts:
            router.include_router(upload_routes(access, max_inline_bytes=max_inline_bytes))
        if "assets" in parts:
            router.include_router(asset_routes(access))
        if "events" in parts:
            router.include_router(event_routes(access))
    if "script" in parts:
        router.include_router(script_router())
    if "health" in parts:
        router.include_router(health_router(rindle))
    if "local" in parts:
        for prefix, storage in _local_storages(rindle, profiles).items():
            served = local_router(storage, is_public=_is_public(rindle, storage), emit=telemetry.emit)
            router.include_router(served, prefix=prefix)
    return router


def create_asgi_app(rindle: Rindle, **options: Any) -> FastAPI:
    """Return :func:`create_router` as an application of its own, for frameworks other than FastAPI.

    Mount it, for example ``Mount("/media", create_asgi_app(rindle, ...))``, and write ``async with rindle:`` into the
    lifespan of the host, which does not run that of what it mounts. Its description is at ``/openapi.json``.
    """
    app = FastAPI(title="Rindle", docs_url=None, redoc_url=None)
    app.include_router(create_router(rindle, **options))
    return app


def _local_storages(rindle: Rindle, profiles: Mapping[str, type[Profile]]) -> dict[str, LocalStorage]:
    """Return the local stores of ``profiles`` that have an address, by the prefix at which they are served."""
    found: dict[str, LocalStorage] = {}
    for profile in profiles.values():
        storage = rindle.services.storage(profile)
        if not isinstance(storage, LocalStorage) or storage.base_url is None:
            continue
        segment = urlsplit(storage.base_url).path.rstrip("/").rpartition("/")[2]
        if not segment or segment in ("uploads", "assets", "events", "rindle.js", "livez", "readyz"):
            raise Misconfigured(
                f"the base_url of the local storage of profile {profile.name!r} must end in a path segment of its own, "
                "below the prefix of this router: for example LocalStorage(base_url='https://example.com/media/local')"
            )
        if found.setdefault(f"/{segment}", storage) is not storage:
            raise Misconfigured(f"two local storages have a base_url that ends in /{segment}; give each its own")
    return found


def _is_public(rindle: Rindle, storage: LocalStorage) -> Callable[[str], Awaitable[bool]]:
    """Return the test for public keys: a public profile, and an asset that was judged.

    Profiles that share a key prefix must all be public.
    """
    segments: dict[str, bool] = {}
    for profile in rindle.profiles:
        if rindle.services.storage(profile) is storage:
            segment = key_segment(profile.name, fallback="profile")
            segments[segment] = segments.get(segment, True) and profile.delivery_policy().public

    async def is_public(key: str) -> bool:
        if not segments.get(key.partition("/")[0], False):
            return False
        return await urls.may_be_served(rindle.services, key)

    return is_public
