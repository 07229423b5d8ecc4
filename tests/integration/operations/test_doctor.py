"""``rindle doctor`` against real surroundings: green where all is well, one red row where one thing is broken."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text, update
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

import rindle.operations.doctor as runner
from rindle import ImageVariant, Profile, Rindle, Settings, TemporalConnection, VideoVariant, telemetry
from rindle.db import migrate
from rindle.db.models import MediaOutbox, utc_now
from rindle.errors import InvalidArgument, StorageTransient
from rindle.operations.checks.report import Check, DoctorReport
from rindle.operations.doctor import doctor
from rindle.storage.local import LocalStorage
from rindle.storage.memory import MemoryStorage
from tests.application import ControlledProcessor
from tests.integration.operations.played import let_checks_take_long
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.stage import Stage


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give checks the time that a busy machine takes; tests of the limit pass one of their own."""
    let_checks_take_long(monkeypatch)


SECRET = "7c1f0d3e9ab24586c1f0d3e97ab8245867c1f0d3e9ab2458"


def checks(report: DoctorReport) -> dict[str, Check]:
    return {check.id: check for check in report.checks}


async def stamped(stage: Stage) -> Stage:
    """Note that the stage's tables are this release's, as a migrated database says."""
    await stage.stamp()
    return stage


def application(
    tmp_path: Path, *, url: str | None = None, storages: Mapping[str, Any] | None = None, **options: Any
) -> Rindle:
    """Build an application whose surroundings a test chooses; its Temporal is not there."""

    class Picture(Profile):
        name = "picture"
        storage = "media"
        variants = {"thumb": ImageVariant(mode="crop", width=64, height=64)}
        allow_mime = ("image/*",)

    options.setdefault("profiles", [Picture])
    options.setdefault("settings", Settings(tmp_dir=tmp_path, temporal_connect_seconds=1))
    local = LocalStorage(tmp_path / "media", base_url="http://127.0.0.1:9/media", secrets=[SECRET])
    return Rindle(
        engine=create_async_engine(url or f"sqlite+aiosqlite:///{tmp_path / 'application.db'}"),
        storages=storages or {"media": local},
        temporal=TemporalConnection(connect_seconds=1, environment={"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}"}),
        **options,
    )


async def closed(rindle: Rindle, **options: Any) -> DoctorReport:
    """Examine an application and put it away."""
    try:
        return await rindle.doctor(**options)
    finally:
        await rindle.close()
        await rindle.database.engine.dispose()  # type: ignore[misc]


# --- all is well ---------------------------------------------------------------------------------------------------


async def test_everything_is_green_with_a_worker_and_migrated_tables(stage: Stage) -> None:
    await stamped(stage)
    await stage.member()

    async def polled() -> bool:  # a poll reaches the server a moment after it was begun
        return (await stage.rindle.doctor(only=["temporal.pollers"])).success

    await until(polled, what="both kinds of pollers")

    report = await doctor(replace(stage.rindle.services, secrets=(SECRET,)), profiles=["avatar"])

    unfit = [check.id for check in report.checks if check.status != "ok"]
    assert set(unfit) <= {"ffmpeg.version", "media.isolation"}  # an ffmpeg below 6.0, a kernel without user namespaces
    assert report.success
    assert (report.failed, report.warned, report.total) == (0, len(unfit), len(report.checks))
    assert [check.id for check in report.checks] == sorted(check.id for check in report.checks)
    assert {
        *("db.clock", "db.connect", "db.migrations", "db.notifications", "db.schema"),
        *("delivery.local_endpoint", "delivery.support"),
        *("libmagic", "libvips.features", "outbox.backlog", "profiles.capability_mismatch", "profiles.load"),
        *(
            "ffmpeg.version",
            "media.isolation",
            "profiles.unregistered",
            "security.secrets",
            "storage.media.reachable",
            "temp.dir",
            "temporal.pollers",
            "temporal.reachable",
            "temporal.schedules",
        ),
        "temporal.search_attributes",
        "temporal.worker_versions",
    } == {check.id for check in report.checks}


async def test_a_live_run_stores_reads_and_removes_an_object(lite_stage: Stage) -> None:
    rindle = lite_stage.application(store=MemoryStorage())

    report = await rindle.doctor(live=True, only=["storage.media.round_trip"])

    assert report.success, report.checks
    assert (await rindle.storages["media"].list_keys("")).objects == ()


