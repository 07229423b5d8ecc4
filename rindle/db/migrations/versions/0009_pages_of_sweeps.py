"""Sweeps read their pages by id from the rows of one state or profile, so those indexes continue with the id.

Two more indexes have the upload sessions that are live, and those that ended and whose bytes were not removed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

#: Table and first column of each index.
_INDEXES = (("media_assets", "state"), ("media_assets", "profile"), ("media_upload_sessions", "state"))
#: First column and condition of the indexes of sessions.
_SESSIONS = "media_upload_sessions"
_PARTIAL = (
    ("expires_at", "state IN ('initialized', 'signed', 'resuming', 'uploading', 'uploaded', 'verifying')"),
    ("updated_at", "backing_released_at IS NULL AND state IN ('aborted', 'expired', 'failed')"),
)


def upgrade() -> None:
    """Replace each index by one that begins with the same column; queries of the previous release use it too."""
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}_id"), table, [column, "id"], if_not_exists=True)
        op.drop_index(op.f(f"ix_{table}_{column}"), table)
    for column, condition in _PARTIAL:
        where, name = sa.text(condition), op.f(f"ix_{_SESSIONS}_{column}_id")
        op.create_index(name, _SESSIONS, [column, "id"], postgresql_where=where, sqlite_where=where, if_not_exists=True)


def downgrade() -> None:
    """Restore the indexes of the previous release."""
    for column, _ in _PARTIAL:
        op.drop_index(op.f(f"ix_{_SESSIONS}_{column}_id"), _SESSIONS)
    for table, column in _INDEXES:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])
        op.drop_index(op.f(f"ix_{table}_{column}_id"), table)
