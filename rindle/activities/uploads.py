"""What an upload does outside its workflow: judge the bytes, expire, release what is left."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy.orm import Session
from temporalio import activity

from rindle import messages, telemetry
from rindle.activities.kept_pixels import KeptPixels
from rindle.activities.liveness import heartbeating
from rindle.activities.source_cache import SourceCache
from rindle.crash_points import crash_point
from rindle.db import uploads as rows
from rindle.db import variants as variant_rows
from rindle.db.models import MediaAsset, MediaUploadSession, utc_now
from rindle.db.transitions import lock_asset, move_asset, set_fields
from rindle.db.uploads import Upload
from rindle.errors import (
    MAX_REASON_CHARS,
    Condemned,
    MediaError,
    ObjectChanged,
    ProcessTimeout,
    RenderFailed,
    RindleError,
    StorageNotFound,
    StorageObjectMissing,
    Unexpected,
    UploadRejected,
    describe,
)
from rindle.messages import (
    GroupStart,
    PromotionFailure,
    UploadInput,
    UploadStanding,
    UploadStep,
)
from rindle.profile import Profile
from rindle.protocols import Probe, ProbeResult
from rindle.recipes import ImageVariant
from rindle.scanning import scan
from rindle.security import validate_upload
from rindle.services import Services
from rindle.settings import PIXEL_CEILING
from rindle.states import DELIVERABLE, AssetState, MediaKind, SessionState
from rindle.workflows import ids

log = logging.getLogger(__name__)

#: Attempts of ``admit`` after which an unforeseen error is final; infrastructure errors have the policy's budget.
_UNEXPECTED_ATTEMPTS = 3
#: Attempts that may lose the process which reads the file before the file is to blame, and of those that may run out of
#: time. More than one: the kernel kills innocent processes too when memory is short.
_LOST_PROBES, _SLOW_PROBES = 5, 2
#: Facts in the detail of an error that tell of a process that died.
_DEATHS = frozenset({"signal", "exit_code", "memory"})
#: Heartbeat detail by which an attempt hears how many before it lost their process.
_LOST = "lost_probes"

#: Verifies a session and returns it; the same code the application calls.
Verify = Callable[[str], Awaitable[Upload]]


class MakeProbe(Protocol):
    """Makes the bundled probe of pictures."""

    def __call__(
        self, max_pixels: int, *, placeholder: bool, recipes: Sequence[ImageVariant], keep: Path | None
    ) -> Probe:
        """Return a probe with a pixel limit, which leaves pixels in the file ``keep`` for a render of ``recipes``."""


class UploadActivities:
    """Activities of ``UploadWorkflow``; every one begins with the rows and can be run again.

    Args:
        services: the application's collaborators.
        verify: the verification flow.
        sources: the host's cache of originals.
        bundled_probe: makes the bundled probe of pictures; a profile's own probe goes first.
        av_probe: the bundled probe of audio and video.
    """

    def __init__(
        self,
        services: Services,
        *,
        verify: Verify,
        sources: SourceCache,
        bundled_probe: MakeProbe,
        av_probe: Probe,
    ) -> None:
        self._services = services
        self._database = services.database
        self._verify = verify
        self._sources = sources
        self._bundled_probe = bundled_probe
        self._kept_pixels = KeptPixels(services.settings.scratch)
        self._av_probe = av_probe

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities to register."""
        return [
            self.read_upload,
            self.admit,
            self.scan,
            self.verify_upload,
            self.expire_upload,
            self.release_upload,
            self.fail_promotion,
        ]

    # -- reading --------------------------------------------------------------------------------------------------

    @activity.defn(name=messages.READ_UPLOAD)
    async def read_upload(self, order: UploadInput) -> UploadStanding:
        """Say what the rows of an upload ask for next."""
        return await self._standing(order.session_id)

    async def _standing(self, session_id: str) -> UploadStanding:
        found = await self._database.read(rows.find_upload, session_id)
        if found is None:
            return UploadStanding(step=UploadStep.DONE, outcome="gone")
        upload, asset = found.session, found.asset
        facts: dict[str, Any] = {"asset_id": asset.id, "profile": asset.profile}
        if upload.state == SessionState.COMPLETED:
            return await self._standing_of_asset(asset, facts)
        facts["outcome"] = upload.state
        if upload.state in (SessionState.ABORTED, SessionState.EXPIRED, SessionState.FAILED):
            return self._standing_of_ended(upload, facts)
        if upload.state == SessionState.UPLOADED:
            return UploadStanding(step=UploadStep.VERIFY, **facts)
        wait_seconds, poll = self._wait(upload)
        return UploadStanding(step=UploadStep.WAIT, wait_seconds=wait_seconds, poll=poll, **facts)

    @staticmethod
    def _standing_of_ended(upload: MediaUploadSession, facts: dict[str, Any]) -> UploadStanding:
        """An ended upload is released now and, while a signed URL still works, once more when it does not."""
        released, until = upload.backing_released_at, upload.url_expires_at
        if released is None:
            return UploadStanding(step=UploadStep.RELEASE, **facts)
        if until is None or released > until:
            return UploadStanding(step=UploadStep.DONE, **facts)
        remaining = (until - utc_now()).total_seconds()
        if remaining < 0:
            return UploadStanding(step=UploadStep.RELEASE, **facts)
        return UploadStanding(step=UploadStep.WAIT, wait_seconds=remaining + 0.05, **facts)

    async def _standing_of_asset(self, asset: MediaAsset, facts: dict[str, Any]) -> UploadStanding:
        facts["outcome"] = asset.state
        if asset.state in (AssetState.VALIDATING, AssetState.ANALYZING, AssetState.PROMOTING):
            return UploadStanding(step=UploadStep.PROMOTE, **facts)
        groups: tuple[GroupStart, ...] = ()
        if AssetState(asset.state) in DELIVERABLE:
            names = await self._database.read(variant_rows.open_groups, asset.id)
            groups = self._group_starts(asset, names)
        return UploadStanding(step=UploadStep.DONE, groups=groups, **facts)

    def _wait(self, upload: MediaUploadSession) -> tuple[float, bool]:
        """Return how long to wait and whether the timer is to look for the object (``auto_verify``)."""
        remaining = max(0.05, rows.live_seconds(upload))
        settings = self._services.settings
        if not upload.auto_verify or upload.url_expires_at is None:
            return remaining, False
        now = utc_now()
        if (now - upload.url_expires_at).total_seconds() > settings.auto_verify_grace_seconds:
            return remaining, False
        # Doubling pauses, derived from the row's age so that no attempt counter has to be kept.
        age = max(settings.auto_verify_initial_seconds, (now - upload.inserted_at).total_seconds())
        return min(remaining, age, settings.auto_verify_max_seconds), True

    def _group_starts(self, asset: MediaAsset, groups: list[str]) -> tuple[GroupStart, ...]:
        settings = self._services.settings
        return tuple(
            GroupStart(
                workflow_id=ids.variants_id(asset.id, group, prefix=settings.workflow_id_prefix),
                group=group,
                task_queue=settings.queue_of(group),
            )
            for group in self._services.profile(asset.profile).build_order(groups)
        )

    # -- verification and ends ------------------------------------------------------------------------------------

    @activity.defn(name=messages.VERIFY_UPLOAD)
    async def verify_upload(self, order: UploadInput) -> UploadStanding:
        """Look for the object and complete the session when it is there.

        "Not there yet" and "this upload has ended" are answers (the second with its reason in ``failure``), so that
        the loop goes on from the rows; only what may still change is an error.
        """
        try:
            await self._verify(order.session_id)
        except StorageObjectMissing:
            return await self._standing(order.session_id)
        except RindleError as error:
            if error.retryable:
                raise
            standing = await self._standing(order.session_id)
            code, reason = describe(error)
            return standing.model_copy(update={"failure": messages.Failure(code=code, message=reason)})
        return await self._standing(order.session_id)

    @activity.defn(name=messages.EXPIRE_UPLOAD)
    async def expire_upload(self, order: UploadInput) -> UploadStanding:
        """Expire the session if its time is over by the row."""
        await self._database.write(_expire_if_known, order.session_id)
        return await self._standing(order.session_id)

    @activity.defn(name=messages.RELEASE_UPLOAD)
    async def release_upload(self, order: UploadInput) -> UploadStanding:
        """Delete what an ended upload left in the store; a missing object is success."""
        found = await self._database.read(rows.find_upload, order.session_id)
        if found is None:
            return UploadStanding(step=UploadStep.DONE, outcome="gone")
        if found.session.state in (SessionState.ABORTED, SessionState.EXPIRED, SessionState.FAILED):
            crash_point("upload.release.before")
            await self._services.storage(found.asset.profile).delete(found.session.upload_key)
            crash_point("upload.release.deleted")
            await self._database.write(rows.note_released, order.session_id)
        return await self._standing(order.session_id)

    # -- judgement ------------------------------------------------------------------------------------------------

    @activity.defn(name=messages.ADMIT)
    async def admit(self, order: UploadInput) -> UploadStanding:
        """Judge the bytes by content and make the asset available, going on from where its row stands.

        Byte gate, scanner (an activity of its own), probe, limits, analysis, then one transaction that makes the asset
        available and queues its variants. A verdict about the content quarantines; an outage is raised and retried.
        """
        crash_point("admit.before")
        found = await self._database.read(rows.find_upload, order.session_id)
        if found is None or found.session.state != SessionState.COMPLETED:
            return await self._standing(order.session_id)
        asset = found.asset
        if asset.state not in (AssetState.VALIDATING, AssetState.ANALYZING, AssetState.PROMOTING):
            return await self._standing(order.session_id)
        profile = self._services.profile(asset.profile)
        started = time.monotonic()
        try:
            async with heartbeating(lambda: {_LOST: _lost_probes()}):
                standing = await self._judge(order, asset, profile)
        except (UploadRejected, Condemned) as verdict:
            gated = asset.content_type if asset.state == AssetState.ANALYZING else None
            await self._database.write(_quarantine, asset.id, verdict.code, verdict.message, gated)
            self._kept_pixels.discard(asset)
            mime = str(verdict.detail.get("mime") or verdict.detail.get("found") or "")
            log.warning(
                "upload quarantined",
                extra={"asset_id": asset.id, "detected_mime": mime, "reason": verdict.code},
            )
            standing = await self._standing(order.session_id)
        except RindleError:
            raise
        except Exception as error:
            log.exception("promotion failed", extra={"asset_id": asset.id, "error": type(error).__name__})
            last = activity.info().attempt >= _UNEXPECTED_ATTEMPTS
            raise Unexpected(
                f"unexpected {type(error).__name__} while judging the upload", retryable=not last
            ) from error
        if standing.step is UploadStep.DONE:
            telemetry.emit(
                "rindle.promotion.stop",
                {"profile": profile.name, "outcome": standing.outcome},
                {"duration_us": (time.monotonic() - started) * 1e6},
            )
        return standing

    async def _judge(self, order: UploadInput, asset: MediaAsset, profile: type[Profile]) -> UploadStanding:
        async with self._source(asset, profile) as path:
            crash_point("admit.fetched")
            if asset.state == AssetState.VALIDATING:
                mime = await asyncio.to_thread(_check_bytes, path, asset, profile)
                if profile.scanner is not None:
                    await self._database.write(_pass_gate, asset.id, mime)
                # Without a scanner the row follows in the transaction of the verdict, a moment later.
                asset.state, asset.content_type = AssetState.ANALYZING.value, mime
                crash_point("admit.gated")
            if profile.scanner is not None and asset.scanned_etag != asset.stored_etag:
                return UploadStanding(
                    step=UploadStep.SCAN, asset_id=asset.id, profile=asset.profile, outcome=asset.state
                )
            facts = {"content_type": asset.content_type, **await self._facts(path, asset, profile)}
            crash_point("admit.probed")
        groups = await self._database.write(variant_rows.promote, asset.id, profile, **facts)
        crash_point("admit.promoted")
        return UploadStanding(
            step=UploadStep.DONE,
            asset_id=asset.id,
            profile=asset.profile,
            outcome="promoted",
            groups=self._group_starts(asset, groups),
        )

    def _source(self, asset: MediaAsset, profile: type[Profile]) -> Any:
        """Borrow the original: exactly the bytes that were proven, else a verdict."""
        return _Proven(
            self._sources.borrow(
                self._services.storage(profile),
                self._services.storage_name(profile),
                asset.storage_key,
                asset.stored_etag,
                asset.byte_size or 0,
            ),
            profile.name,
        )

    async def _facts(self, path: Path, asset: MediaAsset, profile: type[Profile]) -> dict[str, Any]:
        """Probe and analyse; returns the columns to write with the promotion, clearing those that no longer apply."""
        mime = asset.content_type or ""
        recipes = [spec for spec in profile.variants.values() if isinstance(spec, ImageVariant)]
        keep = None
        # Only where the render is likely to run on this host, in the bundled engine.
        if recipes and profile.processor is None and self._services.settings.image_task_queue is None:
            keep = await asyncio.to_thread(self._kept_pixels.place, asset)
        bundled = self._bundled_probe(
            _max_pixels(profile), placeholder=bool(profile.placeholder), recipes=recipes, keep=keep
        )
        probe = next((p for p in (profile.probe, bundled, self._av_probe) if p is not None and p.accepts(mime)), None)
        if probe is None:
            raise Condemned(
                f"files of type {mime} cannot be probed for profile {profile.name!r}; allow only types with a probe",
                code="no_probe_for_mime",
                detail={"mime": mime},
            )
        result = await _probed(probe, path)
        _check_limits(result, profile)
        metadata = {**asset.media_metadata, **result.metadata}
        if profile.placeholder and result.placeholder:
            metadata["placeholder"] = result.placeholder
        if profile.analyzer is not None:
            try:
                metadata["analyzer"] = {
                    **metadata.get("analyzer", {}),
                    **(await _call(profile.analyzer.analyze, path, result)),
                }
            except Exception as error:
                log.warning("analyzer failed", extra={"asset_id": asset.id, "error": type(error).__name__})
        is_image, is_audio = result.kind is MediaKind.IMAGE, result.kind is MediaKind.AUDIO
        return {
            "kind": result.kind.value,
            "width": None if is_audio else result.width,
            "height": None if is_audio else result.height,
            "duration_ms": None if is_image else result.duration_ms,
            "has_video_track": None if is_image or is_audio else result.has_video_track,
            "has_audio_track": None if is_image else result.has_audio_track,
            "media_metadata": metadata,
        }

    @activity.defn(name=messages.SCAN)
    async def scan(self, order: UploadInput) -> UploadStanding:
        """Let the profile's scanner judge the bytes before any decoder opens them; fails closed."""
        crash_point("scan.before")
        found = await self._database.read(rows.find_upload, order.session_id)
        if found is None or found.asset.state != AssetState.ANALYZING:
            return await self._standing(order.session_id)
        asset = found.asset
        profile = self._services.profile(asset.profile)
        if profile.scanner is not None:
            try:
                async with heartbeating(), self._source(asset, profile) as path:
                    timeout = self._services.settings.scanner_timeout_seconds
                    await scan(profile.scanner, path, asset=asset, timeout_seconds=timeout)
            except (UploadRejected, Condemned) as verdict:
                await self._database.write(_quarantine, asset.id, verdict.code, verdict.message)
                log.warning("upload quarantined", extra={"asset_id": asset.id, "reason": verdict.code})
                return await self._standing(order.session_id)
            await self._database.write(_note_clean, asset.id, asset.stored_etag)
            crash_point("scan.judged")
        return await self._standing(order.session_id)

    @activity.defn(name=messages.FAIL_PROMOTION)
    async def fail_promotion(self, order: PromotionFailure) -> UploadStanding:
        """Note why promotion gave up; the asset stays where it is and ``rindle resume`` goes on from there."""
        await self._database.write(_note_failure, order.session_id, order.failure.code, order.failure.message)
        found = await self._database.read(rows.find_upload, order.session_id)
        if found is None:
            return UploadStanding(step=UploadStep.DONE, outcome="gone")
        facts: dict[str, Any] = {"asset_id": found.asset.id, "profile": found.asset.profile}
        if found.session.state in (SessionState.SIGNED, SessionState.UPLOADING, SessionState.INITIALIZED):
            wait_seconds, poll = self._wait(found.session)
            return UploadStanding(
                step=UploadStep.WAIT, wait_seconds=wait_seconds, poll=poll, outcome=found.session.state, **facts
            )
        if found.session.state in (SessionState.FAILED, SessionState.ABORTED, SessionState.EXPIRED):
            # Either the release itself failed, or the promotion of a session that has ended since.
            return UploadStanding(step=UploadStep.DONE, outcome=found.session.state, **facts)
        return UploadStanding(step=UploadStep.DONE, outcome="failed", **facts)


