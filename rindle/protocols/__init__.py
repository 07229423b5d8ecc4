"""The protocols of plug-ins: stores, scanners, probes, analyzers, processors, authorizers, streaming providers.

One module per subject; import the names from this package.
"""

from __future__ import annotations

from rindle.errors import ContentRejected
from rindle.protocols.abilities import (
    ABILITIES,
    Checkpoint,
    Concatenation,
    LiveUploads,
    MultipartUpload,
    MultipartUploads,
    Part,
    PartStream,
    PartStreamState,
    PresignedPart,
    ResumableSessions,
    ResumableStatus,
    ResumableUpload,
)
from rindle.protocols.access import AssetSubject, Authorizer, DeliverySubject, OwnerRef, UploadSubject
from rindle.protocols.media import Analyzer, Probe, ProbeResult, Processor, Quarantine, Scanner
from rindle.protocols.setup import SetupCheck, SetupFinding
from rindle.protocols.storage import (
    MAX_RANGE_BYTES,
    MAX_URL_SECONDS,
    ByteStream,
    DeleteResult,
    KeyPage,
    ListedObject,
    ObjectHead,
    Presigned,
    PresignedPost,
    ServedAs,
    Storage,
    StoredObject,
)
from rindle.protocols.streaming import (
    STREAMING_CAPABILITIES,
    DirectUploads,
    PlaybackGrant,
    ProviderAsset,
    ProviderEvent,
    ProviderUpload,
    StreamingProvider,
    VerifiedWebhook,
    WebhookKind,
)

__all__ = [
    "ABILITIES",
    "MAX_RANGE_BYTES",
    "MAX_URL_SECONDS",
    "STREAMING_CAPABILITIES",
    "Analyzer",
    "AssetSubject",
    "Authorizer",
    "ByteStream",
    "Checkpoint",
    "Concatenation",
    "ContentRejected",
    "DeleteResult",
    "DeliverySubject",
    "DirectUploads",
    "KeyPage",
    "ListedObject",
    "LiveUploads",
    "MultipartUpload",
    "MultipartUploads",
    "ObjectHead",
    "OwnerRef",
    "Part",
    "PartStream",
    "PartStreamState",
    "PlaybackGrant",
    "Presigned",
    "PresignedPart",
    "PresignedPost",
    "Probe",
    "ProbeResult",
    "Processor",
    "ProviderAsset",
    "ProviderEvent",
    "ProviderUpload",
    "Quarantine",
    "ResumableSessions",
    "ResumableStatus",
    "ResumableUpload",
    "Scanner",
    "ServedAs",
    "SetupCheck",
    "SetupFinding",
    "Storage",
    "StoredObject",
    "StreamingProvider",
    "UploadSubject",
    "VerifiedWebhook",
    "WebhookKind",
]
