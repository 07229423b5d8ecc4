"""A library with a million assets and 3 million variants on Postgres, filled by a few statements.

Ids ascend with time, as those of real rows do. Nearly everything is ready, with some of each kind of trouble:

- 1,000 assets have the profile ``poster``, spread over all; 20,000 are videos, the others photos.
- 20,000 assets are quarantined and their sessions failed: no sweep has anything to do with them.
- 100 sessions are overdue, 20,000 are open, and of 200 that ended the bytes are still there.
- Owners have 10 attachments each. :data:`ARCHIVE` has 10,000, a tenth of them shared with another owner.
- Each asset has three events, and the outbox a million rows that were sent.
"""

from __future__ import annotations

import psycopg

ASSETS = 1_000_000
#: Owner of 10,000 attachments.
ARCHIVE = ("archive", "1")

_ASSET = "('01900000-0000-7000-8000-' || lpad(to_hex({n}), 12, '0'))::uuid"
_OTHER = "('01900000-0000-700{kind}-8000-' || lpad(to_hex({n}), 12, '0'))::uuid"


def asset_id(number: int) -> str:
    """Return the id of an asset, by its number from 1."""
    return f"01900000-0000-7000-8000-{number:012x}"


def variant_id(number: int, place: int) -> str:
    """Return the id of a variant of an asset, by its place from 0 to 2."""
    return f"01900000-0000-7001-8000-{number * 3 + place:012x}"


def session_id(number: int) -> str:
    """Return the id of the upload session of an asset."""
    return f"01900000-0000-7002-8000-{number:012x}"


#: What the sessions of asset ``n`` are, and its state with them.
_SESSION = """CASE WHEN n % 10000 = 5 OR n % 50 = 1 THEN 'signed' WHEN n % 5000 = 6 THEN 'expired'
                   WHEN n % 5000 = 7 THEN 'aborted' WHEN n % 5000 = 8 OR n % 50 = 2 THEN 'failed'
                   ELSE 'completed' END"""
_STATE = f"""CASE WHEN n % 50 = 2 THEN 'quarantined' WHEN {_SESSION} <> 'completed' THEN 'staged'
                  WHEN n % 20000 = 3 THEN 'analyzing' WHEN n % 20000 = 4 THEN 'deleted'
                  WHEN n % 5000 = 0 THEN 'degraded' ELSE 'ready' END"""
_VIDEO = "n % 50 = 11"

_FILL = f"""
INSERT INTO media_assets (id, state, storage_key, profile, kind, content_type, byte_size, width, height, duration_ms,
                          has_video_track, has_audio_track, metadata, lock_version, inserted_at, updated_at,
                          recipe_digest)
SELECT {_ASSET.format(n="n")}, {_STATE},
       'photo/' || {_ASSET.format(n="n")} || '/original.jpg',
       CASE WHEN n % 1000 = 9 THEN 'poster' WHEN {_VIDEO} THEN 'video' ELSE 'photo' END,
       CASE WHEN {_VIDEO} THEN 'video' ELSE 'image' END,
       CASE WHEN {_VIDEO} THEN 'video/mp4' ELSE 'image/jpeg' END, 3000000, 4608, 1976,
       CASE WHEN {_VIDEO} THEN 40000 END, CASE WHEN {_VIDEO} THEN true END, CASE WHEN {_VIDEO} THEN true END,
       '{{}}', 3, now() - (1000000 - n) * interval '1 minute', now() - (1000000 - n) * interval '1 minute',
       repeat('0', 64)
FROM generate_series(1, {ASSETS}) AS n;
INSERT INTO media_variants (id, asset_id, name, state, recipe_digest, output_kind, storage_key, byte_size, generation,
                            attempts, progress, dynamic, inserted_at, updated_at)
SELECT {_OTHER.format(kind=1, n="n * 3 + v")}, {_ASSET.format(n="n")}, (ARRAY['thumb', 'large', 'banner'])[v + 1],
       CASE WHEN n % 5000 = 0 AND v = 0 THEN 'failed' WHEN n % 50000 = 10 THEN 'queued' ELSE 'ready' END,
       repeat('0', 64), 'image', 'photo/' || {_ASSET.format(n="n")} || '/' || v || '.jpg', 60000, 1, 0, 100, false,
       now() - (1000000 - n) * interval '1 minute', now() - (1000000 - n) * interval '1 minute'
FROM generate_series(1, {ASSETS}) AS n, generate_series(0, 2) AS v;
INSERT INTO media_upload_sessions (id, asset_id, state, upload_key, upload_strategy, multipart_parts, last_known_offset,
                                   expires_at, concat_role, concat_sources, lock_yield, auto_verify, inserted_at,
                                   updated_at, backing_released_at)
SELECT {_OTHER.format(kind=2, n="n")}, {_ASSET.format(n="n")}, {_SESSION},
       'photo/' || {_ASSET.format(n="n")} || '/original.jpg', 'presigned_put', '[]', 0,
       CASE WHEN n % 50 = 1 THEN now() + interval '1 day' ELSE now() - (1000000 - n) * interval '1 minute' END,
       'none', '[]', false, false, now() - (1000000 - n) * interval '1 minute',
       now() - (1000000 - n) * interval '1 minute', CASE WHEN n % 50 = 2 THEN now() END
FROM generate_series(1, {ASSETS}) AS n;
INSERT INTO media_attachments (id, asset_id, owner_type, owner_id, slot, inserted_at, updated_at)
SELECT {_OTHER.format(kind=3, n="n")}, {_ASSET.format(n="n")},
       CASE WHEN n <= 10000 THEN 'archive' ELSE 'member' END, (CASE WHEN n <= 10000 THEN 1 ELSE n / 10 END)::text,
       'photo:' || n, now(), now()
FROM generate_series(1, {ASSETS}) AS n;
INSERT INTO media_attachments (id, asset_id, owner_type, owner_id, slot, inserted_at, updated_at)
SELECT {_OTHER.format(kind=4, n="n")}, {_ASSET.format(n="n")}, 'team', '1', 'photo:' || n, now(), now()
FROM generate_series(1, 10000, 10) AS n;
INSERT INTO media_events (scope_key, scope_id, asset_id, type, payload, occurred_at, profile, audit, inserted_at,
                          updated_at)
SELECT 'asset', {_ASSET.format(n="n")}, {_ASSET.format(n="n")},
       (ARRAY['asset_state_changed', 'variant_ready', 'attachment_changed'])[v + 1], '{{"state": "ready"}}',
       now() - (1000000 - n) * interval '1 minute', 'photo', v = 2, now(), now()
FROM generate_series(1, {ASSETS}) AS n, generate_series(0, 2) AS v;
INSERT INTO media_outbox (kind, workflow_type, workflow_id, task_queue, signal, payload, priority, state, attempts,
                          available_at, dispatched_at, inserted_at, updated_at)
SELECT 'signal', 'rindle.UploadWorkflow', 'rindle-upload:' || n, 'rindle', 'wake', '{{}}', 3, 'dispatched', 0,
       now(), now() - n * interval '0.6 seconds', now(), now()
FROM generate_series(1, {ASSETS}) AS n;
"""


async def fill(url: str) -> None:
    """Fill the tables of an empty database, by its SQLAlchemy URL, and analyze them."""
    async with await psycopg.AsyncConnection.connect(
        url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True
    ) as connection:
        await connection.execute("SET synchronous_commit = off")
        for statement in _FILL.split(";\n"):
            if statement.strip():
                await connection.execute(statement.encode())
        await connection.execute("VACUUM ANALYZE")
