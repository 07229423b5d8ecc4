"""The tables of the first release.

Written out rather than taken from the models, because the models change and this revision does not.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Types as each database stores them: timestamps with time zone, JSONB and native UUIDs on PostgreSQL.
_ID = sa.Uuid(as_uuid=False)
_TIME = sa.DateTime(timezone=True)
_JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
# Only INTEGER PRIMARY KEY counts up by itself on SQLite.
_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: In the order in which they can be dropped.
_TABLES = (
    "media_variants",
    "media_upload_sessions",
    "media_processing_runs",
    "media_attachments",
    "media_outbox",
    "media_events",
    "media_assets",
)


def upgrade() -> None:
    """Create the seven tables with their indexes."""
    _assets()
    _variants()
    _upload_sessions()
    _attachments()
    _processing_runs()
    _outbox()
    _events()


def downgrade() -> None:
    """Drop the seven tables with everything in them. DESTRUCTIVE: the media can no longer be found afterwards."""
    for table in _TABLES:
        op.drop_table(table)


def _timestamps() -> tuple[sa.Column[object], sa.Column[object]]:
    return sa.Column("inserted_at", _TIME, nullable=False), sa.Column("updated_at", _TIME, nullable=False)


def _one_of(table: str, column: str, *values: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(f"ck_{table}_{column}_known"))


def _belongs_to_an_asset(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["asset_id"], ["media_assets.id"], name=op.f(f"fk_{table}_asset_id"), ondelete="CASCADE"
    )


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def _primary_key(table: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}"))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def _assets() -> None:
    table = "media_assets"
    op.create_table(
        table,
        sa.Column("id", _ID, nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("storage_key", sa.String(1024), nullable=False),
        sa.Column("profile", sa.String(255), nullable=False),
        sa.Column("uploaded_by", sa.String(255)),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("content_type", sa.String(255)),
        sa.Column("filename", sa.String(255)),
        sa.Column("byte_size", sa.BigInteger()),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("duration_ms", sa.BigInteger()),
        sa.Column("has_video_track", sa.Boolean()),
        sa.Column("has_audio_track", sa.Boolean()),
        sa.Column("metadata", _JSON, nullable=False),
        sa.Column("recipe_digest", sa.String(64)),
        sa.Column("superseded_key", sa.String(1024)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_reason", sa.Text()),
        sa.Column("checksum_sha256", sa.String(64)),
        sa.Column("stored_etag", sa.String(255)),
        sa.Column("scanned_etag", sa.String(255)),
        sa.Column("lock_version", sa.Integer(), nullable=False),
        *_timestamps(),
        _primary_key(table),
        _unique(table, "storage_key"),
        _one_of(
            table,
            "state",
            *("staged", "validating", "analyzing", "promoting", "available", "processing", "transcoding"),
            *("ready", "degraded", "quarantined", "deleted"),
        ),
        _one_of(table, "kind", "image", "video", "audio"),
        sa.CheckConstraint(
            "kind <> 'image' OR (duration_ms IS NULL AND has_video_track IS NULL AND has_audio_track IS NULL)",
            name=op.f("ck_media_assets_image_fields"),
        ),
        sa.CheckConstraint(
            "kind <> 'audio' OR (width IS NULL AND height IS NULL AND has_video_track IS NULL)",
            name=op.f("ck_media_assets_audio_fields"),
        ),
    )
    _index(table, "state")
    _index(table, "kind")
    _index(table, "profile")
    _index(table, "state", "updated_at")


def _variants() -> None:
    table = "media_variants"
    op.create_table(
        table,
        sa.Column("id", _ID, nullable=False),
        sa.Column("asset_id", _ID, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("recipe_digest", sa.String(64), nullable=False),
        sa.Column("output_kind", sa.String(32), nullable=False),
        sa.Column("storage_key", sa.String(1024)),
        sa.Column("byte_size", sa.BigInteger()),
        sa.Column("content_type", sa.String(255)),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("duration_ms", sa.BigInteger()),
        sa.Column("generated_at", _TIME),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_reason", sa.Text()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("progress", sa.SmallInteger(), nullable=False),
        sa.Column("superseded_key", sa.String(1024)),
        sa.Column("dynamic", sa.Boolean(), nullable=False),
        *_timestamps(),
        _primary_key(table),
        _belongs_to_an_asset(table),
        _unique(table, "asset_id", "name"),
        _one_of(
            table,
            "state",
            *("planned", "queued", "processing", "ready", "stale", "missing", "failed", "cancelled", "purged"),
        ),
        _one_of(table, "output_kind", "image", "video", "audio", "waveform"),
    )
    _index(table, "state")
    _index(table, "state", "updated_at")
    _index(table, "output_kind")


def _upload_sessions() -> None:
    table = "media_upload_sessions"
    op.create_table(
        table,
        sa.Column("id", _ID, nullable=False),
        sa.Column("asset_id", _ID),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("upload_key", sa.String(1024), nullable=False),
        sa.Column("upload_strategy", sa.String(32), nullable=False),
        sa.Column("resumable_protocol", sa.String(32)),
        sa.Column("upload_length", sa.BigInteger()),
        sa.Column("multipart_upload_id", sa.Text()),
        sa.Column("multipart_parts", _JSON, nullable=False),
        sa.Column("session_uri", sa.Text()),
        sa.Column("session_uri_expires_at", _TIME),
        sa.Column("last_known_offset", sa.BigInteger(), nullable=False),
        sa.Column("region_hint", sa.String(64)),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("verified_at", _TIME),
        sa.Column("failure_reason", sa.Text()),
        sa.Column("error_code", sa.String(64)),
        sa.Column("actor", sa.String(255)),
        sa.Column("expected_size", sa.BigInteger()),
        sa.Column("client_content_type", sa.String(255)),
        sa.Column("upload_metadata", sa.Text()),
        sa.Column("part_size", sa.BigInteger()),
        sa.Column("concat_role", sa.String(16), nullable=False),
        sa.Column("concat_sources", _JSON, nullable=False),
        sa.Column("verified_etag", sa.String(255)),
        sa.Column("lock_owner", sa.String(64)),
        sa.Column("lock_expires_at", _TIME),
        sa.Column("lock_yield", sa.Boolean(), nullable=False),
        sa.Column("backing_released_at", _TIME),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("auto_verify", sa.Boolean(), nullable=False),
        sa.Column("url_expires_at", _TIME),
        *_timestamps(),
        _primary_key(table),
        _belongs_to_an_asset(table),
        _unique(table, "upload_key"),
        _unique(table, "actor", "idempotency_key"),
        _one_of(
            table,
            "state",
            *("initialized", "signed", "resuming", "uploading", "uploaded", "verifying"),
            *("completed", "aborted", "expired", "failed"),
        ),
    )
    _index(table, "state")
    _index(table, "state", "updated_at")
    _index(table, "expires_at")
    _index(table, "asset_id")
    _index(table, "upload_strategy", "resumable_protocol", "state")
    resumable = sa.text("upload_strategy = 'resumable'")
    op.create_index(
        op.f("ix_media_upload_sessions_session_uri_expires_at"),
        table,
        ["session_uri_expires_at"],
        postgresql_where=resumable,
        sqlite_where=resumable,
    )


def _attachments() -> None:
    table = "media_attachments"
    op.create_table(
        table,
        sa.Column("id", _ID, nullable=False),
        sa.Column("asset_id", _ID, nullable=False),
        sa.Column("owner_type", sa.String(255), nullable=False),
        sa.Column("owner_id", sa.String(255), nullable=False),
        sa.Column("slot", sa.String(255), nullable=False),
        *_timestamps(),
        _primary_key(table),
        _belongs_to_an_asset(table),
        _unique(table, "owner_type", "owner_id", "slot"),
    )
    _index(table, "asset_id")
    _index(table, "owner_type", "owner_id")


def _processing_runs() -> None:
    table = "media_processing_runs"
    op.create_table(
        table,
        sa.Column("id", _ID, nullable=False),
        sa.Column("asset_id", _ID, nullable=False),
        sa.Column("variant_name", sa.String(255)),
        sa.Column("worker", sa.String(255), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_reason", sa.Text()),
        sa.Column("workflow_id", sa.String(255)),
        sa.Column("run_id", sa.String(64)),
        *_timestamps(),
        _primary_key(table),
        _belongs_to_an_asset(table),
        _unique(table, "run_id", "worker", "variant_name", "attempt"),
        _one_of(table, "state", "queued", "processing", "succeeded", "failed", "cancelled"),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_media_processing_runs_attempt_counts_from_one")),
    )
    _index(table, "asset_id", "variant_name")
    _index(table, "state")


def _outbox() -> None:
    table = "media_outbox"
    op.create_table(
        table,
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("workflow_type", sa.String(255), nullable=False),
        sa.Column("workflow_id", sa.String(255), nullable=False),
        sa.Column("task_queue", sa.String(255), nullable=False),
        sa.Column("signal", sa.String(64)),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("dedupe_key", sa.String(255)),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("available_at", _TIME, nullable=False),
        sa.Column("last_error", sa.String(255)),
        sa.Column("traceparent", sa.String(64)),
        sa.Column("dispatched_at", _TIME),
        *_timestamps(),
        _primary_key(table),
        _unique(table, "dedupe_key"),
        _one_of(table, "state", "pending", "dispatched", "parked"),
    )
    _index(table, "state", "available_at")
    _index(table, "workflow_id", "id")


def _events() -> None:
    table = "media_events"
    op.create_table(
        table,
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("scope_key", sa.String(32), nullable=False),
        sa.Column("scope_id", sa.String(255), nullable=False),
        # A plain id: events outlive their asset.
        sa.Column("asset_id", _ID),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("request_id", sa.String(255)),
        sa.Column("profile", sa.String(255)),
        sa.Column("actor", sa.String(255)),
        sa.Column("audit", sa.Boolean(), nullable=False),
        *_timestamps(),
        _primary_key(table),
    )
    _index(table, "asset_id", "id")
    _index(table, "scope_key", "scope_id", "id")
    _index(table, "type")
