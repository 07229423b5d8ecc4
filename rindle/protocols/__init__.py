"""The protocols of plug-ins: stores, scanners, probes, analyzers, processors, authorizers.

One module per subject; import the names from this package.
"""

from __future__ import annotations

from rindle.errors import ContentRejected
from rindle.protocols.access import AssetSubject, Authorizer, DeliverySubject, OwnerRef, UploadSubject
from rindle.protocols.media import Analyzer, Probe, ProbeResult, Processor, Quarantine, Scanner
from rindle.protocols.storage import (
    MAX_RANGE_BYTES,
    MAX_URL_SECONDS,
    ByteStream,
    DeleteResult,
    KeyPage,
    ListedObject,
    ObjectHead,
    Presigned,
    ServedAs,
    Storage,
    StoredObject,
)

__all__ = [
    "MAX_RANGE_BYTES",
    "MAX_URL_SECONDS",
    "Analyzer",
    "AssetSubject",
    "Authorizer",
    "ByteStream",
    "ContentRejected",
    "DeleteResult",
    "DeliverySubject",
    "KeyPage",
    "ListedObject",
    "ObjectHead",
    "OwnerRef",
    "Presigned",
    "Probe",
    "ProbeResult",
    "Processor",
    "Quarantine",
    "Scanner",
    "ServedAs",
    "Storage",
    "StoredObject",
    "UploadSubject",
]
