"""Rindle: everything after the upload button, durable on Temporal, queryable in your own database.

Importing this package loads neither FastAPI nor boto3, pyvips or libmagic.
"""

from __future__ import annotations

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
