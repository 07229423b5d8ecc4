"""Resumable sessions and concatenation: the optional abilities of ``GCSStorage``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from rindle.errors import InvalidArgument, OffsetMismatch, StorageNotFound
from rindle.protocols import Concatenation, ResumableSessions, ResumableStatus, ResumableUpload, StoredObject
from rindle.storage.arguments import check_header, check_size
from rindle.storage.gcs import sessions
from rindle.storage.gcs.client import GCSClient
from rindle.storage.gcs.compose import compose
from rindle.storage.threads import Threads

#: How long the store keeps a session.
SESSION_LIFETIME = timedelta(days=7)
#: Beginning of the names of intermediate objects; no storage key has it.
SCRATCH = ".rindle/compose/"


class GCSAbilities(ResumableSessions, Concatenation):
    """What ``GCSStorage``, which has the attributes, can do beside the verbs of a store."""

    _client: GCSClient
    _threads: Threads
    _prefix: str

    @abstractmethod
    def _name(self, key: str) -> str:
        """Return the name of the object in the bucket."""

    async def initiate_resumable_upload(
        self,
        key: str,
        expected_size: int | None,
        *,
        content_type: str | None = None,
        origin: str | None = None,
    ) -> ResumableUpload:
        """Begin a session that creates the object at ``key``; it never replaces one.

        The client PUTs to the session URI: all bytes at once, or pieces of multiples of 256 KiB with ``Content-Range``.

        Args:
            expected_size: in bytes; the store then accepts no other size. ``None`` when it is unknown.
            content_type: that the object is stored with.
            origin: scheme, host and port of the page whose browser will send the bytes. Without it the store refuses
                that browser's requests (CORS).

        Raises:
            InvalidArgument: an argument is out of range or cannot be a header.
            StorageConflict: the key is taken.
            StorageError: see :func:`rindle.storage.gcs.client.translate`.
        """
        check_size("expected_size", expected_size)
        check_header("origin", origin)
        resource = {"name": self._name(key)}
        if content_type is not None:
            resource["contentType"] = check_header("content_type", content_type) or ""
        expires_at = datetime.now(UTC) + SESSION_LIFETIME
        begun = await self._threads.run(
            sessions.begin, self._client, key, resource, size=expected_size, origin=origin, generation=0
        )
        return ResumableUpload(begun.uri, begun.upload_id, expires_at, begun.region)

    async def resumable_upload_status(
        self, key: str, session_uri: SecretStr, *, client_offset: int | None = None
    ) -> ResumableStatus:
        """Return how many bytes the store has; the request has no credentials but the session URI.

        Raises:
            InvalidArgument: the session URI is not one of this store, so no request was made.
            SessionUriUnknown: the store does not know the session.
            SessionUriExpired: the session has expired.
            OffsetMismatch: ``client_offset`` is not the number of committed bytes.
        """
        check_size("client_offset", client_offset)
        name = self._name(key)
        found = await self._threads.run(sessions.probe, self._client, key, session_uri)
        is_complete = found.resource is not None
        if is_complete and self._client.is_emulator:
            # One of the emulators answers 200 to every probe.
            is_complete = await self._exists(key, name)
        if client_offset is not None and client_offset != found.committed:
            raise OffsetMismatch(
                f"the store has {found.committed} bytes; continue there",
                server=found.committed,
                client=client_offset,
                key=key,
                adapter="gcs",
            )
        return ResumableStatus(found.committed, "complete" if is_complete else "in_progress", found.region)

    async def cancel_resumable_upload(self, key: str, session_uri: SecretStr) -> bool:
        """Give the session up, and with it the bytes it has; ``False`` when the store does not know it any more.

        Raises:
            InvalidArgument: the session URI is not one of this store, so no request was made.
        """
        self._name(key)
        return await self._threads.run(sessions.cancel, self._client, key, session_uri)

    async def concatenate(self, final_key: str, source_keys: Sequence[str]) -> StoredObject:
        """Make ``final_key`` from the objects ``source_keys`` in this order, in the store; sources stay.

        At most 32 go into one request; more go through intermediate objects, which are deleted.

        Raises:
            InvalidArgument: there is no source.
            StorageNotFound: a source is missing.
        """
        final, sources = self._name(final_key), [self._name(key) for key in source_keys]
        if not sources:
            raise InvalidArgument("an object is made of at least one source", detail={"option": "source_keys"})
        return await self._threads.move(compose, self._client, final_key, final, sources, f"{self._prefix}{SCRATCH}")

    async def _exists(self, key: str, name: str) -> bool:
        try:
            await self._threads.run(
                self._client.call, key, lambda bucket: bucket.blob(name).reload(**self._client.options)
            )
        except StorageNotFound:
            return False
        return True
