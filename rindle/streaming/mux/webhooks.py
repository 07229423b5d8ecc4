"""Mux's webhooks, in words of no provider.

Source: Mux guide "Listen for webhooks" and its webhook reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rindle.protocols import ProviderEvent, VerifiedWebhook, WebhookKind
from rindle.streaming import signatures

#: Name of the header of the signature, in lower case.
SIGNATURE_HEADER = "mux-signature"
#: The types that something is done about; all others are dropped.
KINDS: Mapping[str, WebhookKind] = {
    "video.asset.created": WebhookKind.CREATED,
    "video.asset.ready": WebhookKind.READY,
    "video.asset.errored": WebhookKind.ERRORED,
    "video.asset.deleted": WebhookKind.DELETED,
    "video.upload.asset_created": WebhookKind.UPLOAD_ASSET_CREATED,
    "video.upload.errored": WebhookKind.UPLOAD_ERRORED,
    "video.upload.cancelled": WebhookKind.UPLOAD_CANCELLED,
}


def verified(
    body: bytes, headers: Mapping[str, str], secrets: Sequence[str], *, now: datetime, tolerance_seconds: int
) -> VerifiedWebhook:
    """Verify a webhook and read it; see ``StreamingProvider.verify_webhook``."""
    named = {name.lower(): value for name, value in headers.items()}
    header = named.get(SIGNATURE_HEADER)
    index = signatures.verify(body, header, secrets, now=now, tolerance_seconds=tolerance_seconds)
    document = signatures.document_of(body)
    event_id, kind = document.get("id"), document.get("type")
    if not (isinstance(event_id, str) and event_id and isinstance(kind, str)):
        raise signatures.invalid()
    if kind not in KINDS:
        return VerifiedWebhook(kind[:64], None, index)
    data = document.get("data")
    if not isinstance(data, dict) or _text(data.get("id")) is None:
        raise signatures.invalid()
    return VerifiedWebhook(kind, _event(event_id, kind, data, document.get("created_at")), index)


def _event(event_id: str, kind: str, data: Mapping[str, Any], created_at: Any) -> ProviderEvent:
    is_upload = kind.startswith("video.upload.")
    settings = data.get("new_asset_settings")
    passthrough = _text(data.get("passthrough"))
    if passthrough is None and isinstance(settings, dict):
        passthrough = _text(settings.get("passthrough"))
    return ProviderEvent(
        id=event_id,
        type=kind,
        kind=KINDS[kind],
        provider_asset_id=_text(data.get("asset_id" if is_upload else "id")),
        upload_id=_text(data.get("id" if is_upload else "upload_id")),
        passthrough=passthrough,
        playback_ids=() if is_upload else signatures.playback_ids_of(data.get("playback_ids")),
        occurred_at=signatures.instant_of(created_at),
        error=error_of(data.get("error" if is_upload else "errors")),
        raw={} if is_upload else data,
    )


def error_of(errors: Any) -> str | None:
    """Return Mux's errors of an asset or upload as ``type: message; message``."""
    if not isinstance(errors, Mapping):
        return None
    messages = errors.get("messages")
    listed = [str(one) for one in messages] if isinstance(messages, list) else []
    if not listed and _text(errors.get("message")):
        listed = [str(errors["message"])]
    return ": ".join(part for part in (_text(errors.get("type")), "; ".join(listed)) if part) or None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 255 else None
