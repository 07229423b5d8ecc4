"""Activities of a purge."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from rindle import messages, telemetry
from rindle.activities.decode_cache import DecodeCache
from rindle.activities.deletion import Note, delete_object, never_final
from rindle.activities.erasure import Erasures
from rindle.activities.liveness import heartbeating
from rindle.activities.source_cache import SourceCache
from rindle.crash_points import crash_point
from rindle.db import erasures as erasure_rows
from rindle.db import purge as rows
from rindle.db.models import MediaAsset, MediaProviderAsset, MediaUploadSession, utc_now
from rindle.db.purge import Tombstone
from rindle.db.variants import group_of
from rindle.errors import (
    CapabilityUnsupported,
    RindleError,
    StorageNotFound,
    StorageTransient,
    StorageUnauthorized,
    TemporalUnavailable,
)
from rindle.instants import iso_instant
from rindle.messages import PurgeDecision, PurgeInput, PurgeResult, StopOrder
from rindle.protocols import Storage
from rindle.providers import remove_from_provider
from rindle.security import asset_prefix
from rindle.services import Services
from rindle.states import ProviderState, SessionState
from rindle.workflows import ids

log = logging.getLogger(__name__)

ClientOf = Callable[[], Awaitable[Client]]
#: Removes what the store keeps of an upload beside its object.
Release = Callable[[MediaUploadSession], Awaitable[None]]


class _Evidence(NamedTuple):
    """What an erasure records of deleted objects, and when the store was queried for them."""

    objects: list[dict[str, Any]]
    checked_at: datetime


class _Again(Exception):
    """The objects must be deleted again before the rows.

    A ticket was valid when the deletion began, or an erasure waits for this purge and lacks the evidence.
    """


class PurgeActivities:
    """Activities of ``PurgeWorkflow``.

    Args:
        services: the application's collaborators.
        client: gives the Temporal client, to end running work of the asset.
        sources: the host's cache of originals, whose copy is deleted too.
        erasures: records how the purges of erasures end.
        release: removes what the store keeps of an unfinished upload beside its object.
    """

    def __init__(
        self, services: Services, *, client: ClientOf, sources: SourceCache, erasures: Erasures, release: Release
    ) -> None:
        self._services = services
        self._database = services.database
        self._client = client
        self._sources = sources
        self._erasures = erasures
        self._release = release
        self._decode_cache = DecodeCache(services.settings.scratch)

    def all(self) -> list[Callable[..., Any]]:
        """Return the activities to register."""
        return [self.begin_purge, self.stop_asset_work, self.delete_asset]

    @activity.defn(name=messages.BEGIN_PURGE)
    async def begin_purge(self, order: PurgeInput) -> PurgeDecision:
        """Tombstone the asset unless it is attached; attaching takes the same row lock.

        An asset of which nothing is running is deleted at once, as by :meth:`delete_asset`: one activity is the whole
        purge. A repeated attempt finds the tombstone, and leaves the rest to the other activities.

        Raises:
            RindleError: an object could not be deleted; the row has the cause, and no cause is final.
        """

        late_put_seconds = self._services.settings.late_put_seconds

        def begin(session: Session) -> tuple[PurgeDecision, Tombstone | None]:
            decision, found = rows.begin(session, order.asset_id, late_put_seconds=late_put_seconds)
            if decision.outcome == "still_attached":
                self._erasures.kept(session, order.asset_id)
            return decision, found

        async with heartbeating(), never_final(self._note(order.asset_id)):
            decision, found = await self._database.write(begin)
            crash_point("purge.tombstoned")
            if found is None:
                return decision
            result = await self._delete(found, may_wait=True)
        if result.outcome == "waiting":  # a ticket was valid after all
            return decision
        return PurgeDecision(outcome=result.outcome, objects=result.objects, variants=result.variants)

    @activity.defn(name=messages.STOP_ASSET_WORK)
    async def stop_asset_work(self, order: StopOrder) -> None:
        """Cancel the asset's running workflows and wait for a limited time: the rows reject late output."""
        async with heartbeating():
            handles = await self._runs(order.asset_id, order.groups, order.session_ids, order.providers)
            limit = self._services.settings.purge_settle_seconds
            try:
                async with asyncio.timeout(limit):
                    await asyncio.gather(*(_end(handle) for handle in handles))
            except TimeoutError:
                log.warning("the purge continues although work is still running", extra={"asset_id": order.asset_id})

    async def _runs(
        self, asset_id: str, groups: Iterable[str], session_ids: Iterable[str], providers: Iterable[str] = ()
    ) -> list[WorkflowHandle[Any, Any]]:
        prefix, client = self._services.settings.workflow_id_prefix, await self._client()
        wanted = [
            *(ids.variants_id(asset_id, group, prefix=prefix) for group in groups),
            *(ids.upload_id(session_id, prefix=prefix) for session_id in session_ids),
            *(ids.provider_push_id(asset_id, provider, prefix=prefix) for provider in providers),
            *([ids.provider_upload_id(asset_id, prefix=prefix)] if providers else []),
        ]
        return [client.get_workflow_handle(workflow_id) for workflow_id in wanted]

    async def _terminate_runs(self, gone: Tombstone) -> None:
        """Terminate what still runs for an asset without rows: it can do nothing any more, and may never get a task."""
        groups = sorted({group_of(gone.asset.kind, row) for row in gone.variants})
        try:
            for handle in await self._runs(gone.asset.id, groups, [session.id for session in gone.sessions]):
                try:
                    await handle.terminate(reason="its asset was purged")
                    log.warning("a run outlived its asset and was terminated", extra={"workflow_id": handle.id})
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND:  # closed already, or never started
                        raise
        except (RPCError, TemporalUnavailable) as error:
            # The purge is complete. Such a run ends by itself, or by its execution timeout.
            log.warning("runs of a purged asset were not checked", extra={"error": type(error).__name__})

    @activity.defn(name=messages.DELETE_ASSET)
    async def delete_asset(self, order: PurgeInput) -> PurgeResult:
        """Delete every object of the asset, then its rows, in this order.

        While a PUT ticket of the asset may still be redeemed, the rows stay as a tombstone. The result is then
        ``waiting``, and the next call deletes what was uploaded meanwhile.

        Raises:
            RindleError: an object could not be deleted; the next attempt continues. The row has the cause, and no
                cause is final.
        """
        async with heartbeating(), never_final(self._note(order.asset_id)):
            found = await self._database.read(rows.purgeable, order.asset_id)
            if found is None:
                return PurgeResult(asset_id=order.asset_id, outcome="gone")
            return await self._delete(found, may_wait=order.may_wait)

    def _note(self, asset_id: str) -> Note:
        async def note(code: str, reason: str) -> None:
            await self._database.write(rows.note_failed, asset_id, code, reason)

        return note

    async def _delete(self, found: Tombstone, *, may_wait: bool) -> PurgeResult:
        """Delete the objects of a tombstone, then its rows; with ``may_wait`` not while a ticket may be redeemed."""
        while True:
            try:
                return await self._delete_once(found, may_wait=may_wait)
            except _Again:  # an erasure began, or the last ticket expired, while the objects were deleted
                again = await self._database.read(rows.purgeable, found.asset.id)
            if again is None:
                return PurgeResult(asset_id=found.asset.id, outcome="gone")
            found = again

    async def _delete_once(self, found: Tombstone, *, may_wait: bool) -> PurgeResult:
        asset, late_put_seconds = found.asset, self._services.settings.late_put_seconds
        storage, storage_name = self._services.storage(asset.profile), self._services.storage_name(asset.profile)
        uploads_end_at, began_at = found.uploads_end_at(late_put_seconds), utc_now()
        for upload in found.sessions:
            if upload.state != SessionState.COMPLETED:  # again each time: parts may have arrived since
                await self._release(upload)
        refusal = await self._remove_from_providers(found.providers)
        deleted: dict[str, datetime] = {}
        for key in sorted(_known_keys(found) | await _listed_keys(storage, asset)):
            await delete_object(storage, key)
            deleted[key] = utc_now()
            crash_point("purge.object_deleted")
        crash_point("purge.objects_deleted")
        await self._sources.evict(storage_name, asset.storage_key)
        self._decode_cache.discard(asset)
        if refusal is not None:  # the objects are deleted; the rows stay until the provider has deleted its copy too
            raise refusal
        evidence = None
        if found.is_erased:
            is_open = may_wait and uploads_end_at is not None and utc_now() < uploads_end_at
            evidence = await _evidence(storage, storage_name, deleted, check=not is_open)

        def finish(session: Session) -> PurgeResult:
            result = rows.finish(
                session,
                asset.id,
                objects=len(deleted),
                variants=len(found.variants),
                late_put_seconds=late_put_seconds if may_wait else None,
            )
            if result.outcome == "gone":
                return result
            is_final = result.outcome == "purged"
            needed_after = uploads_end_at if is_final and may_wait else None
            if evidence is not None and (needed_after is None or evidence.checked_at >= needed_after):
                self._erasures.deleted(session, asset.id, evidence.objects, uploads_end_at, is_final=is_final)
            elif erasure_rows.is_pending(session, asset.id):
                raise _Again
            elif needed_after is not None and began_at < needed_after:
                raise _Again  # a PUT may have ended after its object was deleted, and no row would name that one
            return result

        result = await self._database.write(finish)
        crash_point("purge.row_deleted")
        if result.outcome == "purged":
            await self._terminate_runs(found)
            counts = {"objects": len(deleted), "variants": len(found.variants)}
            telemetry.emit("rindle.asset.purged", {"profile": asset.profile}, counts)
        return result

    async def _remove_from_providers(self, at_providers: Sequence[MediaProviderAsset]) -> RindleError | None:
        """Delete the asset at its streaming providers; returns why one of them has not."""
        refusal: RindleError | None = None
        for row in at_providers:
            if row.state == ProviderState.DELETED and not row.cleanup_pending:
                continue
            try:
                await remove_from_provider(self._services, row)
            except RindleError as error:
                refusal = error
        return refusal


