"""Reconcile the rows of assets at streaming providers with what the providers have, and retry what has failed there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Select, or_, select, union_all
from sqlalchemy.orm import Session
from temporalio.service import RPCError

from rindle import outbox, telemetry
from rindle.db import providers as rows
from rindle.db.assets import no_such_asset
from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaProviderAsset, is_id, utc_now
from rindle.db.transitions import lock_asset
from rindle.errors import InvalidTransition, NotFound, RindleError, StateConflict, TemporalUnavailable
from rindle.messages import SweepFailure
from rindle.operations.maintenance.sweep import (
    PAGE,
    Page,
    ProfileOptions,
    Sweep,
    SweepReport,
    SweepRun,
    for_each,
    run_here,
)
from rindle.operations.reports import Report
from rindle.operations.runs import describe_run
from rindle.profile import DIRECT_CREATOR_UPLOAD
from rindle.providers import delete_at_provider, give_up_if_stuck, poll, remove_from_provider
from rindle.services import Services
from rindle.states import OPEN_PROVIDER_STATES, ProviderState
from rindle.workflows import ids

#: Seconds a row must not have changed before a sweep looks at it: its workflow has just moved it.
GRACE_SECONDS = 30
#: Seconds after which a row that was given up is not looked at any more.
GIVEN_UP_SECONDS = 86_400
#: Pages with open rows in one sweep: providers limit the rate of calls, and the next sweep continues with the oldest.
OPEN_PAGES = 2


class ProviderSyncOptions(ProfileOptions):
    """Options of the sweep.

    Attributes:
        asset_id: only this asset, whatever the age and the state of its rows; all when ``None``.
    """

    asset_id: str | None = None


class ProviderSyncReport(SweepReport):
    """Numbers of rows: examined, changed to what the provider has, unchanged, given up, failed."""

    scanned: int = 0
    resolved: int = 0
    unchanged: int = 0
    stuck: int = 0
    errors: int = 0


class _Outcome(StrEnum):
    """What became of a row; the name of its counter."""

    RESOLVED = "resolved"
    UNCHANGED = "unchanged"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class _Cursor:
    """Where a page begins: the class of rows, how many pages had wanted ones, and the last row that was examined."""

    kind: int = 0
    pages: int = 0
    changed_at: datetime | None = None
    row_id: str = ""

    @classmethod
    def of(cls, text: str) -> _Cursor:
        """Read a cursor; the first one is empty."""
        if not text:
            return cls()
        kind, pages, changed_at, row_id = text.split("|")
        return cls(int(kind), int(pages), datetime.fromisoformat(changed_at) if changed_at else None, row_id)

    def __str__(self) -> str:
        changed_at = "" if self.changed_at is None else self.changed_at.isoformat()
        return f"{self.kind}|{self.pages}|{changed_at}|{self.row_id}"


class ProviderSync(Sweep[ProviderSyncOptions, ProviderSyncReport]):
    """Reads what providers have of the rows that no workflow follows, oldest first.

    These are open rows; rows that were given up as stuck, for a day, since the provider may finish them late; and
    deleted rows whose copy at the provider is still to be deleted. An asset that was perhaps never created is given to
    its workflow again. The cursor is the last row.
    """

    name = "provider-sync"
    title = "Reconciliation with streaming providers"
    options, report = ProviderSyncOptions, ProviderSyncReport
    not_beside: ClassVar[tuple[str, ...]] = ()

    async def page(self, run: SweepRun[ProviderSyncOptions], cursor: str) -> Page[ProviderSyncReport]:
        """Reconcile one page of rows; one that fails is counted."""
        services, after = run.services, _Cursor.of(cursor)
        found, following = await services.database.read(_page, run.options, after, run.started_at)
        followed = set() if run.options.asset_id else await _followed(services, found)
        failures: list[SweepFailure] = []

        async def one(row: MediaProviderAsset) -> _Outcome | None:
            if row.id in followed:
                return _Outcome.UNCHANGED
            try:
                return await _sync(services, row)
            except RindleError as error:
                failures.append(SweepFailure(item=row.asset_id, code=error.code))
                return None

        outcomes = await for_each(found, one)
        counters = {outcome.value: outcomes.count(outcome) for outcome in _Outcome}
        report = ProviderSyncReport(scanned=len(found), errors=len(failures), **counters)
        return Page(report, None if following is None else str(following), failures=tuple(failures))


async def provider_sync(
    services: Services, asset: AssetOrId | None = None, *, profile: str | None = None
) -> ProviderSyncReport:
    """Reconcile in this process.

    Raises:
        UnknownProfile: no profile has that name.
    """
    asset_id = None if asset is None else id_of_asset(asset)
    return (await run_here(services, ProviderSync(), ProviderSyncOptions(profile=profile, asset_id=asset_id))).report


# --- the rows ----------------------------------------------------------------------------------------------------


def _page(
    session: Session, options: ProviderSyncOptions, after: _Cursor, started_at: datetime
) -> tuple[Sequence[MediaProviderAsset], _Cursor | None]:
    """Return the rows of a page, and where the next one begins."""
    if not rows.have_table(session):
        return (), None
    if options.asset_id is not None:
        return [row for row in rows.all_of(session, options.asset_id) if _has_something(row)], None
    kind, row = _KINDS[after.kind], MediaProviderAsset
    examined = session.execute(_next(kind, after, started_at)).all()
    wanted = [row.id.in_([one.id for one in examined]), *kind.wanted]
    if options.profile is not None:
        wanted.append(row.profile == options.profile)
    found = session.scalars(select(row).where(*wanted).order_by(row.updated_at, row.id)).all()
    pages = after.pages + bool(found)
    if len(examined) < PAGE or pages == kind.most_pages:
        return found, _Cursor(after.kind + 1) if after.kind + 1 < len(_KINDS) else None
    return found, _Cursor(after.kind, pages, examined[-1].updated_at, examined[-1].id)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A class of rows: their states, their age in seconds, which of them are wanted, and how many pages are done."""

    states: tuple[ProviderState, ...]
    wanted: tuple[ColumnElement[bool], ...] = ()
    min_age: float = 0
    max_age: float | None = None
    most_pages: int | None = None


