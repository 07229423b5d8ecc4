"""Old events are found by type and time, so that they can be deleted without reading the audit events, which stay."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TABLE = "media_events"
_OLD, _NEW = "ix_media_events_type", "ix_media_events_type_occurred_at"


def upgrade() -> None:
    """Replace one index by one that begins with the same column; queries of the previous release use it too."""
    op.create_index(op.f(_NEW), _TABLE, ["type", "occurred_at"], if_not_exists=True)
    op.drop_index(op.f(_OLD), _TABLE)


def downgrade() -> None:
    """Restore the index of the previous release."""
    op.create_index(op.f(_OLD), _TABLE, ["type"])
    op.drop_index(op.f(_NEW), _TABLE)
