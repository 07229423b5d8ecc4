"""The calls of ``Rindle`` for uploads of gigabytes, in parts or in sessions of a store, and to streaming providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from rindle.arguments import actor_text
from rindle.db.ids import AssetOrId, SessionOrId
from rindle.profile import Profile
from rindle.protocols import Part
from rindle.services import Services
from rindle.uploads import multipart, resumable, to_provider
from rindle.uploads.multipart import OpenedMultipart, SignedPart
from rindle.uploads.resumable import OpenedResumable, ResumableProgress
from rindle.uploads.sessions import Upload, UploadRequest
from rindle.uploads.to_provider import DirectUpload, DirectUploadRequest


class MultipartCalls:
    """Uploads of gigabytes in parts, directly to the store."""

    services: Services

    async def initiate_multipart_upload(
        self,
        profile: str | type[Profile],
        *,
        filename: str = "unknown",
        size: int | None = None,
        content_type: str | None = None,
        part_size: int | None = None,
        actor: str | UUID | None = None,
        idempotency_key: str | None = None,
        auto_verify: bool = False,
    ) -> OpenedMultipart:
        """Open an upload session whose object is sent in parts; returns the session and how to cut the file.

        The session expires after the setting ``upload_session_ttl_seconds`` (86400). Each signed part, and each list of
        parts that has grown, extends it to the same time from then, up to seven days after the session was opened.

        Args:
            filename: the client's name for the file; only its cleaned extension reaches the storage key.
            size: the size in bytes that the client declares. The size of each part is then signed, and the parts must
                have this size together.
            content_type: the type that the client declares; it is recorded and has no effect.
            part_size: bytes of each part but the last, 5 MiB to 5 GiB; 8 MiB when left out. It is raised, in whole MiB,
                where 10000 parts would not suffice.
            actor: who uploads, as for :meth:`initiate_upload`.
            idempotency_key: a repeated call of the same actor with this key returns the first session and its upload.
            auto_verify: let the workflow complete the upload when parts of the declared ``size`` have arrived, also
                when the browser is closed.

        Raises:
            UploadRejected: the profile does not allow the extension or the declared size; no row was written.
            CapabilityUnsupported: the profile's storage takes no multipart uploads; no row was written.
            UnknownProfile: the profile is not registered.
            InvalidArgument: ``part_size`` is out of range, or the idempotency key cannot be used.
            StorageError: the store refused to begin the upload; no row is left.

        Example:
            opened = await rindle.initiate_multipart_upload("lesson", filename="lesson.mp4", size=4_000_000_000)
            for_the_browser = {"session_id": opened.session.id, "part_size": opened.multipart.part_size}
        """
        request = UploadRequest(
            filename=filename,
            size=size,
            content_type=content_type,
            actor=actor_text("actor", actor),
            idempotency_key=idempotency_key,
            auto_verify=auto_verify,
        )
        return await multipart.initiate(self.services, profile, request, part_size=part_size)

    async def sign_multipart_part(self, session_id: SessionOrId, part_number: int) -> SignedPart:
        """Sign the PUT of one part; signing again returns a fresh URL, and sending a part again replaces it.

        The URL lives for the setting ``presigned_put_ttl_seconds`` (3600), but not longer than the session.

        Args:
            part_number: from 1; at most 10000, or the number of parts of the declared size.

        Raises:
            InvalidPartNumber: the upload has no such part.
            CapabilityUnsupported: the upload is not sent in parts.
            MultipartUploadNotInitialized: the store has not begun it.
            InvalidTransition: the session has ended.
            UploadSessionExpired: the session has expired.
            NotFound: no such session.

        Example:
            grant = (await rindle.sign_multipart_part(session.id, 1)).presigned
            for_the_browser = {"method": grant.method, "url": grant.url, "headers": dict(grant.headers)}
        """
        return await multipart.sign_part(self.services, session_id, part_number)

    async def list_parts(self, session_id: SessionOrId) -> list[Part]:
        """Return the parts that the store has, in the order of their numbers: a client sends only the others again.

        Raises:
            CapabilityUnsupported: the upload is not sent in parts.
            UploadCancelled: the session was cancelled.
            UploadSessionExpired: the session has expired.
            StorageNotFound: the store has no such upload any more; start a new one.
            StorageTransient: the store did not answer.
            NotFound: no such session.

        Example:
            there = {part.part_number for part in await rindle.list_parts(session.id)}
            missing = [number for number in range(1, 479) if number not in there]
        """
        return await multipart.list_parts(self.services, session_id)

    async def complete_multipart_upload(
        self, session_id: SessionOrId, parts: Sequence[Part | Mapping[str, Any]] | None = None
    ) -> Upload:
        """Make the object from its parts and verify it, as :meth:`verify_completion` does.

        Idempotent: a second call, also a concurrent one, returns the same. If the process ends meanwhile, the workflow
        of the upload completes it.

        Args:
            parts: the parts in any order, as ``{"part_number": 1, "etag": "..."}`` or with the names ``PartNumber`` and
                ``ETag``; the store's own list when left out. Parts that are not listed are lost.

        Raises:
            InvalidMultipartParts: the list is malformed or differs from the parts in the store, or the parts do not
                have the declared size. The upload did not change and can be continued.
            UploadRejected: the parts are larger than the profile allows; the session is ``failed``.
            UploadSessionExpired: the session expired.
            UploadCancelled: the session was cancelled.
            StorageTransient: the store did not answer. Call again; once the parts were accepted, completion also
                continues in the background.
            NotFound: no such session.

        Example:
            upload = await rindle.complete_multipart_upload(session.id)
            asset = await rindle.settled(upload.asset.id)
        """
        return await multipart.complete(self.services, session_id, parts)


class ResumableCalls:
    """Uploads of gigabytes to a session of the store, which the client continues after a break."""

    services: Services

    async def initiate_resumable_session(
        self,
        profile: str | type[Profile],
        *,
        filename: str = "unknown",
        size: int | None = None,
        content_type: str | None = None,
        origin: str | None = None,
        expires_in: int | None = None,
        actor: str | UUID | None = None,
        idempotency_key: str | None = None,
        auto_verify: bool = False,
    ) -> OpenedResumable:
        """Open an upload session whose bytes the client sends to a session URI of the store.

        The client PUTs the whole file, or pieces of a multiple of 256 KiB with ``Content-Range``; after a break
        :meth:`resumable_session_status` returns where to continue. When all bytes are sent, call
        :meth:`verify_completion`. The session expires after ``expires_in``, and each status with progress extends it,
        up to seven days after it was opened; then the store forgets the session URI.

        Args:
            filename: the client's name for the file; only its cleaned extension reaches the storage key.
            size: the size in bytes that the client declares; the store then takes no other.
            content_type: the type that the client declares; it is recorded and has no effect.
            origin: scheme, host and port of the page that will send the bytes: the ``Origin`` header of its request.
                Without it the store refuses the requests of browsers.
            expires_in: lifetime of the session in seconds, 60 to 604800; the setting ``upload_session_ttl_seconds``
                (86400) when left out.
            actor: who uploads, as for :meth:`initiate_upload`.
            idempotency_key: a repeated call of the same actor with this key returns the first session and its URI.
            auto_verify: let the workflow look for the object by itself, also when the browser is closed.

        Returns:
            the session, already ``signed``, and the session URI. Whoever has the URI can send the bytes: give it to the
            client that uploads, and keep it out of logs.

        Raises:
            UploadRejected: the profile does not allow the extension or the declared size; no row was written.
            CapabilityUnsupported: the profile's storage has no such sessions; no row was written.
            UnknownProfile: the profile is not registered.
            InvalidArgument: an argument is out of range, or the idempotency key cannot be used.
            StorageError: the store did not begin the session; no row was written.

        Example:
            opened = await rindle.initiate_resumable_session("lesson", filename="lesson.mp4", size=4_000_000_000)
            for_the_browser = {"session_uri": opened.resumable.session_uri.get_secret_value()}
        """
        request = UploadRequest(
            filename=filename,
            size=size,
            content_type=content_type,
            expires_in=expires_in,
            actor=actor_text("actor", actor),
            idempotency_key=idempotency_key,
            auto_verify=auto_verify,
        )
        return await resumable.initiate(self.services, profile, request, origin=origin)

    async def resumable_session_status(
        self, session_id: SessionOrId, *, client_offset: int | None = None, resume: bool = False
    ) -> ResumableProgress:
        """Return how many bytes of an upload the store has, and record it; verifies nothing.

        Args:
            client_offset: where the client would continue.
            resume: the client is about to continue; the session moves to ``resuming``.

        Raises:
            OffsetMismatch: the store has another number of bytes than ``client_offset``; continue at ``error.server``.
            SessionUriUnknown: the store does not know the session; start a new upload.
            SessionUriExpired: the session has expired in the store; start a new upload.
            CapabilityUnsupported: the upload has no session of the store.
            ResumableUploadNotInitialized: it has none any more.
            UploadSessionExpired: the session expired.
            UploadCancelled: the session was cancelled.
            StorageTransient: the store did not answer.
            NotFound: no such session.

        Example:
            progress = await rindle.resumable_session_status(session.id, resume=True)
            continue_at = progress.committed_bytes
        """
        return await resumable.status(self.services, session_id, client_offset=client_offset, resume=resume)


class DirectUploadCalls:
    """Uploads of browsers to a streaming provider itself."""

    services: Services

    async def create_direct_upload(
        self,
        profile: str | type[Profile],
        *,
        cors_origin: str,
        filename: str | None = None,
        timeout: int = 3600,  # noqa: ASYNC109 - the lifetime of what is opened, not of this call
        actor: str | UUID | None = None,
    ) -> DirectUpload:
        """Open an upload at the profile's streaming provider, to which a browser sends the bytes of a video.

        The asset is ``staged``, and becomes ``ready`` when the provider can play the video. The storage never has its
        bytes, and Rindle validates nothing of them. Each attempt to upload needs a call of its own.

        Args:
            cors_origin: origin of the page that sends the bytes, such as ``https://example.com``.
            filename: the client's name for the file, checked against the profile's extensions when it is given.
            timeout: lifetime of the upload in seconds, 60 to 604800.
            actor: who uploads, as for :meth:`initiate_upload`.

        Returns:
            ``upload_url`` and ``asset_id``. The URL is a bearer credential: give it to the browser alone.

        Raises:
            StreamingNotConfigured: the profile does not stream from direct uploads.
            InvalidCorsOrigin: ``cors_origin`` has a path, is ``*`` or is not ``http(s)``.
            InvalidArgument: ``timeout`` is out of range.
            UploadRejected: the profile does not allow the extension.
            ProviderSyncFailed, ProviderQuotaExceeded, MissingConfig: the provider opened no upload; the asset stays as
                failed for a day.
            UploadCancelled: the upload was cancelled meanwhile.

        Example:
            upload = await rindle.create_direct_upload("reel", cors_origin="https://example.com", filename="reel.mp4")
            for_the_browser = {"endpoint": upload.upload_url, "asset_id": upload.asset_id}
        """
        request = DirectUploadRequest(
            cors_origin=cors_origin, filename=filename, timeout=timeout, actor=actor_text("actor", actor)
        )
        return await to_provider.create_direct_upload(self.services, profile, request)

    async def cancel_direct_upload(self, asset_id: AssetOrId) -> None:
        """Cancel an upload to a streaming provider, before its bytes have arrived; repeating the call is safe.

        The provider is called after the row is ``deleted``. When that call fails it is repeated in the background; an
        asset that the provider made meanwhile is deleted there. The asset itself is purged after a day.

        Raises:
            NotFound: no asset of a direct upload has this id.
            NotCancellable: the bytes have arrived or the upload has failed; purge the asset instead.
            StreamingNotConfigured: the profile is gone, or does not stream any more.
            ProviderSyncFailed, ProviderQuotaExceeded: the provider did not cancel it yet.

        Example:
            await rindle.cancel_direct_upload(upload.asset_id)
        """
        await to_provider.cancel_direct_upload(self.services, asset_id)
