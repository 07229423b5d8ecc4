"""Repairing variants through the API: cancel, requeue, drift, failures that stay alone, results that come too late."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from temporalio.service import RPCError

from rindle import ImageVariant, MediaAsset, MediaProcessingRun, MediaVariant, Profile, Rindle
from rindle.db import variants as rows
from rindle.db.variants import Claim
from rindle.errors import (
    NotFound,
    NotProcessing,
    ProcessorCapabilityMissing,
    ProcessTimeout,
    StoragePermanent,
    UnknownFilters,
    UnknownOptions,
    UnknownProfile,
    UnknownVariantNames,
)
from rindle.recipes import VariantSpec
from rindle.testing.flaky import FlakyStorage
from tests.application import SECRET, Avatar, storage
from tests.invariants import everything_holds
from tests.patience import until
from tests.stage import NOTICES_LOST_WORKERS, Stage
from tests.workflows.fleet import Fleet, closed, handle_of

NOBODY = "0198c0de-0000-7000-8000-000000000000"


@pytest.fixture
async def fleet(stage: Stage) -> AsyncIterator[Fleet]:
    """Workers of a test on both databases."""
    async with Fleet(stage) as started:
        yield started
        stage.tell("processor", "")  # a held build would use up the worker's grace


@pytest.fixture
async def lite_fleet(lite_stage: Stage) -> AsyncIterator[Fleet]:
    """Workers of a test on SQLite alone."""
    async with Fleet(lite_stage) as started:
        yield started
        lite_stage.tell("processor", "")


async def building(stage: Stage) -> MediaAsset:
    """Return an asset both of whose variants are being built by a processor that is held."""
    stage.tell("processor", "hold")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")
    builds = stage.home / "builds"
    await until(lambda: builds.is_file() and "build" in builds.read_text(), what="the processor to be called")
    return await stage.rindle.asset(asset.id)


async def cancelled(stage: Stage) -> MediaAsset:
    """Return an asset whose variants were cancelled and whose build has ended."""
    asset = await building(stage)
    await stage.rindle.cancel_processing(asset.id)
    await closed(stage, stage.variants_workflow(asset.id))
    stage.tell("processor", "")
    return await stage.rindle.asset(asset.id)


async def runs(stage: Stage, asset_id: str, name: str) -> list[tuple[str, str | None]]:
    """Return state and error code of every attempt at a variant, oldest first."""
    found = await stage.read(
        lambda session: session.scalars(
            select(MediaProcessingRun)
            .where(MediaProcessingRun.asset_id == asset_id, MediaProcessingRun.variant_name == name)
            .order_by(MediaProcessingRun.started_at)
        ).all()
    )
    return [(run.state, run.error_code) for run in found]


def with_profiles(stage: Stage, *profiles: type[Profile], **environment: str) -> Rindle:
    """Return the stage's application with other profiles: what a deploy changes."""
    made = stage.application(**environment)
    kept = [known for known in made.profiles if known.name not in {chosen.name for chosen in profiles}]
    return Rindle(
        engine=made.database.engine,
        storages=made.storages,
        profiles=[*profiles, *kept],
        secrets=[SECRET],
        settings=made.settings,
        temporal=made.temporal,
    )


# --- cancel ---------------------------------------------------------------------------------------------------------


