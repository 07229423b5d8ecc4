"""Assets whose technical facts are missing or contradict each other are found by an index of exactly these rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TABLE, _NAME = "media_assets", "ix_media_assets_updated_at"
_CONDITION = (
    "state IN ('available', 'processing', 'transcoding', 'ready', 'degraded') AND ("
    "(kind = 'video' AND (width IS NULL OR height IS NULL OR has_video_track IS NOT TRUE)) "
    "OR (kind = 'audio' AND has_audio_track IS NOT TRUE) "
    "OR (kind <> 'image' AND duration_ms IS NULL AND content_type NOT IN "
    "('audio/webm', 'audio/x-matroska', 'video/webm', 'video/x-matroska')) "
    "OR (kind <> 'image' AND substr(content_type, 1, 6) = 'image/') "
    "OR (kind <> 'audio' AND substr(content_type, 1, 6) = 'audio/') "
    "OR (kind = 'image' AND substr(content_type, 1, 6) = 'video/'))"
)


def upgrade() -> None:
    """Add the index; the previous release does not need it."""
    where = sa.text(_CONDITION)
    op.create_index(op.f(_NAME), _TABLE, ["updated_at"], postgresql_where=where, sqlite_where=where, if_not_exists=True)


def downgrade() -> None:
    """Remove the index."""
    op.drop_index(op.f(_NAME), _TABLE)
