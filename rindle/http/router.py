"""All routes together, as a router to include or as an application to mount."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI

from rindle import telemetry
from rindle.app import Rindle
from rindle.delivery import urls
from rindle.errors import Misconfigured
from rindle.http.access import Access, ActorFromRequest, CsrfCheck
from rindle.http.assets import asset_routes
from rindle.http.companion import companion_routes
from rindle.http.events import event_routes
from rindle.http.health import health_router
from rindle.http.inline import MAX_INLINE_BYTES
from rindle.http.local import local_router
from rindle.http.script import script_router
from rindle.http.streams.mount import Mount
from rindle.http.uploads import upload_routes
from rindle.http.webhooks import WebhookSecrets, provider_webhook_router
from rindle.profile import Profile
from rindle.protocols import Authorizer
from rindle.security import key_segment
from rindle.storage.local import LocalStorage

#: The parts of a router.
PARTS = frozenset({"uploads", "assets", "events", "webhooks", "local", "script", "health"})
#: First segments of the routes, which no local storage may have.
_OWN_SEGMENTS = frozenset({"uploads", "assets", "events", "companion", "webhooks", "rindle.js", "livez", "readyz"})
# Parts with access rules.
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
    webhooks: Mapping[str, WebhookSecrets] | None = None,
    include: Collection[str] | None = None,
    companion: Collection[str] = (),
    mounts: Iterable[Mount] = (),
) -> APIRouter:
    """Return every route of Rindle; ``app.include_router(create_router(...), prefix="/media")``.

    Its lifespan runs ``async with rindle``. FastAPI merges it into that of the application that includes the router,
    together with the application's own lifespan. A *mounted* application gets no lifespan events: write
    ``async with rindle:`` into the outer application's lifespan instead.

    A ``LocalStorage`` of one of ``profiles`` is served below the last segment of its ``base_url``: with the prefix
    ``/media``, use ``LocalStorage(base_url="https://example.com/media/local")``. Its public files are below
    ``/local/p``.

    Args:
        profiles: profiles by the names that clients use; rows of other profiles answer ``not_found``.
        actor_from_request: function or coroutine function that returns the actor; see
            :class:`rindle.http.access.Access`.
        authorizer: decides about every action; without it actors can reach only their own uploads.
        allow_anonymous: confirms that there is no authorizer.
        csrf: accepts state-changing requests that lack the header ``X-Rindle: 1``.
        max_inline_bytes: largest file that may pass through the application, 64 MiB by default.
        webhooks: secrets of webhooks by streaming provider, for example ``{"mux": [secret]}``; see
            :func:`rindle.http.webhooks.provider_webhook_router`. Without it there is no route for them.
        include: which of ``uploads``, ``assets``, ``events``, ``webhooks``, ``local``, ``script`` and ``health``; all
            when left out. ``health`` is open to everyone; see :func:`rindle.http.health.health_router`.
        companion: names of ``profiles`` to which ``@uppy/aws-s3`` may upload, each at ``/companion/{name}``; none when
            left out. See :func:`rindle.http.companion.companion_router`.
        mounts: what :func:`rindle.http.tus.tus_router` and :func:`rindle.http.resumable.resumable_router` returned,
            with their ``path``. ``POST /uploads`` then opens uploads for them (strategies ``tus`` and ``ietf``). The
            application mounts them itself.

    Raises:
        Misconfigured: the authorizer is missing, and ``allow_anonymous`` is not ``True``; ``include`` names an unknown
            part; ``webhooks`` names an unknown provider or has no secrets; ``companion`` names a profile that is not in
            ``profiles``; a mount has no path, another profile, or the profile and protocol of another one; or a
            ``base_url`` has no unique path.
        UnknownProfile: a profile is not registered with ``rindle``.
    """
    parts = PARTS if include is None else frozenset(include)
    if parts - PARTS:
        unknown, known = ", ".join(sorted(parts - PARTS)), ", ".join(sorted(PARTS))
        raise Misconfigured(f"unknown part {unknown} in include; choose from {known}")
    if set(companion) - profiles.keys():
        unknown, known = ", ".join(sorted(set(companion) - profiles.keys())), ", ".join(sorted(profiles))
        raise Misconfigured(f"unknown profile {unknown} in companion; choose from {known}")

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        async with rindle:
            yield

    router = APIRouter(lifespan=lifespan)
    if parts & _GUARDED_PARTS or companion:
        access = Access(
            rindle,
            profiles=profiles,
            actor_from_request=actor_from_request,
            authorizer=authorizer,
            allow_anonymous=allow_anonymous,
            csrf=csrf,
        )
        if "uploads" in parts:
            router.include_router(upload_routes(access, max_inline_bytes=max_inline_bytes, mounts=mounts))
        if "assets" in parts:
            router.include_router(asset_routes(access))
        if "events" in parts:
            router.include_router(event_routes(access))
        if companion:
            router.include_router(companion_routes(access, companion), prefix="/companion")
    if "webhooks" in parts:
        for provider, secrets in (webhooks or {}).items():
            router.include_router(provider_webhook_router(rindle, provider, secrets))
    if "script" in parts:
        router.include_router(script_router())
    if "health" in parts:
        router.include_router(health_router(rindle))
    if "local" in parts:
        for prefix, storage in _local_storages(rindle, profiles).items():
            served = local_router(
                storage,
                is_public=_is_public(rindle, storage),
                is_gone=partial(urls.outlives_its_asset, rindle.services),
                emit=telemetry.emit,
            )
            router.include_router(served, prefix=prefix)
    return router


def create_asgi_app(rindle: Rindle, **options: Any) -> FastAPI:
    """Return :func:`create_router` as a separate ASGI application, for frameworks other than FastAPI.

    Mount it, for example ``Mount("/media", create_asgi_app(rindle, ...))``, and write ``async with rindle:`` into the
    lifespan of the host: it does not run the lifespan of mounted applications. The OpenAPI description is at
    ``/openapi.json``.
    """
    app = FastAPI(title="Rindle", docs_url=None, redoc_url=None)
    app.include_router(create_router(rindle, **options))
    return app


def _local_storages(rindle: Rindle, profiles: Mapping[str, type[Profile]]) -> dict[str, LocalStorage]:
    """Return the local stores of ``profiles`` that have an address, by their URL prefix."""
    found: dict[str, LocalStorage] = {}
    for profile in profiles.values():
        storage = rindle.storages[rindle.services.storage_name(profile)]
        if not isinstance(storage, LocalStorage) or storage.base_url is None:
            continue
        segment = urlsplit(storage.base_url).path.rstrip("/").rpartition("/")[2]
        if not segment or segment in _OWN_SEGMENTS:
            raise Misconfigured(
                f"the base_url of the local storage of profile {profile.name!r} must end in a unique path segment "
                "below the prefix of this router: for example LocalStorage(base_url='https://example.com/media/local')"
            )
        if found.setdefault(f"/{segment}", storage) is not storage:
            raise Misconfigured(f"two local storages have a base_url that ends in /{segment}; use different ones")
    return found


def _is_public(rindle: Rindle, storage: LocalStorage) -> Callable[[str], Awaitable[bool]]:
    """Return the test for public keys: a public profile, and a validated asset.

    Profiles that share a key prefix must all be public.
    """
    segments: dict[str, bool] = {}
    for profile in rindle.profiles:
        if rindle.storages[rindle.services.storage_name(profile)] is storage:
            segment = key_segment(profile.name, fallback="profile")
            segments[segment] = segments.get(segment, True) and profile.delivery_policy().public

    async def is_public(key: str) -> bool:
        if not segments.get(key.partition("/")[0], False):
            return False
        return await urls.may_be_served(rindle.services, key)

    return is_public