#: The classes of rows, in the order of the pages: open, given up, to be deleted.
_KINDS = (
    _Kind((ProviderState.UPLOADING, ProviderState.PROCESSING), min_age=GRACE_SECONDS, most_pages=OPEN_PAGES),
    _Kind(
        (ProviderState.ERRORED,),
        (or_(*(MediaProviderAsset.last_sync_error.startswith(why, autoescape=True) for why in rows.GIVEN_UP)),),
        max_age=GIVEN_UP_SECONDS,
    ),
    _Kind((ProviderState.DELETED,), (MediaProviderAsset.cleanup_pending.is_(True),)),
)


def _next(kind: _Kind, after: _Cursor, started_at: datetime) -> Select[str, datetime]:
    """Return the query of the next rows in the states of a class, wanted or not, oldest first.

    Those of each state come in order from the index on state and time: a page examines :data:`PAGE` rows, however many
    there are and however few of them are wanted.
    """
    row = MediaProviderAsset
    limits = [row.updated_at <= started_at - timedelta(seconds=kind.min_age)]
    if kind.max_age is not None:
        limits.append(row.updated_at >= started_at - timedelta(seconds=kind.max_age))
    if after.changed_at is not None:
        limits.append(row.updated_at >= after.changed_at)
        limits.append(or_(row.updated_at > after.changed_at, row.id > after.row_id))
    parts = []
    for state in kind.states:
        part = select(row.id, row.updated_at).where(row.state == state, *limits)
        parts.append(select(part.order_by(row.updated_at, row.id).limit(PAGE).subquery()))
    merged = union_all(*parts).subquery()
    return select(merged.c.id, merged.c.updated_at).order_by(merged.c.updated_at, merged.c.id).limit(PAGE)


def _has_something(row: MediaProviderAsset) -> bool:
    return row.state != ProviderState.DELETED or row.cleanup_pending


async def _followed(services: Services, found: Sequence[MediaProviderAsset]) -> set[str]:
    """Return the ids of the open rows that have a running workflow; none while Temporal does not answer.

    What a sweep does beside a workflow is harmless: both change rows under the lock of the asset.
    """
    is_open = [row for row in found if ProviderState(row.state) in OPEN_PROVIDER_STATES]
    if not is_open:
        return set()
    prefix = services.settings.workflow_id_prefix
    try:
        client = await services.temporal.client()

        async def running(row: MediaProviderAsset) -> bool:
            run_id = ids.provider_run_id(row.asset_id, row.provider_name, row.ingest_mode, prefix=prefix)
            described = await describe_run(client, run_id)
            return described is not None and described.is_running

        are_running = await for_each(is_open, running)
    except (RPCError, TemporalUnavailable):
        return set()
    return {row.id for row, is_running in zip(is_open, are_running, strict=True) if is_running}