async def test_cancel_returns_with_its_rows_cancelled_and_stops_the_build(stage: Stage, fleet: Fleet) -> None:
    # Temporal could deliver the cancellation only in an hour: the worker sees it in its rows.
    await fleet.start(stage.application(RINDLE_HEARTBEAT_SECONDS="10800"))
    before = await building(stage)
    generations = {row.name: row.generation for row in before.variants}

    report = await stage.rindle.cancel_processing(before.id, actor="olga")

    assert report.to_dict() == {"asset_id": before.id, "cancelled": 2}
    after = await stage.rindle.asset(before.id)
    assert after.state == "degraded"
    assert {(row.name, row.state, row.error_code) for row in after.variants} == {
        ("large", "cancelled", "variant_processing_cancelled"),
        ("thumb", "cancelled", "variant_processing_cancelled"),
    }
    assert {row.name: row.generation - 1 for row in after.variants} == generations
    [audit] = await stage.events(after.id, "variants.cancelled")
    assert (audit.audit, audit.actor, audit.payload["names"]) == (True, "olga", ["large", "thumb"])
    assert await runs(stage, after.id, "thumb") == [("cancelled", "variant_processing_cancelled")]
    # The processor is held for ever: only a cancel ends it.
    assert await closed(stage, stage.variants_workflow(after.id)) == "COMPLETED"
    assert not any((stage.home / "tmp" / "rindle.tmp").iterdir())
    assert (stage.home / "builds").read_text().count("build") == 1
    assert len(await stage.events(after.id, "variant_cancelled")) == 2
    await everything_holds(stage)


async def test_cancel_reaches_rows_that_no_worker_has_taken_yet(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)
    await fleet.stop()
    await stage.rindle.requeue_variants(asset)
    assert (await stage.rindle.cancel_processing(asset)).cancelled == 2

    await fleet.start()
    await until(lambda: _all_sent(stage), what="the wake-ups to arrive")
    await closed(stage, stage.variants_workflow(asset.id))

    assert {row.state for row in (await stage.rindle.asset(asset.id)).variants} == {"cancelled"}
    assert (stage.home / "builds").read_text().count("build") == 1


async def _all_sent(stage: Stage) -> bool:
    return all(row.state == "dispatched" for row in await stage.outbox())


async def test_cancel_between_two_attempts_ends_the_retries(stage: Stage, fleet: Fleet) -> None:
    await fleet.start(stage.application(RINDLE_RETRY_INITIAL_SECONDS="60"))
    stage.tell("processor", "fail")
    asset = await stage.verified("held")

    async def failed_once() -> bool:
        return (await runs(stage, asset.id, "thumb"))[:1] == [("failed", "unexpected")]

    await until(failed_once, what="the first attempt to fail")
    assert (await stage.rindle.cancel_processing(asset.id)).cancelled == 2
    await closed(stage, stage.variants_workflow(asset.id))

    assert {row.state for row in (await stage.rindle.asset(asset.id)).variants} == {"cancelled"}


@pytest.mark.parametrize("asset_id", [NOBODY, "not an id", ""])
async def test_cancelling_nothing_says_so(stage: Stage, asset_id: str) -> None:
    with pytest.raises(NotProcessing):
        await stage.rindle.cancel_processing(asset_id)


