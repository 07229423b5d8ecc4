"""The transactions of an erasure that activities run: they receive an :class:`ErasureSteps` from the composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from rindle import outbox
from rindle.db import erasures as rows
from rindle.db import outbox as outbox_rows
from rindle.db.events import record_event
from rindle.db.models import MediaErasure, utc_now
from rindle.erasure.reports import OwnerErasureReport
from rindle.messages import ErasureCounts, ErasureProgress, SettleOrder
from rindle.protocols import OwnerRef
from rindle.services import Services
from rindle.workflows import ids


class ErasureSteps:
    """Functions on a session; the caller runs each in a transaction of its own."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings

    def detach(self, session: Session, operation_id: str) -> ErasureCounts:
        """Remove every attachment of the operation's owner, queue the purges, and store the report.

        One transaction: either all of it happened, or nothing. A repetition returns the stored report.
        """
        erasure = rows.find(session, operation_id, lock=True)
        if erasure is None:
            return ErasureCounts(operation_id=operation_id, outcome="withdrawn")
        if erasure.report is not None:
            return _counts(operation_id, erasure.report)
        plan = rows.locked_plan(session, OwnerRef(erasure.owner_type, erasure.owner_id))
        to_purge = plan.to_purge
        already = len(self._already_queued(session, to_purge) | (plan.deleted & set(to_purge)))
        rows.remove_attachments(session, plan, actor=erasure.actor)
        rows.add_assets(session, operation_id, [(asset_id, plan.profiles[asset_id]) for asset_id in to_purge])
        # Also those that are queued: a purge that has begun before this transaction has found the asset attached.
        outbox.start_purges(session, self._settings, [(asset_id, plan.profiles[asset_id]) for asset_id in to_purge])
        report = OwnerErasureReport.from_plan(
            "execute",
            plan,
            purge_enqueued=len(to_purge) - already,
            purge_already_queued=already,
            operation_id=operation_id,
        )
        self._store(session, erasure, report)
        return _counts(operation_id, erasure.report or {})

    def _already_queued(self, session: Session, asset_ids: Sequence[str]) -> set[str]:
        prefix = self._settings.workflow_id_prefix
        found = set()
        for chunk in rows.chunks(asset_ids):
            wanted = {ids.purge_id(asset_id, prefix=prefix): asset_id for asset_id in chunk}
            found |= {wanted[one] for one in outbox_rows.waiting_workflows(session, list(wanted))}
        return found

    @staticmethod
    def _store(session: Session, erasure: MediaErasure, report: OwnerErasureReport) -> None:
        erasure.report = report.to_dict()
        erasure.detached_at = utc_now()
        erasure.pending = report.assets_to_purge.count
        record_event(
            session,
            "owner.erased",
            scope=("owner_erasure", erasure.id),
            payload={
                "operation_id": erasure.id,
                "attachments": report.attachments_to_detach.count,
                "assets_to_purge": report.assets_to_purge.count,
                "retained_shared_assets": report.retained_shared_assets.count,
            },
            asset_id=None,
            actor=erasure.actor,
            audit=True,
        )
        session.flush()

    def settle(self, session: Session, order: SettleOrder) -> ErasureProgress:
        """Count the purges that have not ended, and complete the operation when all have.

        With ``restart`` one page of them is started again; those that cannot end any more get their outcome. None is
        while others end: the purges of a large erasure take longer than one pause, and nothing is lost.
        """
        after = ""
        if order.restart and (order.after or not self._is_moving(session, order.operation_id)):
            page = rows.pending_page(session, order.operation_id, order.after)
            after = page[-1].asset_id if len(page) == rows.CHUNK else ""
            for one in page:
                if not one.is_present:
                    rows.decide(session, one.asset_id, rows.GONE, operation_id=order.operation_id)
                elif one.is_attached:
                    rows.decide(session, one.asset_id, rows.ATTACHED_AGAIN, operation_id=order.operation_id)
            outbox.start_purges(
                session,
                self._settings,
                [(one.asset_id, one.profile) for one in page if one.is_present and not one.is_attached],
            )
        pending = rows.pending_count(session, order.operation_id)
        if pending == 0:
            rows.complete(session, order.operation_id)
        return ErasureProgress(
            operation_id=order.operation_id,
            pending=pending,
            after=after,
            wait_seconds=self._settings.erasure_check_seconds,
        )

    def _is_moving(self, session: Session, operation_id: str) -> bool:
        """Whether a purge of the operation has ended since the last pause began."""
        since = utc_now() - timedelta(seconds=self._settings.erasure_check_seconds)
        return rows.has_changed(session, operation_id, since)

    def kept(self, session: Session, asset_id: str) -> None:
        """Record that the purge of an asset found it attached; in the transaction that holds the lock of its row."""
        self._wake(session, rows.decide(session, asset_id, rows.ATTACHED_AGAIN))

    def deleted(
        self,
        session: Session,
        asset_id: str,
        objects: Sequence[Mapping[str, Any]],
        uploads_end_at: datetime | None,
        *,
        is_final: bool,
    ) -> None:
        """Record deleted objects; ``is_final`` in the transaction that deletes the rows of the asset."""
        outcome = rows.PURGED if is_final else rows.PENDING
        self._wake(session, rows.note_objects(session, asset_id, objects, uploads_end_at, outcome=outcome))

    def _wake(self, session: Session, ended: Sequence[str]) -> None:
        for operation_id in ended:
            outbox.wake_erasure(session, self._settings, operation_id)


def _counts(operation_id: str, report: Mapping[str, Any]) -> ErasureCounts:
    return ErasureCounts(
        operation_id=operation_id,
        attachments=report["attachments_to_detach"]["count"],
        assets_to_purge=report["assets_to_purge"]["count"],
        retained_shared_assets=report["retained_shared_assets"]["count"],
        purge_enqueued=report["purge_enqueued"],
        purge_already_queued=report["purge_already_queued"],
    )