async def test_each_check_reports_its_outcome_to_telemetry(lite_stage: Stage) -> None:
    heard: list[tuple[str, str]] = []
    remove = telemetry.add_handler(lambda name, facts, numbers: heard.append((name, facts.get("check", ""))))
    try:
        await lite_stage.rindle.doctor(only=["libmagic", "temp.dir"])
    finally:
        remove()

    assert sorted(heard) == [("rindle.runtime.check.stop", "libmagic"), ("rindle.runtime.check.stop", "temp.dir")]


# --- one thing is broken -------------------------------------------------------------------------------------------


def pretending(path: Path, answer: str) -> Path:
    """Write a program that answers every question with the same text."""
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("profile", "version", "expected"),
    [
        ("lesson", "ffmpeg version 8.1.2", "ok"),
        ("lesson", "ffmpeg version n7.1.5-static", "ok"),
        ("lesson", "ffmpeg version 9.0", "ok"),
        ("lesson", "ffmpeg version 7.1", "error"),
        ("lesson", "ffmpeg version n7.0.2-static", "error"),
        ("lesson", "ffmpeg version 5.1.0", "error"),
        ("lesson", "ffmpeg version 6.1.1-3ubuntu5", "warn"),
        ("avatar", "ffmpeg version 5.1.0", "warn"),
        ("lesson", "ffmpeg version 5.1.9", "warn"),
        ("lesson", "ffmpeg version N-109-gabc", "warn"),
        ("lesson", "ffmpeg version 4.4", "error"),
        ("avatar", "ffmpeg version 4.4", "warn"),
        ("avatar", "no such program", "warn"),
    ],
)
async def test_ffmpeg_has_to_be_new_enough_where_it_is_needed(
    lite_stage: Stage, tmp_path: Path, profile: str, version: str, expected: str
) -> None:
    program = str(pretending(tmp_path / "ffmpeg", version))
    rindle = lite_stage.application(RINDLE_FFMPEG_PATH=program, RINDLE_FFPROBE_PATH=program)

    found = checks(await rindle.doctor(profiles=[profile], only=["ffmpeg.version"]))["ffmpeg.version"]

    assert found.status == expected, found


async def test_an_ffmpeg_without_encoders_cannot_build_the_variants(lite_stage: Stage, tmp_path: Path) -> None:
    program = str(pretending(tmp_path / "ffmpeg", "ffmpeg version 7.1"))
    lame = lite_stage.application(RINDLE_FFMPEG_PATH=program, RINDLE_FFPROBE_PATH=program)

    found = checks(await lame.doctor(profiles=["lesson"], only=["ffmpeg.features"]))["ffmpeg.features"]
    real = checks(await lite_stage.rindle.doctor(profiles=["lesson"], only=["ffmpeg.features"]))["ffmpeg.features"]

    assert found.status == "error"
    assert "lesson.web_720p: video_transcode" in found.summary
    assert real.status == "ok", real


async def test_an_ffmpeg_without_zscale_leaves_hdr_dull(lite_stage: Stage, tmp_path: Path) -> None:
    real = shutil.which("ffmpeg")
    program = tmp_path / "ffmpeg"
    program.write_text(f'#!/bin/sh\n{real} "$@" | grep -v zscale\n')
    program.chmod(0o755)
    poor = lite_stage.application(RINDLE_FFMPEG_PATH=str(program))

    found = checks(await poor.doctor(profiles=["lesson"], only=["ffmpeg.features"]))["ffmpeg.features"]

    assert (found.status, "zscale" in found.summary) == ("warn", True)


