"""``rindle timeline`` and ``rindle workflows``: what operators read about one asset, on both databases."""

from __future__ import annotations

import json
import shlex
import uuid

import pytest
from sqlalchemy import delete

from rindle import MediaAsset
from rindle.db.models import new_id
from rindle.errors import InvalidArgument, NotFound, UnknownProfile
from rindle.operations.list_filters import STATES, list_filters
from rindle.operations.timeline import timeline
from tests.integration.operations.played import prepare, typed
from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import temporal


async def test_an_asset_and_its_session_have_the_same_timeline_oldest_first(stage: Stage) -> None:
    services = stage.rindle.services
    asset = await stage.verified("plain")
    stored = await stage.events(asset.id)

    found = await timeline(services, asset)

    assert [event.id for event in found.events] == [event.id for event in stored] == sorted(one.id for one in stored)
    assert found.events[0].type == "upload_session_initialized"
    assert (found.asset_id, found.has_more) == (asset.id, False)
    assert await timeline(services, found.events[0].scope_id) == found
    assert await timeline(services, uuid.UUID(asset.id)) == found


async def test_a_timeline_continues_after_its_last_event(stage: Stage) -> None:
    services = stage.rindle.services
    asset = await stage.verified("plain")
    whole = (await timeline(services, asset)).events

    first = await timeline(services, asset, limit=1)
    rest = await timeline(services, asset, after=first.events[-1].id)

    assert first.has_more
    assert (*first.events, *rest.events) == whole


async def test_the_timeline_of_a_purged_asset_remains(stage: Stage) -> None:
    services = stage.rindle.services
    asset = await stage.verified("plain")
    before = await timeline(services, asset)
    await stage.rindle.database.write(
        lambda session: session.execute(delete(MediaAsset).where(MediaAsset.id == asset.id))
    )

    assert await timeline(services, asset.id) == before
    assert await timeline(services, before.events[0].scope_id) == before


async def test_an_unknown_subject_and_a_wrong_position_are_refused(stage: Stage) -> None:
    services = stage.rindle.services
    for unknown in (new_id(), "no id"):
        with pytest.raises(NotFound):
            await timeline(services, unknown)
    for wrong in ({"after": -1}, {"limit": 0}, {"limit": 10_001}):
        with pytest.raises(InvalidArgument):
            await timeline(services, new_id(), **wrong)


async def test_temporal_accepts_every_filter(lite_stage: Stage) -> None:
    services = lite_stage.rindle.services
    client = await lite_stage.client()
    await lite_stage.rindle.temporal.register_search_attributes()

    for one in [*list_filters(services), *list_filters(services, asset=new_id(), profile="plain")]:
        assert (await client.count_workflows(one.query)).count == 0, one.query
    assert {one.state for one in list_filters(services)} == set(STATES)


async def test_the_printed_commands_list_the_runs_of_an_asset(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = lite_stage
    await prepare(stage, monkeypatch)
    await stage.rindle.temporal.register_search_attributes()
    await stage.member()
    for plugin, told in (("processor", "hold"), ("scanner", "evil")):
        stage.tell(plugin, told)
    building, other = await stage.verified("held"), await stage.ready("plain")
    session = await stage.sent("scanned")
    rejected = (await stage.rindle.verify_completion(session.id)).asset

    async def listed(asset: MediaAsset, name: str) -> set[str]:
        """Run the printed command of one filter as it stands."""
        _, printed = await typed(f"rindle workflows --asset {asset.id} --format json")
        [command] = [one["command"] for one in json.loads(printed)["filters"] if one["name"] == name]
        program, *arguments = shlex.split(command)
        assert program == "temporal"
        found = json.loads(await temporal(stage, *arguments, "--output", "json"))
        return {one["execution"]["workflowId"] for one in found}

    async def shows(asset: MediaAsset, name: str, *runs: str) -> None:
        async def look() -> bool:
            return await listed(asset, name) == set(runs)

        await until(look, what=f"{name} to list {runs}")

    await shows(building, "open", stage.variants_workflow(building.id))
    await shows(rejected, "unusual", stage.upload_workflow(session.id))
    for name in ("open", "failed", "unusual"):
        assert await listed(other, name) == set()
    for name in ("stuck-uploads", "stuck-builds", "stuck-purges", "stuck-erasures", "failed"):
        assert await listed(building, name) == set()
    _, printed = await typed(f"rindle workflows --asset {building.id} --ui http://ui.test/ --state open")
    assert "http://ui.test/namespaces/default/workflows?query=ExecutionStatus%20%3D%20%27Running%27" in printed


async def test_a_filter_that_could_be_misread_is_refused(lite_stage: Stage) -> None:
    services = lite_stage.rindle.services
    with pytest.raises(InvalidArgument):
        list_filters(services, asset="' OR WorkflowId = 'x")
    with pytest.raises(InvalidArgument):
        list_filters(services, state="stcuk")
    with pytest.raises(UnknownProfile):
        list_filters(services, profile="avtar")
    without = lite_stage.application(RINDLE_SEARCH_ATTRIBUTES="false")
    with pytest.raises(InvalidArgument):
        list_filters(without.services, asset=new_id())
