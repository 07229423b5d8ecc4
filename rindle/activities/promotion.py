"""The promotion of an upload: check the bytes, let the scanner see them, probe them, then make the asset available.

The order of the steps follows from the rows (``status``); what each writes is in ``db/promotion``.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio import activity

from rindle import messages, plugins, telemetry
from rindle.activities.attempts import FailureCounts, unforeseen
from rindle.activities.decode_cache import DecodeCache
from rindle.activities.liveness import heartbeating
from rindle.activities.probing import Prober, columns_of, is_too_long, max_pixels_of
from rindle.activities.source_cache import SourceCache
from rindle.activities.status import UploadStatusReader
from rindle.activities.steps import attempt_facts
from rindle.crash_points import crash_point
from rindle.db import promotion as rows
from rindle.db.models import MediaAsset
from rindle.db.uploads import find_upload
from rindle.errors import (
    ContentRejected,
    ObjectChanged,
    RindleError,
    StateConflict,
    StorageNotFound,
    UploadRejected,
)
from rindle.messages import PromotionFailure, UploadInput, UploadStatus, UploadStep
from rindle.profile import Profile
from rindle.protocols import ProbeResult, ServedAs
from rindle.rejections import rejected
from rindle.security import type_of_content, validate_upload
from rindle.services import Services
from rindle.states import IN_PROMOTION, AssetState, SessionState
from rindle.threads import in_thread

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Gate:
    """The type of the bytes, once they have passed the byte gate; the row may not have it yet."""

    mime: str | None


class PromotionActivities:
    """The activities of ``UploadWorkflow`` that take a verified upload to an available asset.

    Every one begins with the rows and can be run again.

    Args:
        services: the application's collaborators.
        sources: the host's cache of originals.
        prober: reads the technical facts.
    """

    def __init__(self, services: Services, *, sources: SourceCache, prober: Prober) -> None:
        self._services = services
        self._database = services.database
        self._status = UploadStatusReader(services)
        self._sources = sources
        self._prober = prober
        self._decode_cache = DecodeCache(services.settings.scratch)

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities to register."""
        return [self.admit, self.scan, self.fail_promotion]

    @activity.defn(name=messages.ADMIT)
    async def admit(self, order: UploadInput) -> UploadStatus:
        """Validate the bytes by content and make the asset available, going on from where its row stands.

        Byte gate, scanner (an activity of its own), probe, limits, analysis, then one transaction that makes the asset
        available and queues its variants. Rejected content is quarantined; an outage is raised and retried.
        """
        crash_point("admit.before")
        found = await self._database.read(find_upload, order.session_id)
        if found is None or found.session.state != SessionState.COMPLETED:
            return await self._status.read(order.session_id)
        asset = found.asset
        if asset.state not in IN_PROMOTION or rows.gave_up(asset):  # a late signal does not repeat it
            return await self._status.read(order.session_id)
        profile = self._services.profile(asset.profile)
        gate = _Gate(asset.content_type if asset.state == AssetState.ANALYZING else None)
        started = time.monotonic()
        counts = FailureCounts()
        try:
            async with heartbeating(counts.details):
                status = await self._validate(asset, profile, gate, counts)
        except (UploadRejected, ContentRejected) as rejection:
            await self._database.write(rows.quarantine, asset.id, rejection, gate.mime)
            self._decode_cache.discard(asset)
            mime = str(rejection.detail.get("mime") or rejection.detail.get("found") or "")
            log.warning(
                "upload quarantined",
                extra={"asset_id": asset.id, "detected_mime": mime, "reason": rejection.code},
            )
            status = await self._status.read(order.session_id)
        except RindleError:
            raise
        except Exception as error:
            raise unforeseen(error, counts, "validating the upload", asset_id=asset.id) from error
        if status.step is UploadStep.DONE:
            telemetry.emit(
                "rindle.promotion.stop",
                {"profile": profile.name, "outcome": status.outcome},
                {"duration_us": (time.monotonic() - started) * 1e6},
            )
        return status

    async def _validate(
        self, asset: MediaAsset, profile: type[Profile], gate: _Gate, counts: FailureCounts
    ) -> UploadStatus:
        """Validate the asset up to its promotion, or up to the scan.

        Raises:
            UploadRejected, ContentRejected: the content is refused.
        """
        async with self._source(asset, profile) as path:
            crash_point("admit.fetched")
            if asset.state == AssetState.VALIDATING:
                gate.mime = await in_thread(_check_bytes, path, asset, profile)
                if profile.scanner is not None:
                    await self._database.write(rows.pass_gate, asset.id, profile, gate.mime)
                # Without a scanner the row follows in the transaction of the promotion, a moment later.
                crash_point("admit.gated")
            mime = gate.mime or asset.content_type or ""
            if profile.scanner is not None and asset.scanned_etag != asset.stored_etag:
                return UploadStatus(
                    step=UploadStep.SCAN,
                    asset_id=asset.id,
                    profile=asset.profile,
                    outcome=AssetState.ANALYZING.value if asset.state == AssetState.VALIDATING else asset.state,
                )
            facts = await self._facts(path, mime, asset, profile, counts)
            crash_point("admit.probed")
            facts |= await self._headers_replaced(asset, profile, path, facts["content_type"] or "")
            crash_point("admit.headers_replaced")
        groups = await self._database.write(rows.promote, asset.id, profile, **facts)
        crash_point("admit.promoted")
        return UploadStatus(
            step=UploadStep.DONE,
            asset_id=asset.id,
            profile=asset.profile,
            outcome="promoted",
            groups=self._status.group_starts(asset, groups),
        )

    @contextlib.asynccontextmanager
    async def _source(self, asset: MediaAsset, profile: type[Profile]) -> AsyncIterator[Path]:
        """Yield the file of the original: exactly the bytes that were verified.

        Raises:
            ContentRejected: the object at the key is another one by now, or gone.
        """
        async with contextlib.AsyncExitStack() as stack:
            try:
                path = await self._opened(stack, asset, profile)
            except (ObjectChanged, StorageNotFound) as error:
                what = "changed" if isinstance(error, ObjectChanged) else "disappeared"
                raise rejected(
                    ContentRejected,
                    "object_changed_after_verify",
                    f"the object {what} after it was verified (profile {profile.name!r})",
                ) from error
            yield path

    async def _opened(self, stack: contextlib.AsyncExitStack, asset: MediaAsset, profile: type[Profile]) -> Path:
        """Open the original; under another ETag only where an earlier attempt has replaced its headers (S3 with KMS).

        Raises:
            ObjectChanged: the object has other bytes than those that were verified.
        """
        storage = self._services.storage(profile)

        async def opened(etag: str | None) -> Path:
            name, size = self._services.storage_name(profile), asset.byte_size or 0
            return await stack.enter_async_context(
                self._sources.open_local(storage, name, asset.storage_key, etag, size)
            )

        try:
            return await opened(asset.stored_etag)
        except ObjectChanged:
            if asset.checksum_sha256 is None:
                raise
            etag = (await storage.head(asset.storage_key)).etag
            path = await opened(etag)
            if await in_thread(_sha256, path) != asset.checksum_sha256:
                raise
        await self._database.write(rows.follow_etag, asset.id, asset.stored_etag, etag)
        for column, value in rows.pinned(asset, etag).items():
            setattr(asset, column, value)
        return path

    async def _headers_replaced(
        self, asset: MediaAsset, profile: type[Profile], path: Path, mime: str
    ) -> dict[str, Any]:
        """Make the store answer with our headers instead of the uploader's; returns the columns that this changes.

        Raises:
            StateConflict: the object changed; the next attempt looks at it again.
        """
        storage, served, etag = self._services.storage(profile), ServedAs.of(mime), asset.stored_etag
        try:
            head = await storage.head(asset.storage_key)
            if etag is None or head.is_served_as(served):
                return {}
            if asset.checksum_sha256 is None:
                # If this attempt is lost after the store has done it, the next one knows the bytes by their checksum.
                await self._database.write(rows.note_checksum, asset.id, await in_thread(_sha256, path))
            stored = await storage.replace_headers(asset.storage_key, path, served, if_match=etag)
        except (ObjectChanged, StorageNotFound) as error:
            raise StateConflict(
                "the object changed while its headers were replaced", detail={"entity": "asset"}
            ) from error
        log.info(
            "headers of an uploaded object replaced",
            extra={"asset_id": asset.id, "found_mime": head.content_type, "detected_mime": mime},
        )
        return {} if stored.etag == etag else rows.pinned(asset, stored.etag)

    async def _facts(
        self, path: Path, mime: str, asset: MediaAsset, profile: type[Profile], counts: FailureCounts
    ) -> dict[str, Any]:
        """Probe and analyze; returns the columns to write with the promotion, clearing those that no longer apply."""
        keep = await in_thread(self._prober.place_for_pixels, asset, profile)
        result = await self._prober.read(path, mime, profile, counts=counts, keep=keep)
        mime = type_of_content(profile.upload_policy(), mime, result.kind)
        _check_limits(result, profile)
        metadata = {**asset.media_metadata, **result.metadata}
        if profile.placeholder and result.placeholder:
            metadata["placeholder"] = result.placeholder
        if profile.analyzer is not None:
            found = await plugins.analyze(profile.analyzer, path, result, asset_id=asset.id)
            if found is not None:
                metadata["analyzer"] = {**metadata.get("analyzer", {}), **found}
        return {**columns_of(result, mime), "media_metadata": metadata}

    @activity.defn(name=messages.SCAN)
    async def scan(self, order: UploadInput) -> UploadStatus:
        """Let the profile's scanner see the bytes before any decoder opens them; fails closed.

        Bytes that an earlier attempt has seen pass are not scanned again.
        """
        crash_point("scan.before")
        found = await self._database.read(find_upload, order.session_id)
        if found is None or found.asset.state != AssetState.ANALYZING:
            return await self._status.read(order.session_id)
        asset = found.asset
        profile = self._services.profile(asset.profile)
        is_scanned = asset.scanned_etag is not None and asset.scanned_etag == asset.stored_etag
        if profile.scanner is not None and not is_scanned:
            counts = FailureCounts()
            try:
                async with heartbeating(counts.details), self._source(asset, profile) as path:
                    timeout = self._services.settings.scanner_timeout_seconds
                    await plugins.scan(profile.scanner, path, asset=asset, timeout_seconds=timeout)
            except (UploadRejected, ContentRejected) as rejection:
                await self._database.write(rows.quarantine, asset.id, rejection)
                log.warning("upload quarantined", extra={"asset_id": asset.id, "reason": rejection.code})
                return await self._status.read(order.session_id)
            except RindleError:
                raise
            except Exception as error:
                raise unforeseen(error, counts, "scanning the upload", asset_id=asset.id) from error
            await self._database.write(rows.note_scanned, asset.id, asset.stored_etag)
            crash_point("scan.passed")
        return await self._status.read(order.session_id)

    @activity.defn(name=messages.FAIL_PROMOTION)
    async def fail_promotion(self, order: PromotionFailure) -> UploadStatus:
        """Record why promotion gave up; the asset stays where it is and ``rindle resume`` goes on from there.

        Once only: a repetition must not undo a resume in between.
        """
        await self._database.write(rows.note_failure, order.session_id, order.failure, attempt_facts())
        return await self._status.read_after_failure(order.session_id)


def _check_bytes(path: Path, asset: MediaAsset, profile: type[Profile]) -> str:
    size = os.stat(path).st_size
    if asset.byte_size is not None and size != asset.byte_size:
        raise rejected(
            ContentRejected,
            "object_changed_after_verify",
            f"the object has {size} bytes, {asset.byte_size} were verified",
        )
    return validate_upload(path, asset.filename or "", profile.upload_policy())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_limits(result: ProbeResult, profile: type[Profile]) -> None:
    pixels = (result.width or 0) * (result.height or 0)
    max_pixels = max_pixels_of(profile)
    if pixels > max_pixels:
        raise rejected(
            ContentRejected,
            "max_pixels_exceeded",
            f"the {result.kind.value} has {pixels} pixels, profile {profile.name!r} allows max_pixels={max_pixels}",
            limit=max_pixels,
            found=pixels,
            width=result.width,
            height=result.height,
            kind=result.kind.value,
        )
    longest = profile.max_duration_seconds
    if longest is not None and is_too_long(result, longest):
        raise rejected(
            ContentRejected,
            "media_too_long",
            f"the media lasts {result.duration_ms} ms, profile {profile.name!r} allows max_duration_seconds={longest}",
            limit=longest * 1000,
            found=result.duration_ms,
        )
