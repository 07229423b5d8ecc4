"""Every error Rindle raises, drawn once.

::

    RindleError
    ├── LifecycleError      not_found · invalid_transition · state_conflict · quarantined · still_attached ·
    │                       not_settled · plugin_unavailable · unexpected
    ├── InvalidCall         invalid_profile · unknown_profile · unknown_variant · unknown_variant_names ·
    │                       unknown_options · unknown_filters · invalid_filter · invalid_argument · invalid_owner ·
    │                       owner_not_persisted · owner_type_conflict · invalid_slot · invalid_last_event_id
    ├── AccessError         unauthorized · unauthenticated · too_many_streams
    ├── UploadError         UploadRejected (several codes) · scanner_unavailable · source_timeout ·
    │                       storage_object_missing · upload_session_expired · upload_cancelled ·
    │                       upload_already_completed · upload_stalled · upload_superseded · TusError (several codes) ·
    │                       invalid_multipart_parts · invalid_part_number · multipart_upload_not_initialized ·
    │                       resumable_upload_not_initialized
    ├── StorageError        storage_not_found · storage_transient · storage_unauthorized · storage_permanent ·
    │                       storage_conflict · object_changed · invalid_key · missing_bucket · temporary_space_full ·
    │                       storage_adapter_exception · invalid_storage_response · tus_tail_missing ·
    │                       gcs_unconfigured · gcs_signing_key_invalid · session_uri_unknown · session_uri_expired ·
    │                       offset_mismatch · CapabilityUnsupported (two codes)
    ├── MediaError          probe_failed · processor_capability_missing · variant_source_not_found · stale_source ·
    │                       variant_processing_cancelled · not_processing · process_timeout · render_failed ·
    │                       ffmpeg_not_found · ffmpeg_failed · unsupported_codec · missing_audio_track ·
    │                       output_missing · output_too_large · output_kind_mismatch · output_track_missing ·
    │                       output_duration_mismatch · insufficient_disk_headroom ·
    │                       unsupported_ephemeral_runtime · UnsafeCommand (two codes) · ContentRejected (several codes)
    ├── DeliveryError       asset_not_deliverable · variant_not_ready · profile_mismatch · range_unparseable
    ├── StreamingError      streaming_not_configured · source_not_public · streaming_provider_requires_asset ·
    │                       provider_asset_not_ready · provider_sync_failed · provider_quota_exceeded ·
    │                       provider_not_found · provider_webhook_invalid · missing_config
    ├── ErasureError        erasure_pending · empty_batch · batch_too_large · batch_owner_failed ·
    │                       force_delete_forbidden
    └── OperationsError     temporal_unavailable · setup_incomplete · inspection_failed · misconfigured ·
                            missing_extra · application_not_loaded · maintenance_running · maintenance_stopped

Codes are stable API, messages are not. Any client may read a message: it names profiles, limits and options, but never
credentials, signed URLs, file contents or absolute paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from rindle.text import storable, storable_document

#: Longest message that leaves the process (logs, rows, HTTP, Temporal).
MAX_MESSAGE_CHARS = 2048
#: Longest ``error_reason`` a row keeps.
MAX_REASON_CHARS = 4096


class RindleError(Exception):
    """Base of every error of this library.

    Attributes:
        code: stable identifier in snake case.
        message: a sentence for the user; also ``str(error)``.
        detail: facts such as the limit, the found value and the state; JSON-compatible, without secrets.
        retryable: whether the same call may succeed later although nothing else changes.
        action: what the caller can do about it, or ``None`` when the message already states it.
        retry_after: seconds to wait before a retry, when the other side states them.
    """

    code: str = "unexpected"
    http_status: int = 500
    retryable: bool = False
    #: Codes of a class that carries several reasons, with their HTTP status.
    codes: ClassVar[Mapping[str, int]] = {}
    #: Required arguments that ``detail`` keeps under their names, with their types.
    detail_arguments: ClassVar[Mapping[str, type[str | int]]] = {}

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        detail: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
        action: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = storable(message)  # also rows keep it
        self.message = message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"
        super().__init__(self.message)
        if code is not None:
            self.code = code
            self.http_status = type(self).codes.get(code, type(self).http_status)
        if retryable is not None:
            self.retryable = retryable
        self.detail: dict[str, Any] = dict(detail or {})
        self.action = action
        self.retry_after = retry_after

    @classmethod
    def rebuilt(cls, code: str, message: str, detail: Mapping[str, Any]) -> Self:
        """Return the error of this class that has been stored as ``code``, ``message`` and ``detail``."""
        arguments: dict[str, Any] = {
            name: kind(detail.get(name, kind())) for name, kind in cls.detail_arguments.items()
        }
        return cls(message, code=code, detail=detail, **arguments)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{code, message, detail}`` as HTTP and the command line show it; the cause is never included."""
        return {"code": self.code, "message": self.message, "detail": storable_document(self.detail)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code!r}, message={self.message!r})"


