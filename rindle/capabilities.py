"""Capabilities of stores and processors by name, and the checks that require one.

An adapter advertises exactly what it implements; no upload lane silently replaces another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rindle.errors import CapabilityUnsupported
from rindle.protocols import ABILITIES, Storage

log = logging.getLogger(__name__)

#: All storage capabilities; unknown names that an adapter returns are dropped. Those of ``ABILITIES`` follow from the
#: class of the adapter.
STORAGE_CAPABILITIES = frozenset(
    {
        *ABILITIES,
        "presigned_put",
        "presigned_post",
        "signed_url",
        "public_url",
        "head",
        "read_range",
        "write_once",
        "local",
        "response_headers",
    }
)

#: All capabilities of processors.
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
    """Return the known capabilities that ``storage`` advertises, and those of its abilities.

    A third-party adapter whose ``capabilities`` is not callable, raises or does not return a collection has none,
    except those of its abilities.
    """
    return _advertised(storage) | {name for name, ability in ABILITIES.items() if isinstance(storage, ability)}


def _advertised(storage: Storage) -> frozenset[str]:
    try:
        claimed = storage.capabilities()
    except Exception as error:  # any failure of the adapter means "no capability"
        log.warning("storage capabilities could not be read", extra={"error": type(error).__name__})
        return frozenset()
    if isinstance(claimed, str) or not isinstance(claimed, Iterable):
        return frozenset()
    return frozenset(name for name in claimed if name in STORAGE_CAPABILITIES and name not in ABILITIES)


def require_upload(storage: Storage, capability: str) -> None:
    """Raise ``upload_unsupported`` unless ``storage`` has ``capability``."""
    _require(storage, capability, "upload_unsupported", "upload lane")


def require_delivery(storage: Storage, capability: str) -> None:
    """Raise ``delivery_unsupported`` unless ``storage`` has ``capability``."""
    _require(storage, capability, "delivery_unsupported", "delivery option")


def _require(storage: Storage, capability: str, code: str, what: str) -> None:
    if capability not in capabilities_of(storage):
        raise unsupported(storage, capability, code, what)


def unsupported(
    storage: Storage, capability: str, code: str = "upload_unsupported", what: str = "upload lane"
) -> CapabilityUnsupported:
    """Return the error of a storage without ``capability``, which may be that of an ability."""
    name = storage.adapter_name or type(storage).__name__
    return CapabilityUnsupported(
        f"{name} does not offer the {what} {capability!r}; choose a storage that advertises it, or another option",
        capability=capability,
        code=code,
        adapter=name,
    )
