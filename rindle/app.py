"""``Rindle``: every public call, in the order of the guide."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, BinaryIO, Self, Unpack

from markupsafe import Markup
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from rindle import assets, attachments, telemetry
from rindle.attachments import UNCHECKED, Unchecked
from rindle.cancellation import run_to_end
from rindle.db.database import Database
from rindle.db.models import MediaAsset, MediaAttachment, MediaEvent, MediaUploadSession, MediaVariant
from rindle.delivery import markup, urls
from rindle.errors import InvalidArgument
from rindle.operations import repair
from rindle.operations.checks.report import DoctorReport
from rindle.operations.doctor import TIMEOUT_SECONDS, doctor
from rindle.operations.findings import DEFAULT_LIMIT
from rindle.operations.keywords import NoOthers
from rindle.operations.repair import CancelReport, RegenerateReport, RequeueReport
from rindle.operations.runtime_status import RuntimeStatus, runtime_status
from rindle.owners import OwnerTypes
from rindle.profile import Profile, ProfileRegistry
from rindle.protocols import MAX_URL_SECONDS, Storage
from rindle.relay import Relay
from rindle.security import check_secrets, install_redaction, sign_ticket
from rindle.services import Services, collect_storages
from rindle.settings import Settings
from rindle.subscriptions import MAX_ID, Listener, Subscription, settled, subject_of
from rindle.temporal_client import TemporalConnection
from rindle.uploads import direct, server_side, sessions
from rindle.uploads.direct import SignedUpload
from rindle.uploads.sessions import Upload, UploadRequest

#: A caller's own transaction.
AnySession = Session | AsyncSession


class Rindle:
    """Everything after the upload button, on the application's own database.

    Args:
        engine: the application's SQLAlchemy engine, sync or async; Rindle's tables live beside the application's.
        profiles: the :class:`Profile` classes this application works with.
        storages: adapters by name; profiles name them. A profile that brings its own instance needs no entry.
        secrets: signing secrets, at least 32 bytes each: the first signs, all verify.
        settings: tuning; read from ``RINDLE_*`` variables when left out.
        temporal: a connection to use instead of one made from ``TEMPORAL_*`` variables.

    Use it as ``async with rindle:`` (or through the router's lifespan): that runs the relay which hands committed work
    to Temporal. Without it only workers' relays dispatch. No call needs Temporal to be up.
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
            temporal=temporal or TemporalConnection(connect_seconds=self.settings.temporal_connect_seconds),
            secrets=self.secrets,
        )
        for profile in registry:
            self.services.storage(profile)  # a profile without its storage fails at start, not on the first user
        telemetry.register_adapters({profile.name: self.services.adapter(profile) for profile in registry})
        self._relay: Relay | None = None
        #: The process's one reader of events; it runs while somebody follows something.
        self.listener = Listener(self.database, self.settings)

    @property
    def profiles(self) -> ProfileRegistry:
        """The registered profiles."""
        return self.services.profiles

    @property
    def storages(self) -> Mapping[str, Storage]:
        """The registered storages by name."""
        return self.services.storages

    @property
    def owner_types(self) -> OwnerTypes:
        """The stable names of the classes that own media."""
        return self.services.owner_types

    @property
    def temporal(self) -> TemporalConnection:
        """The connection to Temporal."""
        return self.services.temporal

    @temporal.setter
    def temporal(self, connection: TemporalConnection) -> None:
        self.services = replace(self.services, temporal=connection)

    async def __aenter__(self) -> Self:
        if self._relay is None:
            self._relay = Relay(self.database, self.temporal, self.settings)
            await self._relay.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop the relay, end subscriptions and release threads; the engine and its connections stay the
        application's.

        Every step is taken, also when one before it fails or the caller is cancelled meanwhile.
        """
        await run_to_end(self._close())

    async def _close(self) -> None:
        relay, self._relay = self._relay, None
        async with AsyncExitStack() as last_first:
            last_first.push_async_callback(self.database.close)
            for storage in self.storages.values():
                last_first.push_async_callback(storage.close)
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
        actor: str | None = None,
        idempotency_key: str | None = None,
        auto_verify: bool = False,
    ) -> MediaUploadSession:
        """Open an upload session and its asset (``staged``); the bytes are not here yet.

        Args:
            filename: the client's name for the file; only its cleaned extension reaches the storage key.
            size: bytes the client announces; bound into the signature and checked at verification.
            content_type: what the client says it sends; signed where the store can, decides nothing.
            expires_in: life of the session in seconds, 60 to 604800; the setting (86400) when left out.
            actor: who uploads; recorded as ``uploaded_by`` and checked again by ``attach``.
            idempotency_key: a repeated call of the same actor with this key returns the first session. It needs an
                ``actor``.
            auto_verify: let the workflow look for the object by itself, so that a browser that dies after its PUT
                still gets an asset.

        Raises:
            UploadRejected: extension or announced size are refused by the profile; no row was made.
            CapabilityUnsupported: the profile's storage takes no direct uploads.
            UnknownProfile: the profile is not registered.
            InvalidArgument: the idempotency key comes without an actor, or the actor used it for another profile.
        """
        request = UploadRequest(
            filename=filename,
            size=size,
            content_type=content_type,
            expires_in=expires_in,
            actor=actor,
            idempotency_key=idempotency_key,
            auto_verify=auto_verify,
        )
        return await direct.initiate_upload(self.services, profile, request)

    async def sign_url(self, session_id: str, *, expires_in: int | None = None) -> SignedUpload:
        """Sign a PUT for a live session; signing again returns a fresh URL.

        The URL writes once and is bound to the announced size and type where the store can. Its life is
        ``expires_in`` seconds (3600), capped at what is left of the session.

        Raises:
            NotFound: no such session.
            InvalidTransition: the session has ended.
            UploadSessionExpired: its time is over.
        """
        return await direct.sign_url(self.services, session_id, expires_in=expires_in)

    async def verify_completion(self, session_id: str) -> Upload:
        """Prove that the object arrived; returns the session (``completed``) and the asset (``validating``).

        Idempotent: a second call, also a concurrent one, returns the same. Judgement and variants follow in the
        background; until the asset is ``available`` nothing of it is served.

        Raises:
            StorageObjectMissing: no object yet; send the bytes and call again.
            UploadRejected: empty, too large or not of the announced size; the session is ``failed``.
            UploadSessionExpired: the session's time was over and no object had come.
            UploadCancelled: the session was cancelled.
            InvalidTransition: the session was never signed.
            StorageTransient: the store did not answer; verification goes on by itself.
        """
        return await sessions.verify_completion(self.services, session_id)

    async def cancel_upload(self, session_id: str) -> MediaUploadSession:
        """Abort a live session; what it left in the store is removed in the background. Ended sessions are returned as
        they are.

        Raises:
            UploadAlreadyCompleted: the bytes were verified already.
            NotFound: no such session.
        """
        return await sessions.cancel_upload(self.services, session_id)

    async def upload(
        self,
        profile: str | type[Profile],
        source: str | os.PathLike[str] | BinaryIO | AsyncIterator[bytes] | Any,
        *,
        filename: str,
        actor: str | None = None,
    ) -> MediaAsset:
        """Take in bytes on the server: a path, binary file object, Starlette ``UploadFile`` or async iterator of bytes.

        Spooled to disk in pieces of 1 MiB, stopping one byte over the limit; passes the byte gate and the scanner
        before anything is stored or any row exists. The asset is returned ``analyzing``.

        Raises:
            UploadRejected: the policy refuses the file; nothing was stored.
            ScannerUnavailable: no verdict; nothing was stored, try again.
            StorageError: the store refused; the session expires and is cleaned.
        """
        return await server_side.upload(self.services, profile, source, filename=filename, actor=actor)

    async def upload_session(self, session_id: str) -> MediaUploadSession:
        """Return an upload session.

        Raises:
            NotFound: no such session.
        """
        return (await sessions.find_upload(self.services, session_id)).session

    # -- assets ---------------------------------------------------------------------------------------------------

    async def asset(self, asset_id: str) -> MediaAsset:
        """Return an asset with its variants loaded.

        Raises:
            NotFound: no such asset.
        """
        return await assets.get_asset(self.services, asset_id)

    async def settled(self, asset_id: str, *, timeout: float = 30.0) -> MediaAsset:  # noqa: ASYNC109 - public name
        """Wait until an asset has come to rest and return it.

        It is ``ready`` or ``degraded`` then, with no variant ``queued`` or ``processing`` any more, or ``quarantined``
        or ``deleted``. The call waits for the asset's events and reads its rows only after one of them.

        Raises:
            NotSettled: a ``TimeoutError``: it has not within ``timeout`` seconds; ``detail`` says where it and its
                variants stand. Nothing stops because of that.
            NotFound: no such asset, or it is purged by now.
        """
        return await settled(self.listener, asset_id, timeout_seconds=timeout)

    def subscribe(self, scope: str, id: str, *, after: int | None = None) -> Subscription:
        """Follow an asset, variant or upload session: every event once, in the order in which it happened.

        Use it as ``async with rindle.subscribe(...) as events`` or directly in ``async for``; it begins when the block
        or the loop is entered. Leaving either ends it. It also ends by itself after the event that the asset was
        deleted. A slow consumer loses progress events first; when 256 others wait it gets the event ``reset`` with the
        reason ``overflow``, and goes on from the database where it was, without a gap.

        Args:
            scope: ``asset`` (which includes its variants, uploads and providers), ``variant``, ``upload_session`` or
                ``provider_asset``, which is named by the id of its asset.
            after: go on after the event of this id; ``0`` begins with the oldest event kept, ``None`` with the next.
                An id that is not known, or is older than what is kept, gives a ``reset`` first (``unknown``,
                ``expired``).

        Returns:
            An async iterator of events: ``id``, ``type``, ``payload``, ``occurred_at``.

        Raises:
            InvalidArgument: a ``ValueError``: unknown scope, an id that is no UUID, or a negative ``after``.
            NotFound: from the iterator: there is no such thing.
        """
        if after is not None and not 0 <= after <= MAX_ID:
            raise InvalidArgument("after is the id of an event, 0 or None", detail={"option": "after"})
        return Subscription(self.listener, [subject_of(scope, id)], None if after is None else [after])

    def subscription_ticket(self, scope: str, id: str, *, ttl: int = 3600) -> str:
        """Return a signed text that lets whoever holds it open the event stream of one subject, as ``?ticket=``.

        For pages that know the id already and have no other way to say who they are. It is checked when a connection
        is opened, not afterwards.

        Args:
            ttl: its life in seconds, 1 to 604800.

        Raises:
            InvalidArgument: a ``ValueError``: unknown scope, an id that is no UUID, or ``ttl`` out of range.
            Misconfigured: this ``Rindle`` has no signing secret.
        """
        if not 1 <= ttl <= MAX_URL_SECONDS:
            raise InvalidArgument(f"ttl is 1 to {MAX_URL_SECONDS} seconds", detail={"option": "ttl"})
        subject = subject_of(scope, id)
        return sign_ticket(subject.scope, subject.id, expires_at=int(time.time()) + ttl, secrets=self.secrets)

    async def timeline(self, asset_id: str, *, after: int = 0, limit: int = 1000) -> Sequence[MediaEvent]:
        """Return what happened to an asset, oldest first: events with an id above ``after``, at most ``limit``."""
        return await assets.timeline(self.services, asset_id, after=after, limit=limit)

    # -- attachments ----------------------------------------------------------------------------------------------

    def register_owner_type(self, name: str, owner_class: type[Any]) -> None:
        """Give a mapped class the stable owner type ``name``, so that renaming it does not orphan its media.

        Raises:
            OwnerTypeConflict: another class has that name.
        """
        self.owner_types.register(name, owner_class)

    async def attach(
        self,
        asset: MediaAsset | str,
        owner: Any,
        slot: str,
        *,
        uploaded_by: str | Unchecked | None = UNCHECKED,
        session: AnySession | None = None,
    ) -> MediaAttachment:
        """Put an asset into an owner's slot, replacing (and later purging) what was there.

        With ``session`` everything joins the caller's transaction and is not committed here: the purge of a replaced
        asset exists only if the caller commits. Attaching the asset that is there already changes nothing.

        Args:
            owner: an instance of a mapped class, an ``OwnerRef``, a ``(type, id)`` tuple, or an object with
                ``__rindle_owner__()``.
            slot: 1 to 255 characters.
            uploaded_by: who must have uploaded the asset; ``None`` means an anonymous upload. Left out: unchecked, for
                trusted code. Pass it whenever the asset id came from a browser.

        Raises:
            NotFound: unknown or purged asset, or somebody else's upload.
            Quarantined: the asset was condemned.
            StateConflict: another transaction was first; roll back and repeat.
        """
        return await self.database.within(
            session,
            attachments.attach,
            asset,
            owner,
            slot,
            uploaded_by=uploaded_by,
            services=self.services,
        )

    async def detach(self, owner: Any, slot: str, *, session: AnySession | None = None) -> None:
        """Empty an owner's slot and queue the purge of its asset; an empty slot is fine.

        The purge itself leaves the asset alone while anybody else holds it.
        """
        await self.database.within(session, attachments.detach, owner, slot, services=self.services)

    async def attachment_for(
        self, owner: Any, slot: str, *, load: Iterable[str] = ("asset",), session: AnySession | None = None
    ) -> MediaAttachment | None:
        """Return what is in an owner's slot, or ``None``; one query, never writes.

        ``load`` names what comes along: ``"asset"``, ``"variants"``; ``()`` loads nothing.
        """
        options: dict[str, Any] = {"load": tuple(load), "services": self.services}
        if session is None:
            return await self.database.read(attachments.attachment_for, owner, slot, **options)
        return await self.database.within(session, attachments.attachment_for, owner, slot, **options)

    async def ready_variants_for(self, asset: MediaAsset | str) -> list[MediaVariant]:
        """Return the ready variants of an asset, by name."""
        return await self.database.read(attachments.ready_variants_for, asset)

    async def purge_asset(self, asset: MediaAsset | str) -> None:
        """Delete an asset nobody uses: its objects and rows, in the background.

        Raises:
            StillAttached: an owner holds it; detach it first.
            NotFound: no such asset.
        """
        await repair.purge_asset(self.services, asset)

    # -- delivery -------------------------------------------------------------------------------------------------

    async def url(
        self,
        profile: str | type[Profile],
        asset_or_key: MediaAsset | str,
        *,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        allow_unvalidated: bool = False,
    ) -> str:
        """Return a URL of an original; see :func:`rindle.delivery.urls.url`."""
        return await urls.url(
            self.services,
            profile,
            asset_or_key,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            allow_unvalidated=allow_unvalidated,
        )

    async def variant_url(
        self,
        profile: str | type[Profile],
        asset: MediaAsset,
        variant: MediaVariant | str,
        *,
        actor: Any = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
    ) -> str:
        """Return a URL of a variant, or of its fallback; see :func:`rindle.delivery.urls.variant_url`."""
        return await urls.variant_url(
            self.services,
            profile,
            asset,
            variant,
            actor=actor,
            stale_mode=stale_mode,
            fallback=fallback,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
        )

    async def picture_tag(
        self,
        profile: str | type[Profile],
        asset: MediaAsset | None,
        variants: Sequence[Any] = (),
        *,
        width: int | str | bool | None = None,
        height: int | str | bool | None = None,
        placeholder: str | None = None,
        prefer_placeholder: bool = False,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        strict: bool = False,
        on_denied: str = "raise",
        attrs: Mapping[str, Any] | None = None,
        **more_attrs: Any,
    ) -> Markup:
        """Return ``<picture>`` markup of an asset; see :func:`rindle.delivery.markup.picture_tag`."""
        return await markup.picture_tag(
            self.services,
            profile,
            asset,
            variants,
            width=width,
            height=height,
            placeholder=placeholder,
            prefer_placeholder=prefer_placeholder,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            stale_mode=stale_mode,
            fallback=fallback,
            strict=strict,
            on_denied=on_denied,
            attrs=attrs,
            **more_attrs,
        )

    async def video_tag(
        self,
        profile: str | type[Profile],
        asset: MediaAsset | None,
        variants: Sequence[Any] = (),
        *,
        poster: str | None = None,
        tracks: Sequence[Mapping[str, Any]] = (),
        width: int | str | bool | None = None,
        height: int | str | bool | None = None,
        placeholder: str | None = None,
        prefer_placeholder: bool = False,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        strict: bool = False,
        on_denied: str = "raise",
        attrs: Mapping[str, Any] | None = None,
        **more_attrs: Any,
    ) -> Markup:
        """Return ``<video>`` markup of an asset; see :func:`rindle.delivery.markup.video_tag`."""
        return await markup.video_tag(
            self.services,
            profile,
            asset,
            variants,
            poster=poster,
            tracks=tracks,
            width=width,
            height=height,
            placeholder=placeholder,
            prefer_placeholder=prefer_placeholder,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            stale_mode=stale_mode,
            fallback=fallback,
            strict=strict,
            on_denied=on_denied,
            attrs=attrs,
            **more_attrs,
        )

    async def audio_tag(
        self,
        profile: str | type[Profile],
        asset: MediaAsset | None,
        variants: Sequence[Any] = (),
        *,
        tracks: Sequence[Mapping[str, Any]] = (),
        placeholder: str | None = None,
        prefer_placeholder: bool = False,
        actor: Any = None,
        expires_in: int | None = None,
        disposition: str | None = None,
        filename: str | None = None,
        stale_mode: str = "fallback_original",
        fallback: str = "original",
        strict: bool = False,
        on_denied: str = "raise",
        attrs: Mapping[str, Any] | None = None,
        **more_attrs: Any,
    ) -> Markup:
        """Return ``<audio>`` markup of an asset; see :func:`rindle.delivery.markup.audio_tag`."""
        return await markup.audio_tag(
            self.services,
            profile,
            asset,
            variants,
            tracks=tracks,
            placeholder=placeholder,
            prefer_placeholder=prefer_placeholder,
            actor=actor,
            expires_in=expires_in,
            disposition=disposition,
            filename=filename,
            stale_mode=stale_mode,
            fallback=fallback,
            strict=strict,
            on_denied=on_denied,
            attrs=attrs,
            **more_attrs,
        )

    # -- repair and operations ------------------------------------------------------------------------------------

    async def requeue_variants(
        self,
        asset: MediaAsset | str,
        variant_names: Iterable[str] | None = None,
        *,
        actor: str | None = None,
        **others: Unpack[NoOthers],
    ) -> RequeueReport:
        """Build failed and cancelled variants again, or the named ones.

        Returns:
            A report: how many were selected, enqueued, skipped (already queued or running) and refused, with reasons.

        Raises:
            UnknownVariantNames: a name is no variant of the asset; nothing was done.
            UnknownOptions: another keyword was given.
            NotFound: no such asset.
        """
        return await repair.requeue_variants(self.services, asset, variant_names, actor=actor, **others)

    async def cancel_processing(self, asset: MediaAsset | str, *, actor: str | None = None) -> CancelReport:
        """Stop all open builds of an asset: rows are ``cancelled`` when this returns, processes gone within 3 s.

        Returns:
            A report: how many builds were open.

        Raises:
            NotProcessing: nothing is active, or no such asset.
        """
        return await repair.cancel_processing(self.services, asset, actor=actor)

    async def regenerate_variants(
        self, profile: str | None = None, variant_name: str | None = None, **others: Unpack[NoOthers]
    ) -> RegenerateReport:
        """Mark ready variants whose recipe changed as stale, plan newly declared ones, and build both.

        Args:
            profile: assets of this one only; of all when left out.
            variant_name: variants of this name only.

        Raises:
            UnknownProfile: no profile is called so.
            UnknownFilters: another keyword was given; ignoring it would rebuild everything.
        """
        return await repair.regenerate_variants(self.services, profile=profile, variant_name=variant_name, **others)

    async def resume(self, asset_id: str) -> None:
        """Let a promotion that gave up (scanner or store away for too long) go on from where its rows stand."""
        await sessions.resume(self.services, asset_id)

    async def doctor(
        self,
        *,
        profiles: Iterable[str | type[Profile]] | None = None,
        live: bool = False,
        workers: bool = True,
        offline: bool = False,
        only: Collection[str] | None = None,
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the limit of each check
    ) -> DoctorReport:
        """Check everything Rindle needs; see :func:`rindle.operations.doctor.doctor`."""
        return await doctor(
            self.services,
            profiles=profiles,
            live=live,
            workers=workers,
            offline=offline,
            only=only,
            timeout=timeout,
        )

    async def runtime_status(
        self,
        *,
        profile: str | None = None,
        older_than: int | None = None,
        limit: int = DEFAULT_LIMIT,
        format: str | None = None,
        **others: Unpack[NoOthers],
    ) -> RuntimeStatus:
        """Report stuck or degraded work; see :func:`rindle.operations.runtime_status.runtime_status`."""
        return await runtime_status(
            self.services,
            profile=profile,
            older_than=older_than,
            limit=limit,
            format=format,
            **others,
        )
