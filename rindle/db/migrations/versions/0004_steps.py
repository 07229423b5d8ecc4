"""Variants name the last step of their workflow that was applied to them, so that a repetition changes nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a nullable column; the previous release ignores it."""
    op.add_column("media_variants", sa.Column("applied_step", sa.String(64)))


def downgrade() -> None:
    """Drop the column. Steps that are being repeated at that moment are applied again."""
    op.drop_column("media_variants", "applied_step")
