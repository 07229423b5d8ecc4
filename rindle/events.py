"""Names and payloads of public events: a contract like the error codes.

There are two families. **Telemetry** (:data:`PUBLIC_EVENTS`) goes to handlers, metrics and traces after the commit.
**Durable events** (:data:`EVENT_TYPES`) are rows of ``media_events``, written with the state change they report.
Renaming needs a major version; fields may be added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rindle.states import ENDED_SESSIONS, AssetState, ProviderState, SessionState, VariantState


@dataclass(frozen=True, slots=True)
class EventContract:
    """The metadata keys that an event always has, and the measurements that it may have."""

    metadata: tuple[str, ...]
    measurements: tuple[str, ...] = ()
    #: Keys that may be present beside the required ones.
    optional: tuple[str, ...] = ()


_TRANSCODE = ("profile", "asset_id", "variant_id", "variant_name", "preset", "output_kind")
_INGEST = ("profile", "provider", "asset_id")

#: Every telemetry event by name. An unknown name or a missing key raises in tests and is logged elsewhere.
PUBLIC_EVENTS: Mapping[str, EventContract] = {
    "rindle.upload.start": EventContract(("profile", "adapter", "session_id")),
    "rindle.upload.stop": EventContract(("profile", "adapter", "session_id", "asset_id")),
    "rindle.upload.resumable.start": EventContract(("profile", "adapter", "session_id", "state", "protocol")),
    "rindle.upload.resumable.status": EventContract(("profile", "adapter", "session_id", "state", "protocol")),
    "rindle.upload.resumable.patch": EventContract(
        ("profile", "adapter", "session_id", "state", "protocol"), ("offset", "bytes", "duration_us")
    ),
    "rindle.upload.resumable.cancel": EventContract(("profile", "adapter", "session_id", "protocol", "outcome")),
    "rindle.asset.state_change": EventContract(("profile", "adapter", "from", "to")),
    "rindle.variant.state_change": EventContract(("profile", "adapter", "from", "to")),
    "rindle.delivery.signed": EventContract(("profile", "adapter", "mode")),
    "rindle.delivery.range_request": EventContract(("profile", "adapter"), ("offset", "length", "file_size")),
    "rindle.delivery.range_fallback": EventContract(("profile", "adapter", "reason")),
    "rindle.repair.start": EventContract(("operation", "scope", "result", "dry_run")),
    "rindle.repair.stop": EventContract(
        ("operation", "scope", "result", "dry_run"),
        ("duration_us", "selected", "enqueued", "skipped", "attempted", "refreshed", "errors"),
    ),
    "rindle.repair.exception": EventContract(("operation", "scope", "result", "dry_run"), ("duration_us",)),
    "rindle.cleanup.run": EventContract(
        ("worker", "profile", "adapter", "dry_run"),
        ("sessions_deleted", "objects_deleted", "sessions_aborted", "resumable_aborts"),
    ),
    "rindle.runtime.refusal": EventContract(("surface", "reason", "mode")),
    "rindle.runtime.check.stop": EventContract(("check", "status", "component"), ("duration_us",)),
    "rindle.media.transcode.start": EventContract(_TRANSCODE),
    "rindle.media.transcode.stop": EventContract(_TRANSCODE, ("duration_us",)),
    "rindle.media.transcode.exception": EventContract((*_TRANSCODE, "kind", "reason"), ("duration_us",)),
    "rindle.provider_asset.state_change": EventContract(("profile", "provider", "asset_id", "from", "to")),
    "rindle.delivery.streaming.resolved": EventContract(("profile", "adapter", "mode", "kind", "mime")),
    "rindle.delivery.streaming.config_drift": EventContract(("profile", "field", "row_value", "expected")),
    "rindle.provider.ingest.start": EventContract(_INGEST),
    "rindle.provider.ingest.stop": EventContract(_INGEST, ("duration_us",)),
    "rindle.provider.ingest.exception": EventContract((*_INGEST, "kind", "reason"), ("duration_us",)),
    "rindle.provider.webhook.verified": EventContract(("provider", "type")),
    "rindle.provider.webhook.rejected": EventContract(("provider",)),
    "rindle.provider.webhook.ignored": EventContract(("provider", "type")),
    "rindle.provider.webhook.processed": EventContract(("provider", "kind", "outcome")),
    "rindle.provider.webhook.exception": EventContract(("provider", "kind", "outcome")),
    "rindle.provider.webhook.secret_used": EventContract(("provider", "index")),
    "rindle.provider.sync.resolved": EventContract(
        ("profile", "provider", "asset_id", "state", "no_change"), ("age_ms",)
    ),
    "rindle.provider.sync.stuck": EventContract(("profile", "provider", "asset_id", "state"), ("age_ms",)),
    "rindle.asset.purged": EventContract(("profile",), ("objects", "variants")),
    "rindle.owner.erased": EventContract(
        (), ("attachments", "assets_to_purge", "retained_shared_assets", "purge_enqueued", "purge_already_queued")
    ),
    "rindle.asset.force_deleted": EventContract(("profile",), ("attachments",)),
    "rindle.promotion.stop": EventContract(("profile", "outcome"), ("duration_us",)),
    "rindle.outbox.delivered": EventContract(("kind",), ("count",)),
    "rindle.outbox.lag": EventContract((), ("seconds", "pending", "parked")),
    "rindle.sse.connections": EventContract((), ("streams",)),
}

#: Keys that may become metric attributes; ids never do (cardinality).
METRIC_ATTRIBUTES = frozenset({"profile", "adapter", "from", "to", "kind", "code", "operation", "worker"})


@dataclass(frozen=True, slots=True)
class EventType:
    """One type of ``media_events`` row: its scopes, its payload keys, and whether it is streamed."""

    scopes: tuple[str, ...]
    payload: tuple[str, ...]
    streamed: bool = True


_VARIANT = ("asset_id", "variant_id", "variant_name", "state", "progress")
_SESSION = ("session_id", "asset_id", "state", "upload_strategy", "resumable_protocol")
_PROVIDER = ("asset_id", "playback_ids", "profile", "provider", "state")
_PROVIDER_SCOPES = ("asset", "provider_asset")
_SESSION_SCOPES = ("upload_session", "asset")
_VARIANT_SCOPES = ("asset", "variant")

#: Every durable event type by name.
EVENT_TYPES: Mapping[str, EventType] = {
    "asset_state_changed": EventType(("asset",), ("asset_id", "from", "state", "kind", "profile")),
    "variant_started": EventType(_VARIANT_SCOPES, _VARIANT),
    "variant_progress": EventType(_VARIANT_SCOPES, _VARIANT),
    "variant_ready": EventType(_VARIANT_SCOPES, _VARIANT),
    "variant_failed": EventType(_VARIANT_SCOPES, (*_VARIANT, "error_code")),
    "variant_cancelled": EventType(_VARIANT_SCOPES, _VARIANT),
    "variant_state_changed": EventType(_VARIANT_SCOPES, (*_VARIANT, "from"), streamed=False),
    "upload_session_initialized": EventType(_SESSION_SCOPES, _SESSION),
    "upload_session_signed": EventType(_SESSION_SCOPES, _SESSION),
    "upload_session_uploading": EventType(_SESSION_SCOPES, (*_SESSION, "offset")),
    "upload_session_completed": EventType(_SESSION_SCOPES, _SESSION),
    "upload_session_cancelled": EventType(_SESSION_SCOPES, _SESSION),
    "upload_session_expired": EventType(_SESSION_SCOPES, (*_SESSION, "error_code")),
    "upload_session_failed": EventType(_SESSION_SCOPES, (*_SESSION, "error_code")),
    "upload_session_state_changed": EventType(_SESSION_SCOPES, (*_SESSION, "from"), streamed=False),
    "provider_asset_created": EventType(_PROVIDER_SCOPES, _PROVIDER),
    "provider_asset_ready": EventType(_PROVIDER_SCOPES, _PROVIDER),
    "provider_asset_errored": EventType(_PROVIDER_SCOPES, _PROVIDER),
    "provider_asset_deleted": EventType(_PROVIDER_SCOPES, _PROVIDER),
    "provider_asset_state_changed": EventType(_PROVIDER_SCOPES, (*_PROVIDER, "from"), streamed=False),
    "provider_webhook": EventType(("webhook",), ("provider", "kind", "outcome"), streamed=False),
    "orphan_event": EventType(("webhook",), ("provider", "kind"), streamed=False),
    "attachment_changed": EventType(("asset",), ("asset_id", "change", "slot"), streamed=False),
    "asset.purged": EventType(("asset",), ("asset_id", "objects", "variants"), streamed=False),
    "owner.erased": EventType(
        ("owner_erasure",), ("operation_id", "attachments", "assets_to_purge", "retained_shared_assets"), streamed=False
    ),
    "owner.erasure_completed": EventType(
        ("owner_erasure",), ("operation_id", "purged", "attached_again", "gone"), streamed=False
    ),
    "asset.force_deleted": EventType(
        ("asset",), ("asset_id", "reason", "reference", "attachments", "keys"), streamed=False
    ),
    "asset.force_delete_refused": EventType(
        ("asset",), ("asset_id", "reason", "reference", "refused_by"), streamed=False
    ),
    "asset.reprobed": EventType(("asset",), ("asset_id", "changed"), streamed=False),
    "asset.quarantine_released": EventType(("asset",), ("asset_id", "reason", "error_code"), streamed=False),
    "variants.requeued": EventType(("asset",), ("asset_id", "names"), streamed=False),
    "variants.cancelled": EventType(("asset",), ("asset_id", "names"), streamed=False),
}

#: Types that subscribers receive; internal and audit-only types stay in the table.
STREAMED_TYPES = frozenset(name for name, kind in EVENT_TYPES.items() if kind.streamed)

#: Types of which losing one is harmless; ``progress_retention_seconds`` decides how long they are kept.
PROGRESS_TYPES = frozenset({"variant_progress"})

#: Types that note which webhooks were applied, or belong to no asset; kept for 30 days, as long as a provider may send
#: one again.
WEBHOOK_TYPES = frozenset({"provider_webhook", "orphan_event"})

#: Types that report changes of state; ``event_retention_seconds`` decides how long they are kept. All types that are
#: in neither set are audit events, which are kept for ever.
STATE_TYPES = (STREAMED_TYPES | {name for name in EVENT_TYPES if name.endswith("_state_changed")}) - PROGRESS_TYPES

#: Event type of a variant's transition to a state; other transitions write ``variant_state_changed``.
VARIANT_EVENTS: Mapping[VariantState, str] = {
    VariantState.PROCESSING: "variant_started",
    VariantState.READY: "variant_ready",
    VariantState.FAILED: "variant_failed",
    VariantState.CANCELLED: "variant_cancelled",
}

#: Event type of a session's transition to a state; other transitions write ``upload_session_state_changed``.
SESSION_EVENTS: Mapping[SessionState, str] = {
    SessionState.SIGNED: "upload_session_signed",
    SessionState.UPLOADING: "upload_session_uploading",
    SessionState.COMPLETED: "upload_session_completed",
    SessionState.ABORTED: "upload_session_cancelled",
    SessionState.EXPIRED: "upload_session_expired",
    SessionState.FAILED: "upload_session_failed",
}

#: Event type of a provider asset's transition to a state; other transitions write ``provider_asset_state_changed``.
PROVIDER_EVENTS: Mapping[ProviderState, str] = {
    ProviderState.READY: "provider_asset_ready",
    ProviderState.ERRORED: "provider_asset_errored",
    ProviderState.DELETED: "provider_asset_deleted",
}

#: Asset states after which a page need not follow the asset any longer.
TERMINAL_ASSET_STATES = frozenset({AssetState.READY, AssetState.DEGRADED, AssetState.QUARANTINED, AssetState.DELETED})

#: The scopes that can be followed, and their terminal states.
TERMINAL_STATES: Mapping[str, frozenset[str]] = {
    "asset": frozenset(TERMINAL_ASSET_STATES),
    "variant": frozenset({VariantState.READY, VariantState.FAILED, VariantState.CANCELLED, VariantState.PURGED}),
    "upload_session": frozenset(ENDED_SESSIONS),
    "provider_asset": frozenset({"ready", "errored", "deleted"}),
}
