"""Each query of the outbox has an index of exactly the rows that it looks for: pending, parked or dispatched ones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLE = "media_outbox"
_INDEXES = (
    (("available_at", "id"), "state = 'pending'"),
    (("inserted_at",), "state = 'pending' AND attempts > 0"),
    (("updated_at",), "state = 'parked'"),
    (("dispatched_at",), "state = 'dispatched'"),
)


def _name(columns: tuple[str, ...]) -> str:
    return str(op.f(f"ix_{_TABLE}_{'_'.join(columns)}"))


def upgrade() -> None:
    """Replace one index; queries of the previous release use the new ones or read the table."""
    for columns, condition in _INDEXES:
        where = sa.text(condition)
        op.create_index(
            _name(columns), _TABLE, list(columns), postgresql_where=where, sqlite_where=where, if_not_exists=True
        )
    op.drop_index(_name(("state", "available_at")), _TABLE)


def downgrade() -> None:
    """Restore the index of the previous release."""
    op.create_index(_name(("state", "available_at")), _TABLE, ["state", "available_at"])
    for columns, _ in _INDEXES:
        op.drop_index(_name(columns), _TABLE)
