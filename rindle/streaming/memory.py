"""A streaming provider in memory, for tests of applications: nothing is sent, and playback addresses lead nowhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import uuid4

from rindle.errors import ProviderNotFound, RindleError
from rindle.protocols import (
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
from rindle.streaming import signatures

#: Header of the signature of a webhook.
SIGNATURE_HEADER = "Memory-Signature"


class InMemoryProvider(StreamingProvider, DirectUploads):
    """A provider whose assets are a dictionary.

    Args:
        ready_at_once: whether new assets are ``ready``; otherwise they are ``processing`` until :meth:`finish`.

    A test scripts it: :meth:`finish` ends an asset, :meth:`receive` and :meth:`end_upload` end a direct upload,
    :meth:`fail_next` makes calls fail, and :meth:`webhook` returns a signed webhook as a provider would send it.
    ``calls`` lists the names of the methods that were called.
    """

    name: ClassVar[str] = "memory"

    def __init__(self, *, ready_at_once: bool = False) -> None:
        self.assets: dict[str, ProviderAsset] = {}
        self.uploads: dict[str, ProviderUpload] = {}
        self.sources: list[str] = []
        self.calls: list[str] = []
        self._ready_at_once = ready_at_once
        #: Playback policy and passthrough of the assets of direct uploads.
        self._wanted: dict[str, tuple[str, str]] = {}
        self._failures: dict[str, list[tuple[RindleError, bool]]] = {}

    def capabilities(self) -> frozenset[str]:
        """Return all capabilities."""
        return STREAMING_CAPABILITIES

    # -- scripting ------------------------------------------------------------------------------------------------

    def fail_next(self, method: str, error: RindleError, *, afterwards: bool = False) -> None:
        """Make the next call of ``method`` raise ``error``: instead of its effect, or with ``afterwards`` after it."""
        self._failures.setdefault(method, []).append((error, afterwards))

    def finish(self, asset_id: str, *, state: str = "ready", error: str | None = None) -> ProviderAsset:
        """Move an asset to ``state``, as the provider does when it has finished."""
        playback_ids = self.assets[asset_id].playback_ids
        if state == "ready" and not playback_ids:
            playback_ids = (f"play{uuid4().hex}",)
        done = dataclasses.replace(self.assets[asset_id], state=state, error=error, playback_ids=playback_ids)
        self.assets[asset_id] = done
        return done

    def receive(self, upload_id: str) -> ProviderAsset | None:
        """Receive all bytes of a direct upload; returns the asset, or ``None`` when the upload no longer waits."""
        if self.uploads[upload_id].status != "waiting":
            return None
        policy, passthrough = self._wanted[upload_id]
        asset = self._new_asset(policy, passthrough)
        self.end_upload(upload_id, "asset_created", asset_id=asset.id)
        return asset

    def end_upload(
        self, upload_id: str, status: str, *, asset_id: str | None = None, error: str | None = None
    ) -> ProviderUpload:
        """End a direct upload: ``errored``, ``cancelled``, ``timed_out``, or ``asset_created`` of :meth:`receive`."""
        upload = self.uploads[upload_id]
        self.uploads[upload_id] = dataclasses.replace(upload, status=status, asset_id=asset_id, error=error)
        return self.uploads[upload_id]

    def webhook(
        self,
        kind: WebhookKind | str,
        secret: str,
        *,
        asset: ProviderAsset | None = None,
        upload_id: str | None = None,
        event_id: str | None = None,
        occurred_at: datetime | None = None,
        now: datetime | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a signed webhook."""
        now = now or datetime.now(UTC)
        document = {
            "id": event_id or uuid4().hex,
            "type": str(kind),
            "created_at": (occurred_at or now).isoformat(),
            "asset_id": None if asset is None else asset.id,
            "upload_id": upload_id,
            "passthrough": None if asset is None else asset.passthrough,
            "playback_ids": None if asset is None else list(asset.playback_ids),
            "error": None if asset is None else asset.error,
        }
        body = json.dumps(document).encode()
        return body, {SIGNATURE_HEADER: signatures.sign(body, secret, now=now)}

    def _called(self, method: str, *, done: bool = False) -> None:
        waiting = self._failures.get(method, [])
        if not done:
            self.calls.append(method)
        if waiting and waiting[0][1] is done:
            raise waiting.pop(0)[0]

    # -- the protocol ---------------------------------------------------------------------------------------------

    async def create_asset(self, source_url: str, *, policy: str, passthrough: str) -> ProviderAsset:
        """Create an asset; its source is only remembered."""
        self._called("create_asset")
        asset = self._new_asset(policy, passthrough)
        self.sources.append(source_url)
        self._called("create_asset", done=True)
        return asset

    def _new_asset(self, policy: str, passthrough: str) -> ProviderAsset:
        asset = ProviderAsset(
            id=uuid4().hex,
            state="processing",
            passthrough=passthrough,
            created_at=datetime.now(UTC),
            raw={"policy": policy},
        )
        self.assets[asset.id] = asset
        return self.finish(asset.id) if self._ready_at_once else asset

    async def find_by_passthrough(self, passthrough: str, *, since: datetime) -> ProviderAsset | None:
        """Return the newest asset with the passthrough."""
        self._called("find_by_passthrough")
        found = [
            one
            for one in self.assets.values()
            if one.passthrough == passthrough and one.created_at is not None and one.created_at >= since
        ]
        return found[-1] if found else None

    async def get_asset(self, asset_id: str) -> ProviderAsset:
        """Return the asset."""
        self._called("get_asset")
        if asset_id not in self.assets:
            raise ProviderNotFound("memory asset not found")
        return self.assets[asset_id]

    async def delete_asset(self, asset_id: str) -> None:
        """Delete the asset, if there is one."""
        self._called("delete_asset")
        self.assets.pop(asset_id, None)

    async def playback_url(self, playback_id: str, *, policy: str, expires_in: int) -> PlaybackGrant:
        """Return an address that leads nowhere."""
        self._called("playback_url")
        url = f"https://stream.memory.invalid/{playback_id}.m3u8"
        if policy == "public":
            return PlaybackGrant(url, None)
        expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=expires_in)
        return PlaybackGrant(f"{url}?expires={int(expires_at.timestamp())}", expires_at)

    def verify_webhook(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str], *, now: datetime, tolerance_seconds: int
    ) -> VerifiedWebhook:
        """Verify a webhook of :meth:`webhook`."""
        named = {name.lower(): value for name, value in headers.items()}
        header = named.get(SIGNATURE_HEADER.lower())
        index = signatures.verify(body, header, secrets, now=now, tolerance_seconds=tolerance_seconds)
        document = signatures.document_of(body)
        kind = str(document.get("type"))
        if not isinstance(document.get("id"), str) or not document["id"]:
            raise signatures.invalid()
        if kind not in set(WebhookKind):
            return VerifiedWebhook(kind, None, index)
        return VerifiedWebhook(kind, _event(document, WebhookKind(kind)), index)

    async def create_direct_upload(
        self, *, cors_origin: str, timeout_seconds: int, policy: str, passthrough: str
    ) -> ProviderUpload:
        """Create an upload whose address leads nowhere."""
        self._called("create_direct_upload")
        upload_id = uuid4().hex
        upload = ProviderUpload(upload_id, f"https://upload.memory.invalid/{upload_id}")
        self.uploads[upload_id] = upload
        self._wanted[upload_id] = (policy, passthrough)
        self._called("create_direct_upload", done=True)
        return upload

    async def get_direct_upload(self, upload_id: str) -> ProviderUpload:
        """Return the upload."""
        self._called("get_direct_upload")
        if upload_id not in self.uploads:
            raise ProviderNotFound("memory upload not found")
        return self.uploads[upload_id]

    async def cancel_direct_upload(self, upload_id: str) -> None:
        """Cancel the upload, if it still waits."""
        self._called("cancel_direct_upload")
        upload = self.uploads.get(upload_id)
        if upload is not None and upload.status == "waiting":
            self.uploads[upload_id] = dataclasses.replace(upload, status="cancelled")
        self._called("cancel_direct_upload", done=True)


def _event(document: Mapping[str, Any], kind: WebhookKind) -> ProviderEvent:
    return ProviderEvent(
        id=document["id"],
        type=kind.value,
        kind=kind,
        provider_asset_id=document.get("asset_id"),
        upload_id=document.get("upload_id"),
        passthrough=document.get("passthrough"),
        playback_ids=signatures.playback_ids_of(document.get("playback_ids")),
        occurred_at=signatures.instant_of(document.get("created_at")),
        error=document.get("error"),
    )
