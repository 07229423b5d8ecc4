"""``regenerate-variants`` by workers: drift is found or not, pages are bounded, typing errors change nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import event, update

from rindle import MediaVariant
from rindle.errors import UnknownVariant
from rindle.operations.maintenance import regenerate_variants as sweep
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.regenerate_variants import (
    RegenerateOptions,
    RegenerateReport,
    RegenerateVariants,
)
from tests.integration.cli.test_commands import rindle
from tests.stage import Stage


async def states(stage: Stage, asset_id: str) -> dict[str, str]:
    return {row.name: row.state for row in (await stage.rindle.asset(asset_id)).variants}


async def test_workers_find_drift_queue_it_and_build_it(stage: Stage) -> None:
    await stage.member(stage.application(APP_DRIFTED="1"))
    drifted = stage.application(APP_DRIFTED="1")
    asset = await stage.ready()
    old = await stage.variant(asset.id, "thumb")
    await stage.rindle.database.write(
        lambda session: session.execute(
            update(MediaVariant).where(MediaVariant.id == old.id).values(recipe_digest="0" * 64)
        )
    )

    handle = await runs.start(drifted.services, RegenerateVariants(), RegenerateOptions(profile="avatar"))
    outcome = await runs.follow(drifted.services, handle, RegenerateVariants())

    assert outcome.report == RegenerateReport(enqueued=1)
    await stage.settled(asset.id)
    rebuilt = await stage.variant(asset.id, "thumb", "ready")
    assert rebuilt.recipe_digest == drifted.services.profile("avatar").recipe_digest("thumb")


async def test_without_detection_only_marked_variants_are_built(stage: Stage) -> None:
    await stage.member()
    first, second = [await stage.ready() for _ in range(2)]
    for asset, state, digest in ((first, "ready", "0" * 64), (second, "missing", "1" * 64)):
        row = await stage.variant(asset.id, "thumb")
        values = {"state": state, "recipe_digest": digest}
        await stage.rindle.database.write(
            lambda session, row=row, values=values: session.execute(
                update(MediaVariant).where(MediaVariant.id == row.id).values(**values)
            )
        )

    report = await stage.rindle.regenerate_variants("avatar", detect=False)

    assert report == RegenerateReport(enqueued=1, skipped=1)
    assert (await states(stage, first.id))["thumb"] == "ready"
    assert await stage.rindle.regenerate_variants("avatar") == RegenerateReport(enqueued=1, skipped=1)


async def test_a_name_that_no_profile_declares_is_refused(lite_stage: Stage) -> None:
    stage = lite_stage
    for options in ({"profile": "avatar", "variant_name": "thumbs"}, {"variant_name": "thumbs"}):
        with pytest.raises(UnknownVariant, match="thumbs"):
            await stage.rindle.regenerate_variants(**options)
        with pytest.raises(UnknownVariant):
            await runs.start(stage.rindle.services, RegenerateVariants(), RegenerateOptions(**options))
    # Another profile declares it, and this one does not.
    with pytest.raises(UnknownVariant):
        await stage.rindle.regenerate_variants("plain", "thumb")


async def test_assets_that_are_up_to_date_cost_two_queries_a_page(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stage.member()
    for _ in range(3):
        await stage.ready()
    monkeypatch.setattr(sweep, "PAGE", 2)
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    other = stage.application()
    engine: Any = other.database.engine
    event.listen(engine.sync_engine, "before_cursor_execute", note)

    assert await other.regenerate_variants("avatar") == RegenerateReport(skipped=3)

    assert len([one for one in statements if "FROM media_" in one]) == 4
    assert not [one for one in statements if one.startswith(("UPDATE", "INSERT")) or "FOR NO KEY" in one]


async def test_the_command_has_the_words_of_the_call(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    await stage.ready()

    done = await rindle(
        stage, "regenerate-variants", "--local", "--no-detect", "--variant", "thumb", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"enqueued": 0, "skipped": 1, "errors": 0}
    refused = await rindle(stage, "regenerate-variants", "--variant", "thum")
    assert refused.returncode == 1
    assert refused.stderr.startswith("unknown_variant: ")
