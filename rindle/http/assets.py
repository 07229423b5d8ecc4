"""Routes of assets: state and variants, URLs, and the cancel and requeue operations."""

from __future__ import annotations

from typing import Annotated, Literal, Unpack

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from rindle.app import Rindle
from rindle.db.models import MediaAsset
from rindle.delivery.urls import UrlOptions, issue_url, issue_variant_url
from rindle.errors import UnknownOptions
from rindle.http.access import Access, ChangingRules, actor_name
from rindle.http.errors import NO_STORE
from rindle.http.routes import Route, router_of
from rindle.http.schemas import (
    CancelReport,
    ClientText,
    FullAssetAnswer,
    FullAssetJson,
    Requeue,
    RequeueAnswer,
    UrlAnswer,
)

_AssetId = Annotated[ClientText, Path(max_length=64, description="Id of an asset.")]
_VariantName = Annotated[
    ClientText | None, Query(max_length=63, description="A declared variant; the original when left out.")
]
_Disposition = Annotated[
    Literal["inline", "attachment"] | None, Query(description="Whether browsers show the file or save it.")
]
_StaleMode = Annotated[
    Literal["fallback_original", "serve_stale"],
    Query(description="`serve_stale` also delivers a variant of an outdated recipe until it is rebuilt."),
]
_Fallback = Annotated[
    Literal["original", "none"],
    Query(description="While the variant is not ready: the original, or with `none` the error `variant_not_ready`."),
]
_Redirect = Annotated[bool, Query(description="Answer 302 to the URL instead of returning it as JSON.")]
#: Query parameters of the URL route.
_URL_OPTIONS = frozenset({"variant", "disposition", "stale_mode", "fallback", "redirect"})


def assets_router(rindle: Rindle, **rules: Unpack[ChangingRules]) -> APIRouter:
    """Return ``/assets/{asset_id}`` with its sub-routes; see :class:`rindle.http.access.Access` for the rules.

    The authorizer is called with ``read`` for the first two routes and ``operate`` for the others, and an
    ``AssetSubject``. A URL also needs the permission of the profile's own authorizer (``deliver``).

    Raises:
        Misconfigured: the authorizer is missing, and ``allow_anonymous`` is not ``True``; or there is no profile.
    """
    return asset_routes(Access(rindle, **rules))


def asset_routes(access: Access) -> APIRouter:
    """Return the routes of :func:`assets_router`."""
    access.require_authorizer()
    return router_of(_ROUTES, _Assets(access), tag="assets")


class _Assets:
    def __init__(self, access: Access) -> None:
        self._rindle = access.rindle
        self._access = access

    async def show(self, request: Request, asset_id: _AssetId) -> FullAssetAnswer:
        """Return the state of the asset and of each variant, for pages that poll."""
        asset = await self._allowed(await self._access.actor(request), "read", asset_id)
        name, profile = self._access.name_of(asset.profile), self._rindle.services.profile(asset.profile)
        return FullAssetAnswer(asset=FullAssetJson.with_variants(asset, name, profile))

    async def url(
        self,
        request: Request,
        asset_id: _AssetId,
        variant: _VariantName = None,
        disposition: _Disposition = None,
        stale_mode: _StaleMode = "fallback_original",
        fallback: _Fallback = "original",
        redirect: _Redirect = False,
    ) -> UrlAnswer | Response:
        """Return a URL and its expiry. While a declared variant is not ready, the URL is that of the original.

        Unknown query parameters are refused: a misspelled `variant` would otherwise deliver the original.
        """
        unknown = sorted(request.query_params.keys() - _URL_OPTIONS)
        if unknown:
            raise UnknownOptions(
                f"this route has no query parameter {unknown[0][:63]!r}; it has: {', '.join(sorted(_URL_OPTIONS))}",
                detail={"options": [name[:63] for name in unknown[:20]]},
            )
        actor = await self._access.actor(request)
        asset = await self._allowed(actor, "read", asset_id)
        options = UrlOptions(actor=actor, disposition=disposition)
        services = self._rindle.services
        if variant is None:
            issued = await issue_url(services, asset.profile, asset, options)
        else:
            issued = await issue_variant_url(
                services, asset.profile, asset, variant, options, stale_mode=stale_mode, fallback=fallback
            )
        if redirect:
            return RedirectResponse(issued.url, 302, headers={**NO_STORE, "Referrer-Policy": "no-referrer"})
        return UrlAnswer.of(issued)

    async def cancel(self, request: Request, asset_id: _AssetId) -> CancelReport:
        """Stop all open builds. The rows are `cancelled` when this answers; the processes end within seconds."""
        await self._access.check_forgery(request)
        actor = await self._access.actor(request)
        asset = await self._allowed(actor, "operate", asset_id)
        report = await self._rindle.cancel_processing(asset.id, actor=actor_name(actor))
        return CancelReport.model_validate(report.to_dict())

    async def requeue(self, request: Request, asset_id: _AssetId, body: Requeue | None = None) -> RequeueAnswer:
        """Queue failed and cancelled variants again, or the named ones, including stale and missing variants."""
        await self._access.check_forgery(request)
        actor = await self._access.actor(request)
        asset = await self._allowed(actor, "operate", asset_id)
        names = None if body is None else body.variant_names
        return RequeueAnswer.of(await self._rindle.requeue_variants(asset.id, names, actor=actor_name(actor)))

    async def _allowed(self, actor: object, action: str, asset_id: str) -> MediaAsset:
        return await self._access.allow_asset(actor, action, await self._rindle.asset(asset_id))


_ROUTES = (
    Route(
        "GET",
        "/assets/{asset_id}",
        _Assets.show,
        "get_asset",
        "Show an asset and its variants",
        FullAssetAnswer,
        errors=("not_found",),
    ),
    Route(
        "GET",
        "/assets/{asset_id}/url",
        _Assets.url,
        "get_asset_url",
        "Sign a URL of an original or a variant",
        UrlAnswer,
        errors=(
            "not_found",
            "unknown_variant",
            "unknown_options",
            "variant_not_ready",
            "asset_not_deliverable",
            "delivery_unsupported",
            "storage_adapter_exception",
        ),
        responses={302: {"description": "To the URL, when `redirect` is true."}},
    ),
    Route(
        "POST",
        "/assets/{asset_id}/cancel",
        _Assets.cancel,
        "cancel_processing",
        "Stop all builds of an asset",
        CancelReport,
        status=202,
        errors=("not_found", "not_processing", "state_conflict"),
    ),
    Route(
        "POST",
        "/assets/{asset_id}/requeue",
        _Assets.requeue,
        "requeue_variants",
        "Build failed and cancelled variants again",
        RequeueAnswer,
        status=202,
        errors=("not_found", "unknown_variant_names", "state_conflict"),
    ),
)