async def _evidence(storage: Storage, name: str, deleted: dict[str, datetime], *, check: bool) -> _Evidence:
    """Return what an erasure records of deleted objects; with ``check`` the store confirms that each one is absent.

    Raises:
        StorageTransient: the store still has one of them; the next attempt deletes it again.
    """
    checked_at, objects = utc_now(), []
    for key, deleted_at in deleted.items():
        entry: dict[str, Any] = {
            "storage": name,
            "key": key,
            "deleted_at": iso_instant(deleted_at),
            "absent_at": None,
            "unverified": None if check else "upload_possible",
        }
        if check:
            try:
                await storage.head(key)
            except StorageNotFound:
                entry["absent_at"] = iso_instant(utc_now())
            except StorageUnauthorized as error:  # the deletion was confirmed; nobody may look
                entry["unverified"] = error.code
            else:
                raise StorageTransient("the store still has an object that it has just deleted")
        objects.append(entry)
    return _Evidence(objects, checked_at)


def _known_keys(found: Tombstone) -> set[str]:
    """Return every key that the rows name, including those of builds that stored an object but did not record it."""
    keys = {found.asset.storage_key, found.asset.superseded_key, *(session.upload_key for session in found.sessions)}
    for row in found.variants:
        keys |= {row.storage_key, row.superseded_key, *(row.obsolete_keys or ())}
    return {key for key in keys if key}


async def _listed_keys(storage: Storage, asset: MediaAsset) -> set[str]:
    """Return the keys that the store lists below the asset's own prefix.

    They include what the rows cannot name: an object that the store finished writing after its deletion was confirmed.
    Stores that list nothing, or not for us, delete what the rows name.
    """
    prefix, after, found = asset_prefix(asset.profile, asset.id), None, set[str]()
    try:
        while True:
            page = await storage.list_keys(prefix, after=after)
            found |= {entry.key for entry in page.objects}
            if page.next_after is None:
                return found
            after = page.next_after
    except (StorageUnauthorized, CapabilityUnsupported, NotImplementedError):
        log.info("the store does not list the objects of an asset", extra={"asset_id": asset.id})
        return found


async def _end(handle: WorkflowHandle[Any, Any]) -> None:
    """Request cancellation of a run and wait until it has ended, however it ends."""
    try:
        await handle.cancel()
        await handle.result()
    except WorkflowFailureError:
        return
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # closed already, or never started
            raise
