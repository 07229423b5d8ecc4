"""The public read model: SQLAlchemy classes of the ``media_*`` tables.

Applications may query them (``select(MediaAsset).where(...)``) and join them to their own tables; they never write
them.
State columns move only through ``rindle.db.transitions``. Every timestamp is aware UTC; sizes are bytes; ``width`` and
``height`` are pixels after orientation is applied.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import uuid_utils
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from rindle.states import AssetState, MediaKind, OutboxState, OutputKind, RunState, SessionState, VariantState

#: Longest storage key (S3's limit).
MAX_KEY_CHARS = 1024


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC timestamps with microseconds on both databases; naive values are refused (SQLite drops the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime: pass an aware one, for example datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return the current time as an aware UTC datetime."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a fresh UUIDv7 as canonical text: ordered by time, so indexes stay local."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether ``text`` can be one of our ids at all; anything else is simply not found, never a database error."""
    try:
        UUID(text)
    except (ValueError, AttributeError, TypeError):
        return False
    return True


JsonDocument = JSON().with_variant(JSONB(), "postgresql")
_Id = Uuid(as_uuid=False)
#: 64-bit autoincrement that SQLite also understands (only INTEGER PRIMARY KEY autoincrements there).
_Serial = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Declarative base with its own metadata: a host's tables and migrations never mix with ours."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name, None)!r}" for name in self._shown())
        return f"<{type(self).__name__} {shown}>"

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id",)


class _Timestamps:
    inserted_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


def _vocabulary(column: str, states: type[Any]) -> CheckConstraint:
    listed = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class MediaAsset(_Timestamps, Base):
    """One original and where it stands."""

    __tablename__ = "media_assets"
    __table_args__ = (
        _vocabulary("state", AssetState),
        _vocabulary("kind", MediaKind),
        CheckConstraint(
            "kind <> 'image' OR (duration_ms IS NULL AND has_video_track IS NULL AND has_audio_track IS NULL)",
            name="image_fields",
        ),
        CheckConstraint(
            "kind <> 'audio' OR (width IS NULL AND height IS NULL AND has_video_track IS NULL)", name="audio_fields"
        ),
        UniqueConstraint("storage_key"),
        Index(None, "state"),
        Index(None, "kind"),
        Index(None, "profile"),
        Index(None, "state", "updated_at"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    state: Mapped[str] = mapped_column(String(32), default=AssetState.STAGED.value)
    storage_key: Mapped[str] = mapped_column(String(MAX_KEY_CHARS))
    #: Stable name of the profile (``Profile.name``), never an import path.
    profile: Mapped[str] = mapped_column(String(255))
    #: The actor of the upload; ``None`` for an anonymous one.
    uploaded_by: Mapped[str | None] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(32), default=MediaKind.IMAGE.value)
    content_type: Mapped[str | None] = mapped_column(String(255))
    filename: Mapped[str | None] = mapped_column(String(255))
    byte_size: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    has_video_track: Mapped[bool | None] = mapped_column(Boolean)
    has_audio_track: Mapped[bool | None] = mapped_column(Boolean)
    #: Column ``metadata`` (the attribute name is taken by SQLAlchemy).
    media_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", JsonDocument, default=dict)
    #: Digest over all variant digests at the last planning.
    recipe_digest: Mapped[str | None] = mapped_column(String(64))
    superseded_key: Mapped[str | None] = mapped_column(String(MAX_KEY_CHARS))
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_reason: Mapped[str | None] = mapped_column(Text)
    checksum_sha256: Mapped[str | None] = mapped_column(String(64))
    #: ETag of the bytes that were proven; every later read is bound to it.
    stored_etag: Mapped[str | None] = mapped_column(String(255))
    #: ETag of the bytes the scanner found clean.
    scanned_etag: Mapped[str | None] = mapped_column(String(255))
    lock_version: Mapped[int] = mapped_column(Integer, default=0)

    variants: Mapped[list[MediaVariant]] = relationship(
        back_populates="asset", viewonly=True, order_by="MediaVariant.name", lazy="select"
    )
    attachments: Mapped[list[MediaAttachment]] = relationship(back_populates="asset", viewonly=True, lazy="select")

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "state", "profile")


