"""The mounts that the upload routes know: a client opens an upload there, and sends its bytes to a mount."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from rindle.errors import CapabilityUnsupported, Misconfigured
from rindle.http.streams.router import StreamRouter
from rindle.profile import Profile
from rindle.uploads.sessions import Upload, UploadRequest, lane_of
from rindle.uploads.streams import MediaUploadSession

#: The routes of one protocol for one profile.
Mount = StreamRouter[Any]


@dataclass(frozen=True, slots=True)
class StreamGrant:
    """Where a client sends the bytes of an upload.

    Attributes:
        protocol: ``tus`` or ``ietf``.
        endpoint: address of the mount, at which the client may create uploads.
        upload_url: address of the upload: a bearer credential.
    """

    session: MediaUploadSession
    protocol: str
    endpoint: str
    upload_url: str

    def __repr__(self) -> str:
        return f"StreamGrant(session={self.session!r}, protocol={self.protocol!r}, upload_url='[REDACTED]')"


class Mounts:
    """The mounts of a router, at most one per protocol and profile.

    Args:
        profiles: those of the router.

    Raises:
        Misconfigured: a mount has no path, has a profile that is not among ``profiles``, or is the second one of its
            protocol and profile.
    """

    def __init__(self, mounts: Iterable[Mount], profiles: Collection[type[Profile]]) -> None:
        self._mounts: dict[tuple[str, str], Mount] = {}
        for mount in mounts:
            protocol, profile = mount.uploads.protocol, mount.uploads.profile
            named = f"the {protocol} mount of profile {profile.name!r}"
            if mount.path is None:
                raise Misconfigured(f"{named} has no path: pass path='/files', or where else clients reach it")
            if profile not in profiles:
                raise Misconfigured(f"{named} belongs to no profile of this router: add it to profiles")
            if self._mounts.setdefault((protocol, profile.name), mount) is not mount:
                raise Misconfigured(f"{named} is there twice: pass one of the two")

    async def open(self, protocol: str, profile: type[Profile], actor: Any, request: UploadRequest) -> StreamGrant:
        """Open an upload, or find that of its idempotency key, by the rules of the mount.

        Raises:
            CapabilityUnsupported: there is no such mount.
            Unauthorized: the authorizer of the mount denies.
            TusError, RindleError: as :meth:`rindle.uploads.streams.StreamUploads.create`.
        """
        mount = self._mounts.get((protocol, profile.name))
        if mount is None:
            raise CapabilityUnsupported(
                f"this address opens no uploads by {protocol} for this profile; use presigned_put or multipart, or "
                "create the upload at the address of the protocol itself",
                capability="tus_upload",
            )
        await mount.access.allow_creation(actor, profile.name, request.filename, request.size)
        return _grant(mount, (await mount.uploads.create(request, length=request.size)).session)

    def known(self, upload: Upload) -> StreamGrant | None:
        """Return where the client of an upload continues; ``None`` when that is no mount of these."""
        mount = self._mounts.get((lane_of(upload.session), upload.asset.profile))
        return None if mount is None else _grant(mount, upload.session)


def _grant(mount: Mount, session: MediaUploadSession) -> StreamGrant:
    token = mount.uploads.token_of(session.id, session.actor)
    return StreamGrant(session, mount.uploads.protocol, f"{mount.path}/", f"{mount.path}/{token}")
