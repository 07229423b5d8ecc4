"""An application as type checkers see it: every public call of ``Rindle``, with the type of what it returns.

Never run. ``make check`` reads it with mypy and pyright in their strict modes, and ``tests/architecture`` holds that no
public name of ``Rindle`` is missing. A call that a checker must refuse has an ignore beside it; both checkers complain
about an ignore that is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_type
from uuid import UUID

from markupsafe import Markup
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from temporalio.client import Client, Interceptor
from temporalio.converter import DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.service import TLSConfig
from temporalio.worker import Worker

from rindle import (
    ImageVariant,
    MediaAsset,
    MediaAttachment,
    MediaEvent,
    MediaUploadSession,
    MediaVariant,
    OwnerRef,
    Profile,
    Rindle,
    Settings,
    TemporalConnection,
)
from rindle.db.uploads import Upload
from rindle.delivery.playback import PlaybackURL
from rindle.erasure.certificate import ErasureCertificate
from rindle.erasure.force_delete import ForceDeleteReport
from rindle.erasure.reports import BatchErasureReport, OwnerErasureReport
from rindle.operations.checks.report import DoctorReport
from rindle.operations.maintenance.regenerate_variants import RegenerateReport
from rindle.operations.maintenance.reprobe import ReprobeReport
from rindle.operations.repair import CancelReport, RequeueReport
from rindle.operations.runtime_status import RuntimeStatus
from rindle.owners import OwnerTypes
from rindle.profile import ProfileRegistry
from rindle.protocols import Part, Storage
from rindle.storage.local import LocalStorage
from rindle.subscriptions import Subscription
from rindle.uploads.direct import SignedUpload
from rindle.uploads.multipart import OpenedMultipart, SignedPart
from rindle.uploads.resumable import OpenedResumable, ResumableProgress
from rindle.uploads.to_provider import DirectUpload
from rindle.uploads.tus import TusUpload
from rindle.worker_plugin import RindlePlugin


class Avatar(Profile):
    """A profile as an application declares it."""

    name = "avatar"
    storage = "media"
    variants = {"thumb": ImageVariant(mode="crop", width=64, height=64)}
    allow_mime = ("image/*",)


class Member:
    """A mapped class of the application."""

    id: int


def application(engine: Engine, temporal: TemporalConnection) -> Rindle:
    """Build the object, and read what it holds."""
    local = LocalStorage("media", base_url="https://example.com/media", secrets=["s" * 32])
    rindle = Rindle(
        engine=engine,
        profiles=[Avatar],
        storages={"media": local},
        secrets=["s" * 32],
        settings=Settings(),
        temporal=temporal,
    )
    assert_type(rindle.profiles, ProfileRegistry)
    assert_type(rindle.storages, Mapping[str, Storage])
    assert_type(rindle.owner_types, OwnerTypes)
    assert_type(rindle.temporal, TemporalConnection)
    rindle.register_owner_type("member", Member)
    rindle.register_owner_type("team", slots={"logo": Avatar, "cover": ["avatar", Avatar]})
    return rindle


async def temporal_connections(converter: DataConverter, tls: TLSConfig, rindle: Rindle) -> None:
    """Say how to connect, and work in a worker of one's own."""

    async def connect() -> Client:
        return await Client.connect("temporal.example.com:7233", data_converter=converter)

    rindle.temporal = TemporalConnection(
        target_host="temporal.example.com:7233",
        namespace="media",
        api_key="key",
        tls=tls,
        data_converter=converter,
        interceptors=[Interceptor()],
        plugins=[SimplePlugin("tracing")],
    )
    rindle.temporal = TemporalConnection(connect=connect, connect_seconds=5)
    assert_type(rindle.temporal.address, str | None)
    assert_type(rindle.temporal.namespace, str | None)
    client = assert_type(await rindle.temporal.client(), Client)
    Worker(client, task_queue=rindle.settings.queue(), plugins=[RindlePlugin(rindle)])
    TemporalConnection(connect=client)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def uploads(rindle: Rindle, path: str) -> MediaAsset:
    """Bring bytes in, from the browser and through the server."""
    session = await rindle.initiate_upload(
        Avatar,
        filename="me.jpg",
        size=1024,
        content_type="image/jpeg",
        expires_in=3600,
        actor="ada",
        idempotency_key="once",
        auto_verify=True,
    )
    assert_type(session, MediaUploadSession)
    assert_type(await rindle.sign_url(session.id, expires_in=600), SignedUpload)
    assert_type(await rindle.verify_completion(session.id), Upload)
    assert_type(await rindle.upload_session(session.id), MediaUploadSession)
    assert_type(await rindle.cancel_upload(session.id), MediaUploadSession)
    await rindle.initiate_upload("avatar", file_name="me.jpg")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return assert_type(await rindle.upload("avatar", path, filename="me.jpg", actor="ada"), MediaAsset)


