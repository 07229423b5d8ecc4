"""The address of a stream: of the provider's HLS playlist, or of the original where nothing is streamed.

The authorizer decides before the provider signs anything. A profile that streams never replaces a stream that is not
ready by a signed address of something else, except before anything was pushed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from rindle import telemetry
from rindle.db import providers as rows
from rindle.db.ids import AssetOrId
from rindle.db.models import MediaAsset, MediaProviderAsset, MediaVariant, is_id
from rindle.delivery.loading import LoadedAsset, load
from rindle.delivery.urls import UrlOptions, check_deliverable, issue_url
from rindle.errors import (
    ProviderAssetNotReady,
    ProviderSyncFailed,
    RindleError,
    StreamingRequiresAsset,
)
from rindle.plugins import authorize
from rindle.profile import Profile, StreamingPolicy
from rindle.protocols import DeliverySubject, PlaybackGrant
from rindle.security import mime_of_extension
from rindle.services import Services
from rindle.states import MediaKind, ProviderState

log = logging.getLogger(__name__)

#: Media type of an HLS playlist (RFC 8216).
HLS_MIME = "application/vnd.apple.mpegurl"
_ID_CHARS = 36


@dataclass(frozen=True, slots=True)
class PlaybackURL:
    """The address that a player loads. A signed one is a bearer credential: ``repr`` hides its query.

    Attributes:
        url: absolute URL.
        kind: ``hls`` for a playlist, ``progressive`` for one file.
        mime: media type of what is at the URL.
        expires_at: aware UTC time at which it expires; ``None`` for a public one.
    """

    url: str = field(repr=False)
    kind: Literal["progressive", "hls"]
    mime: str
    expires_at: datetime | None

    def __repr__(self) -> str:
        shown, has_query, _ = self.url.partition("?")
        return (
            f"PlaybackURL(url={shown + ('?[REDACTED]' if has_query else '')!r}, kind={self.kind!r}, "
            f"mime={self.mime!r}, expires_at={self.expires_at!r})"
        )


async def streaming_url(
    services: Services,
    profile: str | type[Profile],
    asset_or_key: AssetOrId | MediaVariant,
    options: UrlOptions,
    *,
    strict: bool = False,
    mime: str | None = None,
) -> PlaybackURL:
    """Return the address of a stream; see ``Rindle.streaming_url``."""
    chosen = services.profile(profile)
    streaming = chosen.delivery_policy().streaming
    asset = asset_or_key.asset_id if isinstance(asset_or_key, MediaVariant) else asset_or_key
    is_key = isinstance(asset, str) and not (len(asset) == _ID_CHARS and is_id(asset))
    if streaming is None:
        return await _progressive(services, chosen, asset, options, mime)
    if is_key:
        raise StreamingRequiresAsset(
            f"profile {chosen.name!r} streams through {streaming.provider!r}: pass the asset, not a storage key",
            detail={"profile": chosen.name},
        )
    loaded = await load(services, chosen, asset, unvalidated=True)
    # An asset that was uploaded to the provider itself is validated there: its row at the provider decides.
    check_deliverable(chosen, loaded.row, allow_unvalidated=rows.is_only_at_provider(loaded.row))
    found = await stream_of(services, chosen, streaming, loaded, options, strict=strict)
    return found or await _progressive(services, chosen, loaded, options, mime)


async def stream_of(
    services: Services,
    profile: type[Profile],
    streaming: StreamingPolicy,
    loaded: LoadedAsset,
    options: UrlOptions,
    *,
    strict: bool = False,
) -> PlaybackURL | None:
    """Return the address of the playlist of a deliverable asset; ``None`` for one that its provider was never given.

    Args:
        strict: raise also for that one.

    Raises:
        ProviderAssetNotReady, ProviderSyncFailed, Unauthorized: see ``Rindle.streaming_url``.
    """
    row = await services.database.read(rows.find, loaded.row.id, profile.name, streaming.provider)
    if row is None:
        if strict or rows.is_only_at_provider(loaded.row):
            raise _not_ready(streaming.provider, None)
        return None
    _check_drift(profile, streaming, row)
    playback_id = _playback_id(streaming, row)
    mode: Literal["public", "private"] = "public" if streaming.playback_policy == "public" else "private"
    subject = DeliverySubject(
        profile.name,
        mode,
        loaded.row.storage_key,
        loaded.row.id,
        streaming.source_variant,
        playback_id,
        "hls",
        uploaded_by=loaded.row.uploaded_by,
        owners=loaded.owners,
    )
    await authorize(profile.delivery_policy().authorizer, options.actor, "deliver", subject)
    grant = await _grant(services, profile, streaming, playback_id, options)
    facts = {"profile": profile.name, "adapter": streaming.provider, "mode": mode, "kind": "hls", "mime": HLS_MIME}
    telemetry.emit("rindle.delivery.streaming.resolved", facts)
    return PlaybackURL(grant.url, "hls", HLS_MIME, grant.expires_at)


async def _progressive(
    services: Services, profile: type[Profile], asset: LoadedAsset | AssetOrId, options: UrlOptions, mime: str | None
) -> PlaybackURL:
    found_mime, asset = await _mime_of(services, profile, asset)
    if isinstance(asset, LoadedAsset) and rows.is_only_at_provider(asset.row):
        raise _not_ready(asset.row.storage_key.split("/")[1], None)
    mime = mime or found_mime
    issued = await issue_url(services, profile, asset, options, kind="progressive")
    found = PlaybackURL(issued.url, "progressive", mime, issued.expires_at)
    facts = {
        "profile": profile.name,
        "adapter": services.adapter(profile),
        "mode": "public" if issued.expires_at is None else "private",
        "kind": found.kind,
        "mime": mime,
    }
    telemetry.emit("rindle.delivery.streaming.resolved", facts)
    return found


async def _mime_of(
    services: Services, profile: type[Profile], asset: LoadedAsset | AssetOrId
) -> tuple[str, LoadedAsset | AssetOrId]:
    """Return the media type of an original, and the asset as far as it was loaded for that."""
    if isinstance(asset, str) and not (len(asset) == _ID_CHARS and is_id(asset)):
        name = asset.rpartition("/")[2]
        return mime_of_extension("." + name.rpartition(".")[2]) or "video/mp4", asset
    loaded = asset if isinstance(asset, LoadedAsset) else await load(services, profile, asset)
    row: MediaAsset = loaded.row
    return row.content_type or ("audio/mpeg" if row.kind == MediaKind.AUDIO else "video/mp4"), loaded


def _not_ready(provider: str, row: MediaProviderAsset | None) -> ProviderAssetNotReady:
    state = None if row is None else row.state
    return ProviderAssetNotReady(
        f"{provider} has nothing to play of this asset yet"
        if state != ProviderState.DELETED
        else f"{provider} no longer has this asset",
        detail={"provider": provider, "state": state},
    )


def _check_drift(profile: type[Profile], streaming: StreamingPolicy, row: MediaProviderAsset) -> None:
    """Refuse a row that was made under another policy: the provider would play it in another way than declared."""
    for name in ("playback_policy", "ingest_mode"):
        found, expected = getattr(row, name), getattr(streaming, name)
        if found and found != expected:
            facts = {"profile": profile.name, "field": name, "row_value": found, "expected": expected}
            telemetry.emit("rindle.delivery.streaming.config_drift", facts)
            raise ProviderSyncFailed(
                f"the asset was given to {streaming.provider} with {name} {found!r}, and profile {profile.name!r} "
                f"declares {expected!r}",
                detail={"field": name, "found": found, "expected": expected},
            )


def _playback_id(streaming: StreamingPolicy, row: MediaProviderAsset) -> str:
    if row.state == ProviderState.ERRORED:
        raise ProviderSyncFailed(
            f"{streaming.provider} could not prepare the asset",
            detail={"provider": streaming.provider, "state": row.state},
        )
    if row.state != ProviderState.READY or not row.playback_ids:
        raise _not_ready(streaming.provider, row)
    return str(row.playback_ids[0])


async def _grant(
    services: Services, profile: type[Profile], streaming: StreamingPolicy, playback_id: str, options: UrlOptions
) -> PlaybackGrant:
    policy = profile.delivery_policy()
    seconds = (
        options.expires_in
        or streaming.playback_ttl_seconds
        or policy.signed_url_ttl_seconds
        or services.settings.signed_url_ttl_seconds
    )
    provider = services.provider(streaming.provider)
    try:
        grant: Any = await provider.playback_url(playback_id, policy=streaming.playback_policy, expires_in=seconds)
    except RindleError:
        raise
    except Exception as error:
        raise _unexpected(streaming, type(error).__name__) from error
    if not isinstance(grant, PlaybackGrant) or not isinstance(grant.url, str) or not grant.url:
        raise _unexpected(streaming, type(grant).__name__)
    return grant


def _unexpected(streaming: StreamingPolicy, found: str) -> ProviderSyncFailed:
    log.warning(
        "a streaming provider returned an unexpected result",
        extra={"action": "provider_shape", "provider": streaming.provider, "found": found},
    )
    return ProviderSyncFailed(f"the streaming provider {streaming.provider!r} returned an unexpected result")