async def test_a_finished_asset_has_nothing_to_cancel(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await stage.ready()
    events = len(await stage.events(asset.id))

    with pytest.raises(NotProcessing):
        await stage.rindle.cancel_processing(asset)
    assert len(await stage.events(asset.id)) == events


async def test_a_purge_stops_a_running_build_and_leaves_nothing(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await building(stage)

    await stage.rindle.purge_asset(asset)
    await stage.gone(asset.id)

    assert await closed(stage, stage.variants_workflow(asset.id)) == "CANCELED"
    assert await stage.keys() == set()


# --- requeue --------------------------------------------------------------------------------------------------------


async def test_requeue_builds_what_was_cancelled(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)

    report = await stage.rindle.requeue_variants(asset, actor="olga")

    assert report.to_dict() == {
        "asset_id": asset.id,
        "selected": 2,
        "enqueued": 2,
        "skipped": 0,
        "errors": 0,
        "failures": [],
    }
    await stage.state(asset.id, "ready")
    [audit] = await stage.events(asset.id, "variants.requeued")
    assert (audit.audit, audit.actor, audit.payload["names"]) == (True, "olga", ["large", "thumb"])
    assert await runs(stage, asset.id, "thumb") == [
        ("cancelled", "variant_processing_cancelled"),
        ("succeeded", None),
    ]
    await everything_holds(stage)


async def test_requeue_right_after_cancel_stops_the_old_build_and_makes_a_new_one(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await building(stage)
    await stage.rindle.cancel_processing(asset)
    await stage.rindle.requeue_variants(asset)

    async def second_build() -> bool:
        return (stage.home / "builds").read_text().count("build") == 2

    await until(second_build, what="the held build to be replaced by another")
    stage.tell("processor", "")
    await stage.state(asset.id, "ready")
    assert {row.generation for row in (await stage.rindle.asset(asset.id)).variants} == {3}
    await everything_holds(stage)


async def test_names_may_come_in_any_order_and_twice(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)

    report = await stage.rindle.requeue_variants(asset, iter(["thumb", "large", "thumb"]))

    assert (report.selected, report.enqueued) == (2, 2)
    await stage.state(asset.id, "ready")


async def test_only_the_named_variant_is_built_again(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)

    assert (await stage.rindle.requeue_variants(asset, ["thumb"])).enqueued == 1

    await stage.variant(asset.id, "thumb", "ready")
    await closed(stage, stage.variants_workflow(asset.id))
    assert (await stage.variant(asset.id, "large")).state == "cancelled"
    assert (await stage.rindle.asset(asset.id)).state == "degraded"


async def test_a_request_that_cannot_be_meant_does_nothing(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)
    events, sent = len(await stage.events(asset.id)), len(await stage.outbox())

    with pytest.raises(UnknownVariantNames) as unknown:
        await stage.rindle.requeue_variants(asset, ["thumb", "poster"])
    assert unknown.value.detail == {"unknown": ["poster"], "known": ["large", "thumb"]}
    with pytest.raises(UnknownOptions):
        await stage.rindle.requeue_variants(asset, force=True)
    for missing in (NOBODY, "not an id"):
        with pytest.raises(NotFound):
            await stage.rindle.requeue_variants(missing)
    nothing = await stage.rindle.requeue_variants(asset, [])

    assert (nothing.selected, nothing.enqueued, nothing.skipped, nothing.errors) == (0, 0, 0, 0)
    assert (len(await stage.events(asset.id)), len(await stage.outbox())) == (events, sent)


async def test_a_variant_that_needs_no_repair_is_reported_and_the_others_go_on(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)
    await stage.rindle.requeue_variants(asset, ["thumb"])
    thumb = await stage.variant(asset.id, "thumb", "ready")

    report = await stage.rindle.requeue_variants(asset, ["large", "thumb"])

    assert (report.selected, report.enqueued, report.errors) == (2, 1, 1)
    [failure] = report.failures
    assert failure.pop("message")
    assert failure == {
        "asset_id": asset.id,
        "variant_id": thumb.id,
        "variant_name": "thumb",
        "state": "ready",
        "failure_class": "state_conflict",
        "reason": "state_not_repairable",
    }
    await stage.state(asset.id, "ready")


async def test_a_variant_no_profile_declares_any_more_is_reported(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)

    class OnlyLarge(Profile):
        name = "held"
        storage = "media"
        variants = {"large": ImageVariant(mode="fit", width=640, height=640, format="webp")}

    report = await with_profiles(stage, OnlyLarge).requeue_variants(asset)

    assert (report.selected, report.enqueued, report.errors) == (2, 1, 1)
    assert [(f["variant_name"], f["failure_class"], f["reason"]) for f in report.failures] == [
        ("thumb", "configuration", "variant_definition_missing")
    ]


async def test_work_under_way_is_skipped(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await building(stage)

    report = await stage.rindle.requeue_variants(asset, ["large", "thumb"])

    assert (report.selected, report.enqueued, report.skipped, report.errors) == (2, 0, 2, 0)
    stage.tell("processor", "")
    await stage.settled(asset.id)
    assert (stage.home / "builds").read_text().count("build") == 2  # one per variant


# --- failures -------------------------------------------------------------------------------------------------------


class PickyProcessor:
    """Cannot make thumbs while the file ``picky`` names a reason; counts its tries."""

    capabilities = frozenset({"image_resize"})

    def process(
        self,
        source: Path,
        spec: VariantSpec,
        dest: Path,
        *,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Path:
        """Copy the source."""
        home = Path(os.environ["APP_HOME"])
        with (home / f"tries-{dest.stem}").open("a") as tries:
            tries.write(".")
        reason = (home / "picky").read_text()
        if dest.stem == "thumb" and reason:
            raise {
                "unforeseen": ZeroDivisionError(),
                "timeout": ProcessTimeout("took too long"),
                "hopeless": ProcessorCapabilityMissing("cannot be made"),
            }[reason]
        dest.write_bytes(source.read_bytes())
        return dest


class Picky(Profile):
    """Built by a processor that cannot make everything."""

    name = "picky"
    storage = "media"
    variants = Avatar.variants
    processor = PickyProcessor()


@pytest.mark.parametrize(
    ("reason", "code", "tries"),
    [
        ("unforeseen", "unexpected", 3),
        ("timeout", "process_timeout", 2),
        ("hopeless", "processor_capability_missing", 1),
    ],
)
async def test_a_variant_that_cannot_be_built_fails_alone_and_requeue_repairs_it(
    stage: Stage, fleet: Fleet, reason: str, code: str, tries: int
) -> None:
    rindle = with_profiles(stage, Picky, RINDLE_VARIANT_ATTEMPTS="3")
    await fleet.start(rindle)
    stage.tell("picky", reason)
    stage.rindle = rindle
    asset = await stage.ready("picky")

    assert asset.state == "degraded"
    thumb = await stage.variant(asset.id, "thumb")
    assert (thumb.state, thumb.error_code, thumb.attempts) == ("failed", code, tries)
    await stage.variant(asset.id, "large", "ready")  # which may come after the failure that made the asset degraded
    assert (stage.home / "tries-thumb").read_text() == "." * tries
    assert (stage.home / "tries-large").read_text() == "."
    assert await runs(stage, asset.id, "thumb") == [("failed", code)] * tries
    states = [event.payload["state"] for event in await stage.events(asset.id, "asset_state_changed")]
    assert states.count("degraded") == 1  # not once per attempt

    stage.tell("picky", "")
    assert (await rindle.requeue_variants(asset)).enqueued == 1
    await stage.state(asset.id, "ready")
    assert (await stage.variant(asset.id, "thumb")).attempts == 0
    await everything_holds(stage)


async def test_a_build_that_gives_up_fails_every_open_variant_with_the_reason(stage: Stage, fleet: Fleet) -> None:
    broken = FlakyStorage(storage(stage.environment))
    broken.fail("store", StoragePermanent("the store says no"), times=1)
    await fleet.start(stage.application(store=broken))

    asset = await stage.ready()

    assert asset.state == "degraded"
    assert {(row.name, row.state, row.error_code) for row in asset.variants} == {
        ("large", "failed", "storage_permanent"),
        ("thumb", "failed", "storage_permanent"),
    }
    assert await closed(stage, stage.variants_workflow(asset.id)) == "COMPLETED"
    await stage.rindle.requeue_variants(asset)
    await stage.state(asset.id, "ready")
    await everything_holds(stage)


async def test_an_original_that_is_gone_fails_the_variants_for_good(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)
    await stage.storage.delete(asset.storage_key)

    await stage.rindle.requeue_variants(asset)

    failed = await stage.variant(asset.id, "thumb", "failed")
    assert failed.error_code == "variant_source_not_found"
    assert (await runs(stage, asset.id, "thumb"))[1:] == [("failed", "variant_source_not_found")]


async def test_a_lost_worker_costs_no_attempt_and_its_run_is_closed(lite_stage: Stage) -> None:
    stage = lite_stage
    stage.tell("processor", "die")
    first = await stage.worker(**NOTICES_LOST_WORKERS)
    asset = await stage.verified("held")
    await first.wait()
    stage.tell("processor", "")
    await stage.member(stage.application())

    assert (await stage.settled(asset.id)).state == "ready"
    *lost, last = await runs(stage, asset.id, "thumb")
    # More than one, if the second worker has no time for a heartbeat: the build keeps the timeout of the first.
    assert lost and set(lost) == {("failed", "interrupted")}
    assert last == ("succeeded", None)
    assert (await stage.variant(asset.id, "thumb")).attempts == 0
    await everything_holds(stage)


# --- results that come too late -------------------------------------------------------------------------------------

FACTS = {"byte_size": 1, "content_type": "image/jpeg", "width": 1, "height": 1}


async def claim_on(stage: Stage, asset_id: str, name: str) -> Claim:
    """Return the claim a build of the row as it is now would hold."""

    def read(session: Session) -> Claim:
        asset = session.get_one(MediaAsset, asset_id)
        [row] = [row for row in rows.variants_of(session, asset_id) if row.name == name]
        return rows.claim_of(asset, row, stage.rindle.services.profile(asset.profile))

    return await stage.read(read)


def facts_of(row: MediaVariant) -> dict[str, object]:
    """Return every column of a row."""
    return {column.key: getattr(row, column.key) for column in MediaVariant.__table__.columns}


async def recorded(stage: Stage, asset_id: str, source_key: str, claim: Claim) -> str | None:
    """Record one finished object as a build does; returns the key that is to be deleted now."""
    made = [(claim, FACTS)]
    unwanted, _ = await stage.rindle.database.write(rows.record_group, asset_id, source_key, made)
    keys = unwanted.get(claim.variant_id, ())
    assert len(keys) <= 1
    return keys[0] if keys else None


async def test_a_late_result_changes_nothing_and_has_a_key_of_its_own(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await building(stage)
    zombie = await claim_on(stage, asset.id, "thumb")
    await stage.rindle.cancel_processing(asset)
    await stage.rindle.requeue_variants(asset)
    await until(lambda: _generation(stage, asset.id, zombie.generation + 2), what="the newer build to have the row")
    before = facts_of(await stage.variant(asset.id, "thumb"))
    events = len(await stage.events(asset.id))

    unwanted = await recorded(stage, asset.id, asset.storage_key, zombie)
    failed = await stage.rindle.database.write(
        rows.record_failure, zombie, code="unexpected", reason="too late", final=True
    )

    newer = await claim_on(stage, asset.id, "thumb")
    assert (unwanted, failed) == (zombie.key, False)
    assert newer.digest == zombie.digest and newer.key != zombie.key  # no deletion of the older object reaches it
    assert facts_of(await stage.variant(asset.id, "thumb")) == before
    assert len(await stage.events(asset.id)) == events
    stage.tell("processor", "")
    await stage.state(asset.id, "ready")
    await everything_holds(stage)


async def _generation(stage: Stage, asset_id: str, wanted: int) -> bool:
    row = await stage.variant(asset_id, "thumb")
    has_removed_others = len(row.obsolete_keys or ()) == 1  # its own; it first deletes what earlier builds left
    return row.generation == wanted and row.state == "processing" and has_removed_others


async def test_a_late_result_nobody_wants_is_returned_for_deletion(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await building(stage)
    zombie = await claim_on(stage, asset.id, "thumb")
    await stage.rindle.cancel_processing(asset)
    await closed(stage, stage.variants_workflow(asset.id))  # which then has deleted the object, and forgotten its key
    before = facts_of(await stage.variant(asset.id, "thumb"))

    assert await recorded(stage, asset.id, asset.storage_key, zombie) == zombie.key

    assert facts_of(await stage.variant(asset.id, "thumb")) == before
    await stage.rindle.purge_asset(asset)
    await stage.gone(asset.id)
    assert await recorded(stage, asset.id, asset.storage_key, zombie) == zombie.key


@pytest.mark.parametrize("changed", ["source", "recipe"])
async def test_a_result_of_another_source_or_recipe_is_stale(stage: Stage, fleet: Fleet, changed: str) -> None:
    await fleet.start()
    asset = await building(stage)
    claim = await claim_on(stage, asset.id, "thumb")
    source = "another/original" if changed == "source" else asset.storage_key
    if changed == "recipe":
        claim = Claim(claim.variant_id, claim.name, claim.generation, "0" * 64, claim.key, claim.attempts)

    unwanted = await recorded(stage, asset.id, source, claim)

    assert unwanted == claim.key
    row = await stage.variant(asset.id, "thumb")
    expected = "asset_changed" if changed == "source" else "recipe_changed"
    assert (row.state, row.error_code, row.error_reason) == ("cancelled", "stale_source", expected)
    assert await runs(stage, asset.id, "thumb") == [("cancelled", "stale_source")]


async def test_a_late_result_of_an_older_recipe_never_replaces_the_newer_object(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await stage.ready()
    zombie = await claim_on(stage, asset.id, "thumb")
    await fleet.stop()
    drifted = stage.application(APP_DRIFTED="1")
    await fleet.start(drifted)
    await drifted.regenerate_variants("avatar")
    fresh = await until(lambda: _rebuilt(stage, asset.id, zombie.key), what="the rebuild")
    before = facts_of(fresh)

    assert await recorded(stage, asset.id, asset.storage_key, zombie) == zombie.key

    assert facts_of(await stage.variant(asset.id, "thumb")) == before


async def _rebuilt(stage: Stage, asset_id: str, old_key: str) -> MediaVariant | None:
    row = await stage.variant(asset_id, "thumb")
    done = row.state == "ready" and row.storage_key != old_key and not row.obsolete_keys
    return row if done else None


# --- drift ----------------------------------------------------------------------------------------------------------


async def test_a_changed_recipe_is_rebuilt_and_the_old_object_goes(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await stage.ready()
    old = {row.name: row for row in asset.variants}
    await fleet.stop()
    drifted = stage.application(APP_DRIFTED="1")
    await fleet.start(drifted)

    report = await drifted.regenerate_variants("avatar")

    assert (report.enqueued, report.skipped, report.errors) == (1, 0, 0)
    thumb = await until(lambda: _rebuilt(stage, asset.id, str(old["thumb"].storage_key)), what="the rebuild")
    assert (thumb.width, thumb.height) == (64, 64)
    assert (
        thumb.recipe_digest == drifted.services.profile("avatar").recipe_digest("thumb") != old["thumb"].recipe_digest
    )
    large = await stage.variant(asset.id, "large")
    assert (large.storage_key, large.generation) == (old["large"].storage_key, old["large"].generation)
    asset = await stage.state(asset.id, "ready")
    assert await stage.keys() == {asset.storage_key, str(large.storage_key), str(thumb.storage_key)}
    trail = [e for e in await stage.events(asset.id) if e.scope_key == "variant" and e.scope_id == thumb.id]
    assert [e.payload["state"] for e in trail][-4:] == ["stale", "queued", "processing", "ready"]
    await everything_holds(stage)

    again = await drifted.regenerate_variants("avatar")
    assert (again.enqueued, again.skipped, again.errors) == (0, 1, 0)


async def test_the_old_object_is_served_until_the_new_one_is_ready(stage: Stage) -> None:
    async with Fleet(stage) as fleet:
        await fleet.start()
        asset = await stage.ready()
    old = str((await stage.variant(asset.id, "thumb")).storage_key)

    await stage.application(APP_DRIFTED="1").regenerate_variants("avatar", "thumb")  # no worker runs

    row = await stage.variant(asset.id, "thumb")
    assert (row.state, row.storage_key) == ("queued", old)
    assert old in await stage.keys()


async def test_a_newly_declared_variant_is_planned_by_regenerate(stage: Stage, fleet: Fleet) -> None:
    class OnlyThumb(Profile):
        name = "avatar"
        storage = "media"
        variants = {"thumb": Avatar.variants["thumb"]}
        allow_mime = ("image/*",)

    own, now = stage.rindle, with_profiles(stage, Avatar)
    stage.rindle = with_profiles(stage, OnlyThumb)
    await fleet.start(stage.rindle)
    asset = await stage.ready()
    await fleet.stop()
    stage.rindle = own
    other = await now.regenerate_variants("avatar", "thumb")
    assert (other.enqueued, other.skipped) == (0, 1)

    report = await now.regenerate_variants("avatar")

    assert (report.enqueued, report.skipped, report.errors) == (1, 0, 0)
    assert (await stage.rindle.asset(asset.id)).state == "processing"  # in the same transaction
    await fleet.start(now)
    await stage.state(asset.id, "ready")
    assert {row.name: row.state for row in (await stage.rindle.asset(asset.id)).variants} == {
        "large": "ready",
        "thumb": "ready",
    }
    await everything_holds(stage)


async def test_regenerate_refuses_filters_it_does_not_know(stage: Stage) -> None:
    with pytest.raises(UnknownFilters):
        await stage.rindle.regenerate_variants(state="failed")
    with pytest.raises(UnknownProfile):
        await stage.rindle.regenerate_variants("nobody's")


async def test_failed_and_cancelled_variants_are_not_regenerated(stage: Stage, fleet: Fleet) -> None:
    await fleet.start()
    asset = await cancelled(stage)

    report = await stage.rindle.regenerate_variants("held")

    assert (report.enqueued, report.skipped) == (0, 1)
    assert {row.state for row in (await stage.rindle.asset(asset.id)).variants} == {"cancelled"}


# --- anything in any order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_asked_in_whatever_order_a_last_requeue_makes_it_ready(
    lite_stage: Stage, lite_fleet: Fleet, seed: int
) -> None:
    stage, chance = lite_stage, random.Random(seed)
    await lite_fleet.start(stage.application(RINDLE_VARIANT_ATTEMPTS="1"))
    asset = await building(stage)
    workflow_id = stage.variants_workflow(asset.id)
    handle = await handle_of(stage, workflow_id)

    async def ignore_closed(signal: str, *arguments: list[str]) -> None:
        try:
            await handle.signal(signal, args=list(arguments))
        except RPCError as error:
            assert "completed" in str(error)

    async def api_cancel() -> None:
        with contextlib.suppress(NotProcessing):
            await stage.rindle.cancel_processing(asset.id)

    async def switch(to: str) -> None:
        stage.tell("processor", to)

    asks = [
        lambda: switch("hold"),
        lambda: switch(""),
        lambda: switch("fail"),
        api_cancel,
        lambda: stage.rindle.requeue_variants(asset.id),
        lambda: stage.rindle.requeue_variants(asset.id, ["large"]),
        lambda: ignore_closed("wake"),
        lambda: ignore_closed("cancel"),
        lambda: ignore_closed("cancel", ["thumb"]),
        lambda: ignore_closed("requeue"),
        lambda: ignore_closed("requeue", ["thumb", "no such name"]),
    ]
    for _ in range(25):
        await chance.choice(asks)()
        if chance.random() < 0.4:
            await until(lambda: _all_sent(stage), what="the wake-ups to arrive")

    stage.tell("processor", "")
    await until(lambda: _all_sent(stage), what="the wake-ups to arrive")
    await closed(stage, workflow_id)
    if (await stage.rindle.asset(asset.id)).state != "ready":
        await stage.rindle.requeue_variants(asset.id)
    await stage.state(asset.id, "ready")
    await everything_holds(stage)
    attempts = [*await runs(stage, asset.id, "large"), *await runs(stage, asset.id, "thumb")]
    assert "processing" not in {state for state, _ in attempts}