class MediaVariant(_Timestamps, Base):
    """One derived object of an asset, built from a recipe."""

    __tablename__ = "media_variants"
    __table_args__ = (
        _vocabulary("state", VariantState),
        _vocabulary("output_kind", OutputKind),
        UniqueConstraint("asset_id", "name"),
        Index(None, "state"),
        Index(None, "state", "updated_at"),
        Index(None, "output_kind"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(32), default=VariantState.PLANNED.value)
    recipe_digest: Mapped[str] = mapped_column(String(64))
    output_kind: Mapped[str] = mapped_column(String(32), default=OutputKind.IMAGE.value)
    storage_key: Mapped[str | None] = mapped_column(String(MAX_KEY_CHARS))
    byte_size: Mapped[int | None] = mapped_column(BigInteger)
    content_type: Mapped[str | None] = mapped_column(String(255))
    width: Mapped[int | None] = mapped_column(Integer)
    height: Mapped[int | None] = mapped_column(Integer)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    generated_at: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_reason: Mapped[str | None] = mapped_column(Text)
    #: Bumped by every move to ``queued``: the fence against late results.
    generation: Mapped[int] = mapped_column(Integer, default=0)
    #: Classified failures since the last request to build.
    attempts: Mapped[int] = mapped_column(SmallInteger, default=0)
    #: 0 to 100.
    progress: Mapped[int] = mapped_column(SmallInteger, default=0)
    superseded_key: Mapped[str | None] = mapped_column(String(MAX_KEY_CHARS))
    #: Row of a dynamic transform: ignored by aggregate, drift and requeue, included in a purge.
    dynamic: Mapped[bool] = mapped_column(Boolean, default=False)

    asset: Mapped[MediaAsset] = relationship(back_populates="variants", viewonly=True, lazy="select")

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "name", "state")


class MediaUploadSession(_Timestamps, Base):
    """One attempt to bring bytes in."""

    __tablename__ = "media_upload_sessions"
    __table_args__ = (
        _vocabulary("state", SessionState),
        UniqueConstraint("upload_key"),
        UniqueConstraint("actor", "idempotency_key"),
        Index(None, "state"),
        Index(None, "state", "updated_at"),
        Index(None, "expires_at"),
        Index(None, "asset_id"),
        Index(None, "upload_strategy", "resumable_protocol", "state"),
        Index(
            "ix_media_upload_sessions_session_uri_expires_at",
            "session_uri_expires_at",
            postgresql_where=text("upload_strategy = 'resumable'"),
            sqlite_where=text("upload_strategy = 'resumable'"),
        ),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: ``None`` only for tus partials.
    asset_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(32), default=SessionState.INITIALIZED.value)
    upload_key: Mapped[str] = mapped_column(String(MAX_KEY_CHARS))
    upload_strategy: Mapped[str] = mapped_column(String(32), default="presigned_put")
    resumable_protocol: Mapped[str | None] = mapped_column(String(32))
    upload_length: Mapped[int | None] = mapped_column(BigInteger)
    multipart_upload_id: Mapped[str | None] = mapped_column(Text)
    multipart_parts: Mapped[list[Any]] = mapped_column(JsonDocument, default=list)
    #: Bearer credential of a resumable upload: never logged, cleared when the session ended.
    session_uri: Mapped[str | None] = mapped_column(Text)
    session_uri_expires_at: Mapped[datetime | None]
    last_known_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    region_hint: Mapped[str | None] = mapped_column(String(64))
    expires_at: Mapped[datetime]
    verified_at: Mapped[datetime | None]
    failure_reason: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(64))
    actor: Mapped[str | None] = mapped_column(String(255))
    #: Size in bytes declared at initiation.
    expected_size: Mapped[int | None] = mapped_column(BigInteger)
    #: What the client says the bytes are; decides nothing.
    client_content_type: Mapped[str | None] = mapped_column(String(255))
    upload_metadata: Mapped[str | None] = mapped_column(Text)
    part_size: Mapped[int | None] = mapped_column(BigInteger)
    concat_role: Mapped[str] = mapped_column(String(16), default="none")
    concat_sources: Mapped[list[Any]] = mapped_column(JsonDocument, default=list)
    verified_etag: Mapped[str | None] = mapped_column(String(255))
    lock_owner: Mapped[str | None] = mapped_column(String(64))
    lock_expires_at: Mapped[datetime | None]
    lock_yield: Mapped[bool] = mapped_column(Boolean, default=False)
    #: When what the upload left behind in the store was removed.
    backing_released_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    auto_verify: Mapped[bool] = mapped_column(Boolean, default=False)
    #: When the last presigned URL of this session stops working: until then a late PUT may recreate the object.
    url_expires_at: Mapped[datetime | None]

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "state", "upload_strategy")

    def __repr__(self) -> str:
        uri = None if self.session_uri is None else "[REDACTED]"
        return super().__repr__()[:-1] + f", session_uri={uri!r}>"


