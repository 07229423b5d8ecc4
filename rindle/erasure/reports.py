"""Reports of erasures: what was or would be removed, per owner and per batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rindle.db.erasures import Plan
from rindle.operations.reports import Report
from rindle.protocols import OwnerRef

E = TypeVar("E", bound=Report)


@dataclass(frozen=True, slots=True)
class DetachedAttachment(Report):
    """An attachment that is removed."""

    attachment_id: str
    asset_id: str
    slot: str


@dataclass(frozen=True, slots=True)
class PurgedAsset(Report):
    """An asset that no other owner uses: its objects and rows are deleted."""

    asset_id: str
    profile: str


@dataclass(frozen=True, slots=True)
class RetainedAsset(Report):
    """An asset that other owners still use, with the number of their attachments: it is kept."""

    asset_id: str
    profile: str
    surviving_attachment_count: int


@dataclass(frozen=True, slots=True)
class Bucket(Report, Generic[E]):
    """A part of a report: the entries and their number."""

    count: int
    entries: tuple[E, ...]

    @classmethod
    def holding(cls, entries: Iterable[E]) -> Bucket[E]:
        """Return a bucket of ``entries``."""
        held = tuple(entries)
        return cls(len(held), held)


@dataclass(frozen=True, slots=True)
class ErasureBuckets(Report):
    """What an erasure removes and keeps; for one owner ordered by slot, asset and id, for a batch by owner first.

    Attributes:
        mode: ``preview`` or ``execute``.
    """

    mode: str
    attachments_to_detach: Bucket[DetachedAttachment]
    assets_to_purge: Bucket[PurgedAsset]
    retained_shared_assets: Bucket[RetainedAsset]


@dataclass(frozen=True, slots=True)
class OwnerErasureReport(ErasureBuckets):
    """Outcome of ``preview_owner_erasure`` and ``erase_owner``.

    Attributes:
        purge_enqueued: purges that the operation has queued; 0 in a preview.
        purge_already_queued: assets whose purge was queued before; 0 in a preview.
        operation_id: names the operation and its certificate; empty in a preview.
    """

    purge_enqueued: int = 0
    purge_already_queued: int = 0
    operation_id: str = field(default="", metadata={"optional": True})

    @classmethod
    def from_plan(cls, mode: str, plan: Plan, **facts: Any) -> OwnerErasureReport:
        """Return the report of a plan."""
        return cls(
            mode,
            Bucket.holding(
                DetachedAttachment(attachment_id, asset_id, slot)
                for attachment_id, asset_id, slot, *_ in plan.attachments
            ),
            Bucket.holding(PurgedAsset(asset_id, plan.profiles[asset_id]) for asset_id in plan.to_purge),
            Bucket.holding(
                RetainedAsset(asset_id, plan.profiles[asset_id], plan.survivors[asset_id]) for asset_id in plan.retained
            ),
            **facts,
        )

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> OwnerErasureReport:
        """Return the report whose JSON form is ``document``."""
        return cls(
            document["mode"],
            Bucket.holding(DetachedAttachment(**one) for one in document["attachments_to_detach"]["entries"]),
            Bucket.holding(PurgedAsset(**one) for one in document["assets_to_purge"]["entries"]),
            Bucket.holding(RetainedAsset(**one) for one in document["retained_shared_assets"]["entries"]),
            purge_enqueued=document["purge_enqueued"],
            purge_already_queued=document["purge_already_queued"],
            operation_id=document.get("operation_id", ""),
        )


@dataclass(frozen=True, slots=True)
class ErasedOwner(Report):
    """The owner of a report."""

    owner_type: str
    owner_id: str


@dataclass(frozen=True, slots=True)
class OwnerOfBatch(Report):
    """One owner of a batch, with the report."""

    owner: ErasedOwner
    report: OwnerErasureReport


@dataclass(frozen=True, slots=True)
class OwnerFailure(Report):
    """One owner of a batch that was not erased, with the code and the message of the error."""

    owner: ErasedOwner
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchErasureReport(ErasureBuckets):
    """Outcome of ``preview_batch_owner_erasure`` and ``erase_owners``: the entries of all owners, in their order.

    Attributes:
        net_assets_to_purge: assets that the batch purges, each counted once.
        net_retained_assets: assets that are kept after the last owner; one that is shared only inside the batch is
            retained for an earlier owner and purged with the last, so it is not counted here.
        failures: owners that failed, with ``continue_on_error``.
    """

    net_assets_to_purge: int
    net_retained_assets: int
    owners: tuple[OwnerOfBatch, ...]
    failures: tuple[OwnerFailure, ...] = field(default=(), metadata={"optional": True})

    @classmethod
    def holding(
        cls,
        mode: str,
        owners: Sequence[tuple[OwnerRef, OwnerErasureReport]],
        failures: Sequence[OwnerFailure] = (),
    ) -> BatchErasureReport:
        """Return the report of a batch."""
        reports = [report for _, report in owners]
        purged = {one.asset_id for report in reports for one in report.assets_to_purge.entries}
        retained = {one.asset_id for report in reports for one in report.retained_shared_assets.entries}
        return cls(
            mode,
            Bucket.holding(one for report in reports for one in report.attachments_to_detach.entries),
            Bucket.holding(one for report in reports for one in report.assets_to_purge.entries),
            Bucket.holding(one for report in reports for one in report.retained_shared_assets.entries),
            net_assets_to_purge=len(purged),
            net_retained_assets=len(retained - purged),
            owners=tuple(OwnerOfBatch(ErasedOwner(ref.type, ref.id), report) for ref, report in owners),
            failures=tuple(failures),
        )