async def test_builds_need_room_and_a_machine_that_stays(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = lite_stage.application(RINDLE_AV_MAX_OUTPUT_BYTES=str(1 << 60))
    wanted = {"profiles": ["lesson"], "only": ["profiles.runtime_fit"]}

    fits = checks(await lite_stage.rindle.doctor(**wanted))["profiles.runtime_fit"]
    full = checks(await greedy.doctor(**wanted))["profiles.runtime_fit"]
    monkeypatch.setenv("VERCEL", "1")
    frozen = checks(await lite_stage.rindle.doctor(**wanted))["profiles.runtime_fit"]

    assert (fits.status, full.status, frozen.status) == ("ok", "error", "error")
    assert "lesson.web_720p" in frozen.summary
    assert full.detail is not None and full.detail["required_bytes"] == 2 << 60


async def test_without_a_worker_the_queues_have_no_pollers(lite_stage: Stage) -> None:
    found = checks(await lite_stage.rindle.doctor(only=["temporal.pollers"]))["temporal.pollers"]
    assert (found.status, found.detail) == (
        "error",
        {
            "queues": [
                *(f"{lite_stage.prefix} (activity)", f"{lite_stage.prefix} (workflow)"),
                f"{lite_stage.prefix}-av (activity)",
                *(f"{lite_stage.prefix}-maintenance ({kind})" for kind in ("activity", "workflow")),
            ]
        },
    )

    expected = await lite_stage.rindle.doctor(only=["temporal.pollers"], workers=False)
    assert checks(expected)["temporal.pollers"].status == "skipped"
    assert expected.success


async def test_tables_without_a_migration_behind_them_are_told_from_missing_ones(stage: Stage, tmp_path: Path) -> None:
    unmarked = checks(await stage.rindle.doctor(only=["db.migrations", "db.schema"]))
    assert (unmarked["db.migrations"].status, unmarked["db.schema"].status) == ("error", "ok")
    assert "rindle db stamp" in str(unmarked["db.migrations"].fix)

    empty = checks(await closed(application(tmp_path), only=["db.migrations", "db.schema"]))
    assert empty["db.migrations"].fix == "rindle db upgrade"
    assert "media_assets" in empty["db.schema"].summary


async def test_a_database_of_a_newer_release_and_a_missing_index_are_named(stage: Stage) -> None:
    await stamped(stage)

    def damage(session: Session) -> None:
        session.execute(text(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '9999'"))
        session.execute(text("DROP INDEX ix_media_assets_state_updated_at"))

    await stage.rindle.database.write(damage)

    found = checks(await stage.rindle.doctor(only=["db.migrations", "db.schema"]))
    assert found["db.migrations"].summary.startswith("ahead")
    assert found["db.schema"].detail == {"missing": ["media_assets index(state, updated_at)"]}


@pytest.mark.parametrize(
    ("state", "waited_seconds", "status"),
    [("pending", 5, "ok"), ("pending", 90, "warn"), ("pending", 900, "error"), ("parked", 0, "error")],
)
async def test_a_backlog_is_judged_by_its_age_and_by_parked_rows(
    lite_stage: Stage, state: str, waited_seconds: int, status: str
) -> None:
    await lite_stage.rindle.initiate_upload("avatar")
    since = utc_now() - timedelta(seconds=waited_seconds)
    await lite_stage.rindle.database.write(
        lambda session: session.execute(update(MediaOutbox).values(state=state, inserted_at=since, available_at=since))
    )

    found = checks(await lite_stage.rindle.doctor(only=["outbox.backlog"]))["outbox.backlog"]

    assert found.status == status


async def test_with_temporal_away_only_its_rows_are_red(tmp_path: Path) -> None:
    rindle = application(tmp_path, settings=Settings(tmp_dir=tmp_path, temporal_connect_seconds=1, schedules=True))
    await migrate.async_upgrade(rindle.database.engine)  # type: ignore[arg-type]

    report = await closed(rindle)

    assert {check.id for check in report.checks if check.status == "error"} == {
        "temporal.pollers",
        "temporal.reachable",
        "temporal.schedules",
        "temporal.search_attributes",
        "temporal.worker_versions",
    }


async def test_offline_leaves_this_process_alone_with_its_disk(tmp_path: Path) -> None:
    report = await closed(application(tmp_path), offline=True)

    skipped = {check.id for check in report.checks if check.status == "skipped"}
    assert {"db.connect", "temporal.reachable", "storage.media.reachable"} <= skipped
    assert report.success


async def test_an_unreachable_database_is_named_by_class_and_nothing_is_given_away(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://rindle:canary-password@127.0.0.1:{free_port()}/canary-database"

    report = await closed(application(tmp_path, url=url))

    found = checks(report)
    assert found["db.connect"].summary == "the check failed with OperationalError"
    assert "canary" not in str(report.to_dict())


class UglyStorage(MemoryStorage):
    """Fails in a third party's way, and sometimes never answers."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error

    async def ping(self) -> None:
        if self._error is None:
            await asyncio.Event().wait()
        else:
            raise self._error


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (RuntimeError("https://bucket/?X-Amz-Signature=canary"), "the check failed with RuntimeError"),
        (StorageTransient("canary"), "StorageTransient (storage_transient)"),
        (None, "no answer within 0.2 s"),
    ],
)
async def test_a_storage_that_raises_or_hangs_is_one_red_row(
    tmp_path: Path, error: Exception | None, summary: str
) -> None:
    rindle = application(tmp_path, storages={"media": UglyStorage(error)})

    report = await closed(
        rindle, only=["storage.media.reachable", "libmagic"], timeout=0.1 if error is None else PATIENCE_SECONDS
    )

    found = checks(report)["storage.media.reachable"]
    assert (found.status, found.summary) == ("error", summary)
    assert "canary" not in str(report.to_dict())


async def test_a_local_program_that_is_late_is_not_called_unreachable(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = tmp_path / "ffmpeg"
    slow.write_text("#!/bin/sh\nexec sleep 600\n")
    slow.chmod(0o755)
    rindle = lite_stage.application(RINDLE_FFMPEG_PATH=str(slow), RINDLE_FFPROBE_PATH=str(slow))
    monkeypatch.setattr(runner, "busy_factor", lambda: 2.5)

    found = checks(await rindle.doctor(only=["ffmpeg.version"], timeout=0.02))["ffmpeg.version"]

    assert (found.status, found.summary) == ("error", "not finished on this machine within 0.2 s")
    assert "2.5 processes for each processor" in str(found.fix)
    assert "rindle doctor --only ffmpeg.version --timeout" in str(found.fix)
    assert "reachable" not in str(found.fix)


@pytest.mark.parametrize(("load", "factor"), [(0.1, 1.0), (7.0, 3.5), (90.0, 6.0)])
def test_limits_grow_with_the_load_of_the_machine(monkeypatch: pytest.MonkeyPatch, load: float, factor: float) -> None:
    monkeypatch.undo()  # the patience of this file
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)

    assert runner.busy_factor() == factor


async def test_a_local_storage_without_an_address_delivers_nothing(tmp_path: Path) -> None:
    rindle = application(tmp_path, storages={"media": LocalStorage(tmp_path / "media")})

    found = checks(await closed(rindle, offline=True))

    assert found["delivery.local_endpoint"].status == "error"
    assert found["delivery.support"].status == "error"
    assert found["profiles.capability_mismatch"].status == "warn"


async def test_a_live_run_says_when_nobody_answers_at_the_local_address(tmp_path: Path) -> None:
    found = checks(await closed(application(tmp_path), live=True, only=["storage.media.round_trip"]))

    assert found["storage.media.round_trip"].summary == "the signed URL returned no response"
    assert list((tmp_path / "media").rglob("rindle-doctor/*")) == []


async def test_a_variant_nobody_can_build_is_named(tmp_path: Path) -> None:
    class Film(Profile):
        name = "film"
        storage = "media"
        processor = ControlledProcessor()  # makes pictures only
        variants = {"web": VideoVariant(preset="web_720p")}

    found = checks(await closed(application(tmp_path, profiles=[Film]), offline=True))

    assert found["profiles.capability_mismatch"].summary == "film.web: no processor offers video_transcode"
    assert "libvips.features" not in found


async def test_secrets_that_look_like_examples_or_are_shared_are_warned_about_without_showing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = "change-me-please-change-me-please-change-me"
    monkeypatch.setenv("SESSION_SECRET", SECRET)

    report = await closed(application(tmp_path, secrets=[example, SECRET]), only=["security.secrets"])

    assert checks(report)["security.secrets"].detail == {
        "problems": ["secret 1 looks like an example", "secret 2 is also the value of SESSION_SECRET"]
    }
    assert example not in str(report.to_dict())
    assert report.success


async def test_a_scratch_directory_others_can_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rindle.tmp").mkdir()
    (tmp_path / "rindle.tmp").chmod(0o755)

    found = checks(await closed(application(tmp_path), only=["temp.dir"]))["temp.dir"]

    assert (found.status, "chmod 700" in str(found.fix)) == ("error", True)


# --- how it is asked -----------------------------------------------------------------------------------------------


async def test_an_unknown_profile_is_a_finding_that_lists_the_known_ones(lite_stage: Stage) -> None:
    found = checks(await lite_stage.rindle.doctor(profiles=["avatr"], only=["profiles.load"]))["profiles.load"]

    assert found.status == "error"
    assert "avatar" in str(found.fix)


async def test_a_check_that_does_not_exist_is_refused(lite_stage: Stage) -> None:
    with pytest.raises(InvalidArgument, match=r"db\.conect"):
        await lite_stage.rindle.doctor(only=["db.conect"])


async def test_a_sync_engine_is_examined_too(tmp_path: Path, database_url: str) -> None:
    engine = create_engine(database_url.replace("+aiosqlite", ""))
    migrate.upgrade(engine)
    base = application(tmp_path)
    rindle = Rindle(
        engine=engine,
        profiles=list(base.profiles),
        storages=base.storages,
        settings=base.settings,
        temporal=base.temporal,
    )

    report = await doctor(rindle.services, only=["db.connect", "db.schema", "db.migrations", "db.clock"])

    assert report.success, report.checks
    await rindle.close()
    engine.dispose()
