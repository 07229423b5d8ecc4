"""Errors that nobody foresaw end a promotion by their own number, whatever else has cost attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rindle.errors import StorageTransient
from rindle.protocols import ProbeResult
from rindle.states import MediaKind
from rindle.testing.flaky import FlakyStorage
from tests.application import Avatar, storage
from tests.patience import until
from tests.stage import Stage
from tests.workflows.fleet import handle_of


class Failing:
    """A profile's own probe that raises something of its own, ``failures`` times."""

    def __init__(self, failures: int, before: Callable[[], Awaitable[object]] | None = None) -> None:
        self.failures = failures
        self.before = before
        self.calls = 0

    def accepts(self, mime: str) -> bool:
        return True

    async def probe(self, path: Path) -> ProbeResult:
        self.calls += 1
        if self.before is not None:
            await self.before()
        if self.calls <= self.failures:
            raise ZeroDivisionError("not one of our errors")
        return ProbeResult(MediaKind.IMAGE, width=800, height=600)


async def _sent(stage: Stage, monkeypatch: pytest.MonkeyPatch, probe: Failing) -> str:
    """Verify an upload whose first four attempts meet an outage of the store; returns the asset's id."""
    monkeypatch.setattr(Avatar, "probe", probe)
    store = FlakyStorage(storage(stage.environment))
    store.fail("local_path", StorageTransient("503"), 4)
    await stage.member(stage.application(store=store))
    return (await stage.verified()).id


async def test_outages_do_not_use_up_the_attempts_of_an_unforeseen_error(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Failing(2)
    asset = await lite_stage.settled(await _sent(lite_stage, monkeypatch, probe))

    assert (asset.state, probe.calls) == ("ready", 3)


async def test_the_third_unforeseen_error_is_final(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Failing(100)
    asset_id = await _sent(lite_stage, monkeypatch, probe)

    async def given_up() -> str | None:
        return (await lite_stage.rindle.asset(asset_id)).error_code

    assert await until(given_up, what="the promotion to give up") == "unexpected"
    assert ((await lite_stage.rindle.asset(asset_id)).state, probe.calls) == ("validating", 3)


async def test_a_late_signal_does_not_repeat_a_promotion_that_gave_up(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def signal() -> None:
        for workflow_id in workflow_ids:
            await (await handle_of(lite_stage, workflow_id)).signal("verified")

    workflow_ids: list[str] = []
    probe = Failing(100, signal)
    monkeypatch.setattr(Avatar, "probe", probe)
    await lite_stage.member(lite_stage.application())
    session = await lite_stage.sent()
    workflow_ids.append(lite_stage.upload_workflow(session.id))
    await lite_stage.rindle.verify_completion(session.id)

    result = await (await handle_of(lite_stage, workflow_ids[0])).result()
    assert (result["outcome"], probe.calls) == ("failed", 3)


async def test_a_resumed_promotion_starts_again(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Failing(3)
    asset_id = await _sent(lite_stage, monkeypatch, probe)

    async def given_up() -> str | None:
        return (await lite_stage.rindle.asset(asset_id)).error_code

    assert await until(given_up, what="the promotion to give up") == "unexpected"
    await lite_stage.rindle.resume(asset_id)
    asset = await lite_stage.settled(asset_id)
    assert (asset.state, asset.error_code, probe.calls) == ("ready", None, 4)
