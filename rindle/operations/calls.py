"""The calls of ``Rindle`` for operators: repair, checks and reports.

Signatures and documentation only. The flows are in :mod:`.repair`, :mod:`.doctor` and :mod:`.runtime_status`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Unpack
from uuid import UUID

from rindle.db.ids import AssetOrId
from rindle.operations import repair
from rindle.operations.checks.report import DoctorReport
from rindle.operations.doctor import TIMEOUT_SECONDS, doctor
from rindle.operations.findings import DEFAULT_LIMIT
from rindle.operations.keywords import NoOthers
from rindle.operations.maintenance.regenerate_variants import RegenerateReport, regenerate_variants
from rindle.operations.maintenance.reprobe import TIMEOUT_SECONDS as TIMEOUT_OF_REPROBE
from rindle.operations.maintenance.reprobe import ReprobeReport, reprobe
from rindle.operations.repair import CancelReport, RequeueReport
from rindle.operations.runtime_status import RuntimeStatus, runtime_status
from rindle.profile import Profile
from rindle.services import Services
from rindle.uploads import sessions


class OperationsCalls:
    """The part of :class:`rindle.Rindle` that operators and their tools call."""

    services: Services

    async def requeue_variants(
        self,
        asset: AssetOrId,
        variant_names: Iterable[str] | None = None,
        *,
        actor: str | UUID | None = None,
        **others: Unpack[NoOthers],
    ) -> RequeueReport:
        """Build failed and cancelled variants again, or the named ones.

        Args:
            variant_names: variants to build; all failed and cancelled ones when left out.
            actor: who requested it; stored in the audit event.

        Returns:
            A report: how many were selected, enqueued, skipped (already queued or running) and refused, with reasons.

        Raises:
            UnknownVariantNames: the asset has no variant of that name; nothing was changed.
            UnknownOptions: another keyword was given.
            NotFound: no such asset.

        Example:
            report = await rindle.requeue_variants(asset, ["large"], actor="ada")
            print(f"{report.enqueued} of {report.selected} variants queued")
        """
        return await repair.requeue_variants(self.services, asset, variant_names, actor=actor, **others)

    async def reprobe(self, asset: AssetOrId, *, timeout: float = TIMEOUT_OF_REPROBE) -> ReprobeReport:  # noqa: ASYNC109 - public name
        """Read the technical facts of an original again and correct the row: type, kind, size, duration, tracks.

        A worker reads it, confined as at promotion. Nothing else changes: state, errors, metadata, variants and
        uploads stay. A probe that fails changes nothing. Calls for one asset at the same time share one run.

        Args:
            timeout: longest wait in seconds for a worker; the run continues after it.

        Returns:
            A report: which columns have a value now (``refreshed_fields``) and which have none (``cleared_fields``).

        Raises:
            ProbeFailed: the original could not be read; ``detail["reason"]`` is the code of the cause.
            Quarantined: the content was rejected, so that it is not read again.
            InvalidTransition: the validation of the asset has not ended.
            NotFound: no such asset.
            NotSettled: no worker has read it in time.
            TemporalUnavailable: Temporal did not accept the run; nothing was started.

        Example:
            report = await rindle.reprobe(asset)
            print(report.kind, report.content_type, report.refreshed_fields)
        """
        return await reprobe(self.services, asset, wait_seconds=timeout)

    async def cancel_processing(self, asset: AssetOrId, *, actor: str | UUID | None = None) -> CancelReport:
        """Stop all open builds of an asset: rows are ``cancelled`` when this returns, processes end within 3 s.

        Args:
            actor: who requested it; stored in the audit event.

        Returns:
            A report: number of builds cancelled.

        Raises:
            NotProcessing: no build is open, or the asset does not exist.

        Example:
            report = await rindle.cancel_processing(asset, actor="ada")
            print(f"{report.cancelled} builds cancelled")
        """
        return await repair.cancel_processing(self.services, asset, actor=actor)

    async def regenerate_variants(
        self,
        profile: str | None = None,
        variant_name: str | None = None,
        *,
        detect: bool = True,
        **others: Unpack[NoOthers],
    ) -> RegenerateReport:
        """Mark ready variants whose recipe changed as stale, plan newly declared ones, and build both.

        It pages over all assets in this process; ``rindle regenerate-variants`` lets workers do it.

        Args:
            profile: name of the profile whose assets are examined; all profiles when left out.
            variant_name: only variants of this name; all when left out.
            detect: whether to look for changed recipes first; without it only variants that are marked already are
                built.

        Returns:
            A report: how many variants were queued, how many assets needed nothing, how many failed.

        Raises:
            UnknownProfile: no profile has that name.
            UnknownVariant: the profile, or no profile at all, declares a variant of that name.
            UnknownFilters: another keyword was given; ignoring it would rebuild everything.

        Example:
            report = await rindle.regenerate_variants("avatar", "thumb")
            print(f"{report.enqueued} variants queued, {report.skipped} assets up to date")
        """
        return await regenerate_variants(
            self.services, profile=profile, variant_name=variant_name, detect=detect, **others
        )

    async def resume(self, asset: AssetOrId) -> None:
        """Continue a promotion that failed because the scanner or the store was unavailable for too long.

        Raises:
            NotFound: no such asset.
            UnknownProfile: its profile is not registered, so that no step can run.

        Example:
            await rindle.resume(asset.id)
            asset = await rindle.settled(asset.id)
        """
        await sessions.resume(self.services, asset)

    async def doctor(
        self,
        *,
        profiles: Iterable[str | type[Profile]] | None = None,
        live: bool = False,
        streaming: bool = False,
        workers: bool = True,
        offline: bool = False,
        only: Collection[str] | None = None,
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the limit of each check
    ) -> DoctorReport:
        """Check everything Rindle needs; see :func:`rindle.operations.doctor.doctor`.

        Example:
            report = await rindle.doctor(workers=False)
            problems = {check.id: check.fix for check in report.checks if check.status == "error"}
        """
        return await doctor(
            self.services,
            profiles=profiles,
            live=live,
            streaming=streaming,
            workers=workers,
            offline=offline,
            only=only,
            timeout=timeout,
        )

    async def runtime_status(
        self,
        *,
        profile: str | None = None,
        older_than: int | None = None,
        limit: int = DEFAULT_LIMIT,
        format: str | None = None,
        provider_stuck: bool = False,
        **others: Unpack[NoOthers],
    ) -> RuntimeStatus:
        """Report stuck or degraded work; see :func:`rindle.operations.runtime_status.runtime_status`.

        Example:
            status = await rindle.runtime_status(older_than=600)
            stuck = [finding.name for finding in status.findings]
        """
        return await runtime_status(
            self.services,
            profile=profile,
            older_than=older_than,
            limit=limit,
            format=format,
            provider_stuck=provider_stuck,
            **others,
        )
