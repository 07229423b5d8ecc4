"""The certificate of an erasure: when each object was deleted, and that the store did not have it afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from rindle.db import erasures as rows
from rindle.db.ids import id_of
from rindle.db.models import MediaErasure, MediaErasureAsset, is_id
from rindle.erasure.reports import Bucket, ErasedOwner, OwnerErasureReport, RetainedAsset
from rindle.errors import NotFound
from rindle.instants import iso_instant
from rindle.operations.reports import Report
from rindle.services import Services

#: What each status of a certificate says.
STATEMENTS = {
    "pending": "The attachments are removed. Not every asset is deleted yet; the erasure continues.",
    "complete": "Every object of every asset in this certificate is deleted, and the store confirmed its absence.",
    "incomplete": "The erasure has ended. Some assets were kept, or the absence of some objects was not confirmed.",
}
_OUTCOMES = {
    rows.PENDING: "not deleted yet",
    rows.PURGED: "deleted",
    rows.ATTACHED_AGAIN: "kept: attached again after the erasure",
    rows.GONE: "deleted without evidence",
}
#: How the page names the counts.
_COUNTS = {
    "attachments_detached": "Attachments removed",
    rows.PURGED: "Assets deleted",
    rows.ATTACHED_AGAIN: "Assets kept: attached again",
    rows.GONE: "Assets deleted without evidence",
    rows.PENDING: "Assets not deleted yet",
    "objects": "Objects",
    "objects_absent": "Objects found absent",
    "retained_shared_assets": "Assets kept: used by other owners",
}


@dataclass(frozen=True, slots=True)
class CertifiedObject(Report):
    """One object: when its deletion was confirmed, and when a HEAD request afterwards did not find it.

    ``absent_at`` is ``None`` while that is not confirmed; ``unverified`` is the reason: ``upload_possible`` (a signed
    upload URL was still valid), or the code of the store's refusal.
    """

    storage: str
    key: str
    deleted_at: str
    absent_at: str | None
    unverified: str | None


@dataclass(frozen=True, slots=True)
class CertifiedAsset(Report):
    """One asset: how its purge ended, and its objects.

    ``uploads_end_at`` is the time until which an upload with a signed URL could end; ``None`` when there was none. The
    objects are deleted again and checked after it.
    """

    asset_id: str
    profile: str
    outcome: str
    decided_at: datetime | None
    uploads_end_at: datetime | None
    objects: tuple[CertifiedObject, ...]


@dataclass(frozen=True, slots=True)
class ErasureCertificate(Report):
    """Evidence of an owner erasure.

    Attributes:
        status: ``pending``, ``complete`` or ``incomplete``.
        erased_at: when the attachments were removed.
        completed_at: when the last purge had ended.
        counts: attachments, assets by outcome, objects, and objects whose absence is confirmed.
    """

    operation_id: str
    owner: ErasedOwner
    actor: str | None
    status: str
    statement: str
    erased_at: datetime
    completed_at: datetime | None
    counts: dict[str, int]
    assets: tuple[CertifiedAsset, ...]
    retained_shared_assets: Bucket[RetainedAsset]

    def to_html(self) -> str:
        """Return the certificate as one readable page, which needs no other file."""
        return "\n".join(_page(self)) + "\n"


async def erasure_certificate(services: Services, operation_id: str | UUID) -> ErasureCertificate:
    """Return the certificate of an erasure; see ``Rindle.erasure_certificate``."""
    known = id_of("operation_id", operation_id)

    def read(session: Session) -> ErasureCertificate:
        erasure = rows.find(session, known) if is_id(known) else None
        if erasure is None or erasure.report is None or erasure.detached_at is None:
            raise NotFound("could not read the certificate: no such erasure", detail={"entity": "erasure"})
        return _certificate(erasure, rows.assets_of(session, erasure.id), erasure.detached_at)

    return await services.database.read(read)


def _certificate(
    erasure: MediaErasure, found: list[MediaErasureAsset] | Any, erased_at: datetime
) -> ErasureCertificate:
    report = OwnerErasureReport.from_dict(erasure.report or {})
    assets = tuple(
        CertifiedAsset(
            asset_id=row.asset_id,
            profile=row.profile,
            outcome=row.outcome,
            decided_at=row.decided_at,
            uploads_end_at=row.uploads_end_at,
            objects=tuple(CertifiedObject(**one) for one in row.objects or ()),
        )
        for row in found
    )
    outcomes = Counter(one.outcome for one in assets)
    objects = [one for asset in assets for one in asset.objects]
    absent = sum(_is_confirmed(asset, one) for asset in assets for one in asset.objects)
    has_all = absent == len(objects) and outcomes[rows.PURGED] == len(assets)
    status = "pending" if erasure.completed_at is None else "complete" if has_all else "incomplete"
    return ErasureCertificate(
        operation_id=erasure.id,
        owner=ErasedOwner(erasure.owner_type, erasure.owner_id),
        actor=erasure.actor,
        status=status,
        statement=STATEMENTS[status],
        erased_at=erased_at,
        completed_at=erasure.completed_at,
        counts={
            "attachments_detached": report.attachments_to_detach.count,
            **{name: outcomes[name] for name in (rows.PURGED, rows.ATTACHED_AGAIN, rows.GONE, rows.PENDING)},
            "objects": len(objects),
            "objects_absent": absent,
            "retained_shared_assets": report.retained_shared_assets.count,
        },
        assets=assets,
        retained_shared_assets=report.retained_shared_assets,
    )


def _is_confirmed(asset: CertifiedAsset, one: CertifiedObject) -> bool:
    """Whether the store confirmed the absence after the last upload with a signed URL could end."""
    if one.absent_at is None:
        return False
    return asset.uploads_end_at is None or one.absent_at >= iso_instant(asset.uploads_end_at)


# --- the page ----------------------------------------------------------------------------------------------------

#: Characters from which an id or a key may be broken anywhere.
_LONG = 30
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}th,td{border:1px solid #bbb;padding:.3rem .5rem;"
    "text-align:left;vertical-align:top}th{background:#f2f2f2}time{white-space:nowrap;font-size:.9em}"
    ".long{font-size:.9em;overflow-wrap:anywhere}"
    "@media print{body{margin:0;max-width:none}tr{break-inside:avoid}}"
)


def _page(certificate: ErasureCertificate) -> Iterator[str]:
    owner = certificate.owner
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8"><title>Erasure certificate</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{_STYLE}</style></head><body>"
    yield f"<h1>Erasure certificate</h1><p><strong>{_text(certificate.statement)}</strong></p>"
    yield from _table(
        ("Fact", "Value"),
        [
            ("Operation", certificate.operation_id),
            ("Owner", f"{owner.owner_type}: {owner.owner_id}"),
            ("Requested by", certificate.actor),
            ("Status", certificate.status),
            ("Attachments removed at", certificate.erased_at),
            ("Completed at", certificate.completed_at),
            *((_COUNTS[name], count) for name, count in certificate.counts.items()),
        ],
    )
    yield "<h2>Assets</h2>"
    yield from _table(
        ("Asset", "Profile", "Outcome", "Decided at", "Uploads possible until"),
        [
            (one.asset_id, one.profile, _OUTCOMES[one.outcome], one.decided_at, one.uploads_end_at)
            for one in certificate.assets
        ],
    )
    yield "<h2>Objects</h2>"
    yield from _table(
        ("Asset", "Storage", "Key", "Deleted at", "Found absent at", "Not confirmed because"),
        [
            (asset.asset_id, one.storage, one.key, one.deleted_at, one.absent_at, one.unverified)
            for asset in certificate.assets
            for one in asset.objects
        ],
    )
    yield "<h2>Kept: still used by other owners</h2>"
    yield from _table(
        ("Asset", "Profile", "Attachments of other owners"),
        [
            (one.asset_id, one.profile, one.surviving_attachment_count)
            for one in certificate.retained_shared_assets.entries
        ],
    )
    yield "</body></html>"


def _table(heads: tuple[str, ...], lines: list[tuple[Any, ...]]) -> Iterator[str]:
    if not lines:
        yield "<p>None.</p>"
        return
    yield "<table><thead><tr>" + "".join(f'<th scope="col">{_text(head)}</th>' for head in heads) + "</tr></thead>"
    yield "<tbody>"
    for line in lines:
        yield "<tr>" + "".join(_cell(value) for value in line) + "</tr>"
    yield "</tbody></table>"


def _cell(value: Any) -> str:
    """Return a cell: times stay in one line, ids and keys may be broken anywhere."""
    shown = _text(value)
    if _TIME.fullmatch(shown):
        return f"<td><time>{shown}</time></td>"
    is_name = len(shown) > _LONG and " " not in shown
    return f'<td class="long">{shown}</td>' if is_name else f"<td>{shown}</td>"


def _text(value: Any) -> str:
    if value is None:
        return "—"
    return escape(iso_instant(value) if isinstance(value, datetime) else str(value))
