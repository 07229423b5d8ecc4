"""What building variants does outside the workflow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from temporalio import activity

from rindle import messages
from rindle.activities.builders import Builders, BuildResult
from rindle.activities.claim_watch import ClaimWatch
from rindle.activities.deletion import delete_object, never_final
from rindle.activities.liveness import heartbeating, scratch_directory
from rindle.activities.progress import ClaimLost, Progress, run_reporting_progress
from rindle.activities.source_cache import SourceCache
from rindle.activities.steps import attempt_facts, step_id
from rindle.cancellation import run_to_end
from rindle.crash_points import crash_point
from rindle.db import variants as rows
from rindle.db.database import outage_of
from rindle.db.models import MediaAsset
from rindle.db.transitions import lock_asset
from rindle.db.variants import Claim, ClaimedGroup, ObsoleteKeys
from rindle.errors import (
    FfmpegNotFound,
    InsufficientDiskHeadroom,
    ObjectChanged,
    PluginUnavailable,
    RindleError,
    StateConflict,
    StorageAdapterException,
    StorageError,
    StorageNotFound,
    Unexpected,
    VariantSourceNotFound,
    describe,
)
from rindle.messages import GroupOrder, GroupStatus, VariantInput
from rindle.profile import Profile
from rindle.protocols import Storage
from rindle.services import Services
from rindle.states import DELIVERABLE, AssetState, VariantState

log = logging.getLogger(__name__)

#: Codes of failures that usually repeat: one retry, then final.
_ONE_RETRY = frozenset({"process_timeout", "ffmpeg_failed", "output_duration_mismatch"})
#: Failures of the infrastructure: the row is queued again, and no attempt is counted.
_INFRASTRUCTURE_ERRORS = (StorageError, FfmpegNotFound, InsufficientDiskHeadroom, PluginUnavailable, StateConflict)

#: Builds files for claims, from source, asset, profile, claims and scratch directory.
Build = Callable[[Path, MediaAsset, type[Profile], Sequence[Claim], Path], Awaitable[list[BuildResult]]]


class VariantActivities:
    """Activities of ``VariantWorkflow``.

    Args:
        services: the application's collaborators.
        sources: the host's cache of originals.
        builders: the worker's engines.
    """

    def __init__(
        self,
        services: Services,
        *,
        sources: SourceCache,
        builders: Builders,
        on_ready: Callable[[Session, str, type[Profile], Collection[str]], None] = lambda *_: None,
    ) -> None:
        self._services = services
        self._database = services.database
        self._sources = sources
        self._builders = builders
        self._on_ready = on_ready
        self._watch = ClaimWatch(services.database)

    def steps(self) -> list[Callable[..., Any]]:
        """Return the SQL activities and the removal of obsolete objects, for the workflows' queue."""
        return [self.read_group, self.requeue_group, self.cancel_group, self.fail_group, self.remove_obsolete]

    @activity.defn(name=messages.RENDER_IMAGES)
    async def render_images(self, order: VariantInput) -> GroupStatus:
        """Build all queued variants of the group from one decode. It may run repeatedly.

        Keys contain the generation of the claim, so every attempt writes an object of its own. The final
        compare-and-set requires that generation, so a late result changes nothing, and its object is deleted.

        Raises:
            StorageTransient: the store did not answer; retried within the policy's budget.
            RindleError: why some variants must be retried; the others are done.
        """
        async with heartbeating():
            return await self._run(order, self._builders.render)

    @activity.defn(name=messages.BUILD_AV)
    async def build_av(self, order: VariantInput) -> GroupStatus:
        """Build the queued variant of a group with ffmpeg or the profile's own processor. It may run repeatedly.

        As :meth:`render_images`; progress is reported with the heartbeats and as events.

        Raises:
            StorageTransient: the store did not answer; retried within the policy's budget.
            FfmpegNotFound: this worker has no ffmpeg; retried within the policy's budget, perhaps elsewhere.
            InsufficientDiskHeadroom: there is no room on this worker's disk; likewise.
            RindleError: the variant must be retried.
        """
        progress = Progress()

        async def build(
            source: Path, asset: MediaAsset, profile: type[Profile], claims: Sequence[Claim], scratch: Path
        ) -> list[BuildResult]:
            return [
                await run_reporting_progress(
                    self._database,
                    claim,
                    progress,
                    self._builders.build(source, asset, profile, claim, scratch, progress.rise),
                )
                for claim in claims  # one: an audio or video group is one variant
            ]

        async with heartbeating(lambda: {"pct": progress.step}):
            return await self._run(order, build)

    async def _run(self, order: VariantInput, build: Build) -> GroupStatus:
        crash_point("render.before")
        claimed = await self._database.write(
            rows.claim_group, order.asset_id, order.group, self._services.profile, attempt_facts()
        )
        crash_point("render.claimed")
        if claimed is None or not (claimed.claims or claimed.obsolete):
            return await self._status(order)
        storage = self._services.storage(claimed.asset.profile)
        await self._try_to_remove(storage, claimed.obsolete)
        built = await self._build(order, storage, claimed, build) if claimed.claims else None
        return built or await self._status(order)

    async def _build(
        self, order: VariantInput, storage: Storage, claimed: ClaimedGroup, build: Build
    ) -> GroupStatus | None:
        """Build the claims; returns the status of the group if the last recorded result was a success.

        Raises:
            RindleError: some of the claims must be retried.
        """
        asset = claimed.asset
        profile = self._services.profile(asset.profile)
        claims = await self._buildable(profile, claimed.claims)
        if not claims:
            return None
        begun: set[str] = set()  # keys at which this attempt may have stored an object
        try:
            if order.group != messages.IMAGES_GROUP:
                self._builders.require_room(asset.byte_size or 0)
            async with AsyncExitStack() as stack:
                async with self._watch.watching(claims):
                    source = await stack.enter_async_context(
                        self._sources.open_local(
                            storage,
                            self._services.storage_name(profile),
                            asset.storage_key,
                            asset.stored_etag,
                            asset.byte_size or 0,
                        )
                    )
                    scratch = await stack.enter_async_context(scratch_directory(self._services.settings.scratch))
                    crash_point("render.fetched")
                    results = await build(source, asset, profile, claims, scratch)
                crash_point("render.rendered")
                return await self._settle(order, storage, asset, results, begun)
        except (StorageNotFound, ObjectChanged) as error:
            gone = VariantSourceNotFound(
                "the original is gone from its store or is no longer the one that was validated; upload it again",
                detail={"asset_id": asset.id},
            )
            await self._fail_all(claims, gone)
            log.warning("variant source lost", extra={"asset_id": asset.id, "code": error.code})
            return None
        except StorageAdapterException as error:
            # Perhaps a defect of the adapter: without a count it would cost a build every half minute for a day.
            await self._count_failure(claims, error, begun)
            return None
        except _INFRASTRUCTURE_ERRORS as error:
            await self._release_claims(claims, error, begun)
            raise
        except ClaimLost:
            return None
        except asyncio.CancelledError:
            # Cancelled: rows of this build are queued again, unless a cancel has already moved them.
            await run_to_end(self._release_claims(claims, None, begun))
            raise
        except RindleError:
            raise
        except Exception as error:
            outage = outage_of(error)
            if outage is not None:
                await self._release_claims(claims, outage, begun)
                raise outage from error
            log.exception("build failed", extra={"asset_id": asset.id, "error": type(error).__name__})
            unforeseen = Unexpected(f"the build failed with {type(error).__name__}")
            await self._count_failure(claims, unforeseen, begun, error)
            return None

    async def _count_failure(
        self, claims: Sequence[Claim], failure: RindleError, begun: Collection[str], cause: Exception | None = None
    ) -> None:
        """Count an attempt of every claim that is not done, so that the retries end.

        Raises:
            RindleError: some of the claims have attempts left.
        """
        retries = [await self._record_failure(claim, failure, claim.key in begun) for claim in claims]
        retry = next((again for again in retries if again is not None), None)
        if retry is not None:
            raise retry from cause

    async def _buildable(self, profile: type[Profile], claims: Sequence[Claim]) -> list[Claim]:
        """Fail claims that no engine of this process can build, before the source is fetched; returns the others."""
        buildable = []
        for claim in claims:
            refusal = self._builders.refusal(profile, claim)
            if refusal is None:
                buildable.append(claim)
            else:
                await self._fail_all([claim], refusal)
        return buildable

    async def _settle(
        self,
        order: VariantInput,
        storage: Storage,
        asset: MediaAsset,
        results: Sequence[BuildResult],
        begun: set[str],
    ) -> GroupStatus | None:
        """Store the results and record them in one transaction; failures are recorded one by one before.

        Adds the keys at which it begins to store to ``begun``.

        Raises:
            RindleError: some variants must be retried; the successful ones are recorded.
        """
        retry: RindleError | None = None
        stored: list[tuple[Claim, Mapping[str, Any]]] = []
        for made in results:
            if made.error is not None:
                retry = await self._record_failure(made.claim, made.error) or retry
        try:
            for made in results:
                if made.path is None:
                    continue
                begun.add(made.claim.key)
                await storage.store(made.claim.key, made.path, content_type=made.facts["content_type"])
                crash_point("render.stored")
                stored.append((made.claim, made.facts))
        finally:
            # Also after a storage error halfway: stored results are not built again.
            measured = next((one.source_duration_ms for one in results if one.source_duration_ms is not None), None)
            status = await self._record(order, storage, asset, stored, measured) if stored else None
        if retry is not None:
            raise retry
        return status

    async def _record(
        self,
        order: VariantInput,
        storage: Storage,
        asset: MediaAsset,
        stored: Sequence[tuple[Claim, Mapping[str, Any]]],
        measured_ms: int | None,
    ) -> GroupStatus:
        profile = self._services.profile(asset.profile)

        def record(session: Session) -> tuple[rows.ObsoleteKeys, GroupStatus]:
            found = rows.record_built(session, asset.id, order.group, asset.storage_key, stored, measured_ms)
            if profile.delivery_policy().streaming is not None:
                self._on_ready(session, asset.id, profile, rows.ready_of(session, asset.id, stored))
            return found

        unwanted, status = await self._database.write(record)
        crash_point("render.recorded")
        left = await self._try_to_remove(storage, unwanted)
        return status.model_copy(update={"obsolete": left})

    async def _record_failure(self, claim: Claim, error: RindleError, may_exist: bool = False) -> RindleError | None:
        failures = claim.attempts + 1
        killed = "signal" in error.detail  # by another program, so the source is not the cause
        allowed = 2 if error.code in _ONE_RETRY and not killed else self._services.settings.variant_attempts
        final = not error.retryable or failures >= allowed
        code, reason = describe(error)
        ours = await self._database.write(
            rows.record_failure, claim, code=code, reason=reason, final=final, may_exist=may_exist
        )
        return None if final or not ours else error

    async def _fail_all(self, claims: Sequence[Claim], error: RindleError) -> None:
        code, reason = describe(error)
        for claim in claims:
            await self._database.write(rows.record_failure, claim, code=code, reason=reason, final=True)

    async def _release_claims(self, claims: Sequence[Claim], error: RindleError | None, begun: Collection[str]) -> None:
        """Queue the rows of this build again, without counting an attempt."""
        code, reason = ("interrupted", "the worker stopped") if error is None else describe(error)
        for claim in claims:
            await self._database.write(
                rows.record_failure,
                claim,
                code=code,
                reason=reason,
                final=False,
                counted=False,
                may_exist=claim.key in begun,
            )

    async def _try_to_remove(self, storage: Storage, obsolete: ObsoleteKeys) -> int:
        """Delete obsolete objects; returns how many are left, which the workflow then removes without an end.

        A store that refuses deletions must not stop builds.
        """
        left = 0
        for variant_id, keys in obsolete.items():
            for key in keys:
                try:
                    await self._remove(storage, variant_id, key)
                except StorageError as error:
                    left += 1
                    log.warning("obsolete object not deleted yet", extra={"code": error.code, "variant_id": variant_id})
        return left

    async def _remove(self, storage: Storage, variant_id: str, key: str) -> None:
        await delete_object(storage, key)
        crash_point("render.superseded_deleted")
        await self._database.write(rows.forget_keys, variant_id, [key])

    async def _status(self, order: VariantInput | GroupOrder, *, moved: int = 0) -> GroupStatus:
        return await self._database.read(rows.status, order.asset_id, order.group, moved=moved)

    # -- SQL steps of the signals ---------------------------------------------------------------------------------

    @activity.defn(name=messages.READ_GROUP)
    async def read_group(self, order: GroupOrder) -> GroupStatus:
        """Count the states of the group's rows."""
        return await self._status(order)

    @activity.defn(name=messages.REQUEUE_GROUP)
    async def requeue_group(self, order: GroupOrder) -> GroupStatus:
        """Move the group's failed and cancelled rows (or the named ones) to ``queued``."""
        moved = await self._database.write(_requeue, order, self._services, step_id())
        crash_point("requeue.moved")
        return await self._status(order, moved=moved)

    @activity.defn(name=messages.CANCEL_GROUP)
    async def cancel_group(self, order: GroupOrder) -> GroupStatus:
        """Move the group's open rows (or the named ones) to ``cancelled``."""
        moved = await self._database.write(_cancel, order, step_id())
        crash_point("cancel.moved")
        return await self._status(order, moved=moved)

    @activity.defn(name=messages.FAIL_GROUP)
    async def fail_group(self, order: GroupOrder) -> GroupStatus:
        """Fail the group's open rows after its build has failed permanently."""
        failure = order.failure or messages.Failure(code="unexpected")
        moved = await self._database.write(rows.fail_group, order.asset_id, order.group, failure, step_id())
        return await self._status(order, moved=moved)

    @activity.defn(name=messages.REMOVE_OBSOLETE)
    async def remove_obsolete(self, order: GroupOrder) -> GroupStatus:
        """Delete the objects that the group's rows no longer name: replaced ones, and those of lost builds.

        Raises:
            StorageError: an object could not be deleted; retried without an end.
        """
        async with heartbeating(), never_final():
            asset, obsolete = await self._database.read(rows.obsolete_of_group, order.asset_id, order.group)
            if asset is not None:
                storage = self._services.storage(asset.profile)
                for variant_id, keys in obsolete.items():
                    for key in keys:
                        await self._remove(storage, variant_id, key)
        return await self._status(order)


def _named(order: GroupOrder, asset: MediaAsset, session: Session) -> list[Any]:
    found = rows.rows_of_group(session, asset, order.group)
    return found if order.names is None else [row for row in found if row.name in order.names]


def _requeue(session: Session, order: GroupOrder, services: Services, step: str) -> int:
    asset = lock_asset(session, order.asset_id)
    if asset is None or AssetState(asset.state) not in DELIVERABLE:
        return 0
    profile = services.profile(asset.profile)
    repairable = {VariantState.FAILED, VariantState.CANCELLED}
    if order.names is not None:
        rows.detect_drift(session, asset, profile)  # readers see these variants as stale already
        repairable |= {VariantState.STALE, VariantState.MISSING}
    new = rows.apply_once(session, _named(order, asset, session), step)
    wanted = [row for row in new if row.state in repairable and row.name in profile.variants]
    return len(rows.requeue_rows(session, asset, wanted, profile))


def _cancel(session: Session, order: GroupOrder, step: str) -> int:
    asset = lock_asset(session, order.asset_id)
    if asset is None:
        return 0
    return len(rows.cancel_rows(session, asset, rows.apply_once(session, _named(order, asset, session), step)))
