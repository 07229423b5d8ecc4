"""The public read model: SQLAlchemy classes of the ``media_*`` tables.

Applications may query them (``select(MediaAsset).where(...)``) and join them to their own tables, but never write them.
State columns change only through ``rindle.db.transitions``. Every timestamp is aware UTC; sizes are bytes; ``width``
and ``height`` are pixels after orientation is applied. The comment ``#:`` above a column says what it holds and when it
is ``NULL``; the reference page of the models is made from these comments.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

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
    inspect,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeEngine

from rindle.arguments import canonical_id
from rindle.db.probe_drift import PROBE_DRIFT
from rindle.security.redaction import redact_id
from rindle.states import (
    AssetState,
    MediaKind,
    OutboxState,
    OutputKind,
    ProviderState,
    RunState,
    SessionState,
    VariantState,
)
from rindle.text import bounded, storable, storable_document

#: Longest storage key (S3's limit).
MAX_KEY_CHARS = 1024


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC timestamps with microseconds on both databases; naive values are rejected (SQLite drops the zone)."""

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
    """Return a new UUIDv7 as canonical text: ordered by time, so indexes stay local."""
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether ``text`` is a UUID; a lookup of anything else finds nothing instead of raising a database error."""
    return canonical_id(text) is not None


class Id(TypeDecorator[str]):
    """The id of a row: a string in Python. A query may compare it with a ``UUID``, and with text in any form.

    SQLite would otherwise not find an id in upper case, and fail on a ``UUID``.
    """

    impl = Uuid(as_uuid=False)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else canonical_id(value) or str(value)


class Note(TypeDecorator[str]):
    """Text that programs, plug-ins and stores wrote, for people to read: it is made storable and cut to the column.

    PostgreSQL refuses a NUL and an overlong value, and the row's change with them; SQLite accepts both.

    Args:
        length: longest value in bytes of UTF-8; no limit when left out.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        return Text() if self.length is None else String(self.length)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return storable(value) if self.length is None else bounded(value, self.length)


