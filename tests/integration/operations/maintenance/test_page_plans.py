"""What a page of a sweep reads does not depend on how many rows there are, also when hardly any is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from rindle.db.models import utc_now
from rindle.operations import findings
from rindle.operations.findings import Filters, Inspection
from rindle.operations.maintenance import abort_incomplete_uploads as abort
from rindle.operations.maintenance import backfill_metadata as backfill
from rindle.operations.maintenance import cleanup_orphans as cleanup
from rindle.operations.maintenance import provider_sync as providers
from rindle.operations.maintenance import purge_retry as purges
from rindle.operations.maintenance import regenerate_variants as regenerate
from rindle.operations.maintenance import session_pages
from rindle.operations.maintenance import verify_storage as verify
from tests.stage import Stage, on_postgres

#: Assets of each table, and the rows of a page of which a statement reads a few times as many at most.
ASSETS, PAGE = 4_000, 20
MOST_ROWS = 20 * PAGE

#: Every asset is quarantined, and its upload has failed, is still open, or completed: hardly one needs anything.
_FILL = """
INSERT INTO media_assets (id, state, storage_key, profile, kind, metadata, lock_version, inserted_at, updated_at)
SELECT md5('asset' || n)::uuid, 'quarantined', 'avatar/' || n, 'avatar', 'image', '{{}}', 0, now(), now()
FROM generate_series(1, {count}) AS n;
INSERT INTO media_variants (id, asset_id, name, state, recipe_digest, output_kind, generation, attempts, progress,
                            dynamic, inserted_at, updated_at)
SELECT md5('variant' || n)::uuid, md5('asset' || n)::uuid, 'thumb', 'cancelled', '', 'image', 0, 0, 0, false, now(),
       now()
FROM generate_series(1, {count}) AS n;
INSERT INTO media_upload_sessions (id, asset_id, state, upload_key, upload_strategy, multipart_parts, last_known_offset,
                                   expires_at, concat_role, concat_sources, lock_yield, auto_verify, inserted_at,
                                   updated_at, backing_released_at)
SELECT md5('session' || n)::uuid, md5('asset' || n)::uuid, (ARRAY['failed', 'signed', 'completed'])[n % 3 + 1],
       'avatar/' || n, 'presigned_put', '[]', 0,
       CASE WHEN n % 3 = 1 AND n > 10 THEN now() + interval '1 day' ELSE now() - interval '1 day' END, 'none', '[]',
       false, false, now() - interval '1 hour', now() - interval '1 hour', CASE WHEN n > 10 THEN now() END
FROM generate_series(1, {count}) AS n;
INSERT INTO media_provider_assets (id, asset_id, profile, provider_name, playback_ids, playback_policy, ingest_mode,
                                   state, last_sync_error, raw_provider_metadata, cleanup_pending, lock_version,
                                   inserted_at, updated_at)
SELECT md5('row' || n)::uuid, md5('asset' || n)::uuid, CASE WHEN n % 2 = 0 THEN 'avatar' ELSE 'plain' END, 'memory',
       '[]', 'signed', 'server_push', (ARRAY['ready', 'errored', 'deleted', 'processing'])[n % 4 + 1],
       CASE WHEN n % 4 = 1 THEN 'no video' END, '{{}}', false, 0, now() - interval '1 day' + n * interval '1 second',
       now() - interval '1 day' + n * interval '1 second'
FROM generate_series(1, {count}) AS n;
ANALYZE media_assets; ANALYZE media_variants; ANALYZE media_upload_sessions; ANALYZE media_provider_assets
"""


def _pages(stage: Stage, session: Session) -> Iterator[tuple[str, Callable[[str], Any]]]:
    """Yield the query of a page of each sweep, which takes the id before the page, and what reports ask of sessions."""
    now, profiles = utc_now(), ("avatar", "plain")
    yield "cleanup-orphans", lambda after: cleanup._residue(session, None, now, after)
    yield "cleanup-orphans of a profile", lambda after: cleanup._residue(session, "plain", now, after)
    yield "abort, overdue", lambda after: abort._overdue(session, profiles, now, after)
    yield "abort, unreleased", lambda after: abort._unreleased(session, profiles, now, after)
    yield "purge-retry", lambda after: purges._tombstones(session, after, now, profiles)
    for profile in profiles:
        yield f"verify, variants of {profile}", lambda after, name=profile: verify._variants(session, name, after)
        yield f"verify, originals of {profile}", lambda after, name=profile: verify._next_assets(session, name, after)
        yield f"regenerate {profile}", lambda after, name=profile: regenerate._read_page(session, after, name)
        yield f"backfill {profile}", lambda after, name=profile: backfill._read_page(session, after, name)
    inspection = Inspection(session, stage.rindle.services.settings, Filters(), now)
    yield "status, overdue sessions", lambda _: findings.session_overdue(inspection)
    yield "status, sessions with bytes left", lambda _: findings.session_residue(inspection)
    yield "status, refused releases", lambda _: findings.release_failing(inspection)
    for kind in range(len(providers._KINDS)):
        for wanted in (None, "plain"):
            page = partial(_rows_of_providers, session, kind, wanted, now)
            yield f"provider-sync, class {kind} of {wanted}", page
    yield "regenerate all", lambda after: regenerate._read_page(session, after, None)
    yield "backfill all", lambda after: backfill._read_page(session, after, None)


def _rows_of_providers(session: Session, kind: int, profile: str | None, now: datetime, after: str) -> object:
    """Read a page of provider-sync that begins as far in the order of times as an id is in that of ids."""
    cursor = providers._Cursor(kind)
    if after:
        share = int(after[:2], 16) / 256
        cursor = providers._Cursor(kind, 0, now - timedelta(days=1) + timedelta(seconds=share * ASSETS), after)
    return providers._page(session, providers.ProviderSyncOptions(profile=profile), cursor, now)


@on_postgres
@pytest.mark.parametrize("after", ["", "80000000-0000-0000-0000-000000000000", "ffffffff-0000-0000-0000-000000000000"])
async def test_a_page_reads_few_rows_wherever_it_begins(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    for module in (session_pages, verify, regenerate, backfill, providers):
        monkeypatch.setattr(module, "PAGE", PAGE)
    engine = stage.engine.sync_engine

    def examine(session: Session) -> dict[str, int]:
        for statement in _FILL.format(count=ASSETS).split(";"):
            session.execute(text(statement))
        # On tables this small, reading everything is cheap.
        session.execute(text("SET LOCAL enable_seqscan = off"))
        found = {}
        for name, page in _pages(stage, session):
            asked: list[tuple[str, Any]] = []

            def note(*given: Any, asked: list[tuple[str, Any]] = asked) -> None:
                asked.append((given[2], given[3]))

            event.listen(engine, "before_cursor_execute", note)
            page(after)
            event.remove(engine, "before_cursor_execute", note)
            assert asked, name
            found[name] = max(_rows_read(session, *one) for one in asked)
        return found

    found = await stage.rindle.database.write(examine)

    assert {name: rows for name, rows in found.items() if rows > MOST_ROWS} == {}


def _rows_read(session: Session, statement: str, parameters: Any) -> int:
    """Return the largest number of rows that one scan of a statement has read."""
    connection = session.connection()
    plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
    waiting, most = [plan[0]["Plan"]], 0
    while waiting:
        node = waiting.pop()
        waiting.extend(node.get("Plans", ()))
        if "Scan" in node["Node Type"] and not node.get("Plans"):
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            most = max(most, (node["Actual Rows"] + removed) * node["Actual Loops"])
    return most
