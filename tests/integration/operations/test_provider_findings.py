"""What is stuck at streaming providers is found, explained, and repaired by the command that is printed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaEvent, Rindle
from rindle.db import providers
from rindle.db.models import MediaProviderAsset, new_id, utc_now
from rindle.errors import InvalidFilter
from rindle.operations.explain import explain
from rindle.operations.findings import Finding, OrphanSample, ProviderSample
from rindle.operations.remedies import REMEDIES
from rindle.protocols import WebhookKind
from tests.integration.operations.played import OLD, prepare, typed
from tests.stage import Stage

#: The classes of findings about providers.
OF_PROVIDERS = {"orphan_event", "provider_cleanup_pending", "provider_stuck"}
SYNC = "rindle provider-sync"


@pytest.fixture
async def stage(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """An application with a streaming provider; commands build their own from the same variables."""
    lite_stage.environment["APP_PROVIDER"] = "memory"
    await prepare(lite_stage, monkeypatch)
    return lite_stage


async def film(stage: Stage, state: str, *, profile: str = "streamed", **facts: Any) -> str:
    """Write an asset and its row at the provider, which have not changed for hours; returns its id."""
    asset_id, then = new_id(), utc_now() - OLD
    aged = {"inserted_at": then, "updated_at": then}

    def add(session: Session) -> None:
        key = f"{profile}/{asset_id}/film.mp4"
        session.add(MediaAsset(id=asset_id, state="ready", storage_key=key, profile=profile, kind="image", **aged))
        session.flush()
        row = {"provider_asset_id": f"canary-{new_id()}-last", "mux_passthrough": new_id(), **facts}
        session.add(
            MediaProviderAsset(asset_id=asset_id, profile=profile, provider_name="memory", state=state, **row, **aged)
        )

    await stage.rindle.database.write(add)
    return asset_id


async def orphan(rindle: Rindle, kind: WebhookKind = WebhookKind.READY) -> None:
    event = {"id": new_id(), "provider": "memory", "kind": kind.value}
    await rindle.database.write(providers.note_orphan, event)


async def found(rindle: Rindle, **filters: Any) -> dict[str, Finding]:
    report = await rindle.runtime_status(**filters)
    assert {one.name for one in report.provider_assets.findings} <= OF_PROVIDERS
    return {one.name: one for one in report.findings}


async def test_an_asset_whose_bytes_only_a_provider_has_needs_no_technical_facts(stage: Stage) -> None:
    asset_id = await film(stage, "ready", ingest_mode="direct_creator_upload")

    def send_to_provider(session: Session) -> None:
        facts = {"storage_key": providers.direct_key("memory", asset_id), "kind": "video"}
        session.execute(update(MediaAsset).where(MediaAsset.id == asset_id).values(updated_at=utc_now() - OLD, **facts))

    await stage.rindle.database.write(send_to_provider)

    rindle = stage.application()
    assert await found(rindle) == {}
    assert (await explain(rindle.services, asset_id)).diagnosis.command is None


async def test_each_class_is_found_shown_without_ids_and_has_a_command(stage: Stage) -> None:
    rindle = stage.application()
    stuck = await film(stage, "processing", last_sync_error="provider_sync_failed: no answer")
    await film(stage, "uploading", provider_asset_id=None, ingest_mode="direct_creator_upload")  # may take days
    left = await film(stage, "deleted", cleanup_pending=True)
    await film(stage, "ready")
    await film(stage, "errored")
    await orphan(rindle)

    assert set(await found(rindle)) == {"orphan_event", "provider_cleanup_pending"}
    findings = await found(rindle, provider_stuck=True)
    assert {name: one.count for name, one in findings.items()} == dict.fromkeys(OF_PROVIDERS, 1)
    [sample] = findings["provider_stuck"].samples
    assert isinstance(sample, ProviderSample)
    assert list(sample.to_dict()) == [
        *("asset_id", "provider_asset_id", "profile", "provider", "state", "updated_at", "last_event_at"),
        *("last_sync_error", "reason"),
    ]
    assert (sample.asset_id, sample.provider_asset_id) == (stuck, "...last")
    [cleaned], [webhook] = (findings[name].samples for name in ("provider_cleanup_pending", "orphan_event"))
    assert isinstance(cleaned, ProviderSample) and cleaned.asset_id == left
    assert isinstance(webhook, OrphanSample) and (webhook.provider, webhook.kind) == ("memory", "ready")
    report = await rindle.runtime_status(provider_stuck=True)
    assert report.provider_assets.counts == {
        **{"deleted": 1, "errored": 1, "processing": 1, "ready": 1, "uploading": 1},
        "total": 5,
    }
    assert "canary" not in str(report.to_dict()) + repr(report)
    assert {one.name: one.surface for one in report.recommendations} == dict.fromkeys(OF_PROVIDERS, SYNC)
    assert {REMEDIES[name].action for name in OF_PROVIDERS} == {"resync"}


async def test_the_filters_are_obeyed(stage: Stage) -> None:
    rindle = stage.application()
    await film(stage, "processing")
    await film(stage, "deleted", cleanup_pending=True)
    await orphan(rindle)
    hours = int(OLD.total_seconds())
    old = await rindle.runtime_status(provider_stuck=True, older_than=hours + 600)
    assert (old.findings, old.provider_assets.threshold_seconds) == ((), hours + 600)
    assert set(await found(rindle, provider_stuck=True, older_than=3_600)) == OF_PROVIDERS - {"orphan_event"}
    assert await found(rindle, provider_stuck=True, profile="plain") == {}
    assert set(await found(rindle, provider_stuck=True, profile="streamed")) == OF_PROVIDERS - {"orphan_event"}
    with pytest.raises(InvalidFilter) as refused:
        await rindle.runtime_status(provider_stuck="yes")  # type: ignore[arg-type]
    assert refused.value.code == "invalid_provider_stuck"
    assert (await typed("rindle runtime-status --provider-stuck --fail-on provider_stuck"))[0] == 3
    assert (await typed("rindle runtime-status --fail-on provider_stuck"))[0] == 0


async def test_a_webhook_without_an_asset_is_reported_for_a_day_but_not_that_of_a_purge(stage: Stage) -> None:
    rindle = stage.application()
    await orphan(rindle, WebhookKind.DELETED)
    assert await found(rindle) == {}
    await orphan(rindle)
    assert set(await found(rindle)) == {"orphan_event"}
    then = utc_now() - timedelta(days=1, minutes=1)
    await rindle.database.write(lambda session: session.execute(update(MediaEvent).values(occurred_at=then)))
    assert await found(rindle) == {}
    assert await stage.read(lambda session: len(session.scalars(select(MediaEvent)).all())) == 2


async def test_the_printed_command_repairs_what_it_names(stage: Stage) -> None:
    rindle = stage.application()
    stuck = await film(stage, "processing")
    left = await film(stage, "deleted", cleanup_pending=True)
    refused = await film(stage, "errored", last_sync_error="no video", ingest_mode="server_push")

    for asset_id in (stuck, left):
        story = await explain(rindle.services, asset_id)
        assert story.diagnosis.command == SYNC, story.diagnosis.summary
        assert [one.provider_name for one in story.provider_assets] == ["memory"]
        assert "canary" not in str(story.to_dict())
    code, printed = await typed(f"rindle explain {refused}")
    assert code == 0 and "no video" in printed and f"Fix: rindle provider-sync {refused} --retry" in printed
    assert "streaming providers" in printed and "canary" not in printed

    # The command's own provider has nothing: the asset that is stuck is gone there, and so is the copy.
    code, printed = await typed(f"{SYNC} --local")
    assert (code, "scanned:    2" in printed) == (0, True), printed
    assert await found(rindle, provider_stuck=True) == {}
    assert "memory asset not found" in (await explain(rindle.services, stuck)).diagnosis.summary
    code, printed = await typed(f"rindle provider-sync {refused} --retry")
    assert (code, "processing" in printed) == (0, True), printed
    for wrong in ("--retry", f"{refused} --retry --local", f"{refused} --retry --profile film"):
        assert (await typed(f"{SYNC} {wrong}"))[0] == 2
    assert (await typed(f"rindle provider-sync {refused} --retry"))[0] == 1
    assert [one.signal for one in (await explain(rindle.services, refused)).outbox] == ["wake"]
