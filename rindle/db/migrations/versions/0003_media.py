"""Assets keep the uploader's own file name, and of a rejection its parameters and the message for the operator."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DOCUMENT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    """Add three nullable columns; the previous release ignores them."""
    op.add_column("media_assets", sa.Column("display_name", sa.String(255)))
    op.add_column("media_assets", sa.Column("error_detail", _DOCUMENT))
    op.add_column("media_assets", sa.Column("operator_reason", sa.Text()))


def downgrade() -> None:
    """Drop the columns. DESTRUCTIVE: names of files and details of rejections are lost."""
    op.drop_column("media_assets", "operator_reason")
    op.drop_column("media_assets", "error_detail")
    op.drop_column("media_assets", "display_name")