# --- lifecycle ---------------------------------------------------------------------------------------------------


class LifecycleError(RindleError):
    """A row is not in a state in which the call is possible."""

    http_status = 409


class NotFound(LifecycleError):
    """The asset, session, variant or attachment does not exist, or does not belong to the caller."""

    code = "not_found"
    http_status = 404


class InvalidTransition(LifecycleError):
    """The state machine does not allow this transition; nothing was written."""

    code = "invalid_transition"


class StateConflict(LifecycleError):
    """Another transaction changed the row first, or the database requires the transaction to run again."""

    code = "state_conflict"
    retryable = True


class Quarantined(LifecycleError):
    """The content was rejected as unsafe or unusable; ``detail['reason']`` is the code of the rejection."""

    code = "quarantined"
    http_status = 422


class StillAttached(LifecycleError):
    """A purge was requested for an asset that an owner still uses."""

    code = "still_attached"


class NotSettled(LifecycleError, TimeoutError):
    """The asset was not settled within the timeout; ``detail`` holds its state and the states of its variants."""

    code = "not_settled"
    http_status = 504
    retryable = True


class PluginUnavailable(LifecycleError):
    """A plug-in of the application is not called: too many of its calls have not returned (``detail``)."""

    code = "plugin_unavailable"
    http_status = 503
    retryable = True


class Unexpected(LifecycleError):
    """An unexpected exception, reduced to its class name at the border of the library."""

    code = "unexpected"
    http_status = 500
    retryable = True


# --- calls ------------------------------------------------------------------------------------------------------


class InvalidCall(RindleError):
    """The arguments are not valid; nothing was done."""

    http_status = 422


class ProfileError(InvalidCall, ValueError):
    """A profile declaration is wrong; the message lists every problem of the class at once."""

    code = "invalid_profile"


class UnknownProfile(InvalidCall):
    """No profile of that name is registered in this process."""

    code = "unknown_profile"


class UnknownVariant(InvalidCall):
    """The profile declares no variant of that name."""

    code = "unknown_variant"


class UnknownVariantNames(InvalidCall):
    """Some of the given variant names are not rows of this asset; nothing was done."""

    code = "unknown_variant_names"


class UnknownOptions(InvalidCall):
    """The call does not know an option. Unknown options are rejected, never ignored."""

    code = "unknown_options"


class UnknownFilters(InvalidCall):
    """The call does not know a filter. Ignoring it would match everything."""

    code = "unknown_filters"


class InvalidFilter(InvalidCall):
    """A filter of the status report has a wrong value; ``code`` names the filter."""

    code = "invalid_filter"
    codes: ClassVar[Mapping[str, int]] = {
        "invalid_older_than": 422,
        "invalid_limit": 422,
        "invalid_format": 422,
    }


class InvalidArgument(InvalidCall, ValueError):
    """An argument is outside its documented range; ``detail['option']`` names it."""

    code = "invalid_argument"
    http_status = 400


class InvalidOwner(InvalidCall):
    """The owner is not an OwnerRef, not an instance of a mapped class, and has no ``__rindle_owner__``."""

    code = "invalid_owner"


class OwnerNotPersisted(InvalidCall):
    """The owner has no primary key yet; flush it first."""

    code = "owner_not_persisted"


class OwnerTypeConflict(InvalidCall):
    """Two classes claim one owner type name."""

    code = "owner_type_conflict"


class InvalidSlot(InvalidCall):
    """A slot is 1 to 255 characters without control characters."""

    code = "invalid_slot"


class InvalidLastEventId(InvalidCall, ValueError):
    """``Last-Event-ID`` does not hold one number per subject of the stream."""

    code = "invalid_last_event_id"
    http_status = 400


