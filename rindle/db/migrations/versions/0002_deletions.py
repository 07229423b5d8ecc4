"""Rows remember every object that is still to be deleted, and why the objects of a session could not be removed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEYS = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add one nullable column to each of two tables; the previous release ignores them."""
    op.add_column("media_variants", sa.Column("obsolete_keys", _KEYS))
    op.add_column("media_upload_sessions", sa.Column("release_error_code", sa.String(64)))


def downgrade() -> None:
    """Drop the columns. DESTRUCTIVE: objects that only ``obsolete_keys`` names are no longer known."""
    op.drop_column("media_upload_sessions", "release_error_code")
    op.drop_column("media_variants", "obsolete_keys")
