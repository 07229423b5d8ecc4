"""Sweeps read their pages by id from the rows of one state or profile, so those indexes continue with the id."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

#: Table and first column of each index.
_INDEXES = (("media_assets", "state"), ("media_assets", "profile"), ("media_upload_sessions", "state"))


def upgrade() -> None:
    """Replace each index by one that begins with the same column; queries of the previous release use it too."""
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}_id"), table, [column, "id"])
        op.drop_index(op.f(f"ix_{table}_{column}"), table)


def downgrade() -> None:
    """Restore the indexes of the previous release."""
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
        op.drop_index(op.f(f"ix_{table}_{column}_id"), table)
