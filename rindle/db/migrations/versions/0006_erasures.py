"""Erasures of owners, and the evidence that the objects of their assets were deleted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
_ID = sa.Uuid(as_uuid=False)
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add two tables; the previous release ignores them."""
    op.create_table(
        "media_erasures",
        sa.Column("id", _ID, nullable=False),
        sa.Column("owner_type", sa.String(255), nullable=False),
        sa.Column("owner_id", sa.String(255), nullable=False),
        sa.Column("actor", sa.String(255)),
        sa.Column("report", _DOCUMENT),
        sa.Column("detached_at", _TIME),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("completed_at", _TIME),
        sa.Column("inserted_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_media_erasures"),
    )
    op.create_index("ix_media_erasures_owner_type_owner_id", "media_erasures", ["owner_type", "owner_id"])
    op.create_index("ix_media_erasures_completed_at", "media_erasures", ["completed_at"])
    op.create_table(
        "media_erasure_assets",
        sa.Column("erasure_id", _ID, nullable=False),
        sa.Column("asset_id", _ID, nullable=False),
        sa.Column("profile", sa.String(255), nullable=False),
        sa.Column("outcome", sa.String(32), nullable=False),
        sa.Column("decided_at", _TIME),
        sa.Column("uploads_end_at", _TIME),
        sa.Column("objects", _DOCUMENT),
        sa.Column("inserted_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("erasure_id", "asset_id", name="pk_media_erasure_assets"),
        sa.ForeignKeyConstraint(
            ["erasure_id"],
            ["media_erasures.id"],
            name="fk_media_erasure_assets_erasure_id",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_media_erasure_assets_asset_id", "media_erasure_assets", ["asset_id"])
    op.create_index(
        "ix_media_erasure_assets_erasure_id_outcome_asset_id",
        "media_erasure_assets",
        ["erasure_id", "outcome", "asset_id"],
    )


def downgrade() -> None:
    """Drop the tables. DESTRUCTIVE: reports and certificates of erasures are lost."""
    op.drop_table("media_erasure_assets")
    op.drop_table("media_erasures")
