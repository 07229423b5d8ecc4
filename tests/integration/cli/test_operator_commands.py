"""The Temporal commands of ``docs/background.md``, typed as they stand there."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from rindle import AssetState, MediaAsset, VariantState
from rindle.cli.temporal_server import find_temporal_cli
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import REPOSITORY, Stage
from tests.workflows.fleet import closed, dispatched

PAGE = (REPOSITORY / "docs" / "background.md").read_text()
#: Every command of the page, in order, continued lines joined.
COMMANDS = [
    line
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("temporal workflow")
]


async def typed(stage: Stage, *words: str, without: str = "\0", asset: str = "", session: str = "") -> str:
    """Type the one command of the page that contains all ``words``; returns what it prints."""
    (command,) = [line for line in COMMANDS if all(word in line for word in words) and without not in line]
    program = find_temporal_cli()
    if program is None:
        pytest.skip("no Temporal CLI")
    # The stage has a prefix of its own, as the page says an application may have.
    command = command.replace('"rindle-', f'"{stage.prefix}-').replace(
        "--task-queue rindle", f"--task-queue {stage.prefix}"
    )
    process = await asyncio.create_subprocess_shell(
        # It waits for the answer to its first request longer than the five seconds of a quiet machine.
        command.replace("temporal", f"'{program}' --client-connect-timeout {PATIENCE_SECONDS:.0f}s", 1),
        env={**os.environ, **stage.environment, "ASSET": asset, "SESSION": session},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()


@pytest.fixture
async def building(lite_stage: Stage) -> MediaAsset:
    """An asset whose variants are being built and will not end by themselves."""
    await lite_stage.member()
    lite_stage.tell("processor", "hold")
    asset = await lite_stage.verified("held")
    return await lite_stage.state(asset.id, AssetState.PROCESSING)


def test_the_page_has_the_commands() -> None:
    assert len(COMMANDS) == 10


async def test_a_run_is_found_and_asked(lite_stage: Stage, building: MediaAsset) -> None:
    described = await typed(lite_stage, "describe", asset=building.id)
    status = await typed(lite_stage, "--name status", asset=building.id)

    assert "rindle.VariantWorkflow" in described
    assert "building" in status


async def test_runs_are_listed_by_asset(lite_stage: Stage, building: MediaAsset) -> None:
    async def look() -> str:
        listed = await typed(lite_stage, "workflow list", asset=building.id)
        return listed if "VariantWorkflow" in listed else ""  # visibility lags

    listed = await until(look, what="the run to be listed")

    assert f"{lite_stage.prefix}-variants:{building.id}:images" in listed


@pytest.mark.parametrize("words", ["--name cancel", "workflow cancel"], ids=["signal", "request"])
async def test_building_is_stopped_and_begun_again(lite_stage: Stage, building: MediaAsset, words: str) -> None:
    await typed(lite_stage, words, without="--input", asset=building.id)
    await closed(lite_stage, lite_stage.variants_workflow(building.id))  # requeueing must start a new run
    assert {row.state for row in (await lite_stage.settled(building.id)).variants} == {VariantState.CANCELLED}
    lite_stage.tell("processor", "")

    await typed(lite_stage, "requeue", "'null'", asset=building.id)

    for name in ("large", "thumb"):
        await lite_stage.variant(building.id, name, VariantState.READY)


async def test_one_variant_is_stopped_and_begun_again(lite_stage: Stage, building: MediaAsset) -> None:
    await typed(lite_stage, "--name cancel", "thumb", asset=building.id)
    await lite_stage.variant(building.id, "thumb", VariantState.CANCELLED)
    lite_stage.tell("processor", "")
    await lite_stage.variant(building.id, "large", VariantState.READY)
    await closed(lite_stage, lite_stage.variants_workflow(building.id))

    await typed(lite_stage, "requeue", "thumb", asset=building.id)

    await lite_stage.variant(building.id, "thumb", VariantState.READY)
    assert (await lite_stage.settled(building.id)).state == AssetState.READY


async def test_an_upload_is_verified_by_an_update_and_promotion_is_woken(lite_stage: Stage) -> None:
    await lite_stage.member()
    session = await lite_stage.sent("avatar")
    assert session.asset_id is not None

    async with lite_stage.rindle:  # tells Temporal of the upload
        await dispatched(lite_stage)  # an update starts no run
        answered = await typed(lite_stage, "update execute", session=session.id)
        asset = await lite_stage.settled(session.asset_id)

    assert session.asset_id in answered
    assert asset.state == AssetState.READY
    await typed(lite_stage, "verified", session=session.id)
    assert (await lite_stage.settled(session.asset_id)).state == AssetState.READY
