"""``Rindle``, the object that an application works with: every public call, in the order of the guide.

Each call hands its arguments to one flow. The calls with many options stand beside their flows: uploads in parts, in
sessions of a store and to providers in :mod:`rindle.uploads.calls`, URLs and markup in :mod:`rindle.delivery.calls`,
erasure in :mod:`rindle.erasure.calls`, repair and checks in :mod:`rindle.operations.calls`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, BinaryIO, Self
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import assets, attachments, telemetry
from rindle.arguments import actor_text
from rindle.attachments import UNCHECKED, SessionAttachments, SlotProfiles, Unchecked, profile_names
from rindle.cancellation import run_to_end
from rindle.db.database import AnySession, Database
from rindle.db.ids import AssetOrId, SessionOrId, SubjectOrId
from rindle.db.models import MediaAsset, MediaAttachment, MediaEvent, MediaUploadSession, MediaVariant
from rindle.delivery.calls import DeliveryCalls
from rindle.erasure.calls import ErasureCalls
from rindle.errors import InvalidArgument
from rindle.operations import repair
from rindle.operations.calls import OperationsCalls
from rindle.owners import OwnerTypes
from rindle.profile import Profile, ProfileRegistry
from rindle.protocols import MAX_URL_SECONDS, Storage, StreamingProvider
from rindle.relay import Relay
from rindle.security import check_secrets, install_redaction, sign_ticket
from rindle.services import ForceDeletePolicy, Services, collect_providers, collect_storages
from rindle.settings import Settings
from rindle.subscriptions import MAX_ID, Listener, Subscription, settled, subject_of
from rindle.temporal_client import TemporalConnection
from rindle.uploads import direct, server_side, sessions, tus
from rindle.uploads.calls import DirectUploadCalls, MultipartCalls, ResumableCalls
from rindle.uploads.direct import SignedUpload
from rindle.uploads.sessions import Upload, UploadRequest
from rindle.uploads.tus import TusUpload


class Rindle(MultipartCalls, ResumableCalls, DirectUploadCalls, DeliveryCalls, ErasureCalls, OperationsCalls):
    """Everything after the upload button, on the application's own database.

    Args:
        engine: the application's SQLAlchemy engine, sync or async; Rindle's tables live beside the application's.
        profiles: the :class:`Profile` classes this application works with.
        storages: adapters by name; profiles name them. A profile that brings its own instance needs no entry.
        secrets: signing secrets, at least 32 bytes each: the first signs, all verify.
        settings: tuning; read from ``RINDLE_*`` variables when left out.
        temporal: how to connect to Temporal: data converter, interceptors, plug-ins, TLS, namespace or a client of your
            own; made from ``TEMPORAL_*`` variables when left out.
        force_delete_policy: a function ``(asset, attachments, actor, reason)`` that raises an exception to refuse a
            forced deletion; without it :meth:`force_delete_asset` refuses all.
        providers: streaming providers, which profiles name in ``delivery.streaming``.

    Use it as ``async with rindle:`` (or through the router's lifespan): this runs the relay that sends committed work
    to Temporal. Without it only the relays of workers send. Only the erasure of owners needs Temporal to be reachable.

    Example:
        async with Rindle(engine=engine, profiles=[Avatar], storages={"media": storage}) as rindle:
            asset = await rindle.upload("avatar", "me.jpg", filename="me.jpg", actor="ada")
    """

    def __init__(
        self,
        *,
        engine: Engine | AsyncEngine,
        profiles: Iterable[type[Profile]],
        storages: Mapping[str, Storage] | None = None,
        secrets: Sequence[str | SecretStr] = (),
        settings: Settings | None = None,
        temporal: TemporalConnection | None = None,
        force_delete_policy: ForceDeletePolicy | None = None,
        providers: Iterable[StreamingProvider] = (),
    ) -> None:
        install_redaction()
        self.settings = settings or Settings()
        self.secrets = tuple(secrets) or self.settings.secrets
        if self.secrets:
            check_secrets(self.secrets)
        self.database = Database(engine, threads=self.settings.sync_threads)
        registry = ProfileRegistry(profiles)
        #: What every flow works with.
        self.services = Services(
            database=self.database,
            settings=self.settings,
            profiles=registry,
            storages=collect_storages(registry, storages or {}),
            temporal=self._limited(temporal or TemporalConnection()),
            secrets=self.secrets,
            force_delete_policy=force_delete_policy,
            providers=collect_providers(providers),
        )
        for profile in registry:
            self.services.storage(profile)  # a profile without its storage fails at start, not on the first user
            streaming = profile.delivery_policy().streaming
            if streaming is not None:
                self.services.provider(streaming.provider)
        telemetry.register_adapters({profile.name: self.services.adapter(profile) for profile in registry})
        self._relay: Relay | None = None
        #: The process's one reader of events; it runs while there is a subscription.
        self.listener = Listener(self.database, self.settings)

    @property
    def profiles(self) -> ProfileRegistry:
        """The registered profiles, by name and in the order of registration.

        Example:
            names = [profile.name for profile in rindle.profiles]
            avatar = rindle.profiles.get("avatar")
        """
        return self.services.profiles

    @property
    def storages(self) -> Mapping[str, Storage]:
        """The registered storages by name.

        Example:
            storage = rindle.storages["media"]
            can_sign = "signed_url" in storage.capabilities()
        """
        return self.services.storages

    @property
    def owner_types(self) -> OwnerTypes:
        """The stable names of the classes that own media.

        Example:
            ref = rindle.owner_types.ref(member)
            stored = (ref.type, ref.id)
        """
        return self.services.owner_types

    @property
    def temporal(self) -> TemporalConnection:
        """The connection to Temporal.

        Example:
            client = await rindle.temporal.client()
            count = await client.count_workflows("RindleKind = 'upload'")
        """
        return self.services.temporal

    @temporal.setter
    def temporal(self, connection: TemporalConnection) -> None:
        self.services = replace(self.services, temporal=self._limited(connection))

    def _limited(self, connection: TemporalConnection) -> TemporalConnection:
        connection.use_connect_seconds(self.settings.temporal_connect_seconds)
        return connection

    async def __aenter__(self) -> Self:
        if self._relay is None:
            self._relay = Relay(self.database, self.temporal, self.settings, fairness_key=self.services.fairness_key)
            await self._relay.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the relay, end subscriptions and release threads; the engine stays the application's.

        Every step is taken, also when an earlier one fails or the caller is cancelled.

        Example:
            await rindle.close()
            await engine.dispose()
        """
        await run_to_end(self._close())

    async def _close(self) -> None:
        relay, self._relay = self._relay, None
        async with AsyncExitStack() as last_first:
            last_first.push_async_callback(self.database.close)
            for storage in self.storages.values():
                last_first.push_async_callback(storage.close)
            for provider in self.services.providers.values():
                last_first.push_async_callback(provider.close)
            if relay is not None:
                last_first.push_async_callback(relay.stop)
            last_first.push_async_callback(self.listener.close)

    # -- uploads --------------------------------------------------------------------------------------------------

    async def initiate_upload(
        self,
        profile: str | type[Profile],
        *,
        filename: str = "unknown",
        size: int | None = None,
        content_type: str | None = None,
        expires_in: int | None = None,
        actor: str | UUID | None = None,
        idempotency_key: str | None = None,
        auto_verify: bool = False,
    ) -> MediaUploadSession:
        """Open an upload session and its asset (``staged``), before any bytes are sent.

        Args:
            filename: the client's name for the file; only its cleaned extension reaches the storage key.
            size: the size in bytes that the client declares; bound into the signature and checked at verification.
            content_type: the type that the client declares; it is recorded and has no effect. The signed PUT
                names a type that follows from the profile and the extension.
            expires_in: lifetime of the session in seconds, 60 to 604800; the setting (86400) when left out.
            actor: who uploads, as a string or ``UUID``; recorded as text in ``uploaded_by`` and checked again by
                ``attach``.
            idempotency_key: a repeated call of the same actor with this key returns the first session. It needs an
                ``actor``.
            auto_verify: let the workflow check for the object by itself, so that an upload also completes when the
                browser is closed after its PUT.

        Raises:
            UploadRejected: the profile does not allow the extension or the declared size; no row was written.
            CapabilityUnsupported: the profile's storage takes no direct uploads.
            UnknownProfile: the profile is not registered.
            InvalidArgument: the idempotency key comes without an actor, or the actor used it for another profile.

        Example:
            session = await rindle.initiate_upload("avatar", filename="me.jpg", size=48_213, actor="ada")
            signed = await rindle.sign_url(session.id)
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
        return await direct.initiate_upload(self.services, profile, request)

    async def sign_url(self, session_id: SessionOrId, *, expires_in: int | None = None) -> SignedUpload:
        """Sign a PUT for a live session; signing again returns a fresh URL.

        The URL writes once and is bound to the declared size and type where the store can. It lives for
        ``expires_in`` seconds (3600), but not longer than the session.

        Raises:
            NotFound: no such session.
            InvalidTransition: the session has ended.
            UploadSessionExpired: the session has expired.

        Example:
            grant = (await rindle.sign_url(session.id, expires_in=600)).presigned
            for_the_browser = {"method": grant.method, "url": grant.url, "headers": dict(grant.headers)}
        """
        return await direct.sign_url(self.services, session_id, expires_in=expires_in)

    async def verify_completion(self, session_id: SessionOrId) -> Upload:
        """Check that the object arrived; returns the session (``completed``) and the asset (``validating``).

        Idempotent: a second call, also a concurrent one, returns the same. Validation and variants follow in the
        background; nothing is served before the asset is ``available``.

        Raises:
            StorageObjectMissing: there is no object yet, or its digest is still to be compared; call again when the
                bytes were sent.
            UploadRejected: empty, too large or not of the declared size; the session is ``failed``.
            UploadSessionExpired: the session expired before an object arrived.
            UploadCancelled: the session was cancelled.
            InvalidTransition: the session was never signed.
            StorageTransient: the store did not answer; verification continues in the background.

        Example:
            upload = await rindle.verify_completion(session.id)
            asset = await rindle.settled(upload.asset.id)
        """
        return await sessions.verify_completion(self.services, session_id)

    async def cancel_upload(self, session_id: SessionOrId) -> MediaUploadSession:
        """Abort a live session; its objects are removed in the background. An ended session is returned unchanged.

        Raises:
            UploadAlreadyCompleted: the bytes were verified already.
            NotFound: no such session.

        Example:
            session = await rindle.cancel_upload(session.id)
            assert session.state == "aborted"
        """
        return await sessions.cancel_upload(self.services, session_id)

    async def initiate_tus_upload(
        self,
        profile: str | type[Profile],
        *,
        length: int | None,
        path: str,
        filename: str = "unknown",
        content_type: str | None = None,
        actor: str | UUID | None = None,
    ) -> TusUpload:
        """Open an upload that clients send and continue by the tus protocol, as their own ``POST`` would.

        The routes are those of :func:`rindle.http.tus.tus_router`, with the secrets of this ``Rindle``.

        Args:
            length: of the file in bytes; ``None`` when it is not known yet.
            path: path at which the routes of this profile are mounted, such as ``/files``.
            filename: the client's name for the file; only its cleaned extension reaches the storage key.
            content_type: the type that the client declares; it is recorded and has no effect.
            actor: who uploads; recorded in ``uploaded_by``.

        Returns:
            the session, the path of the upload and its expiry. Whoever has the path can send bytes, unless the
            authorizer of the routes denies it: give it to the client that uploads, and keep it out of logs.

        Raises:
            UploadRejected: the profile does not allow the extension.
            TusError: ``tus_size_exceeded``.
            CapabilityUnsupported: the profile's storage takes no such uploads.
            UnknownProfile: the profile is not registered.
            InvalidArgument: ``length`` is not a whole number of bytes, or a text cannot be stored.

        Example:
            upload = await rindle.initiate_tus_upload("avatar", length=48_213, path="/files", filename="me.jpg")
            for_the_browser = {"uploadUrl": upload.upload_url}
        """
        request = UploadRequest(filename=filename, content_type=content_type, actor=actor_text("actor", actor))
        return await tus.initiate_tus_upload(self.services, profile, request, length=length, path=path)

    async def upload(
        self,
        profile: str | type[Profile],
        source: str | os.PathLike[str] | BinaryIO | AsyncIterator[bytes] | Any,
        *,
        filename: str,
        actor: str | UUID | None = None,
        idempotency_key: str | None = None,
    ) -> MediaAsset:
        """Store bytes from the server: a path, binary file object, Starlette ``UploadFile`` or async iterator of bytes.

        The source is copied to disk in pieces of 1 MiB, up to one byte over the limit. Type check and scanner run
        before anything is stored or any row is written. The asset is returned ``analyzing``.

        Args:
            idempotency_key: makes a repeated call of the same actor return the asset of the first one, in its current
                state and without reading the source again. A call that died in between is continued by the next one
                with the same bytes. Requires ``actor``.

        Raises:
            InvalidArgument: the key has no actor, or belongs to an upload of another profile, lane or file.
            UploadCancelled, UploadSessionExpired: the upload of the key ended without its object; use a new key.
            UploadRejected: the profile does not allow the file; nothing was stored.
            ScannerUnavailable: the scanner returned no result; nothing was stored, try again.
            StorageError: the store refused; the session expires and its objects are removed.

        Example:
            asset = await rindle.upload("avatar", "me.jpg", filename="me.jpg", actor="ada")
            assert asset.state == "analyzing"
        """
        return await server_side.upload(
            self.services, profile, source, filename=filename, actor=actor, idempotency_key=idempotency_key
        )

    async def upload_session(self, session_id: SessionOrId) -> MediaUploadSession:
        """Return an upload session.

        Raises:
            NotFound: no such session.

        Example:
            session = await rindle.upload_session(session.id)
            seconds_left = (session.expires_at - datetime.now(UTC)).total_seconds()
        """
        return (await sessions.find_upload(self.services, session_id)).session

    # -- assets ---------------------------------------------------------------------------------------------------

    async def asset(self, asset: AssetOrId) -> MediaAsset:
        """Return an asset as it is now, with its variants loaded.

        Args:
            asset: its id, as text or ``UUID``, or the asset itself, which is read again.

        Raises:
            NotFound: no such asset.

        Example:
            asset = await rindle.asset(asset.id)
            states = {variant.name: variant.state for variant in asset.variants}
        """
        return await assets.get_asset(self.services, asset)

    async def settled(self, asset: AssetOrId, *, timeout: float = 30.0) -> MediaAsset:  # noqa: ASYNC109 - public name
        """Wait until no work on an asset is left and return the asset.

        It is then ``quarantined`` or ``deleted``, or ``ready`` or ``degraded`` with no variant ``queued`` or
        ``processing``. The call waits for the asset's events and reads its rows only after one of them.

        Args:
            timeout: longest wait in seconds.

        Raises:
            NotSettled: a ``TimeoutError``: work was left after ``timeout`` seconds; ``detail`` has the states of the
                asset and its variants. The work continues.
            NotFound: no such asset, or it was purged.

        Example:
            asset = await rindle.settled(asset.id, timeout=60)
            assert asset.state == "ready"
        """
        attachments = self.services.has_authorizers
        return await settled(self.listener, asset, timeout_seconds=timeout, attachments=attachments)

    def subscribe(self, scope: str, id: SubjectOrId, *, after: int | None = None) -> Subscription:
        """Follow an asset, variant or upload session: every event once, in the order in which it happened.

        Use it as ``async with rindle.subscribe(...) as events`` or directly in ``async for``. It starts when the block
        or the loop is entered and ends when it is left, or after the event that the asset was deleted. A slow consumer
        loses progress events first. When 256 other events wait it gets the event ``reset`` with the reason
        ``overflow``; the events after it are read from the database, without a gap.

        Args:
            scope: ``asset`` (which includes its variants, uploads and providers), ``variant``, ``upload_session`` or
                ``provider_asset``, which is named by the id of its asset.
            id: the id, or the row itself.
            after: start after the event of this id; ``0`` starts with the oldest event kept, ``None`` with the next
                event. An id that is unknown, or older than the events kept, gives a ``reset`` first (``unknown``,
                ``expired``).

        Returns:
            An async iterator of events: ``id``, ``type``, ``payload``, ``occurred_at``.

        Raises:
            InvalidArgument: a ``ValueError``: unknown scope, an id that is not a UUID, a row of another scope, or a
                negative ``after``.
            NotFound: from the iterator: no such asset, variant or session.

        Example:
            async with rindle.subscribe("asset", asset.id, after=0) as events:
                event = await anext(events)
        """
        if after is not None and not 0 <= after <= MAX_ID:
            raise InvalidArgument("after is the id of an event, 0 or None", detail={"option": "after"})
        return Subscription(self.listener, [subject_of(scope, id)], None if after is None else [after])

    def subscription_ticket(self, scope: str, id: SubjectOrId, *, ttl: int = 3600) -> str:
        """Return a signed token that grants its bearer the event stream of one subject, as ``?ticket=``.

        For pages that have the id and no other way to authenticate. It is checked only when a connection is opened.

        Args:
            id: the id, or the row itself.
            ttl: its lifetime in seconds, 1 to 604800.

        Raises:
            InvalidArgument: a ``ValueError``: unknown scope, an id that is not a UUID, a row of another scope, or
                ``ttl`` out of range.
            Misconfigured: this ``Rindle`` has no signing secret.

        Example:
            ticket = rindle.subscription_ticket("asset", asset.id, ttl=600)
            path = f"/media/events?scope=asset&id={asset.id}&ticket={ticket}"
        """
        if not 1 <= ttl <= MAX_URL_SECONDS:
            raise InvalidArgument(f"ttl is 1 to {MAX_URL_SECONDS} seconds", detail={"option": "ttl"})
        subject = subject_of(scope, id)
        return sign_ticket(subject.scope, subject.id, expires_at=int(time.time()) + ttl, secrets=self.secrets)

    async def timeline(self, asset: AssetOrId, *, after: int = 0, limit: int = 1000) -> Sequence[MediaEvent]:
        """Return the events of an asset, oldest first: those with an id above ``after``, at most ``limit``.

        Example:
            for event in await rindle.timeline(asset.id):
                print(event.occurred_at, event.type, event.payload)
        """
        return await assets.timeline(self.services, asset, after=after, limit=limit)

    # -- attachments ----------------------------------------------------------------------------------------------

    @property
    def attachments(self) -> SessionAttachments:
        """``attach``, ``detach``, ``attachment_for`` and ``ready_variants_for`` for synchronous code.

        They take the arguments of the methods of this class in the same order and work in the transaction of a
        ``Session``, which they do not commit. The example repeats its transaction when another one was first.

        Example:
            for is_last in (False, False, True):
                try:
                    with Session(sync_engine) as session, session.begin():
                        rindle.attachments.attach(asset.id, member, "avatar", uploaded_by="ada", session=session)
                    break
                except StateConflict:
                    if is_last:
                        raise
        """
        return SessionAttachments(self.services)

    def register_owner_type(
        self, name: str, owner_class: type[Any] | None = None, *, slots: Mapping[str, SlotProfiles] | None = None
    ) -> None:
        """Give a mapped class the stable owner type ``name``, so that renaming it does not orphan its media.

        Args:
            owner_class: may be left out for owners that are named by a tuple or an ``OwnerRef``.
            slots: the profile, or the profiles, that each slot accepts; :meth:`attach` refuses assets of others. A slot
                that is not declared accepts assets of all profiles.

        Raises:
            OwnerTypeConflict: another class has that name.
            UnknownProfile: a profile of a slot is not registered.

        Example:
            rindle.register_owner_type("member", Member, slots={"avatar": Avatar})
            await rindle.attach(asset, member, "avatar")
        """
        accepted = {slot: profile_names(profiles, self.services) for slot, profiles in (slots or {}).items()}
        self.owner_types.register(name, owner_class, slots=accepted)

    async def attach(
        self,
        asset: AssetOrId,
        owner: Any,
        slot: str,
        *,
        profile: SlotProfiles | None = None,
        uploaded_by: str | UUID | Unchecked | None = UNCHECKED,
        session: AnySession | None = None,
    ) -> MediaAttachment:
        """Put an asset into an owner's slot; an asset that it replaces is purged later.

        With ``session`` the call joins the caller's transaction and does not commit it: the purge of a replaced asset
        happens only if the caller commits. Attaching the same asset again changes nothing.

        Args:
            owner: an instance of a mapped class, an ``OwnerRef``, a ``(type, id)`` tuple, or an object with
                ``__rindle_owner__()``.
            slot: 1 to 255 characters.
            profile: the profile, or the profiles, that the slot accepts, by class or name; left out: those declared
                with :meth:`register_owner_type`, and all when there is no declaration.
            uploaded_by: who must have uploaded the asset; ``None`` means an anonymous upload. Left out: unchecked, for
                trusted code. Pass it whenever the asset id came from a browser.

        Raises:
            NotFound: unknown or purged asset, or the upload of another actor.
            ProfileMismatch: the slot does not accept assets of this profile.
            UnknownProfile: ``profile`` is not registered.
            Quarantined: the content of the asset was rejected.
            StateConflict: another transaction was first. Without ``session`` the call has repeated its transaction.
                With ``session`` roll back and repeat the whole transaction, as the example does. On SQLite give the
                engine of the session :data:`rindle.sqlite.WRITE_OPTION`: its transactions then wait for one another.

        Example:
            for is_last in (False, False, True):
                try:
                    async with AsyncSession(engine) as session, session.begin():
                        await rindle.attach(asset.id, member, "avatar", uploaded_by="ada", session=session)
                    break
                except StateConflict:
                    if is_last:
                        raise
        """
        return await self.database.within(
            session,
            attachments.attach,
            asset,
            owner,
            slot,
            profile=profile,
            uploaded_by=uploaded_by,
            services=self.services,
        )

    async def detach(self, owner: Any, slot: str, *, session: AnySession | None = None) -> None:
        """Empty an owner's slot and queue the purge of its asset; an empty slot is left as it is.

        The purge keeps an asset that is attached somewhere else.

        Example:
            await rindle.detach(member, "avatar")
            assert await rindle.attachment_for(member, "avatar") is None
        """
        await self.database.within(session, attachments.detach, owner, slot, services=self.services)

    async def attachment_for(
        self, owner: Any, slot: str, *, load: Iterable[str] = ("asset",), session: AnySession | None = None
    ) -> MediaAttachment | None:
        """Return the attachment in an owner's slot, or ``None``; one query, never writes.

        Args:
            load: rows to load with it: ``"asset"``, ``"variants"``; ``()`` loads neither.

        Example:
            attachment = await rindle.attachment_for(member, "avatar", load=("asset", "variants"))
            asset = None if attachment is None else attachment.asset
        """
        options: dict[str, Any] = {"load": tuple(load), "services": self.services}
        if session is None:
            return await self.database.read(attachments.attachment_for, owner, slot, **options)
        return await self.database.within(session, attachments.attachment_for, owner, slot, **options)

    async def ready_variants_for(self, asset: AssetOrId) -> list[MediaVariant]:
        """Return the ready variants of an asset, ordered by name, without those that an outdated recipe built.

        Example:
            for variant in await rindle.ready_variants_for(asset):
                print(variant.name, variant.width, variant.height, variant.byte_size)
        """
        return await self.database.read(attachments.ready_variants_for, asset, services=self.services)

    async def purge_asset(self, asset: AssetOrId) -> None:
        """Delete an asset that is attached nowhere: its objects and rows, in the background.

        Raises:
            StillAttached: it is in the slot of an owner; detach it first.
            UnknownProfile: its profile, which names the store, is not registered.
            NotFound: no such asset.

        Example:
            asset = await rindle.upload("avatar", "me.jpg", filename="me.jpg")
            await rindle.purge_asset(asset)
        """
        await repair.purge_asset(self.services, asset)