async def uploads_in_parts(rindle: Rindle, session_id: str) -> None:
    """A large file, sent directly to the store in parts."""
    opened = await rindle.initiate_multipart_upload(
        "lesson", filename="lesson.mp4", size=4_000_000_000, part_size=16 * 1024 * 1024, actor="ada", auto_verify=True
    )
    assert_type(opened, OpenedMultipart)
    assert_type(opened.multipart.part_count, int | None)
    assert_type(await rindle.sign_multipart_part(session_id, 1), SignedPart)
    parts = await rindle.list_parts(opened.session)
    assert_type(parts, list[Part])
    assert_type(await rindle.complete_multipart_upload(session_id), Upload)
    assert_type(await rindle.complete_multipart_upload(session_id, parts), Upload)
    await rindle.complete_multipart_upload(session_id, [{"part_number": 1, "etag": "0" * 32}])


async def uploads_to_a_session(rindle: Rindle, session_id: str) -> None:
    """A large file, sent to a session of the store."""
    opened = await rindle.initiate_resumable_session(
        "lesson", filename="lesson.mp4", size=4_000_000_000, origin="https://example.com", expires_in=3600, actor="ada"
    )
    assert_type(opened, OpenedResumable)
    assert_type(opened.resumable.session_uri, SecretStr)
    progress = await rindle.resumable_session_status(session_id, client_offset=262_144, resume=True)
    assert_type(progress, ResumableProgress)
    assert_type(progress.committed_bytes, int)


async def uploads_by_tus(rindle: Rindle) -> None:
    """A large file from a client that speaks tus, opened by the server."""
    opened = await rindle.initiate_tus_upload(
        "lesson", length=4_000_000_000, path="/files", filename="lesson.mp4", content_type="video/mp4", actor="ada"
    )
    assert_type(opened, TusUpload)
    assert_type(opened.upload_url, str)
    await rindle.initiate_tus_upload(Avatar, length=None, path="/files")


async def assets(rindle: Rindle, asset_id: str) -> None:
    """Look at an asset, wait for it, follow it."""
    assert_type(await rindle.asset(asset_id), MediaAsset)
    assert_type(await rindle.settled(asset_id, timeout=10), MediaAsset)
    assert_type(rindle.subscribe("asset", asset_id, after=0), Subscription)
    async with rindle.subscribe("asset", asset_id) as events:
        async for event in events:
            assert_type(event.type, str)
    assert_type(rindle.subscription_ticket("asset", asset_id, ttl=60), str)
    assert_type(await rindle.timeline(asset_id, after=0, limit=10), Sequence[MediaEvent])


async def attachments(rindle: Rindle, member: Member, asset: MediaAsset, session: Session | AsyncSession) -> None:
    """Put an asset into a slot of a member."""
    held = await rindle.attach(asset, member, "avatar", uploaded_by="ada", session=session)
    assert_type(held, MediaAttachment)
    await rindle.attach(asset.id, ("member", "1"), "avatar", uploaded_by=None)
    await rindle.attach(asset, member, "avatar", profile=Avatar)
    await rindle.attach(asset, member, "avatar", profile=["avatar", Avatar])
    await rindle.attach(asset, member, "avatar", profile=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await rindle.attachment_for(member, "avatar", load=("variants",)), MediaAttachment | None)
    assert_type(await rindle.ready_variants_for(asset), list[MediaVariant])
    await rindle.detach(member, "avatar", session=session)
    await rindle.purge_asset(asset)