# --- access ------------------------------------------------------------------------------------------------------


class AccessError(RindleError):
    """The actor may not do this."""


class Unauthorized(AccessError):
    """The Authorizer denied the call. An Authorizer may raise it with its own code."""

    code = "unauthorized"
    http_status = 403

    def __init__(self, message: str = "not allowed", **facts: Any) -> None:
        super().__init__(message, **facts)


class Unauthenticated(AccessError):
    """The route requires an authenticated caller."""

    code = "unauthenticated"
    http_status = 401


class TooManyStreams(AccessError):
    """The limit of open event streams, ``detail['limit']``, is reached.

    ``detail['of']`` names whose: ``actor``, ``ticket`` or ``anonymous`` (all such clients together), or ``process``.
    """

    code = "too_many_streams"
    http_status = 429
    retryable = True


# --- uploads -----------------------------------------------------------------------------------------------------


class UploadError(RindleError):
    """The upload did not succeed."""

    http_status = 422


class UploadRejected(UploadError):
    """The profile's policy rejects this upload; ``code`` is the reason.

    Attributes:
        operator: the message for the operator, which rows keep; ``None`` when ``message`` serves both.
    """

    code = "upload_rejected"
    codes: ClassVar[Mapping[str, int]] = {
        "unknown_mime": 422,
        "mime_not_allowed": 422,
        "extension_not_allowed": 422,
        "extension_mime_mismatch": 422,
        "missing_extension": 422,
        "no_probe_for_mime": 422,
        "max_bytes_exceeded": 413,
        "size_mismatch": 422,
        "digest_mismatch": 422,
        "empty_upload": 422,
        "scanner_rejected": 422,
    }

    def __init__(self, message: str, *, operator: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.operator = operator


class ScannerUnavailable(UploadError):
    """The scanner raised or timed out. The file counts neither as clean nor as rejected; the scan runs again."""

    code = "scanner_unavailable"
    http_status = 503
    retryable = True


class SourceTimeout(UploadError):
    """The file that the application uploads did not return its bytes in time; nothing was stored."""

    code = "source_timeout"
    http_status = 503
    retryable = True


class StorageObjectMissing(UploadError):
    """Verification found no object; upload it and verify again."""

    code = "storage_object_missing"
    http_status = 409


class UploadSessionExpired(UploadError):
    """The session has expired; start a new upload."""

    code = "upload_session_expired"
    http_status = 410


class UploadCancelled(UploadError):
    """The session was cancelled; start a new upload."""

    code = "upload_cancelled"
    http_status = 409


class UploadAlreadyCompleted(UploadError):
    """A completed upload cannot be cancelled; purge the asset instead."""

    code = "upload_already_completed"
    http_status = 409


class UploadStalled(UploadError):
    """No byte of a body arrived within the idle limit (``detail['limit_seconds']``); send it again."""

    code = "upload_stalled"
    http_status = 408
    retryable = True


class UploadSuperseded(UploadError):
    """A newer request sends the body of the same upload; this one was ended."""

    code = "upload_superseded"
    http_status = 409


class TusError(UploadError):
    """The routes of tus and of the IETF's draft refuse a request; ``code`` is the reason.

    Only ``tus_locked`` is worth the same request again.
    """

    code = "tus_session_not_found"
    codes: ClassVar[Mapping[str, int]] = {
        "tus_version_unsupported": 412,
        "tus_method_not_allowed": 405,
        "tus_url_signature_invalid": 404,
        "tus_session_not_found": 404,
        "tus_session_expired": 410,
        "tus_content_type_unsupported": 415,
        "tus_offset_conflict": 409,
        "tus_size_exceeded": 413,
        "tus_upload_closed": 403,
        "tus_checksum_mismatch": 460,
        "tus_locked": 423,
    }


class InvalidMultipartParts(UploadError):
    """The parts of a multipart upload cannot become its object; the upload did not change and can be continued.

    The list is malformed or empty, names a part twice, or differs from the parts in the store; or the parts together
    have another size than was declared.
    """

    code = "invalid_multipart_parts"
    http_status = 400


class InvalidPartNumber(UploadError):
    """A multipart upload has no part with this number: it is out of 1 to 10000, or beyond the declared size."""

    code = "invalid_part_number"
    http_status = 400


class MultipartUploadNotInitialized(UploadError):
    """The store has not begun the upload yet, or its beginning failed; repeat the call that initiates it."""

    code = "multipart_upload_not_initialized"
    http_status = 400


class ResumableUploadNotInitialized(UploadError):
    """The upload has no resumable session in the store, or not any more; start a new one."""

    code = "resumable_upload_not_initialized"
    http_status = 400


# --- storage -----------------------------------------------------------------------------------------------------


class StorageError(RindleError):
    """A store refused a call, failed or did not answer.

    Attributes:
        key: the storage key of the call, or ``None``.
        adapter: name of the adapter.
    """

    http_status = 502

    def __init__(self, message: str, *, key: str | None = None, adapter: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.key = key
        self.adapter = adapter


class StorageNotFound(StorageError):
    """Nothing is stored at the key."""

    code = "storage_not_found"
    http_status = 404


class StorageTransient(StorageError):
    """The store did not answer or requires a retry; the same call may succeed later."""

    code = "storage_transient"
    http_status = 503
    retryable = True


class StorageUnauthorized(StorageError):
    """The store refused our credentials. It is retried like an outage: an operator restores them while work waits."""

    code = "storage_unauthorized"
    retryable = True


class StoragePermanent(StorageError):
    """The store refused the call, and a retry cannot help."""

    code = "storage_permanent"


class StorageConflict(StorageError):
    """The write had to create the object, but the key is taken."""

    code = "storage_conflict"
    http_status = 409


class ObjectChanged(StorageConflict):
    """The object is no longer the one that was pinned (its ETag differs)."""

    code = "object_changed"


class InvalidKey(StorageError):
    """The storage key does not follow Rindle's rules; nothing was read or written."""

    code = "invalid_key"
    http_status = 400


class StorageMisconfigured(StorageError):
    """The adapter cannot work as configured: the bucket, the credentials or the signing key."""

    code = "missing_bucket"
    http_status = 500
    codes: ClassVar[Mapping[str, int]] = {
        "missing_bucket": 500,
        "gcs_unconfigured": 500,
        "gcs_signing_key_invalid": 500,
    }


class TemporarySpaceFull(StorageError):
    """The bodies of unfinished uploads have reached the store's limit, ``detail['limit']`` in bytes; send it later."""

    code = "temporary_space_full"
    http_status = 507
    retryable = True


class StorageAdapterException(StorageError):
    """A third-party adapter raised something that is not a StorageError (class name in ``detail``)."""

    code = "storage_adapter_exception"
    retryable = True


class InvalidStorageResponse(StorageError):
    """A third-party adapter broke its contract (adapter and operation in ``detail``)."""

    code = "invalid_storage_response"


class SessionUriUnknown(StorageError):
    """The store does not know the resumable session: it was cancelled, or forgotten; start a new upload."""

    code = "session_uri_unknown"
    http_status = 404


class SessionUriExpired(StorageError):
    """The resumable session has expired in the store; start a new upload."""

    code = "session_uri_expired"
    http_status = 410


class OffsetMismatch(StorageError):
    """The store has another number of bytes than the client believes; continue at ``server``.

    Attributes:
        server: bytes that the store has.
        client: bytes that the client named.
    """

    code = "offset_mismatch"
    http_status = 409
    detail_arguments: ClassVar[Mapping[str, type[str | int]]] = {"server": int, "client": int}

    def __init__(self, message: str, *, server: int, client: int, **facts: Any) -> None:
        facts["detail"] = {"server": server, "client": client, **(facts.get("detail") or {})}
        super().__init__(message, **facts)
        self.server = server
        self.client = client


class TusTailMissing(StorageError):
    """Stored bytes of a resumable upload are not where they were kept; nothing was stored in their place."""

    code = "tus_tail_missing"
    http_status = 500


class CapabilityUnsupported(StorageError):
    """The adapter does not support what the call needs; Rindle never replaces it with another way.

    Attributes:
        capability: the missing capability's name.
    """

    code = "upload_unsupported"
    http_status = 422
    codes: ClassVar[Mapping[str, int]] = {"upload_unsupported": 422, "delivery_unsupported": 422}
    detail_arguments: ClassVar[Mapping[str, type[str | int]]] = {"capability": str}

    def __init__(self, message: str, *, capability: str, code: str = "upload_unsupported", **facts: Any) -> None:
        facts["detail"] = {"capability": capability, **(facts.get("detail") or {})}
        super().__init__(message, code=code, **facts)
        self.capability = capability


# --- media -------------------------------------------------------------------------------------------------------


class MediaError(RindleError):
    """Reading or building media failed."""


class ProbeFailed(MediaError):
    """The technical facts could not be read."""

    code = "probe_failed"
    http_status = 422


class ProcessorCapabilityMissing(MediaError):
    """The processor or its libraries cannot build this variant."""

    code = "processor_capability_missing"


class VariantSourceNotFound(MediaError):
    """The original no longer exists in its store."""

    code = "variant_source_not_found"
    http_status = 409


class StaleSource(MediaError):
    """The original or the recipe changed while the variant was being built; the result was thrown away."""

    code = "stale_source"
    http_status = 409


class VariantProcessingCancelled(MediaError):
    """The build was cancelled."""

    code = "variant_processing_cancelled"
    http_status = 409


class NotProcessing(MediaError):
    """There is nothing to cancel."""

    code = "not_processing"
    http_status = 409


class ProcessTimeout(MediaError):
    """The build exceeded its time limit and was stopped."""

    code = "process_timeout"
    retryable = True


class RenderFailed(MediaError):
    """The image library could not produce the variant, or its process died."""

    code = "render_failed"
    retryable = True


class OutputMissing(MediaError):
    """The processor ended without an error, but without a usable file."""

    code = "output_missing"
    retryable = True


class FfmpegNotFound(MediaError):
    """ffmpeg or ffprobe is not on this machine, or is older than 5.1; another worker may have it."""

    code = "ffmpeg_not_found"
    http_status = 503
    retryable = True


class FfmpegFailed(MediaError):
    """ffmpeg ended with an error, or was killed by a signal (``detail['signal']``)."""

    code = "ffmpeg_failed"
    retryable = True


class UnsupportedCodec(MediaError):
    """This ffmpeg cannot decode the codec of the required track, or may not."""

    code = "unsupported_codec"
    http_status = 422


class MissingAudioTrack(MediaError):
    """The original has no audio track to build the variant from."""

    code = "missing_audio_track"
    http_status = 422


class OutputTooLarge(MediaError):
    """The variant reached the size limit, so its file is not complete."""

    code = "output_too_large"


class OutputKindMismatch(MediaError):
    """The output is of another kind than the recipe requires."""

    code = "output_kind_mismatch"


class OutputTrackMissing(MediaError):
    """The output lacks a track that the original has."""

    code = "output_track_missing"


class OutputDurationMismatch(MediaError):
    """The output is longer or shorter than the original."""

    code = "output_duration_mismatch"
    retryable = True


class InsufficientDiskHeadroom(MediaError):
    """The scratch disk has too little free space for a build; another worker may have enough."""

    code = "insufficient_disk_headroom"
    http_status = 503
    retryable = True


class UnsupportedEphemeralRuntime(MediaError):
    """Audio and video are not built where the platform may stop the process at any time (Lambda, Vercel)."""

    code = "unsupported_ephemeral_runtime"


class UnsafeCommand(MediaError):
    """An ffmpeg command lacks its confinement or holds a value that is not allowed; it was not run."""

    code = "missing_protocol_whitelist"
    codes: ClassVar[Mapping[str, int]] = {"missing_protocol_whitelist": 500, "unsupported_ingest_format": 500}


class ContentRejected(MediaError):
    """The content is rejected; promotion quarantines the asset with ``code`` as the reason.

    Attributes:
        operator: the message for the operator, which rows keep; ``None`` when ``message`` serves both.
    """

    code = "decode_failed"
    http_status = 422
    codes: ClassVar[Mapping[str, int]] = {
        "decode_failed": 422,
        "camera_raw": 422,
        "codec_not_allowed": 422,
        "content_too_complex": 422,
        "decoder_failed": 422,
        "max_pixels_exceeded": 422,
        "media_too_long": 422,
        "object_changed_after_verify": 422,
        "strip_unsupported": 422,
        "unsupported_variant_of_format": 422,
    }

    def __init__(self, message: str, *, operator: str | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.operator = operator


# --- delivery ----------------------------------------------------------------------------------------------------


class DeliveryError(RindleError):
    """There is nothing to deliver, or not in this way."""

    http_status = 409


class AssetNotDeliverable(DeliveryError):
    """The asset is not validated yet, quarantined or deleted (``.state``)."""

    code = "asset_not_deliverable"
    detail_arguments: ClassVar[Mapping[str, type[str | int]]] = {"state": str}

    def __init__(self, message: str, *, state: str, **facts: Any) -> None:
        facts["detail"] = {"state": state, **(facts.get("detail") or {})}
        super().__init__(message, **facts)
        self.state = state


class VariantNotReady(DeliveryError):
    """The variant has no object to serve, and the call allows no fallback."""

    code = "variant_not_ready"


class ProfileMismatch(DeliveryError):
    """The asset belongs to another profile than the given one, or than those that a slot accepts."""

    code = "profile_mismatch"
    http_status = 422


class RangeUnparseable(DeliveryError):
    """The Range header cannot be parsed and strict parsing is on."""

    code = "range_unparseable"
    http_status = 416


# --- streaming ---------------------------------------------------------------------------------------------------


class StreamingError(RindleError):
    """A streaming provider has nothing to play, or did not do what was requested."""

    http_status = 409


class StreamingNotConfigured(StreamingError):
    """The profile has no streaming provider for this kind of ingest; ``detail`` names the profile."""

    code = "streaming_not_configured"
    http_status = 422


class SourceNotPublic(StreamingError):
    """The provider cannot fetch the source: its storage has no public address."""

    code = "source_not_public"
    http_status = 422


class InvalidCorsOrigin(StreamingError):
    """A direct upload needs the origin of the page that sends the bytes: scheme, host and port, without a path."""

    code = "invalid_cors_origin"
    http_status = 422


class NotCancellable(StreamingError):
    """The direct upload can no longer be cancelled.

    Args:
        reason: ``state``, or ``missing_upload_id`` when the provider's id of the upload is not known.
        state: state of the asset at its provider.
    """

    code = "not_cancellable"
    detail_arguments: ClassVar[Mapping[str, type[str | int]]] = {"reason": str, "state": str}

    def __init__(self, message: str, *, reason: str, state: str, **facts: Any) -> None:
        facts["detail"] = {"reason": reason, "state": state, **(facts.get("detail") or {})}
        super().__init__(message, **facts)
        self.reason = reason
        self.state = state


class StreamingRequiresAsset(StreamingError):
    """The profile streams through a provider, which knows assets only, and the call has a storage key."""

    code = "streaming_provider_requires_asset"
    http_status = 422


class ProviderAssetNotReady(StreamingError):
    """The provider has nothing to play yet, or not any more."""

    code = "provider_asset_not_ready"
    retryable = True


class ProviderSyncFailed(StreamingError):
    """The provider failed, refused the request, or answered with something unexpected.

    Args:
        status: HTTP status of the provider; ``None`` when it did not answer.
        transient: whether the same request may succeed later; then the error is retryable.
    """

    code = "provider_sync_failed"
    http_status = 502

    def __init__(self, message: str, *, status: int | None = None, transient: bool = False, **facts: Any) -> None:
        facts["detail"] = {**({} if status is None else {"status": status}), **(facts.get("detail") or {})}
        facts.setdefault("retryable", transient)
        super().__init__(message, **facts)
        self.status = status
        self.transient = transient


class ProviderQuotaExceeded(StreamingError):
    """The provider limits the rate of requests; ``retry_after`` is the pause it requests."""

    code = "provider_quota_exceeded"
    http_status = 429
    retryable = True


class ProviderNotFound(StreamingError):
    """The provider does not know the asset or upload."""

    code = "provider_not_found"
    http_status = 404


class ProviderWebhookInvalid(StreamingError):
    """A webhook has no valid signature, is too old or too new, or cannot be read; one message for all causes."""

    code = "provider_webhook_invalid"
    http_status = 400


class MissingConfig(StreamingError):
    """A credential of the provider is missing or cannot be read; ``detail["key"]`` names it and never has its value."""

    code = "missing_config"
    http_status = 500


# --- erasure -----------------------------------------------------------------------------------------------------


class ErasureError(RindleError):
    """An erasure or a forced deletion was refused, or has not reported yet."""

    http_status = 422


class ErasurePending(ErasureError):
    """The erasure was started, but no worker has reported yet; it continues. ``detail`` has its ``operation_id``."""

    code = "erasure_pending"
    http_status = 504
    retryable = True


class EmptyBatch(ErasureError):
    """A batch erasure was called without an owner."""

    code = "empty_batch"


class BatchTooLarge(ErasureError):
    """A batch erasure names more owners than it may; nothing was done. ``detail`` has ``requested`` and ``max``."""

    code = "batch_too_large"


class BatchOwnerFailed(ErasureError):
    """One owner of a batch failed; earlier owners are erased, later ones were not tried.

    ``detail`` has the ``owner``, the ``reason`` (a code) and the ``partial_report`` of the completed owners.
    """

    code = "batch_owner_failed"
    http_status = 500
    retryable = True


class ForceDeleteForbidden(ErasureError):
    """No policy allows forced deletions, or the policy refused this one."""

    code = "force_delete_forbidden"
    http_status = 403


# --- operations --------------------------------------------------------------------------------------------------


class OperationsError(RindleError):
    """A service or a setting that Rindle needs is not in order."""

    http_status = 503


class TemporalUnavailable(OperationsError):
    """This call needs Temporal, which cannot be reached. Calls that only write the outbox never raise it."""

    code = "temporal_unavailable"
    retryable = True


class SetupIncomplete(OperationsError):
    """Tables or migrations are missing; run ``rindle doctor``."""

    code = "setup_incomplete"


class InspectionFailed(OperationsError):
    """The database could not be read."""

    code = "inspection_failed"
    retryable = True


class Misconfigured(OperationsError):
    """A setting or constructor argument is not valid."""

    code = "misconfigured"
    http_status = 500


class MissingExtra(Misconfigured, ModuleNotFoundError):
    """A package of an extra is not installed; ``detail`` holds ``extra`` and ``package``."""

    code = "missing_extra"


class ApplicationNotLoaded(Misconfigured):
    """The module that ``--app`` names cannot be imported, or has no such object; the cause is the module's error."""

    code = "application_not_loaded"


class MaintenanceRunning(OperationsError):
    """The same sweep, or one it must not run beside, is running; ``detail`` holds its ``workflow_id``."""

    code = "maintenance_running"
    http_status = 409
    retryable = True


class MaintenanceStopped(OperationsError):
    """A sweep was cancelled or terminated; what it has done stays done. ``detail`` holds its ``counters``."""

    code = "maintenance_stopped"
    http_status = 409


def _classes(base: type[RindleError]) -> Iterator[type[RindleError]]:
    for child in base.__subclasses__():
        yield child
        yield from _classes(child)


def _catalogue() -> dict[str, type[RindleError]]:
    found: dict[str, type[RindleError]] = {}
    for cls in _classes(RindleError):
        own = [*cls.codes] if cls.codes else ([cls.__dict__["code"]] if "code" in cls.__dict__ else [])
        for code in own:
            if code in found:
                raise RuntimeError(f"error code {code!r} is claimed by {found[code].__name__} and {cls.__name__}")
            found[code] = cls
    return found


#: Every code and the class that carries it.
CODES: Mapping[str, type[RindleError]] = _catalogue()

#: Codes of rejected content: the reasons for which an asset can be quarantined.
QUARANTINE_REASONS: frozenset[str] = frozenset({*UploadRejected.codes, *ContentRejected.codes})


def http_status_of(code: str) -> int:
    """Return the HTTP status of ``code``; 500 for a code that is not Rindle's."""
    cls = CODES.get(code)
    return 500 if cls is None else cls.codes.get(code, int(cls.http_status))


def error_of(code: str, message: str, detail: Mapping[str, Any] | None = None) -> RindleError:
    """Rebuild the error that ``code`` names, after it was read from a row or received from Temporal.

    An unknown code becomes :class:`Unexpected` carrying that code in ``detail``.
    """
    cls = CODES.get(code)
    if cls is None:
        return Unexpected(message, detail={**(detail or {}), "code": code})
    return cls.rebuilt(code, message, detail or {})


def describe(error: BaseException) -> tuple[str, str]:
    """Return ``(code, reason)`` as a row stores them; a foreign exception is reduced to its class name."""
    if isinstance(error, RindleError):
        return error.code, error.message[:MAX_REASON_CHARS]
    return "unexpected", f"unexpected {type(error).__name__}"