class MediaAttachment(_Timestamps, Base):
    """An owner's named place and the asset in it."""

    __tablename__ = "media_attachments"
    __table_args__ = (
        UniqueConstraint("owner_type", "owner_id", "slot"),
        Index(None, "asset_id"),
        Index(None, "owner_type", "owner_id"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    owner_type: Mapped[str] = mapped_column(String(255))
    owner_id: Mapped[str] = mapped_column(String(255))
    slot: Mapped[str] = mapped_column(String(255))

    asset: Mapped[MediaAsset] = relationship(back_populates="attachments", viewonly=True, lazy="select")

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "owner_type", "slot")


class MediaProcessingRun(_Timestamps, Base):
    """Audit of one attempt at a variant (or at asset-wide work when ``variant_name`` is ``None``)."""

    __tablename__ = "media_processing_runs"
    __table_args__ = (
        _vocabulary("state", RunState),
        CheckConstraint("attempt >= 1", name="attempt_counts_from_one"),
        UniqueConstraint("run_id", "worker", "variant_name", "attempt"),
        Index(None, "asset_id", "variant_name"),
        Index(None, "state"),
    )

    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    variant_name: Mapped[str | None] = mapped_column(String(255))
    #: Activity that did the work.
    worker: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(32), default=RunState.PROCESSING.value)
    attempt: Mapped[int] = mapped_column(Integer, default=1)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_reason: Mapped[str | None] = mapped_column(Text)
    workflow_id: Mapped[str | None] = mapped_column(String(255))
    run_id: Mapped[str | None] = mapped_column(String(64))

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "variant_name", "state", "attempt")


class MediaOutbox(_Timestamps, Base):
    """Work to be started or signalled, written in the transaction that made it necessary."""

    __tablename__ = "media_outbox"
    __table_args__ = (
        _vocabulary("state", OutboxState),
        UniqueConstraint("dedupe_key"),
        Index(None, "state", "available_at"),
        Index(None, "workflow_id", "id"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    #: ``start`` or ``signal`` (signal-with-start).
    kind: Mapped[str] = mapped_column(String(32))
    workflow_type: Mapped[str] = mapped_column(String(255))
    workflow_id: Mapped[str] = mapped_column(String(255))
    task_queue: Mapped[str] = mapped_column(String(255))
    signal: Mapped[str | None] = mapped_column(String(64))
    #: The workflow's input: ids only.
    payload: Mapped[dict[str, Any]] = mapped_column(JsonDocument, default=dict)
    priority: Mapped[int] = mapped_column(SmallInteger, default=3)
    dedupe_key: Mapped[str | None] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(32), default=OutboxState.PENDING.value)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    available_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_error: Mapped[str | None] = mapped_column(String(255))
    traceparent: Mapped[str | None] = mapped_column(String(64))
    dispatched_at: Mapped[datetime | None]

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "kind", "workflow_id", "signal", "state")


class MediaEvent(_Timestamps, Base):
    """What happened, in order per asset: written with the state change it reports."""

    __tablename__ = "media_events"
    __table_args__ = (
        Index(None, "asset_id", "id"),
        Index(None, "scope_key", "scope_id", "id"),
        Index(None, "type"),
    )

    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    scope_key: Mapped[str] = mapped_column(String(32))
    scope_id: Mapped[str] = mapped_column(String(255))
    #: A plain id, not a foreign key: events outlive their asset.
    asset_id: Mapped[str | None] = mapped_column(_Id)
    type: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]] = mapped_column(JsonDocument, default=dict)
    occurred_at: Mapped[datetime] = mapped_column(default=utc_now)
    request_id: Mapped[str | None] = mapped_column(String(255))
    profile: Mapped[str | None] = mapped_column(String(255))
    actor: Mapped[str | None] = mapped_column(String(255))
    audit: Mapped[bool] = mapped_column(Boolean, default=False)

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "type", "asset_id")


#: Every table this release owns, by name.
TABLES: tuple[str, ...] = tuple(sorted(Base.metadata.tables))
