"""Every state of the read model, and the transitions that each state machine allows.

The tables are the contract: ``db/transitions.py`` rejects what they do not list, the documentation draws its
diagrams from them, and the database's CHECK constraints come from the enums. Members equal the stored strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class AssetState(StrEnum):
    """State of an asset, from its upload session to its deletion."""

    STAGED = "staged"
    VALIDATING = "validating"
    ANALYZING = "analyzing"
    PROMOTING = "promoting"
    AVAILABLE = "available"
    PROCESSING = "processing"
    TRANSCODING = "transcoding"
    READY = "ready"
    DEGRADED = "degraded"
    QUARANTINED = "quarantined"
    DELETED = "deleted"


class VariantState(StrEnum):
    """State of a variant."""

    PLANNED = "planned"
    QUEUED = "queued"
    PROCESSING = "processing"
    READY = "ready"
    STALE = "stale"
    MISSING = "missing"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PURGED = "purged"


class SessionState(StrEnum):
    """State of an upload session."""

    INITIALIZED = "initialized"
    SIGNED = "signed"
    RESUMING = "resuming"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    VERIFYING = "verifying"
    COMPLETED = "completed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    FAILED = "failed"


class RunState(StrEnum):
    """Outcome of one attempt in the audit table ``media_processing_runs``."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class OutboxState(StrEnum):
    """State of an outbox row: to be sent, sent, or permanently rejected by the server."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    PARKED = "parked"


class ProviderState(StrEnum):
    """State of an asset at a streaming provider."""

    PENDING = "pending"
    UPLOADING = "uploading"
    PROCESSING = "processing"
    READY = "ready"
    ERRORED = "errored"
    DELETED = "deleted"


class MediaKind(StrEnum):
    """Kind of an asset; a waveform is an output kind only."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"


class OutputKind(StrEnum):
    """Kind of a variant."""

    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    WAVEFORM = "waveform"


_A, _V, _S = AssetState, VariantState, SessionState

#: Transitions of an asset. Purge and force delete are not among them: they use ``db.transitions.tombstone``.
ASSET_MOVES: Mapping[AssetState, frozenset[AssetState]] = {
    _A.STAGED: frozenset({_A.VALIDATING, _A.QUARANTINED}),
    _A.VALIDATING: frozenset({_A.ANALYZING, _A.QUARANTINED}),
    _A.ANALYZING: frozenset({_A.PROMOTING, _A.QUARANTINED}),
    _A.PROMOTING: frozenset({_A.AVAILABLE}),
    _A.AVAILABLE: frozenset({_A.PROCESSING, _A.TRANSCODING, _A.READY, _A.DEGRADED, _A.QUARANTINED}),
    _A.PROCESSING: frozenset({_A.READY, _A.DEGRADED, _A.QUARANTINED}),
    _A.TRANSCODING: frozenset({_A.READY, _A.DEGRADED, _A.QUARANTINED}),
    _A.READY: frozenset({_A.DEGRADED, _A.PROCESSING, _A.TRANSCODING, _A.QUARANTINED, _A.DELETED}),
    _A.DEGRADED: frozenset({_A.READY, _A.PROCESSING, _A.TRANSCODING, _A.QUARANTINED, _A.DELETED}),
    _A.QUARANTINED: frozenset({_A.DELETED, _A.VALIDATING}),
    _A.DELETED: frozenset(),
}

#: Further transitions of an asset that was uploaded to its streaming provider: it follows its row there.
DIRECT_ASSET_MOVES: Mapping[AssetState, frozenset[AssetState]] = {
    **ASSET_MOVES,
    _A.STAGED: frozenset({_A.READY, _A.DELETED}),
}

#: Transitions of a variant.
VARIANT_MOVES: Mapping[VariantState, frozenset[VariantState]] = {
    _V.PLANNED: frozenset({_V.QUEUED, _V.CANCELLED}),
    _V.QUEUED: frozenset({_V.PROCESSING, _V.CANCELLED}),
    _V.PROCESSING: frozenset({_V.READY, _V.FAILED, _V.CANCELLED, _V.QUEUED}),
    _V.READY: frozenset({_V.STALE, _V.MISSING, _V.PURGED}),
    _V.STALE: frozenset({_V.QUEUED, _V.PURGED}),
    _V.MISSING: frozenset({_V.QUEUED, _V.PURGED, _V.READY}),
    _V.FAILED: frozenset({_V.QUEUED, _V.PURGED}),
    _V.CANCELLED: frozenset({_V.QUEUED}),
    _V.PURGED: frozenset(),
}

