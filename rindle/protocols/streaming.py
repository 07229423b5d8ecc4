"""What a streaming provider does: it copies a video, makes renditions of it, and serves them to players.

A provider knows its own API, and nothing of rows or Temporal. Its ids, upload URLs and passthroughs are confidential;
only playback ids are public.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

#: All capabilities of streaming providers; other names that a provider returns are ignored.
STREAMING_CAPABILITIES = frozenset(
    {"signed_playback", "public_playback", "webhook_ingest", "server_push_ingest", "direct_creator_upload"}
)


class WebhookKind(StrEnum):
    """What a webhook reports, in words of no provider."""

    CREATED = "created"
    READY = "ready"
    ERRORED = "errored"
    DELETED = "deleted"
    UPLOAD_ASSET_CREATED = "upload_asset_created"
    UPLOAD_ERRORED = "upload_errored"
    UPLOAD_CANCELLED = "upload_cancelled"


@dataclass(frozen=True, slots=True)
class ProviderAsset:
    """An asset as its provider describes it.

    Attributes:
        id: the provider's id.
        playback_ids: ids for players, in the provider's order; empty before it has made one.
        state: ``processing``, ``ready``, ``errored`` or ``deleted``; empty for a state that the adapter does not know.
        error: why it is ``errored``; a message without ids and URLs.
        passthrough: the value that was given when it was created.
        created_at: when it was created, as an aware datetime.
        raw: what the provider reports of it.
    """

    id: str = field(repr=False)
    playback_ids: tuple[str, ...] = ()
    state: str = ""
    error: str | None = None
    passthrough: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ProviderUpload:
    """A direct upload to a provider.

    Attributes:
        id: the provider's id of the upload.
        url: address to which the browser uploads; a bearer credential.
        status: ``waiting``, ``asset_created``, ``errored``, ``cancelled`` or ``timed_out``.
        asset_id: the provider's id of the asset, once there is one.
        error: why it is ``errored``.
    """

    id: str = field(repr=False)
    url: str = field(default="", repr=False)
    status: str = "waiting"
    asset_id: str | None = field(default=None, repr=False)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PlaybackGrant:
    """The address of a stream, and when it expires: ``None`` for a public one. A signed address is a credential."""

    url: str = field(repr=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """A webhook that was verified, in words of no provider.

    Attributes:
        id: the provider's id of the webhook; a repeated one has the same.
        type: the provider's own name of its type.
        kind: a :class:`WebhookKind`.
        playback_ids: ids for players, of an asset that is ready.
        occurred_at: when the provider wrote it, as an aware datetime.
        error: why the asset is ``errored``.
        raw: what the provider reports of the asset.
    """

    id: str
    type: str
    kind: WebhookKind
    provider_asset_id: str | None = field(default=None, repr=False)
    upload_id: str | None = field(default=None, repr=False)
    passthrough: str | None = field(default=None, repr=False)
    playback_ids: tuple[str, ...] = ()
    occurred_at: datetime | None = None
    error: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class VerifiedWebhook:
    """A webhook whose signature is valid.

    Attributes:
        type: the provider's own name of its type.
        event: what it reports; ``None`` for a type that nothing is done about.
        secret_index: which of the secrets verified it, from 0.
    """

    type: str
    event: ProviderEvent | None
    secret_index: int


class StreamingProvider(ABC):
    """Base of all streaming providers.

    All methods may raise :class:`rindle.errors.ProviderSyncFailed` (``transient`` where a retry can help),
    :class:`rindle.errors.ProviderQuotaExceeded` and :class:`rindle.errors.MissingConfig`. Credentials are read at each
    call, so that they can be rotated without a restart.
    """

    #: Stable name in rows and workflow ids, 1 to 63 lower-case letters, digits and underscores.
    name: ClassVar[str]

    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """Return the names of :data:`STREAMING_CAPABILITIES` that the provider has."""

    @abstractmethod
    async def create_asset(self, source_url: str, *, policy: str, passthrough: str) -> ProviderAsset:
        """Create an asset from the video at ``source_url``.

        Args:
            source_url: a public or signed URL; the provider reads it once, soon after this call.
            policy: ``signed`` or ``public``.
            passthrough: kept with the asset, and part of its webhooks.
        """

    @abstractmethod
    async def find_by_passthrough(self, passthrough: str, *, since: datetime) -> ProviderAsset | None:
        """Return the asset with this passthrough that was created after ``since``, or ``None``."""

    @abstractmethod
    async def get_asset(self, asset_id: str) -> ProviderAsset:
        """Return the asset as it is now.

        Raises:
            ProviderNotFound: the provider has no such asset.
        """

    @abstractmethod
    async def delete_asset(self, asset_id: str) -> None:
        """Delete the asset; one that is gone already is no error."""

    @abstractmethod
    async def playback_url(self, playback_id: str, *, policy: str, expires_in: int) -> PlaybackGrant:
        """Return the address of the HLS playlist of a playback id.

        Args:
            policy: ``signed`` or ``public``; a public address has no signature and does not expire.
            expires_in: lifetime of a signed address in seconds. Players use it for each segment, so it must outlive
                the playback.
        """

    @abstractmethod
    def verify_webhook(
        self, body: bytes, headers: Mapping[str, str], secrets: Sequence[str], *, now: datetime, tolerance_seconds: int
    ) -> VerifiedWebhook:
        """Verify the signature over the body as it was received, then read it.

        Args:
            headers: of the request; their names in any case.
            secrets: accepted secrets, newest first.
            now: the current time.
            tolerance_seconds: age at which a webhook is refused, in both directions of the clock.

        Raises:
            ProviderWebhookInvalid: a signature, the time or the body is invalid; one message for all causes.
        """

    async def close(self) -> None:  # noqa: B027 - most providers have nothing to release
        """Release threads and connections; the provider can be used again."""


class DirectUploads(ABC):
    """The ability ``direct_creator_upload``: browsers upload to the provider itself."""

    @abstractmethod
    async def create_direct_upload(
        self, *, cors_origin: str, timeout_seconds: int, policy: str, passthrough: str
    ) -> ProviderUpload:
        """Create an upload that accepts bytes from pages of ``cors_origin`` for ``timeout_seconds``."""

    @abstractmethod
    async def get_direct_upload(self, upload_id: str) -> ProviderUpload:
        """Return the upload as it is now.

        Raises:
            ProviderNotFound: the provider has no such upload.
        """

    @abstractmethod
    async def cancel_direct_upload(self, upload_id: str) -> None:
        """Cancel the upload; one that is gone or has ended is no error."""


@dataclass(frozen=True, slots=True)
class ConfigurationFlaw:
    """Something that is wrong with the configuration of a provider; no text holds a part of a secret.

    Attributes:
        check: ``credentials``, ``signing_key`` or ``webhook_secrets``.
        problem: what is wrong, with names of variables.
        fix: what to do.
    """

    check: str
    problem: str
    fix: str


class ConfigurationChecks(ABC):
    """The ability to verify the provider's own configuration, which ``rindle doctor`` does."""

    @abstractmethod
    def configuration_flaws(self, *, signed: bool) -> Sequence[ConfigurationFlaw]:
        """Return what is wrong, without a call to the provider.

        Args:
            signed: whether playback tokens are needed.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Send one request that changes nothing, with the credentials.

        Raises:
            ProviderSyncFailed, ProviderQuotaExceeded, MissingConfig: the provider did not accept it.
        """