async def _sync(services: Services, row: MediaProviderAsset) -> _Outcome:
    """Bring one row to what its provider has."""
    if row.state == ProviderState.DELETED:
        await remove_from_provider(services, row)
    elif row.provider_asset_id is not None:
        if (failure := await poll(services, row)) is not None:
            await _give_up(services, row)
            raise failure
    elif _is_upload(row):  # its workflow waits until the time for the bytes is over
        named = (row.asset_id, row.profile, row.provider_name)
        await services.database.write(outbox.wake_provider_upload, services.settings, *named)
        return _Outcome.UNCHANGED
    if await _give_up(services, row):
        return _Outcome.STUCK
    now = await services.database.read(rows.find, row.asset_id, row.profile, row.provider_name)
    if now is not None and now.provider_asset_id is None and now.state in OPEN_PROVIDER_STATES:
        named = (row.asset_id, row.profile, row.provider_name)
        await services.database.write(outbox.start_push, services.settings, *named)
    is_unchanged = now is not None and (now.state, now.cleanup_pending, now.playback_ids) == (
        row.state,
        row.cleanup_pending,
        row.playback_ids,
    )
    telemetry.emit("rindle.provider.sync.resolved", {**_facts(row), "no_change": is_unchanged}, _age(row))
    return _Outcome.UNCHANGED if is_unchanged else _Outcome.RESOLVED


async def _give_up(services: Services, row: MediaProviderAsset) -> bool:
    """Give up a row that is still as old as it was; returns whether it has."""
    now = await services.database.read(rows.find, row.asset_id, row.profile, row.provider_name)
    if now is None or not await give_up_if_stuck(services, now):
        return False
    telemetry.emit("rindle.provider.sync.stuck", _facts(now), _age(now))
    return True


def _is_upload(row: MediaProviderAsset) -> bool:
    return row.ingest_mode == DIRECT_CREATOR_UPLOAD and row.provider_asset_id is None


def _facts(row: MediaProviderAsset) -> dict[str, Any]:
    return {"profile": row.profile, "provider": row.provider_name, "asset_id": row.asset_id, "state": row.state}


def _age(row: MediaProviderAsset) -> dict[str, float]:
    return {"age_ms": (utc_now() - row.updated_at).total_seconds() * 1000}


# --- once more ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProviderRetryReport(Report):
    """Outcome of :func:`provider_retry`: the asset is given to the provider again in the background."""

    asset_id: str
    provider: str
    state: str


async def provider_retry(services: Services, asset: AssetOrId) -> ProviderRetryReport:
    """Give an asset that is ``errored`` at its provider to it once more.

    What the provider has of the first attempt is deleted there first, so that it is not billed for two.

    Raises:
        NotFound: no such asset, or it was never given to a provider.
        InvalidTransition: it is not ``errored``, or it was uploaded to the provider itself, so that only its creator
            can send it again.
        ProviderSyncFailed, ProviderQuotaExceeded: the provider did not delete the first attempt; nothing changed.
        StateConflict: the row changed meanwhile.
    """
    asset_id = id_of_asset(asset)
    row = await services.database.read(_errored, services, asset_id)
    await delete_at_provider(services, row)
    await services.database.write(_restart, services, row)
    return ProviderRetryReport(asset_id=asset_id, provider=row.provider_name, state=ProviderState.PROCESSING.value)


def _errored(session: Session, services: Services, asset_id: str) -> MediaProviderAsset:
    asset = session.get(MediaAsset, asset_id, populate_existing=True) if is_id(asset_id) else None
    if asset is None:
        raise no_such_asset()
    streaming = services.profile(asset.profile).delivery_policy().streaming
    row = None
    if streaming is not None and rows.have_table(session):
        row = rows.find(session, asset_id, asset.profile, streaming.provider)
    if row is None:
        raise NotFound("the asset was never given to a streaming provider", detail={"entity": "provider_asset"})
    if row.state != ProviderState.ERRORED or row.ingest_mode == DIRECT_CREATOR_UPLOAD:
        why = (
            "was uploaded to the provider itself; only its creator can send it again"
            if row.ingest_mode == DIRECT_CREATOR_UPLOAD
            else f"is {row.state} at its provider; only an errored one is given to it again"
        )
        raise InvalidTransition(
            f"the asset {why}",
            detail={"entity": "MediaProviderAsset", "from": row.state, "to": ProviderState.PROCESSING.value},
        )
    return row


def _restart(session: Session, services: Services, seen: MediaProviderAsset) -> None:
    named = (seen.asset_id, seen.profile, seen.provider_name)
    row = None if lock_asset(session, seen.asset_id) is None else rows.find(session, *named)
    if row is None or not rows.restart(session, row, passthrough=seen.mux_passthrough):
        raise StateConflict("the asset changed at its provider meanwhile", detail={"entity": "provider_asset"})
    outbox.start_push(session, services.settings, *named)
