"""Authorization: the authorizer, and the subjects it decides about."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class DeliverySubject:
    """The subject of an authorizer for a delivery."""

    profile: str
    mode: Literal["public", "private"]
    key: str | None = None
    asset_id: str | None = None
    variant: str | None = None
    playback_id: str | None = None
    kind: Literal["object", "hls", "progressive"] = "object"


@dataclass(frozen=True, slots=True)
class UploadSubject:
    """The subject of an authorizer on the upload routes; ``session`` is a plain mapping or ``None``.

    ``size`` is the declared one in bytes; ``None`` for a file that passes through the application, which is authorised
    before it is read.
    """

    profile: str
    session: Mapping[str, Any] | None = None
    filename: str | None = None
    size: int | None = None
    method: str | None = None
    token_actor: str | None = None


@dataclass(frozen=True, slots=True)
class AssetSubject:
    """The subject of an authorizer on the asset routes (actions ``read``, ``operate`` and ``subscribe``)."""

    profile: str
    asset_id: str
    uploaded_by: str | None = None


@runtime_checkable
class Authorizer(Protocol):
    """Decides whether an actor may do an action. Raising an exception or returning ``False`` denies.

    A plain function runs in a thread and may block; a coroutine function is also accepted. The timeout is 30 seconds.
    """

    def authorize(self, actor: Any, action: str, subject: Any) -> Awaitable[bool | None] | bool | None:
        """Return to allow; raise :class:`rindle.errors.Unauthorized` to deny."""
