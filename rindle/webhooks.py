"""Webhooks of streaming providers: verified, stored once in the outbox, and sent to the workflow of their asset.

A webhook is stored before it is answered, so that it is applied also when Temporal cannot be reached. What it reports
is applied exactly once, by an activity and under the lock of its asset (:func:`rindle.db.providers.apply_event`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from rindle import messages, outbox, telemetry
from rindle.db import outbox as rows
from rindle.db import providers
from rindle.db.models import MediaOutbox, utc_now
from rindle.errors import ProviderWebhookInvalid, StateConflict
from rindle.instants import iso_instant
from rindle.profile import DIRECT_CREATOR_UPLOAD
from rindle.protocols import ProviderEvent
from rindle.services import Services
from rindle.settings import Settings
from rindle.text import is_storable
from rindle.workflows import ids

#: Pauses in seconds until the asset of a webhook is looked for again; after the last one nobody knows it.
PAUSES = (5.0, 15.0, 45.0, 90.0)
#: Errors of :func:`ingest_webhook` that mean that the database has not stored a webhook, and may store it later.
NOT_STORED = (SQLAlchemyError, StateConflict)
#: Longest id of a webhook that is used as it is; a longer one is hashed, so that keys fit their columns.
_MAX_ID_CHARS = 128
#: Longest id in a webhook that a row may have.
_MAX_NAME_CHARS = 255


async def ingest_webhook(
    services: Services, provider_name: str, body: bytes, headers: Mapping[str, str], secrets: Sequence[str]
) -> bool:
    """Verify a webhook and store it; its effect follows in the background.

    Args:
        body: exactly as it was received; the signature covers the bytes.
        headers: of the request; their names in any case.
        secrets: accepted secrets, newest first; without any the webhook is refused.

    Returns:
        ``True`` when it is stored, now or before; ``False`` for a type that nothing is done about.

    Raises:
        ProviderWebhookInvalid: the signature, the time or the body is invalid; one message for all causes.
        Misconfigured: no provider has this name.
        SQLAlchemyError: the database refused the row: the provider must send the webhook again.
    """
    provider = services.provider(provider_name)
    tolerance = services.settings.webhook_tolerance_seconds
    try:
        found = provider.verify_webhook(
            body, headers, [one for one in secrets if one], now=utc_now(), tolerance_seconds=tolerance
        )
    except ProviderWebhookInvalid:
        telemetry.emit("rindle.provider.webhook.rejected", {"provider": provider_name})
        raise
    facts = {"provider": provider_name, "type": found.type}
    telemetry.emit("rindle.provider.webhook.secret_used", {"provider": provider_name, "index": found.secret_index})
    if found.event is None:
        telemetry.emit("rindle.provider.webhook.ignored", facts)
        return False
    document = _document(provider_name, found.event)
    telemetry.emit("rindle.provider.webhook.verified", facts)
    try:
        await services.database.write(_store, services.settings, document)
    except IntegrityError:
        # The same webhook was stored by a request at the same time; any other violation is an error.
        if not await services.database.read(rows.has_webhook, _dedupe_key(document)):
            raise
    return True


def _document(provider: str, event: ProviderEvent) -> dict[str, Any]:
    """Return a webhook as the outbox holds it."""
    event_id = event.id
    if len(event_id) > _MAX_ID_CHARS or not event_id.isascii() or not event_id.isprintable():
        event_id = hashlib.sha256(event_id.encode(errors="surrogatepass")).hexdigest()
    return {
        "id": event_id,
        "provider": provider,
        "kind": event.kind.value,
        "provider_asset_id": _usable(event.provider_asset_id),
        "upload_id": _usable(event.upload_id),
        "passthrough": _usable(event.passthrough),
        "playback_ids": [one for one in event.playback_ids if _usable(one)],
        "occurred_at": None if event.occurred_at is None else iso_instant(event.occurred_at),
        "error": None if event.error is None else event.error[:4096],
        "raw": providers.bounded_raw(event.raw),
    }


def _usable(name: str | None) -> str | None:
    """Return an id that a row can have; other ones belong to no asset of this application."""
    return name if name and len(name) <= _MAX_NAME_CHARS and is_storable(name) else None


def _dedupe_key(event: Mapping[str, Any]) -> str:
    return f"webhook:{event['provider']}:{event['id']}"


def _store(session: Session, settings: Settings, event: Mapping[str, Any]) -> None:
    if rows.has_webhook(session, _dedupe_key(event)) or providers.is_applied(session, event):
        return
    digest = hashlib.sha256(_dedupe_key(event).encode()).hexdigest()[:32]
    outbox.store_webhook(
        session,
        settings,
        event,
        dedupe_key=_dedupe_key(event),
        # A name of its own: webhooks of one asset may be applied in any order, so that none waits for another.
        workflow_id=f"{settings.workflow_id_prefix}-webhook:{digest}",
    )


@dataclass(frozen=True, slots=True)
class Routed:
    """Claimed webhooks, by the number of their row."""

    #: The asset, profile, provider and mode of ingest of those whose asset is known.
    known: dict[int, tuple[str, str, str, str | None]]
    #: Seconds after which the others are looked at again.
    waiting: dict[int, float]
    #: Those whose asset nobody knows.
    orphans: list[int]


def route(session: Session, claimed: Iterable[MediaOutbox]) -> Routed:
    """Find the assets of claimed webhooks; the last failed search records an orphan."""
    routed = Routed({}, {}, [])
    for row in claimed:
        event = row.payload["event"]
        found = providers.of_event(session, event)
        if found is not None:
            routed.known[row.id] = found.asset_id, found.profile, found.provider_name, found.ingest_mode
        elif row.attempts < len(PAUSES):
            routed.waiting[row.id] = PAUSES[row.attempts]
        else:
            providers.note_orphan(session, event)
            routed.orphans.append(row.id)
    return routed


def address(
    settings: Settings, row: MediaOutbox, asset_id: str, profile: str, provider: str, ingest_mode: str | None
) -> None:
    """Give a claimed webhook the workflow of its asset, on the detached row alone."""
    row.workflow_type, kind = messages.PROVIDER_PUSH_WORKFLOW, "provider push"
    if ingest_mode == DIRECT_CREATOR_UPLOAD:
        row.workflow_type, kind = messages.PROVIDER_UPLOAD_WORKFLOW, "provider upload"
    row.workflow_id = ids.provider_run_id(asset_id, provider, ingest_mode, prefix=settings.workflow_id_prefix)
    row.task_queue = settings.queue()
    row.payload, row.signal = outbox.push_start(settings, asset_id, profile, provider, kind=kind), "provider_event"
