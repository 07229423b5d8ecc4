"""Rindle: everything after the upload button, durable on Temporal, queryable in your own database.

Importing this package loads almost nothing: a public name is loaded when it is first used. The processes that render
images import modules of this package, and need neither SQLAlchemy nor Temporal.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rindle.app import Rindle
    from rindle.attachments import UNCHECKED
    from rindle.db.models import (
        MediaAsset,
        MediaAttachment,
        MediaErasure,
        MediaErasureAsset,
        MediaEvent,
        MediaOutbox,
        MediaProcessingRun,
        MediaProviderAsset,
        MediaUploadSession,
        MediaVariant,
    )
    from rindle.errors import RindleError
    from rindle.profile import DeliveryPolicy, Profile, StreamingPolicy
    from rindle.protocols import OwnerRef, Quarantine
    from rindle.recipes import AudioVariant, FrameVariant, ImageVariant, VideoVariant, WaveformVariant
    from rindle.settings import Settings
    from rindle.states import AssetState, MediaKind, OutputKind, ProviderState, SessionState, VariantState
    from rindle.temporal_client import TemporalConnection

__version__ = "0.1.0"

__all__ = [
    "UNCHECKED",
    "AssetState",
    "AudioVariant",
    "DeliveryPolicy",
    "FrameVariant",
    "ImageVariant",
    "MediaAsset",
    "MediaAttachment",
    "MediaErasure",
    "MediaErasureAsset",
    "MediaEvent",
    "MediaKind",
    "MediaOutbox",
    "MediaProcessingRun",
    "MediaProviderAsset",
    "MediaUploadSession",
    "MediaVariant",
    "OutputKind",
    "OwnerRef",
    "Profile",
    "ProviderState",
    "Quarantine",
    "Rindle",
    "RindleError",
    "SessionState",
    "Settings",
    "StreamingPolicy",
    "TemporalConnection",
    "VariantState",
    "VideoVariant",
    "WaveformVariant",
    "__version__",
]

_MODULES = {
    "rindle.app": ("Rindle",),
    "rindle.attachments": ("UNCHECKED",),
    "rindle.db.models": (
        "MediaAsset",
        "MediaAttachment",
        "MediaErasure",
        "MediaErasureAsset",
        "MediaEvent",
        "MediaOutbox",
        "MediaProcessingRun",
        "MediaProviderAsset",
        "MediaUploadSession",
        "MediaVariant",
    ),
    "rindle.errors": ("RindleError",),
    "rindle.profile": (
        "DeliveryPolicy",
        "Profile",
        "StreamingPolicy",
    ),
    "rindle.protocols": (
        "OwnerRef",
        "Quarantine",
    ),
    "rindle.recipes": (
        "AudioVariant",
        "FrameVariant",
        "ImageVariant",
        "VideoVariant",
        "WaveformVariant",
    ),
    "rindle.settings": ("Settings",),
    "rindle.states": (
        "AssetState",
        "MediaKind",
        "OutputKind",
        "ProviderState",
        "SessionState",
        "VariantState",
    ),
    "rindle.temporal_client": ("TemporalConnection",),
}
#: The module of each public name.
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # a checker that saw this would take every name for a public one

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            found = globals()[name] = getattr(import_module(_HOMES[name]), name)
            return found
        # `rindle.errors` works after `import rindle`, as the documentation writes it.
        if not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
