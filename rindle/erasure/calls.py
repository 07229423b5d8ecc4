"""The calls of ``Rindle`` that erase: an owner, several owners, and one asset by force.

Signatures and documentation only; the flows are in :mod:`.owners`, :mod:`.certificate` and :mod:`.force_delete`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from rindle.db.ids import AssetOrId
from rindle.erasure import certificate, force_delete
from rindle.erasure import owners as _owners
from rindle.erasure.certificate import ErasureCertificate
from rindle.erasure.force_delete import ForceDeleteReport
from rindle.erasure.reports import BatchErasureReport, OwnerErasureReport
from rindle.services import Services


class ErasureCalls:
    """The part of :class:`rindle.Rindle` that erases."""

    services: Services

    async def preview_owner_erasure(self, owner: Any) -> OwnerErasureReport:
        """Report what :meth:`erase_owner` would remove now; writes nothing.

        Args:
            owner: as for :meth:`attach`.

        Raises:
            InvalidOwner: this is not an owner.

        Example:
            report = await rindle.preview_owner_erasure(member)
            print(report.assets_to_purge.count, report.retained_shared_assets.count)
        """
        return await _owners.preview_owner_erasure(self.services, owner)

    async def erase_owner(
        self, owner: Any, *, operation_id: str | UUID | None = None, actor: str | UUID | None = None
    ) -> OwnerErasureReport:
        """Remove every attachment of an owner now, and delete the assets that no other owner uses in the background.

        The attachments, the queued purges and the report are written in one transaction. A repeated call with the same
        ``operation_id`` returns the stored report. The workflow of the operation waits until every purge has ended;
        :meth:`erasure_certificate` has the evidence. The application's own row of the owner stays.

        Args:
            operation_id: a UUID that names the operation, for retries; a new one when left out.
            actor: who requested it; stored in the audit events.

        Returns:
            The report; its ``operation_id`` names the certificate. An owner without attachments gives zeros.

        Raises:
            TemporalUnavailable: Temporal did not answer; nothing was done.
            ErasurePending: no worker reported in time. The erasure continues; repeat with ``detail["operation_id"]``.
            InvalidOwner: this is not an owner.
            InvalidArgument: ``operation_id`` is not a UUID, or belongs to the erasure of another owner.

        Example:
            report = await rindle.erase_owner(member, actor="support")
            print(f"{report.assets_to_purge.count} assets are deleted: {report.operation_id}")
        """
        return await _owners.erase_owner(self.services, owner, operation_id=operation_id, actor=actor)

    async def erasure_certificate(self, operation_id: str | UUID) -> ErasureCertificate:
        """Return the certificate of an erasure: for each object when it was deleted and found absent.

        Its ``status`` is ``pending`` until every purge has ended. ``to_dict()`` gives JSON, ``to_html()`` a page.

        Raises:
            NotFound: no erasure of this id has removed attachments.
            InvalidArgument: the id is neither text nor a ``UUID``.

        Example:
            report = await rindle.erase_owner(member)
            certificate = await rindle.erasure_certificate(report.operation_id)
        """
        return await certificate.erasure_certificate(self.services, operation_id)

    async def preview_batch_owner_erasure(
        self, owners: Iterable[Any], *, max_owners: int | None = None
    ) -> BatchErasureReport:
        """Report what :meth:`erase_owners` would remove now; writes nothing.

        An asset that only owners of the batch share is retained for the earlier ones and purged with the last, as in
        the execution.

        Raises:
            EmptyBatch: there is no owner.
            BatchTooLarge: there are more distinct owners than allowed.
            InvalidOwner: one of them is not an owner; ``detail["index"]`` names it.

        Example:
            report = await rindle.preview_batch_owner_erasure([member, ("team", "7")])
            print(report.net_assets_to_purge, report.net_retained_assets)
        """
        return await _owners.preview_batch_owner_erasure(self.services, owners, max_owners=max_owners)

    async def erase_owners(
        self,
        owners: Iterable[Any],
        *,
        max_owners: int | None = None,
        actor: str | UUID | None = None,
        continue_on_error: bool = False,
    ) -> BatchErasureReport:
        """Erase several owners in their order, each as :meth:`erase_owner` does, in an operation of its own.

        Owners that occur more than once are erased once. Earlier owners stay erased when a later one fails; a repeated
        call with the same owners finds nothing left of them.

        Args:
            max_owners: most distinct owners; the setting (100) when left out.
            actor: who requested it; stored in the audit events.
            continue_on_error: go on after a failure, and list it in the report.

        Raises:
            EmptyBatch: there is no owner.
            BatchTooLarge: there are more distinct owners than allowed; nothing was done.
            BatchOwnerFailed: one failed; ``detail`` has the owner, the reason and the report of the earlier ones.
            InvalidOwner: one of them is not an owner; nothing was done.

        Example:
            report = await rindle.erase_owners([member, ("team", "7")], actor="support")
            operations = [one.report.operation_id for one in report.owners]
        """
        return await _owners.erase_owners(
            self.services, owners, max_owners=max_owners, actor=actor, continue_on_error=continue_on_error
        )

    async def force_delete_asset(
        self,
        asset: AssetOrId,
        reason: str,
        *,
        actor: str | UUID,
        reference: str | None = None,
        dry_run: bool = True,
    ) -> ForceDeleteReport:
        """Delete an asset although owners use it: every attachment is removed, then it is purged. Audited.

        It needs the policy ``Rindle(force_delete_policy=...)``, a function ``(asset, attachments, actor, reason)``
        that raises an exception to refuse. Without a policy nothing is deleted by force.

        Args:
            reason: why, 1 to 255 characters; stored in the audit event.
            actor: who requested it; stored in the audit event.
            reference: number of a case or a decision, at most 255 characters; stored in the audit event.
            dry_run: report only; the default.

        Returns:
            The report, with the removed attachments; a repetition returns ``already_deleted`` and deletes nothing.

        Raises:
            ForceDeleteForbidden: there is no policy, or it refused; an attempt to execute is audited.
            NotFound: no such asset.
            InvalidArgument: reason or actor is empty or too long.

        Example:
            report = await rindle.force_delete_asset(asset, "court order", actor="legal", reference="AZ 7")
            print(report.mode, report.attachments_detached)
        """
        return await force_delete.force_delete_asset(
            self.services, asset, reason, actor=actor, reference=reference, dry_run=dry_run
        )
