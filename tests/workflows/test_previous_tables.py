"""The code of this release on the tables of earlier revisions, as during a deployment whose migration has not run."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from rindle.db import migrate
from rindle.db.models import Base
from rindle.errors import SetupIncomplete
from rindle.operations import explain, schema
from tests.integration.db.test_upgrade_paths import USABLE_SINCE
from tests.patience import PATIENCE_SECONDS
from tests.stage import Stage
from tests.workflows.fleet import Fleet, at_rest

#: The previous revision always, and the oldest one on which this release works.
REVISIONS = sorted({USABLE_SINCE, migrate.revisions()[-2]})
#: The revision that made the tables of erasures.
ERASURES = "0006"


async def at(stage: Stage, revision: str) -> None:
    """Make the tables of a revision in place of those of the stage."""
    async with stage.engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.execute(text(f"DROP TABLE IF EXISTS {migrate.VERSION_TABLE}"))
    await migrate.async_upgrade(stage.engine, revision)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_uploads_attachments_and_purges_work_before_the_migration_has_run(stage: Stage, revision: str) -> None:
    await at(stage, revision)
    rindle, member, other = stage.rindle, ("member", "1"), ("member", "2")
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset = await stage.ready()
        assert asset.state == "ready"
        await rindle.attach(asset, member, "avatar", uploaded_by=None)
        await rindle.attach(asset, other, "avatar", uploaded_by=None)
        stage.tell("processor", "hold")
        held = await stage.verified("held")
        await stage.variant(held.id, "thumb", "processing")
        await rindle.cancel_processing(held.id)
        await stage.state(held.id, "degraded")
        stage.tell("processor", "")
        assert (await rindle.requeue_variants(held.id)).to_dict()["errors"] == 0
        assert (await stage.settled(held.id)).state == "ready"
        report = (await rindle.runtime_status()).to_dict()
        assert report["assets"]["counts"]["ready"] == 2
        assert (await explain.explain(rindle.services, asset.id)).diagnosis.command is None
        found = {
            check.id: check for check in (await rindle.doctor(only=["db.migrations"], timeout=PATIENCE_SECONDS)).checks
        }
        assert found["db.migrations"].status == "error"
        assert found["db.migrations"].fix == "rindle db upgrade"
        assert f"at {revision}" in found["db.migrations"].summary

        await rindle.detach(member, "avatar")
        await rindle.detach(other, "avatar")
        await rindle.purge_asset(held.id)
        await stage.gone(asset.id)
        await stage.gone(held.id)
        await at_rest(stage)
        assert await stage.keys() == set()

        if revision < ERASURES:
            kept = await stage.ready()
            await rindle.attach(kept, member, "avatar", uploaded_by=None)
            with pytest.raises(SetupIncomplete, match="rindle db upgrade"):
                await rindle.erase_owner(member)
            await migrate.async_upgrade(stage.engine)
            assert (await rindle.erase_owner(member)).assets_to_purge.count == 1
            await stage.gone(kept.id)
        await at_rest(stage)


async def test_a_part_that_was_dropped_before_the_migration_is_repaired_after_it(stage: Stage) -> None:
    """Two commands that would send the operator to each other are no way out."""
    services = stage.rindle.services
    await at(stage, REVISIONS[-1])
    async with stage.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE media_assets DROP COLUMN operator_reason"))

    with pytest.raises(SetupIncomplete, match="rindle db repair"):
        await schema.upgrade(services)

    assert await schema.repair(services) == ["media_assets.operator_reason"]
    assert await schema.upgrade(services) == (migrate.head(), migrate.head())
