"""What a store can do, by name, and the gates that refuse what it cannot.

An adapter advertises exactly what it implements and no lane is replaced by another silently.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rindle.errors import CapabilityUnsupported
from rindle.protocols import Storage

log = logging.getLogger(__name__)

#: The closed vocabulary of storage capabilities; unknown names an adapter returns are dropped.
STORAGE_CAPABILITIES = frozenset(
    {
        "presigned_put",
        "signed_url",
        "public_url",
        "head",
        "read_range",
        "write_once",
        "local",
        "response_headers",
    }
)

#: What a processor may declare.
PROCESSOR_CAPABILITIES = frozenset(
    {
        "image_resize",
        "video_transcode",
        "video_frame_extract",
        "video_thumbnail_strip",
        "audio_transcode",
        "audio_normalize",
        "audio_waveform",
    }
)


def capabilities_of(storage: Storage) -> frozenset[str]:
    """Return the capabilities ``storage`` really advertises.

    A third-party adapter whose ``capabilities`` is not callable, raises or returns no collection counts as having
    none: a broken adapter must not be trusted with more.
    """
    try:
        claimed = storage.capabilities()
    except Exception as error:  # any failure of foreign code means "no capability"
        log.warning("storage capabilities could not be read", extra={"error": type(error).__name__})
        return frozenset()
    if isinstance(claimed, str) or not isinstance(claimed, Iterable):
        return frozenset()
    return frozenset(name for name in claimed if name in STORAGE_CAPABILITIES)


def require_upload(storage: Storage, capability: str) -> None:
    """Raise ``upload_unsupported`` unless ``storage`` has ``capability``."""
    _require(storage, capability, "upload_unsupported", "upload lane")


def require_delivery(storage: Storage, capability: str) -> None:
    """Raise ``delivery_unsupported`` unless ``storage`` has ``capability``."""
    _require(storage, capability, "delivery_unsupported", "delivery option")


def _require(storage: Storage, capability: str, code: str, what: str) -> None:
    if capability not in capabilities_of(storage):
        raise CapabilityUnsupported(
            f"{type(storage).__name__} does not offer the {what} {capability!r}; "
            "choose a storage that advertises it or another way in",
            capability=capability,
            code=code,
            adapter=type(storage).__name__,
        )