def synchronous(rindle: Rindle, member: Member, asset: MediaAsset, session: Session) -> None:
    """The same in synchronous code."""
    held = rindle.attachments.attach(asset, member, "avatar", uploaded_by="ada", profile=Avatar, session=session)
    assert_type(held, MediaAttachment)
    assert_type(
        rindle.attachments.attachment_for(member, "avatar", load=("variants",), session=session), MediaAttachment | None
    )
    assert_type(rindle.attachments.ready_variants_for(asset, session=session), list[MediaVariant])
    rindle.attachments.detach(member, "avatar", session=session)
    rindle.attachments.detach(member, "avatar")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def ids(rindle: Rindle, asset: MediaAsset, session: MediaUploadSession, asset_id: UUID, session_id: UUID) -> None:
    """Name a row by its id, as text or UUID, or by itself."""
    assert_type(await rindle.asset(asset), MediaAsset)
    assert_type(await rindle.asset(asset_id), MediaAsset)
    assert_type(await rindle.url(Avatar, asset_id), str)
    assert_type(await rindle.picture_tag(Avatar, str(asset_id), ["thumb"]), Markup)
    assert_type(await rindle.sign_url(session), SignedUpload)
    assert_type(await rindle.verify_completion(session_id), Upload)
    assert_type(rindle.subscribe("upload_session", session), Subscription)
    await rindle.attach(asset_id, ("member", 1), "avatar")
    await rindle.attach(asset_id, OwnerRef("member", asset_id), "avatar")
    await rindle.asset(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def erasure(rindle: Rindle, member: Member, asset: MediaAsset) -> None:
    """Forget a member, and prove it."""
    assert_type(await rindle.preview_owner_erasure(member), OwnerErasureReport)
    report = await rindle.erase_owner(member, operation_id=None, actor="ada")
    assert_type(report, OwnerErasureReport)
    assert_type([one.asset_id for one in report.assets_to_purge.entries], list[str])
    assert_type(report.retained_shared_assets.entries[0].surviving_attachment_count, int)
    certificate = await rindle.erasure_certificate(report.operation_id)
    assert_type(certificate, ErasureCertificate)
    assert_type(certificate.to_html(), str)
    owners = [member, ("member", "1")]
    assert_type(await rindle.preview_batch_owner_erasure(owners, max_owners=2), BatchErasureReport)
    batch = await rindle.erase_owners(owners, max_owners=2, actor="ada", continue_on_error=True)
    assert_type(batch, BatchErasureReport)
    assert_type(batch.net_assets_to_purge, int)
    forced = await rindle.force_delete_asset(asset, "why", actor="ada", reference="1", dry_run=True)
    assert_type(forced, ForceDeleteReport)
    await rindle.force_delete_asset(asset, "why")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def uploads_to_a_provider(rindle: Rindle) -> None:
    """A film that a browser sends to the streaming provider."""
    upload = await rindle.create_direct_upload(
        "avatar", cors_origin="https://example.com", filename="film.mp4", timeout=600, actor="ada"
    )
    assert_type(upload, DirectUpload)
    assert_type(upload.upload_url, str)
    await rindle.cancel_direct_upload(upload.asset_id)
    await rindle.create_direct_upload("avatar")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def delivery(rindle: Rindle, asset: MediaAsset) -> None:
    """Make URLs and markup."""
    assert_type(
        await rindle.url(
            Avatar,
            asset,
            actor="ada",
            expires_in=60,
            disposition="attachment",
            filename="me.jpg",
            allow_unvalidated=False,
        ),
        str,
    )
    assert_type(
        await rindle.variant_url(Avatar, asset, "thumb", stale_mode="serve_stale", fallback="none", expires_in=60), str
    )
    assert_type(await rindle.streaming_url("avatar", asset, strict=True, mime="video/mp4"), PlaybackURL)
    picture = await rindle.picture_tag(
        "avatar",
        asset,
        ["thumb", ("thumb", "(max-width: 480px)")],
        placeholder="auto",
        width=64,
        height=64,
        prefer_placeholder=True,
        on_denied="empty",
        on_error="omit",
        attrs={"alt": "Ada"},
        class_="round",
        data_member="1",
    )
    assert_type(picture, Markup)
    video = await rindle.video_tag("avatar", None, poster="thumb", tracks=[{"src": "/en.vtt"}], width=640, muted=True)
    assert_type(video, Markup)
    assert_type(await rindle.audio_tag("avatar", None, tracks=[], actor="ada", expires_in=60, controls=False), Markup)
    await rindle.picture_tag("avatar", asset, width=[64])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def operations(rindle: Rindle, asset_id: str) -> None:
    """Look after what is stuck, and repair it."""
    requeued = await rindle.requeue_variants(asset_id, ["thumb"], actor="ada")
    assert_type(requeued, RequeueReport)
    assert_type(requeued.enqueued, int)
    cancelled = await rindle.cancel_processing(asset_id, actor="ada")
    assert_type(cancelled, CancelReport)
    assert_type(cancelled.cancelled, int)
    assert_type(await rindle.regenerate_variants("avatar", "thumb"), RegenerateReport)
    reprobed = await rindle.reprobe(asset_id, timeout=60)
    assert_type(reprobed, ReprobeReport)
    assert_type(reprobed.refreshed_fields, tuple[str, ...])
    await rindle.resume(asset_id)

    report = await rindle.doctor(
        profiles=[Avatar, "avatar"], live=True, workers=False, offline=False, only=["db.connect"], timeout=2.5
    )
    assert_type(report, DoctorReport)
    assert_type([check.fix for check in report.checks], list[str | None])

    status = await rindle.runtime_status(profile="avatar", older_than=60, limit=10, format="json")
    assert_type(status, RuntimeStatus)
    assert_type([finding.name for finding in status.findings], list[str])
    assert_type(status.outbox.pending, int)

    # What no checker saw while these calls took ``**options: Any``.
    await rindle.doctor(profile="avatar")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await rindle.runtime_status(older_then=60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await rindle.runtime_status(limit="10")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await rindle.requeue_variants(asset_id, names=["thumb"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await rindle.regenerate_variants(variant="thumb")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def lifetime(rindle: Rindle) -> None:
    """Run the relay while the application runs."""
    async with rindle as running:
        assert_type(running, Rindle)
    await rindle.close()
