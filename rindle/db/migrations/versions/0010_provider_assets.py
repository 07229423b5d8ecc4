"""Assets at streaming providers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
_ID = sa.Uuid(as_uuid=False)
_TIME = sa.DateTime(timezone=True)
_TABLE = "media_provider_assets"
#: Ids of the provider, each unique where it is known.
_UNIQUE = ("provider_asset_id", "mux_passthrough", "provider_upload_id")


def upgrade() -> None:
    """Add the table; the previous release ignores it."""
    op.create_table(
        _TABLE,
        sa.Column("id", _ID, nullable=False),
        sa.Column("asset_id", _ID, nullable=False),
        sa.Column("profile", sa.String(255), nullable=False),
        sa.Column("provider_name", sa.String(63), nullable=False),
        sa.Column("provider_asset_id", sa.String(255)),
        sa.Column("mux_passthrough", sa.String(255)),
        sa.Column("provider_upload_id", sa.String(255)),
        sa.Column("playback_ids", _DOCUMENT, nullable=False),
        sa.Column("playback_policy", sa.String(32)),
        sa.Column("ingest_mode", sa.String(32)),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("last_event_id", sa.String(255)),
        sa.Column("last_event_at", _TIME),
        sa.Column("last_sync_error", sa.String(4096)),
        sa.Column("raw_provider_metadata", _DOCUMENT, nullable=False),
        sa.Column("cleanup_pending", sa.Boolean(), nullable=False),
        sa.Column("lock_version", sa.Integer(), nullable=False),
        sa.Column("inserted_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_media_provider_assets"),
        sa.ForeignKeyConstraint(
            ["asset_id"], ["media_assets.id"], name="fk_media_provider_assets_asset_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint(
            "asset_id", "profile", "provider_name", name="uq_media_provider_assets_asset_id_profile_provider_name"
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'uploading', 'processing', 'ready', 'errored', 'deleted')",
            name="state_known",
        ),
    )
    for column in _UNIQUE:
        where = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"uq_{_TABLE}_provider_name_{column}",
            _TABLE,
            ["provider_name", column],
            unique=True,
            postgresql_where=where,
            sqlite_where=where,
        )
    op.create_index(f"ix_{_TABLE}_state_updated_at", _TABLE, ["state", "updated_at"])


def downgrade() -> None:
    """Drop the table. DESTRUCTIVE: the ids under which providers keep and bill the assets are lost."""
    op.drop_table(_TABLE)