class JsonDocument(TypeDecorator[Any]):
    """A JSON document whose strings are made storable: PostgreSQL refuses a NUL or half a surrogate pair in JSONB."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return JSONB() if dialect.name == "postgresql" else JSON()

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return storable_document(value)


#: A JSON document that may be missing, or a list of storage keys: without any it is SQL's NULL, not ``null`` in JSON.
_Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_Id = Id()
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
        # Nothing is loaded: an expired row of a closed session has its id only.
        identity = inspect(self).identity
        known = {**self.__dict__, **({} if identity is None else {"id": identity[0]})}
        shown = ", ".join(f"{name}={known.get(name)!r}" for name in self._shown() if name in known or identity is None)
        return f"<{type(self).__name__} {shown}>"

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id",)


class _Timestamps:
    """Columns of every table."""

    #: When the row was inserted.
    inserted_at: Mapped[datetime] = mapped_column(default=utc_now)
    #: When the row was last written.
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)


def _vocabulary(column: str, states: type[Any]) -> CheckConstraint:
    listed = ", ".join(f"'{state.value}'" for state in states)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


RowT = TypeVar("RowT", bound=Base)


def unstored_copy(row: RowT) -> RowT:
    """Return a new row with the column values of ``row``."""
    names = inspect(type(row)).column_attrs.keys()
    return type(row)(**{name: value for name, value in row.__dict__.items() if name in names})


def _partial_index(*columns: str, where: str) -> Index:
    """Return an index of the rows that meet a condition; queries must contain the condition as literal SQL."""
    return Index(None, *columns, postgresql_where=text(where), sqlite_where=text(where))


class MediaAsset(_Timestamps, Base):
    """One original and its status."""

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
        Index(None, "state", "id"),
        Index(None, "kind"),
        Index(None, "profile", "id"),
        Index(None, "state", "updated_at"),
        _partial_index("updated_at", where=PROBE_DRIFT),
    )

    #: UUIDv7, made by the call that opens the upload; never changes.
    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: An ``AssetState``; changed only by ``rindle.db.transitions``.
    state: Mapped[str] = mapped_column(String(32), default=AssetState.STAGED.value)
    #: Key of the original in the profile's storage, ``<profile>/<asset id>/<token><extension>``; unique. Set when the
    #: upload is opened, before the object exists.
    storage_key: Mapped[str] = mapped_column(String(MAX_KEY_CHARS))
    #: Stable name of the profile (``Profile.name``), never an import path.
    profile: Mapped[str] = mapped_column(String(255))
    #: The actor of the upload; ``NULL`` for an anonymous one.
    uploaded_by: Mapped[str | None] = mapped_column(String(255))
    #: A ``MediaKind``: ``image``, ``video`` or ``audio``. ``image`` until validation has detected the type; that of a
    #: rejected file follows from its type.
    kind: Mapped[str] = mapped_column(String(32), default=MediaKind.IMAGE.value)
    #: Media type detected from the bytes. Between verification and validation: the type that the store reports.
    #: ``NULL`` before verification.
    content_type: Mapped[str | None] = mapped_column(Note(255))
    #: The client's file name, sanitized to 1 to 255 ASCII characters (``unknown`` when none was given). An image whose
    #: name has the extension of another image format gets the extension of its content. ``NULL`` does not occur in
    #: this release.
    filename: Mapped[str | None] = mapped_column(String(255))
    #: Size of the original in bytes, written at verification; ``NULL`` before.
    byte_size: Mapped[int | None] = mapped_column(BigInteger)
    #: Pixels after orientation is applied, written at promotion; ``NULL`` before and for audio.
    width: Mapped[int | None] = mapped_column(Integer)
    #: Pixels after orientation is applied, written at promotion; ``NULL`` before and for audio.
    height: Mapped[int | None] = mapped_column(Integer)
    #: Milliseconds, written at promotion; ``NULL`` before, for images, and where the file does not state it.
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    #: Whether a video has a video track, written at promotion; ``NULL`` before, for images and for audio.
    has_video_track: Mapped[bool | None] = mapped_column(Boolean)
    #: Whether a video or audio file has an audio track, written at promotion; ``NULL`` before and for images.
    has_audio_track: Mapped[bool | None] = mapped_column(Boolean)
    #: Facts of the probe that have no column, ``placeholder``, and the result of the profile's analyzer under
    #: ``analyzer``; written at promotion, ``{}`` before. The column is ``metadata``, a name that SQLAlchemy reserves on
    #: classes.
    media_metadata: Mapped[dict[str, Any]] = mapped_column("metadata", JsonDocument, default=dict)
    #: SHA-256 (64 hexadecimal digits) of all recipes of the profile, as of the last planning of variants; ``NULL``
    #: before promotion.
    recipe_digest: Mapped[str | None] = mapped_column(String(64))
    #: Key of a replaced original that is to be deleted. Reserved: originals are not replaced in this release, so always
    #: ``NULL``.
    superseded_key: Mapped[str | None] = mapped_column(String(MAX_KEY_CHARS))
    #: Code of the rejection (``quarantined``) or of the error for which promotion gave up; ``NULL`` otherwise.
    #: Promotion clears it.
    error_code: Mapped[str | None] = mapped_column(Note(64))
    #: Message that belongs to ``error_code``, at most 4096 characters; ``NULL`` when that is ``NULL``. For a rejection
    #: a sentence for the uploader: what is wrong with the file, and what to send instead.
    error_reason: Mapped[str | None] = mapped_column(Note())
    #: SHA-256 of the original (64 hexadecimal digits), known for uploads through the application, and where promotion
    #: had to replace the headers of the stored object; otherwise ``NULL``.
    checksum_sha256: Mapped[str | None] = mapped_column(String(64))
    #: ETag of the bytes that were verified; every later read is bound to it. ``NULL`` before verification. It changes
    #: when promotion replaces the headers of the object and the store gives the copy another ETag.
    stored_etag: Mapped[str | None] = mapped_column(String(255))
    #: ETag of the bytes that the profile's scanner found clean; ``NULL`` before the scan and without a scanner.
    scanned_etag: Mapped[str | None] = mapped_column(String(255))
    #: Number of writes to the row by ``rindle.db.transitions``, from 0.
    lock_version: Mapped[int] = mapped_column(Integer, default=0)
    #: The client's file name as people wrote it: Unicode in NFC, at most 255 bytes, without control characters and
    #: marks that reverse text; the name of downloads. ``NULL`` for uploads of releases that did not keep it.
    display_name: Mapped[str | None] = mapped_column(Note(255), sort_order=1)
    #: Parameters of the rejection, with which applications translate ``error_code``: limits and found values. ``NULL``
    #: when nothing was rejected.
    error_detail: Mapped[dict[str, Any] | None] = mapped_column(_Document, sort_order=1)
    #: Message of the rejection for operators, with the decoder's own reason; ``NULL`` when nothing was rejected.
    operator_reason: Mapped[str | None] = mapped_column(Note(), sort_order=1)

    variants: Mapped[list[MediaVariant]] = relationship(
        back_populates="asset", viewonly=True, order_by="MediaVariant.name", lazy="select"
    )
    attachments: Mapped[list[MediaAttachment]] = relationship(back_populates="asset", viewonly=True, lazy="select")

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "state", "profile")


class MediaVariant(_Timestamps, Base):
    """One object that is built from an asset by a recipe, and its status."""

    __tablename__ = "media_variants"
    __table_args__ = (
        _vocabulary("state", VariantState),
        _vocabulary("output_kind", OutputKind),
        UniqueConstraint("asset_id", "name"),
        Index(None, "state"),
        Index(None, "state", "updated_at"),
        Index(None, "output_kind"),
    )

    #: UUIDv7, made when the variant is planned; never changes.
    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: The asset it is built from; deleted with it.
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    #: Name under which the profile declares the variant; unique per asset.
    name: Mapped[str] = mapped_column(String(255))
    #: A ``VariantState``; changed only by ``rindle.db.transitions``.
    state: Mapped[str] = mapped_column(String(32), default=VariantState.PLANNED.value)
    #: SHA-256 (64 hexadecimal digits) of the recipe that the row is planned or built with; a build sets it when it
    #: starts.
    recipe_digest: Mapped[str] = mapped_column(String(64))
    #: An ``OutputKind``: ``image``, ``video``, ``audio`` or ``waveform``.
    output_kind: Mapped[str] = mapped_column(String(32), default=OutputKind.IMAGE.value)
    #: Key of the last finished object, ``<profile>/<asset id>/<variant>-<digest>-<generation><extension>``; ``NULL``
    #: before the first build ends, and while a missing object is built again.
    storage_key: Mapped[str | None] = mapped_column(String(MAX_KEY_CHARS))
    #: Size of that object in bytes; ``NULL`` before the first build ends.
    byte_size: Mapped[int | None] = mapped_column(BigInteger)
    #: Media type of that object; ``NULL`` before the first build ends.
    content_type: Mapped[str | None] = mapped_column(String(255))
    #: Pixels of that object; ``NULL`` before the first build ends, and for audio and waveforms.
    width: Mapped[int | None] = mapped_column(Integer)
    #: Pixels of that object; ``NULL`` before the first build ends, and for audio and waveforms.
    height: Mapped[int | None] = mapped_column(Integer)
    #: Milliseconds of that object; ``NULL`` before the first build ends, and for images and waveforms.
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    #: When that object was recorded; ``NULL`` before the first build ends.
    generated_at: Mapped[datetime | None]
    #: Code of the failure or cancellation; ``NULL`` otherwise. Moves to ``queued`` and ``ready`` clear it.
    error_code: Mapped[str | None] = mapped_column(Note(64))
    #: Message that belongs to ``error_code``; ``NULL`` when there is none.
    error_reason: Mapped[str | None] = mapped_column(Note())
    #: Incremented by every move to ``queued``, from 0: the result of an older build no longer matches and is dropped.
    generation: Mapped[int] = mapped_column(Integer, default=0)
    #: Classified failures since the last request to build, from 0.
    attempts: Mapped[int] = mapped_column(SmallInteger, default=0)
    #: Per cent, 0 to 100: 0 when queued, 1 to 99 during a build that reports, 100 when ``ready``.
    progress: Mapped[int] = mapped_column(SmallInteger, default=0)
    #: Key of the object that a newer one replaced, as earlier releases wrote it; deleted like ``obsolete_keys``.
    #: ``NULL`` when there is none.
    superseded_key: Mapped[str | None] = mapped_column(String(MAX_KEY_CHARS))
    #: Reserved for variants made on request, which aggregate, drift and requeue ignore and a purge includes. Always
    #: false in this release.
    dynamic: Mapped[bool] = mapped_column(Boolean, default=False)
    #: Keys of further objects that may be in the store, oldest first: replaced ones, and those of builds that were not
    #: recorded. While the row is ``processing`` the last one belongs to the build in progress. A key stays until its
    #: deletion is confirmed. ``NULL`` when there is none.
    obsolete_keys: Mapped[list[str] | None] = mapped_column(_Document, sort_order=1)
    #: Run and activity (``<run id>:<activity id>``) of the last step of its workflow that queued, cancelled or failed
    #: the variant. Temporal runs a step again when its completion was lost; the repetition does not change this row.
    #: ``NULL`` when no step was applied.
    applied_step: Mapped[str | None] = mapped_column(String(64), sort_order=2)

    asset: Mapped[MediaAsset] = relationship(back_populates="variants", viewonly=True, lazy="select")

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "name", "state")


class MediaUploadSession(_Timestamps, Base):
    """One attempt to upload an original."""

    __tablename__ = "media_upload_sessions"
    __table_args__ = (
        _vocabulary("state", SessionState),
        UniqueConstraint("upload_key"),
        UniqueConstraint("actor", "idempotency_key"),
        Index(None, "state", "id"),
        Index(None, "state", "updated_at"),
        Index(None, "expires_at"),
        # The conditions are those of ``rindle.db.session_conditions``.
        _partial_index(
            "expires_at",
            "id",
            where="state IN ('initialized', 'signed', 'resuming', 'uploading', 'uploaded', 'verifying')",
        ),
        _partial_index(
            "updated_at", "id", where="backing_released_at IS NULL AND state IN ('aborted', 'expired', 'failed')"
        ),
        Index(None, "asset_id"),
        Index(None, "upload_strategy", "resumable_protocol", "state"),
        Index(
            "ix_media_upload_sessions_session_uri_expires_at",
            "session_uri_expires_at",
            postgresql_where=text("upload_strategy = 'resumable'"),
            sqlite_where=text("upload_strategy = 'resumable'"),
        ),
    )

    #: UUIDv7, made by the call that opens the upload; never changes.
    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: The asset that the session uploads; deleted with it. ``NULL`` is reserved for partial tus uploads and does not
    #: occur in this release.
    asset_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    #: A ``SessionState``; changed only by ``rindle.db.transitions``.
    state: Mapped[str] = mapped_column(String(32), default=SessionState.INITIALIZED.value)
    #: Key that the bytes are written to; unique. The ``storage_key`` of the asset.
    upload_key: Mapped[str] = mapped_column(String(MAX_KEY_CHARS))
    #: How the bytes arrive: ``presigned_put`` or ``multipart`` (from the client to the store, whole or in parts), or
    #: ``server`` (through the application), or ``resumable`` (to a session of the store).
    upload_strategy: Mapped[str] = mapped_column(String(32), default="presigned_put")
    #: ``gcs`` for a resumable session of the store; ``tus`` or ``ietf`` for an upload that passes through the
    #: application and may continue; ``NULL`` in other lanes.
    resumable_protocol: Mapped[str | None] = mapped_column(String(32))
    #: Length in bytes that the client of such an upload declared; ``NULL`` while it is unknown, and in other lanes.
    upload_length: Mapped[int | None] = mapped_column(BigInteger)
    #: The store's name of a multipart upload; ``NULL`` before it has begun there, and in other lanes. It stays on the
    #: server.
    multipart_upload_id: Mapped[str | None] = mapped_column(Text)
    #: The parts from which the object of a multipart upload is made, as ``{part_number, etag, size}``; ``[]`` until its
    #: completion is requested.
    multipart_parts: Mapped[list[Any]] = mapped_column(JsonDocument, default=list)
    #: Bearer credential of a resumable session, encrypted when the setting ``session_uri_key`` is given: never logged,
    #: cleared when the objects of the session are released. ``NULL`` in other lanes.
    session_uri: Mapped[str | None] = mapped_column(Text)
    #: When the store forgets a resumable session; ``NULL`` in other lanes.
    session_uri_expires_at: Mapped[datetime | None]
    #: Bytes known to be stored, from 0. The server lane writes the size when it is done, a multipart upload when its
    #: parts are listed, a resumable session when its status is read; a presigned PUT leaves 0.
    last_known_offset: Mapped[int] = mapped_column(BigInteger, default=0)
    #: Where the store keeps a resumable session, if it says so; ``NULL`` otherwise.
    region_hint: Mapped[str | None] = mapped_column(String(64))
    #: When a session that is still live expires; set when it is opened (``expires_in``, or the setting). Progress of a
    #: multipart or resumable upload extends it.
    expires_at: Mapped[datetime]
    #: When the bytes were verified; ``NULL`` before, and for sessions that ended otherwise.
    verified_at: Mapped[datetime | None]
    #: Message that belongs to ``error_code`` of a failed session; ``NULL`` otherwise.
    failure_reason: Mapped[str | None] = mapped_column(Note())
    #: Code of the rejection or of the expiry (``upload_session_expired``); ``NULL`` otherwise.
    error_code: Mapped[str | None] = mapped_column(Note(64))
    #: Who opened the session; ``NULL`` for an anonymous upload.
    actor: Mapped[str | None] = mapped_column(String(255))
    #: Size in bytes that the client declared; ``NULL`` when it declared none.
    expected_size: Mapped[int | None] = mapped_column(BigInteger)
    #: Media type that the client declared, never trusted; ``NULL`` when it declared none.
    client_content_type: Mapped[str | None] = mapped_column(String(255))
    #: What the client's protocol sent along, never trusted: of Companion's clients a JSON object, of tus the header
    #: ``Upload-Metadata``, of the draft of the IETF the digest of the whole file as a JSON object (``algorithm``,
    #: ``expected`` by the client, ``found`` by the workflow, both Base64 or ``null``); ``NULL`` otherwise.
    upload_metadata: Mapped[str | None] = mapped_column(Text)
    #: Size in bytes of every part but the last of a multipart upload; ``NULL`` in other lanes.
    part_size: Mapped[int | None] = mapped_column(BigInteger)
    #: Reserved for concatenated tus uploads; always ``none`` in this release.
    concat_role: Mapped[str] = mapped_column(String(16), default="none")
    #: Reserved for concatenated tus uploads; always ``[]`` in this release.
    concat_sources: Mapped[list[Any]] = mapped_column(JsonDocument, default=list)
    #: ETag of the object as it was verified; ``NULL`` before.
    verified_etag: Mapped[str | None] = mapped_column(String(255))
    #: Reserved for resumable uploads; always ``NULL`` in this release.
    lock_owner: Mapped[str | None] = mapped_column(String(64))
    #: Reserved for resumable uploads; always ``NULL`` in this release.
    lock_expires_at: Mapped[datetime | None]
    #: Reserved for resumable uploads; always false in this release.
    lock_yield: Mapped[bool] = mapped_column(Boolean, default=False)
    #: When the objects of an aborted, expired or failed session were removed from the store; ``NULL`` before, and for
    #: completed ones.
    backing_released_at: Mapped[datetime | None]
    #: Key under which the actor opened the session, unique per actor; ``NULL`` without one.
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    #: Whether the workflow checks for the object by itself.
    auto_verify: Mapped[bool] = mapped_column(Boolean, default=False)
    #: When the last presigned URL of the session expires: until then a late PUT may recreate the object. ``NULL`` when
    #: none was signed.
    url_expires_at: Mapped[datetime | None]
    #: Code of the failed attempt to remove the objects of an aborted, expired or failed session; it is retried without
    #: an end. ``NULL`` when none failed, and after the removal.
    release_error_code: Mapped[str | None] = mapped_column(String(64), sort_order=1)

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "state", "upload_strategy")

    def __repr__(self) -> str:
        uri = None if self.__dict__.get("session_uri") is None else "[REDACTED]"
        return super().__repr__()[:-1] + f", session_uri={uri!r}>"


class MediaProviderAsset(_Timestamps, Base):
    """An asset at a streaming provider. Ids of the provider stay on the server; only playback ids are public."""

    __tablename__ = "media_provider_assets"
    __table_args__ = (
        _vocabulary("state", ProviderState),
        UniqueConstraint("asset_id", "profile", "provider_name"),
        *(
            Index(
                f"uq_media_provider_assets_provider_name_{column}",
                "provider_name",
                column,
                unique=True,
                postgresql_where=text(f"{column} IS NOT NULL"),
                sqlite_where=text(f"{column} IS NOT NULL"),
            )
            for column in ("provider_asset_id", "mux_passthrough", "provider_upload_id")
        ),
        Index(None, "state", "updated_at"),
    )

    #: UUIDv7, made when the push begins; never changes.
    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: The asset; the row is deleted with it, after the provider has deleted its copy.
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    #: Name of the asset's profile.
    profile: Mapped[str] = mapped_column(String(255))
    #: Stable name of the provider, ``mux`` for example.
    provider_name: Mapped[str] = mapped_column(String(63))
    #: The provider's id of the asset; ``NULL`` before it is created there.
    provider_asset_id: Mapped[str | None] = mapped_column(String(255))
    #: Random id, 32 hexadecimal digits, that the provider keeps with the asset: it finds the row when a webhook arrives
    #: before the provider's id is known. ``NULL`` does not occur in this release.
    mux_passthrough: Mapped[str | None] = mapped_column(String(255))
    #: The provider's id of a direct upload; ``NULL`` when the asset was pushed.
    provider_upload_id: Mapped[str | None] = mapped_column(String(255))
    #: Playback ids, which players use; ``[]`` before the provider has made one.
    playback_ids: Mapped[list[str]] = mapped_column(JsonDocument, default=list)
    #: ``signed`` or ``public``, as the profile declared it when the row was made; ``NULL`` accepts both.
    playback_policy: Mapped[str | None] = mapped_column(String(32))
    #: ``server_push`` or ``direct_creator_upload``; ``NULL`` accepts both.
    ingest_mode: Mapped[str | None] = mapped_column(String(32))
    #: A ``ProviderState``; changed only by ``rindle.db.transitions``.
    state: Mapped[str] = mapped_column(String(32), default=ProviderState.PENDING.value)
    #: Id of the newest webhook that was applied; ``NULL`` before.
    last_event_id: Mapped[str | None] = mapped_column(Note(255))
    #: When the provider wrote that webhook; older ones no longer change the state. ``NULL`` before.
    last_event_at: Mapped[datetime | None]
    #: Why the asset is ``errored``, or why the last call to the provider failed; at most 4096 bytes. ``NULL`` when
    #: nothing failed.
    last_sync_error: Mapped[str | None] = mapped_column(Note(4096))
    #: What the provider last reported of the asset, at most 16 KiB; stays on the server.
    raw_provider_metadata: Mapped[dict[str, Any]] = mapped_column(JsonDocument, default=dict)
    #: Whether something is still to be deleted at the provider although the row is ``deleted``.
    cleanup_pending: Mapped[bool] = mapped_column(Boolean, default=False)
    #: Number of changes of the state, from 0.
    lock_version: Mapped[int] = mapped_column(Integer, default=0)

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "provider_name", "state")

    def __repr__(self) -> str:
        known = self.__dict__
        ids = ", ".join(
            f"{name}={redact_id(known.get(name))!r}"
            for name in ("provider_asset_id", "mux_passthrough", "provider_upload_id")
        )
        return f"{super().__repr__()[:-1]}, {ids}>"


class MediaAttachment(_Timestamps, Base):
    """A slot of an owner and the asset in it."""

    __tablename__ = "media_attachments"
    __table_args__ = (
        UniqueConstraint("owner_type", "owner_id", "slot"),
        Index(None, "asset_id"),
        Index(None, "owner_type", "owner_id"),
    )

    #: UUIDv7; stays when the asset in the slot is replaced.
    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: The asset in the slot; the row is deleted with it.
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    #: Stable type name of the owner (``Rindle.register_owner_type``), 1 to 255 characters.
    owner_type: Mapped[str] = mapped_column(String(255))
    #: Primary key of the owner as text, 1 to 255 characters; a JSON list when it has several columns.
    owner_id: Mapped[str] = mapped_column(String(255))
    #: Name of the place at the owner, 1 to 255 characters; one row per owner and slot.
    slot: Mapped[str] = mapped_column(String(255))

    asset: Mapped[MediaAsset] = relationship(back_populates="attachments", viewonly=True, lazy="select")

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "owner_type", "slot")


class MediaProcessingRun(_Timestamps, Base):
    """Record of one attempt to build a variant, or of a step that gave up an upload or a push."""

    __tablename__ = "media_processing_runs"
    __table_args__ = (
        _vocabulary("state", RunState),
        CheckConstraint("attempt >= 1", name="attempt_counts_from_one"),
        UniqueConstraint("run_id", "worker", "variant_name", "attempt"),
        Index(None, "asset_id", "variant_name"),
        Index(None, "state"),
    )

    #: UUIDv7, made when the attempt starts.
    id: Mapped[str] = mapped_column(_Id, primary_key=True, default=new_id)
    #: The asset that was worked on; the row is deleted with it.
    asset_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_assets.id", ondelete="CASCADE"))
    #: The variant that was built. ``NULL`` for the step that gave up an upload or its push to a streaming provider:
    #: Temporal runs a step again when its completion was lost, and the repetition finds this row and changes nothing.
    variant_name: Mapped[str | None] = mapped_column(String(255))
    #: Registered name of the activity that did the work.
    worker: Mapped[str] = mapped_column(String(255))
    #: A ``RunState``: ``processing`` until the attempt ended, then its outcome.
    state: Mapped[str] = mapped_column(String(32), default=RunState.PROCESSING.value)
    #: Attempt of the activity, as Temporal counts: from 1.
    attempt: Mapped[int] = mapped_column(Integer, default=1)
    #: When the attempt claimed the variant, or gave up. ``NULL`` does not occur in this release.
    started_at: Mapped[datetime | None]
    #: When the attempt ended; ``NULL`` while it runs.
    finished_at: Mapped[datetime | None]
    #: Code of the failure or cancellation; ``NULL`` otherwise.
    error_code: Mapped[str | None] = mapped_column(Note(64))
    #: Message that belongs to ``error_code``; ``NULL`` when there is none.
    error_reason: Mapped[str | None] = mapped_column(Note())
    #: Id of the workflow that ordered the work; ``NULL`` does not occur in this release.
    workflow_id: Mapped[str | None] = mapped_column(Note(255))
    #: Run id of that workflow and id of the activity, joined by ``:`` and cut to 64 characters; ``NULL`` does not
    #: occur in this release.
    run_id: Mapped[str | None] = mapped_column(String(64))

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "asset_id", "variant_name", "state", "attempt")


class MediaOutbox(_Timestamps, Base):
    """A start or signal of a workflow that a relay sends, written in the transaction that needs it."""

    __tablename__ = "media_outbox"
    __table_args__ = (
        _vocabulary("state", OutboxState),
        UniqueConstraint("dedupe_key"),
        _partial_index("available_at", "id", where="state = 'pending'"),
        _partial_index("inserted_at", where="state = 'pending' AND attempts > 0"),
        _partial_index("updated_at", where="state = 'parked'"),
        _partial_index("dispatched_at", where="state = 'dispatched'"),
        Index(None, "workflow_id", "id"),
    )

    #: Ascending number; rows of one workflow are sent in this order.
    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    #: ``start``, ``signal`` (which starts the workflow if it is not running), or ``provider_webhook``, of which a relay
    #: finds the workflow when it sends the row.
    kind: Mapped[str] = mapped_column(String(32))
    #: Registered name of the workflow.
    workflow_type: Mapped[str] = mapped_column(String(255))
    #: Id of the workflow.
    workflow_id: Mapped[str] = mapped_column(String(255))
    #: Task queue on which the workflow runs.
    task_queue: Mapped[str] = mapped_column(String(255))
    #: Name of the signal; ``NULL`` for a start.
    signal: Mapped[str | None] = mapped_column(String(64))
    #: ``input``, the workflow's input (ids only), and ``facts`` for its labels; of a webhook, the event.
    payload: Mapped[dict[str, Any]] = mapped_column(JsonDocument, default=dict)
    #: Priority in Temporal, 1 to 5, the lowest number first: 2 for uploads, 3 for purges and erasures, 4 for repairs.
    priority: Mapped[int] = mapped_column(SmallInteger, default=3)
    #: Key of a webhook, of which each is stored once; ``NULL`` for all other rows.
    dedupe_key: Mapped[str | None] = mapped_column(String(255))
    #: An ``OutboxState``; written by relays and by ``rindle outbox drain``.
    state: Mapped[str] = mapped_column(String(32), default=OutboxState.PENDING.value)
    #: Failed attempts to send the row, from 0.
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    #: When relays may send the row: its delay, the pause after a failure, or the end of the lease (30 s) of the relay
    #: that sends it.
    available_at: Mapped[datetime] = mapped_column(default=utc_now)
    #: Why the last attempt failed: a code, or for a parked row the status and message of Temporal (without credentials,
    #: at most 255 bytes). ``NULL`` when none failed and after the row was sent.
    last_error: Mapped[str | None] = mapped_column(Note(255))
    #: Reserved for the W3C trace context of the caller; always ``NULL`` in this release.
    traceparent: Mapped[str | None] = mapped_column(String(64))
    #: When Temporal accepted the row; ``NULL`` before. Relays delete the row when the retention (7 days) is over.
    dispatched_at: Mapped[datetime | None]

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "kind", "workflow_id", "signal", "state")


class MediaEvent(_Timestamps, Base):
    """An event, in order per asset, written in the transaction of the change that it reports."""

    __tablename__ = "media_events"
    __table_args__ = (
        Index(None, "asset_id", "id"),
        Index(None, "scope_key", "scope_id", "id"),
        Index(None, "type", "occurred_at"),
    )

    #: Ascending number; in the order of commits for the streamed events of one asset.
    id: Mapped[int] = mapped_column(_Serial, primary_key=True, autoincrement=True)
    #: What the event is about: ``asset``, ``variant``, ``upload_session``, ``owner_erasure`` or ``webhook``.
    scope_key: Mapped[str] = mapped_column(String(32))
    #: Id of that asset, variant, session or operation.
    scope_id: Mapped[str] = mapped_column(String(255))
    #: The asset concerned: a plain id without a foreign key, because events outlive their asset. ``NULL`` for an
    #: operation on an owner.
    asset_id: Mapped[str | None] = mapped_column(_Id)
    #: A type of the event catalogue (``rindle.events.EVENT_TYPES``).
    type: Mapped[str] = mapped_column(String(64))
    #: The fields that the catalogue lists for the type.
    payload: Mapped[dict[str, Any]] = mapped_column(JsonDocument, default=dict)
    #: When the event was written, within the transaction of the change.
    occurred_at: Mapped[datetime] = mapped_column(default=utc_now)
    #: Reserved for the id of the request that caused the change; always ``NULL`` in this release.
    request_id: Mapped[str | None] = mapped_column(String(255))
    #: Name of the asset's profile; ``NULL`` when the asset was gone.
    profile: Mapped[str | None] = mapped_column(String(255))
    #: Who caused the change, where the call named one; ``NULL`` otherwise.
    actor: Mapped[str | None] = mapped_column(String(255))
    #: True for actions of applications and operators (attach, detach, purge, erase, requeue, cancel); false for
    #: changes of state.
    audit: Mapped[bool] = mapped_column(Boolean, default=False)

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "type", "asset_id")


class MediaErasure(_Timestamps, Base):
    """One operation that erases the media of an owner: its report, and whether its purges have ended."""

    __tablename__ = "media_erasures"
    __table_args__ = (
        Index(None, "owner_type", "owner_id"),
        Index("ix_media_erasures_completed_at", "completed_at"),
    )

    #: Id of the operation, a UUID: given by the caller of ``erase_owner``, or made by it.
    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    #: Stable type name of the owner.
    owner_type: Mapped[str] = mapped_column(String(255))
    #: Id of the owner, as its attachments stored it.
    owner_id: Mapped[str] = mapped_column(String(255))
    #: Who requested the erasure; ``NULL`` when the call named nobody.
    actor: Mapped[str | None] = mapped_column(String(255))
    #: The report of the call, as JSON, written in the transaction that removed the attachments; ``NULL`` before.
    report: Mapped[dict[str, Any] | None] = mapped_column(_Document)
    #: When the attachments were removed; ``NULL`` before.
    detached_at: Mapped[datetime | None]
    #: Number of assets whose purge has not ended yet.
    pending: Mapped[int] = mapped_column(Integer, default=0)
    #: When the last purge had ended and the certificate was final; ``NULL`` before.
    completed_at: Mapped[datetime | None]

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("id", "owner_type", "detached_at", "completed_at")


class MediaErasureAsset(_Timestamps, Base):
    """One asset that an erasure purges, and the evidence that its objects were deleted; it outlives the asset."""

    __tablename__ = "media_erasure_assets"
    __table_args__ = (
        Index(None, "asset_id"),
        Index(None, "erasure_id", "outcome", "asset_id"),
    )

    #: The operation; the row is deleted with it.
    erasure_id: Mapped[str] = mapped_column(_Id, ForeignKey("media_erasures.id", ondelete="CASCADE"), primary_key=True)
    #: Id of the asset, also after its row is gone.
    asset_id: Mapped[str] = mapped_column(_Id, primary_key=True)
    #: Name of the asset's profile.
    profile: Mapped[str] = mapped_column(String(255))
    #: ``pending`` until the purge has ended. Then ``purged`` (objects and rows are deleted), ``attached_again`` (it was
    #: attached after the erasure, and so kept), or ``gone`` (the rows were deleted without evidence).
    outcome: Mapped[str] = mapped_column(String(32), default="pending")
    #: When ``outcome`` was decided; ``NULL`` while it is ``pending``.
    decided_at: Mapped[datetime | None]
    #: Until when a PUT with a signed URL of the asset could end; ``NULL`` when none could, and before the deletion.
    uploads_end_at: Mapped[datetime | None]
    #: The deleted objects: ``storage``, ``key``, ``deleted_at``, ``absent_at`` and ``unverified`` of each; ``NULL``
    #: before the deletion.
    objects: Mapped[list[dict[str, Any]] | None] = mapped_column(_Document)

    @classmethod
    def _shown(cls) -> tuple[str, ...]:
        return ("erasure_id", "asset_id", "outcome")


#: Every table this release owns, by name.
TABLES: tuple[str, ...] = tuple(sorted(Base.metadata.tables))