#: Transitions of an upload session (``uploading`` from ``initialized`` is the server-side lane).
SESSION_MOVES: Mapping[SessionState, frozenset[SessionState]] = {
    _S.INITIALIZED: frozenset({_S.SIGNED, _S.UPLOADING, _S.ABORTED, _S.EXPIRED, _S.FAILED}),
    _S.SIGNED: frozenset({_S.RESUMING, _S.UPLOADING, _S.UPLOADED, _S.VERIFYING, _S.ABORTED, _S.EXPIRED, _S.FAILED}),
    _S.RESUMING: frozenset({_S.UPLOADING, _S.UPLOADED, _S.VERIFYING, _S.ABORTED, _S.EXPIRED, _S.FAILED}),
    _S.UPLOADING: frozenset({_S.UPLOADED, _S.VERIFYING, _S.RESUMING, _S.ABORTED, _S.EXPIRED, _S.FAILED}),
    _S.UPLOADED: frozenset({_S.VERIFYING, _S.ABORTED, _S.EXPIRED, _S.FAILED}),
    _S.VERIFYING: frozenset({_S.COMPLETED, _S.FAILED}),
    _S.COMPLETED: frozenset(),
    _S.ABORTED: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.FAILED: frozenset(),
}

#: Transitions of an asset at a streaming provider. ``errored`` to ``ready`` is allowed on the provider's word only, and
#: ``processing`` to ``deleted`` on that word or in a purge: :mod:`rindle.db.providers` sees to both.
PROVIDER_MOVES: Mapping[ProviderState, frozenset[ProviderState]] = {
    ProviderState.PENDING: frozenset({ProviderState.UPLOADING, ProviderState.ERRORED, ProviderState.DELETED}),
    ProviderState.UPLOADING: frozenset({ProviderState.PROCESSING, ProviderState.ERRORED, ProviderState.DELETED}),
    ProviderState.PROCESSING: frozenset({ProviderState.READY, ProviderState.ERRORED, ProviderState.DELETED}),
    ProviderState.READY: frozenset({ProviderState.ERRORED, ProviderState.DELETED}),
    ProviderState.ERRORED: frozenset({ProviderState.PROCESSING, ProviderState.READY, ProviderState.DELETED}),
    ProviderState.DELETED: frozenset(),
}

#: States of an asset at a provider that has not settled it yet.
OPEN_PROVIDER_STATES = frozenset({ProviderState.PENDING, ProviderState.UPLOADING, ProviderState.PROCESSING})

#: Asset states in which the original and its ready variants may be served. In the other states nothing is served.
DELIVERABLE = frozenset({_A.AVAILABLE, _A.PROCESSING, _A.TRANSCODING, _A.READY, _A.DEGRADED})

#: Asset states before the end of validation: a page shows its placeholder.
UNVALIDATED = frozenset({_A.STAGED, _A.VALIDATING, _A.ANALYZING, _A.PROMOTING})

#: Asset states whose bytes are verified and whose validation has not ended. An error code on such an asset says that
#: its validation gave up; only ``resume`` removes it.
IN_PROMOTION = (_A.VALIDATING, _A.ANALYZING, _A.PROMOTING)

#: Asset states that the aggregate rule computes from the variants.
AGGREGATED = DELIVERABLE

#: Session states in which an upload ended without an asset to promote.
ENDED_BADLY = (SessionState.ABORTED, SessionState.EXPIRED, SessionState.FAILED)

#: Variant states that still need a build.
OPEN_VARIANTS = frozenset({_V.PLANNED, _V.QUEUED, _V.PROCESSING})

#: Variant states in which the object named by the row exists: that of the last build, until the next one replaces it.
WITH_OBJECT = frozenset({_V.READY, _V.STALE, _V.QUEUED, _V.PROCESSING})

#: Terminal session states.
ENDED_SESSIONS = frozenset({_S.COMPLETED, _S.ABORTED, _S.EXPIRED, _S.FAILED})