class _Proven:
    """Borrows a source and turns "these are not the proven bytes" into the verdict it is."""

    def __init__(self, borrowed: Any, profile: str) -> None:
        self._borrowed = borrowed
        self._profile = profile

    async def __aenter__(self) -> Path:
        try:
            path: Path = await self._borrowed.__aenter__()
        except ObjectChanged as error:
            raise Condemned(
                f"the object changed after it was verified (profile {self._profile!r}); upload it again",
                code="object_changed_after_verify",
            ) from error
        except StorageNotFound as error:
            raise Condemned(
                f"the object disappeared after it was verified (profile {self._profile!r}); upload it again",
                code="object_changed_after_verify",
            ) from error
        return path

    async def __aexit__(self, *failure: Any) -> None:
        await self._borrowed.__aexit__(*failure)


async def _call(function: Callable[..., Any], *args: Any) -> Any:
    """Call foreign code: a coroutine is awaited, a plain function runs in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    answer = await asyncio.to_thread(function, *args)
    return await answer if inspect.isawaitable(answer) else answer


async def _probed(probe: Probe, path: Path) -> ProbeResult:
    """Read the facts of the file; one that costs its reader's life time and again is condemned, not tried for a day.

    The count goes from attempt to attempt by heartbeat, because attempts are also spent on outages and deploys.

    Raises:
        Condemned: ``decode_failed``, when this was the last reader the file gets.
        RindleError: what the probe raised.
    """
    try:
        found: ProbeResult = await _call(probe.probe, path)
    except MediaError as error:
        if not (isinstance(error, ProcessTimeout | RenderFailed) or _DEATHS & error.detail.keys()):
            raise
        lost = _lost_probes() + 1
        if lost >= (_SLOW_PROBES if isinstance(error, ProcessTimeout) else _LOST_PROBES):
            raise Condemned(
                f"the file cannot be decoded: {lost} processes in a row were lost on it", detail=error.detail
            ) from error
        activity.heartbeat({_LOST: lost})
        raise
    return found


def _lost_probes() -> int:
    """Return how many attempts before this one lost the process that read the file."""
    details = activity.info().heartbeat_details
    return int(details[0][_LOST]) if details else 0


def _check_bytes(path: Path, asset: MediaAsset, profile: type[Profile]) -> str:
    size = os.stat(path).st_size
    if asset.byte_size is not None and size != asset.byte_size:
        raise Condemned(
            f"the object has {size} bytes, {asset.byte_size} were verified; upload it again",
            code="object_changed_after_verify",
        )
    return validate_upload(path, asset.filename or "", profile.upload_policy())


def _max_pixels(profile: type[Profile]) -> int:
    return min(profile.max_pixels or PIXEL_CEILING, PIXEL_CEILING)


def _check_limits(result: ProbeResult, profile: type[Profile]) -> None:
    pixels = (result.width or 0) * (result.height or 0)
    max_pixels = _max_pixels(profile)
    if pixels > max_pixels:
        raise Condemned(
            f"the picture has {pixels} pixels, profile {profile.name!r} allows max_pixels={max_pixels}",
            code="max_pixels_exceeded",
            detail={"limit": max_pixels, "found": pixels},
        )
    longest = profile.max_duration_seconds
    if longest is not None and result.duration_ms is not None and result.duration_ms > longest * 1000:
        raise Condemned(
            f"the media lasts {result.duration_ms} ms, profile {profile.name!r} allows max_duration_seconds={longest}",
            code="media_too_long",
            detail={"limit": longest * 1000, "found": result.duration_ms},
        )


# --- SQL steps ---------------------------------------------------------------------------------------------------


def _expire_if_known(session: Session, session_id: str) -> None:
    if rows.find_upload(session, session_id) is not None:
        rows.expire_upload(session, session_id)


def _pass_gate(session: Session, asset_id: str, mime: str) -> None:
    asset = lock_asset(session, asset_id)
    if asset is not None and asset.state == AssetState.VALIDATING:
        move_asset(session, asset, AssetState.ANALYZING, content_type=mime)


def _quarantine(session: Session, asset_id: str, code: str, reason: str, mime: str | None = None) -> None:
    """Condemn an asset; ``mime`` says that it had passed the byte gate, which the row may not know yet."""
    asset = lock_asset(session, asset_id)
    if asset is None or asset.state not in (AssetState.VALIDATING, AssetState.ANALYZING):
        return
    facts: dict[str, Any] = {"error_code": code, "error_reason": reason[:MAX_REASON_CHARS]}
    through = []
    if mime is not None and asset.state == AssetState.VALIDATING:
        through.append(AssetState.ANALYZING)
        facts["content_type"] = mime
    move_asset(session, asset, AssetState.QUARANTINED, through=through, **facts)


def _note_clean(session: Session, asset_id: str, etag: str | None) -> None:
    asset = lock_asset(session, asset_id)
    if asset is not None:
        set_fields(session, asset, scanned_etag=etag)


def _note_failure(session: Session, session_id: str, code: str, reason: str) -> None:
    found = rows.find_upload(session, session_id)
    if found is None:
        return
    asset = lock_asset(session, found.asset.id)
    if asset is not None and AssetState(asset.state) not in DELIVERABLE and asset.state != AssetState.QUARANTINED:
        set_fields(session, asset, error_code=code, error_reason=reason[:MAX_REASON_CHARS])
