"""Direct uploads to a streaming provider: a browser sends the bytes of a video to the provider itself.

There is no upload session, and no object in the storage: the row at the provider says how far the upload is. The
address of the upload is a bearer credential. It is returned to the caller once, and stored nowhere.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from rindle import outbox
from rindle.arguments import MAX_FILENAME_CHARS, check_text
from rindle.crash_points import crash_point
from rindle.db import direct_uploads as rows
from rindle.db import providers
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaProviderAsset, new_id, unstored_copy
from rindle.db.providers import direct_key
from rindle.declarations import is_whole
from rindle.errors import (
    InvalidArgument,
    InvalidCorsOrigin,
    ProviderSyncFailed,
    RindleError,
    StreamingNotConfigured,
    UnknownProfile,
    UploadCancelled,
)
from rindle.profile import DIRECT_CREATOR_UPLOAD, Profile, StreamingPolicy
from rindle.protocols import DirectUploads, ProviderUpload
from rindle.providers import remove_from_provider
from rindle.security import check_declared, display_name, sanitize_filename
from rindle.services import Services
from rindle.states import MediaKind

log = logging.getLogger(__name__)

#: Shortest and longest lifetime in seconds of an upload (Mux API, "Create a new direct upload URL").
MIN_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS = 60, rows.MAX_TIMEOUT_SECONDS
#: Longest origin in characters.
_MAX_ORIGIN_CHARS = 255
#: An origin as browsers send it (RFC 6454 section 6.2): scheme, host, and a port that is not the scheme's own.
_ORIGIN = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class DirectUpload:
    """A direct upload to a streaming provider.

    Attributes:
        upload_url: to which the browser sends the bytes in chunks; a bearer credential, which ``repr`` hides.
        asset_id: of the asset, which is ``staged`` until the provider is ready.
    """

    upload_url: str = field(repr=False)
    asset_id: str


@dataclass(frozen=True, slots=True)
class DirectUploadRequest:
    """A caller's wish for a direct upload; see ``Rindle.create_direct_upload`` for each field.

    Raises:
        InvalidArgument: a string cannot be stored, or ``timeout`` is out of range.
        InvalidCorsOrigin: ``cors_origin`` is no origin.
    """

    cors_origin: str
    filename: str | None = None
    timeout: int = 3600
    actor: str | None = None

    def __post_init__(self) -> None:
        check_text("filename", self.filename, max_chars=MAX_FILENAME_CHARS)
        check_text("actor", self.actor)
        if not is_whole(self.timeout) or not MIN_TIMEOUT_SECONDS <= self.timeout <= MAX_TIMEOUT_SECONDS:
            raise InvalidArgument(
                f"timeout of a direct upload must be from {MIN_TIMEOUT_SECONDS} to {MAX_TIMEOUT_SECONDS} seconds",
                detail={"option": "timeout"},
            )
        origin = self.cors_origin
        if not isinstance(origin, str) or len(origin) > _MAX_ORIGIN_CHARS or not _ORIGIN.fullmatch(origin):
            raise InvalidCorsOrigin(
                "cors_origin must be the origin of the page that sends the bytes, such as https://example.com: scheme, "
                "host and port, no path and no *",
                detail={"option": "cors_origin"},
            )


async def create_direct_upload(
    services: Services, profile: str | type[Profile], request: DirectUploadRequest
) -> DirectUpload:
    """Open an upload at the provider of a profile; see ``Rindle.create_direct_upload``."""
    chosen = services.profile(profile)
    policy, provider = _configured(services, chosen)
    if request.filename is not None:
        check_declared(chosen.upload_policy(), request.filename, None)
    asset, row = _new_rows(chosen, policy, request)

    def insert(session: Session) -> None:  # may be repeated: rows of an earlier attempt cannot be added again
        rows.insert(session, unstored_copy(asset), unstored_copy(row), timeout_seconds=request.timeout)
        outbox.wake_provider_upload(session, services.settings, asset.id, chosen.name, policy.provider)

    await services.database.write(insert)
    crash_point("direct.begun")
    made = await _opened(services, provider, policy, row, request)
    crash_point("direct.opened")
    try:
        is_wanted = await services.database.write(_note_opened, services, row, made.id)
    except Exception:  # nobody gets the address
        await _withdraw(services, provider, row, made.id)
        raise
    if not is_wanted:
        await _withdraw(services, provider, row, made.id)
        raise UploadCancelled("the upload was cancelled while it was opened")
    return DirectUpload(made.url, asset.id)


def _note_opened(session: Session, services: Services, row: MediaProviderAsset, upload_id: str) -> bool:
    is_wanted = rows.opened(session, row.asset_id, upload_id)
    if not is_wanted:  # the workflow cancels it at the provider if this process does not
        named = (row.asset_id, row.profile, row.provider_name)
        outbox.wake_provider_upload(session, services.settings, *named, signal="wake")
    return is_wanted


def _new_rows(
    profile: type[Profile], policy: StreamingPolicy, request: DirectUploadRequest
) -> tuple[MediaAsset, MediaProviderAsset]:
    asset_id, filename = new_id(), request.filename or "unknown"
    asset = MediaAsset(
        id=asset_id,
        storage_key=direct_key(policy.provider, asset_id),
        profile=profile.name,
        uploaded_by=request.actor,
        kind=MediaKind.VIDEO.value,
        filename=sanitize_filename(filename),
        display_name=display_name(filename),
    )
    row = MediaProviderAsset(
        id=new_id(),
        asset_id=asset_id,
        profile=profile.name,
        provider_name=policy.provider,
        mux_passthrough=providers.new_passthrough(),
        playback_policy=policy.playback_policy,
        ingest_mode=DIRECT_CREATOR_UPLOAD,
    )
    return asset, row


async def _opened(
    services: Services,
    provider: DirectUploads,
    policy: StreamingPolicy,
    row: MediaProviderAsset,
    request: DirectUploadRequest,
) -> ProviderUpload:
    """Let the provider open the upload; when it does not, the row says why."""
    failure: RindleError
    try:
        made = await provider.create_direct_upload(
            cors_origin=request.cors_origin,
            timeout_seconds=request.timeout,
            policy=policy.playback_policy,
            passthrough=row.mux_passthrough or "",
        )
        if made.id and made.url:
            return made
        failure = _unexpected(policy.provider, type(made).__name__)
    except RindleError as error:
        failure = error
    except Exception as error:
        failure = _unexpected(policy.provider, type(error).__name__)
    named = (row.asset_id, row.profile, row.provider_name)
    await services.database.write(providers.give_up, *named, f"{failure.code}: {failure.message}")
    raise failure


async def _withdraw(services: Services, provider: DirectUploads, row: MediaProviderAsset, upload_id: str) -> None:
    """Cancel an upload whose address nobody gets; without an answer it ends by itself."""
    try:
        await provider.cancel_direct_upload(upload_id)
        await services.database.write(rows.released, row.asset_id)
    except Exception as error:
        log.warning(
            "an upload that nobody wants stays open at its streaming provider until its time is over",
            extra={"action": "provider_leftover", "provider": row.provider_name, "error": type(error).__name__},
        )


async def cancel_direct_upload(services: Services, asset: AssetOrId) -> None:
    """Cancel an upload; see ``Rindle.cancel_direct_upload``."""
    asset_id = id_of_asset(asset)
    row = await services.database.read(rows.find, asset_id)
    if row is None:
        raise no_such_asset()
    _require_streaming(services, row)
    row = await services.database.write(_begin_cancel, services, asset_id)
    if row is None:  # purged meanwhile
        raise no_such_asset()
    crash_point("direct.cancelled")
    if row.provider_upload_id is None:
        return
    try:
        await remove_from_provider(services, row)
    except RindleError:
        raise
    except Exception as error:
        raise _unexpected(row.provider_name, type(error).__name__) from error


def _begin_cancel(session: Session, services: Services, asset_id: str) -> MediaProviderAsset | None:
    row = rows.begin_cancel(session, asset_id)
    if row is not None:  # the workflow cancels it at the provider if this process does not
        named = (asset_id, row.profile, row.provider_name)
        outbox.wake_provider_upload(session, services.settings, *named, signal="wake")
    return row


def _require_streaming(services: Services, row: MediaProviderAsset) -> None:
    try:
        policy = services.profile(row.profile).delivery_policy().streaming
    except UnknownProfile:
        policy = None
    if policy is None or row.provider_name not in services.providers:
        raise _not_configured(row.profile)


def _configured(services: Services, profile: type[Profile]) -> tuple[StreamingPolicy, DirectUploads]:
    """Return how a profile streams, and its provider.

    Raises:
        StreamingNotConfigured: the profile does not stream, not from direct uploads, or the provider takes none.
    """
    policy = profile.delivery_policy().streaming
    if policy is None or policy.ingest_mode != DIRECT_CREATOR_UPLOAD:
        raise _not_configured(profile.name)
    provider = services.provider(policy.provider)
    if not isinstance(provider, DirectUploads) or DIRECT_CREATOR_UPLOAD not in provider.capabilities():
        raise _not_configured(profile.name)
    return policy, provider


def _not_configured(profile: str) -> StreamingNotConfigured:
    return StreamingNotConfigured(
        f"profile {profile!r} takes no direct uploads to a streaming provider: declare delivery.streaming with the "
        f"ingest_mode {DIRECT_CREATOR_UPLOAD!r}",
        detail={"profile": profile, "requested_kind": DIRECT_CREATOR_UPLOAD},
    )


def _unexpected(provider: str, found: str) -> ProviderSyncFailed:
    log.warning(
        "a streaming provider returned an unexpected result",
        extra={"action": "provider_shape", "provider": provider, "found": found},
    )
    return ProviderSyncFailed(f"the streaming provider {provider!r} returned an unexpected result")


async def direct_asset(services: Services, asset: AssetOrId) -> MediaAsset:
    """Return an asset that was uploaded to a provider itself.

    Raises:
        NotFound: there is no such asset, or it was not uploaded in this way.
    """
    asset_id = id_of_asset(asset)
    row = await services.database.read(rows.find, asset_id)
    found = None if row is None else await services.database.read(Session.get, MediaAsset, asset_id)
    if found is None:
        raise no_such_asset()
    return found
