"""The transactional outbox: rows written with a transaction, which a relay sends to Temporal after the commit.

Nothing is sent from memory, and nothing that was rolled back is sent. The relay itself is in :mod:`rindle.relay`; the
outbox knows only its interface, :class:`LocalRelay`.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy.orm import Session

from rindle import messages
from rindle.db import outbox as rows
from rindle.db.after_commit import after_commit
from rindle.db.models import MediaAsset, MediaUploadSession, utc_now
from rindle.profile import Profile
from rindle.settings import Settings
from rindle.workflows import ids

#: Rows of one INSERT.
_ROWS_AT_ONCE = 500
#: Purges of one call that become due per second: about as many as two cores purge, and 50,000 in half an hour. What is
#: requested after them, for example an upload, would otherwise wait until all of them are sent, and then in Temporal's
#: task queue until all of them have run.
PURGES_PER_SECOND = 25
#: Priority keys of Temporal (1 is the highest): a user waits for an upload, nobody waits for a repair or a sweep.
PRIORITY_INTERACTIVE, PRIORITY_DEFAULT, PRIORITY_REPAIR, PRIORITY_SWEEP = 2, 3, 4, 5


class LocalRelay(Protocol):
    """What the outbox needs of a relay that runs in the same process."""

    def sends_for(self, pool: object) -> bool:
        """Whether this relay sends what is committed on a connection of ``pool``."""

    def wake(self) -> None:
        """Read the outbox now; callable from any thread."""


_relays: weakref.WeakSet[LocalRelay] = weakref.WeakSet()


def register(relay: LocalRelay) -> None:
    """Wake ``relay`` after every commit of this process from now on."""
    _relays.add(relay)


def unregister(relay: LocalRelay) -> None:
    """Forget ``relay``; an unknown one is ignored."""
    _relays.discard(relay)


def wake_relays() -> None:
    """Make every relay of this process read the outbox now; callable from any thread."""
    for relay in tuple(_relays):
        relay.wake()


def wake_upload(
    session: Session, settings: Settings, upload: MediaUploadSession, profile: str | None, *, signal: str | None = None
) -> None:
    """Start or signal the workflow of ``upload`` once this transaction has committed.

    Args:
        signal: ``verified``, ``complete`` or another signal of ``UploadWorkflow``; ``None`` only starts it.
    """
    _enqueue(
        session,
        workflow_type=messages.UPLOAD_WORKFLOW,
        workflow_id=ids.upload_id(upload.id, prefix=settings.workflow_id_prefix),
        task_queue=settings.queue(),
        signal=signal,
        priority=PRIORITY_INTERACTIVE,
        payload={
            "input": messages.UploadInput(session_id=upload.id).model_dump(mode="json"),
            "facts": {
                "kind": "upload",
                "profile": profile,
                "asset_id": upload.asset_id,
                "session_id": upload.id,
                "actor": upload.actor,
            },
        },
    )


def wake_group(session: Session, settings: Settings, asset: MediaAsset, group: str, *, signal: str = "wake") -> None:
    """Make the workflow of a variant group read its rows once this transaction has committed."""
    _enqueue(
        session,
        workflow_type=messages.VARIANT_WORKFLOW,
        workflow_id=ids.variants_id(asset.id, group, prefix=settings.workflow_id_prefix),
        task_queue=settings.queue(),
        signal=signal,
        priority=PRIORITY_REPAIR,
        payload={
            "input": messages.VariantInput(
                asset_id=asset.id, group=group, task_queue=settings.queue_of(group)
            ).model_dump(mode="json"),
            "facts": {
                "kind": "variants",
                "profile": asset.profile,
                "asset_id": asset.id,
                "actor": asset.uploaded_by,
            },
        },
    )


def start_purge(session: Session, settings: Settings, asset_id: str, profile: str | None) -> None:
    """Purge the asset after the commit and the grace period; the purge itself checks again whether it may."""
    start_purges(session, settings, [(asset_id, profile)])


def start_purges(session: Session, settings: Settings, assets: Iterable[tuple[str, str | None]]) -> None:
    """Purge many assets, given as ``(asset id, profile)``, as :func:`start_purge` does.

    The first :data:`PURGES_PER_SECOND` are due at once, as many each second after it.
    """
    first = utc_now() + timedelta(seconds=settings.purge_delay_seconds)
    found = [
        {
            "workflow_type": messages.PURGE_WORKFLOW,
            "workflow_id": ids.purge_id(asset_id, prefix=settings.workflow_id_prefix),
            "task_queue": settings.queue(),
            "signal": "wake",  # a running purge that has found the asset attached must check again
            "priority": PRIORITY_DEFAULT,
            "available_at": first + timedelta(seconds=number // PURGES_PER_SECOND),
            "payload": {
                "input": messages.PurgeInput(asset_id=asset_id).model_dump(mode="json"),
                "facts": {"kind": "purge", "profile": profile, "asset_id": asset_id},
            },
        }
        for number, (asset_id, profile) in enumerate(assets)
    ]
    for start in range(0, len(found), _ROWS_AT_ONCE):
        rows.insert_all(session, found[start : start + _ROWS_AT_ONCE], has_local_relay=_has_local_relay(session))
    after_commit(session, wake_relays)


def wake_erasure(session: Session, settings: Settings, operation_id: str) -> None:
    """Make the workflow of an erasure read its rows once this transaction has committed: its last purge has ended."""
    _enqueue(
        session,
        workflow_type=messages.OWNER_ERASURE_WORKFLOW,
        workflow_id=ids.erasure_id(operation_id, prefix=settings.workflow_id_prefix),
        task_queue=settings.queue(),
        signal="wake",
        priority=PRIORITY_DEFAULT,
        payload={
            "input": messages.ErasureInput(operation_id=operation_id).model_dump(mode="json"),
            "facts": {"kind": "erasure"},
        },
    )


def push_start(
    settings: Settings, asset_id: str, profile: str, provider: str, *, kind: str = "provider push"
) -> dict[str, Any]:
    """Return the payload of a start of ``ProviderPushWorkflow``, or of ``ProviderUploadWorkflow``."""
    order = messages.ProviderPushInput(
        asset_id=asset_id, profile=profile, provider=provider, task_queue=settings.provider_queue
    )
    return {
        "input": order.model_dump(mode="json"),
        "facts": {"kind": kind, "profile": profile, "asset_id": asset_id},
    }


def start_push(session: Session, settings: Settings, asset_id: str, profile: str, provider: str) -> None:
    """Bring an asset to a streaming provider once this transaction has committed."""
    _enqueue(
        session,
        workflow_type=messages.PROVIDER_PUSH_WORKFLOW,
        workflow_id=ids.provider_push_id(asset_id, provider, prefix=settings.workflow_id_prefix),
        task_queue=settings.queue(),
        signal="wake",  # a run that has found an outdated source must look again
        priority=PRIORITY_DEFAULT,
        payload=push_start(settings, asset_id, profile, provider),
    )


def wake_provider_upload(
    session: Session, settings: Settings, asset_id: str, profile: str, provider: str, *, signal: str | None = None
) -> None:
    """Start the workflow that follows an upload to a provider, or signal it, once this transaction has committed."""
    _enqueue(
        session,
        workflow_type=messages.PROVIDER_UPLOAD_WORKFLOW,
        workflow_id=ids.provider_upload_id(asset_id, prefix=settings.workflow_id_prefix),
        task_queue=settings.queue(),
        signal=signal,
        priority=PRIORITY_INTERACTIVE,
        payload=push_start(settings, asset_id, profile, provider, kind="provider upload"),
    )


def push_source(
    session: Session, settings: Settings, asset_id: str, profile: type[Profile], ready: Collection[str]
) -> None:
    """Start the push of an asset if the variant that its profile streams is among those that are ``ready`` now."""
    streaming = profile.delivery_policy().streaming
    if streaming is None or streaming.ingest_mode != "server_push" or streaming.source_variant not in ready:
        return
    start_push(session, settings, asset_id, profile.name, streaming.provider)


def store_webhook(
    session: Session, settings: Settings, event: Mapping[str, Any], *, dedupe_key: str, workflow_id: str
) -> None:
    """Store a webhook; a relay finds its workflow when it sends the row."""
    rows.insert_webhook(
        session,
        event,
        dedupe_key=dedupe_key,
        workflow_type=messages.PROVIDER_PUSH_WORKFLOW,
        workflow_id=workflow_id,
        task_queue=settings.queue(),
        has_local_relay=_has_local_relay(session),
    )
    after_commit(session, wake_relays)


def _has_local_relay(session: Session) -> bool:
    pool = getattr(session.get_bind(), "pool", None)
    return any(relay.sends_for(pool) for relay in tuple(_relays))


def _enqueue(session: Session, **row: Any) -> None:
    rows.insert(session, has_local_relay=_has_local_relay(session), **row)
    after_commit(session, wake_relays)
