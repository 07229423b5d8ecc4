"""Authorization: the authorizer, and the subjects it decides about."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import UUID


@dataclass(frozen=True, slots=True, init=False)
class OwnerRef:
    """An owner as rows store it: a registered type name of 1 to 255 printable ASCII characters, and an id of 1 to 255
    characters.

    The id may be given as a string, integer or ``UUID``; it is stored as text.
    """

    type: str
    id: str

    def __init__(self, type: str, id: str | int | UUID) -> None:
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "id", str(id) if isinstance(id, int | UUID) else id)


@dataclass(frozen=True, slots=True)
class DeliverySubject:
    """The subject of an authorizer for a delivery.

    Attributes:
        profile: name of the profile.
        mode: whether the URL is signed.
        key: storage key of the object.
        asset_id: the asset; ``None`` for a raw key.
        variant: name of the variant; ``None`` for the original.
        playback_id: the id that a player of a stream uses; ``None`` for an object.
        kind: ``hls`` for a stream, ``progressive`` for the original that ``streaming_url`` returns instead of one,
            ``object`` for every other object of the storage.
        uploaded_by: the actor of the upload; ``None`` for an anonymous one, and for a raw key.
        owners: the owners of the slots that hold the asset, each once; empty for a raw key. They are those of the
            loaded asset, else they are read with it.
    """

    profile: str
    mode: Literal["public", "private"]
    key: str | None = None
    asset_id: str | None = None
    variant: str | None = None
    playback_id: str | None = None
    kind: Literal["object", "hls", "progressive"] = "object"
    uploaded_by: str | None = None
    owners: tuple[OwnerRef, ...] = ()


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
    """The subject of an authorizer on the asset routes (actions ``read``, ``operate`` and ``subscribe``).

    ``owners`` are the owners of the slots that hold the asset.
    """

    profile: str
    asset_id: str
    uploaded_by: str | None = None
    owners: tuple[OwnerRef, ...] = ()


@runtime_checkable
class Authorizer(Protocol):
    """Decides whether an actor may do an action. Raising an exception or returning ``False`` denies.

    A plain function runs in a thread and may block; a coroutine function is also accepted. The timeout is 30 seconds.
    """

    def authorize(self, actor: Any, action: str, subject: Any) -> Awaitable[bool | None] | bool | None:
        """Return to allow; raise :class:`rindle.errors.Unauthorized` to deny."""
