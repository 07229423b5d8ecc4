"""``rindle schedules`` as an operator types it."""

from __future__ import annotations

import json

import pytest
from temporalio.service import RPCError, RPCStatusCode

from rindle.operations.schedules import RULES
from rindle.workflows import ids
from tests.integration.cli.test_commands import rindle
from tests.servers import free_port
from tests.stage import Stage

USUAL = ("abort-incomplete-uploads", "cleanup-orphans", "purge-retry", "retention")


async def test_schedules_are_applied_listed_paused_and_resumed(lite_stage: Stage) -> None:
    stage = lite_stage
    named = [ids.schedule_id(verb, prefix=stage.prefix) for verb in USUAL]
    try:
        applied = await rindle(stage, "schedules", "apply", "--format", "json")
        assert applied.returncode == 0, applied.stderr
        nothing: dict[str, list[str]] = {"updated": [], "unchanged": [], "deleted": [], "foreign": []}
        assert json.loads(applied.stdout) == {"created": named, **nothing}
        again = await rindle(stage, "schedules", "apply", RINDLE_SCHEDULES_VERIFY_STORAGE="true")
        assert again.stdout.splitlines() == [
            f"  created: {stage.prefix}-verify-storage",
            *(f"  unchanged: {one}" for one in named),
            "Schedules",
            "  created:    1",
            "  updated:    0",
            "  unchanged:  4",
            "  deleted:    0",
            "  foreign:    0",
            "Done.",
        ]

        paused = await rindle(stage, "schedules", "pause", "retention", "--note", "restoring a backup")
        assert paused.stdout.splitlines() == [f"paused: {named[3]}", "1 paused."]
        listed = await rindle(stage, "schedules", "list")
        assert listed.returncode == 0
        lines = listed.stdout.splitlines()
        assert f"{named[3]}: paused (restoring a backup), every hour" in lines
        assert f"{named[1]}: active, daily at 02:00 UTC, dry run" in lines
        assert sum(line.startswith("  next run: ") for line in lines) == 4  # the paused one has none
        in_json = json.loads((await rindle(stage, "schedules", "list", "--format", "json")).stdout)["schedules"]
        assert {one["verb"]: one["state"] for one in in_json} == {
            **dict.fromkeys(USUAL[:3], "active"),
            "retention": "paused",
            "provider-sync": "off",
            "verify-storage": "outdated",
        }

        everything = await rindle(stage, "schedules", "resume", "--all", "--format", "json")
        assert json.loads(everything.stdout)["resumed"] == [*named, f"{stage.prefix}-verify-storage"]
        unknown = await rindle(stage, "schedules", "pause", "retentoin")
        assert unknown.returncode == 1
        assert unknown.stderr.startswith("invalid_argument: unknown schedule retentoin; choose from abort-incomplete")
    finally:
        client = await stage.client()
        for rule in RULES:
            try:
                await client.get_schedule_handle(ids.schedule_id(rule.verb, prefix=stage.prefix)).delete()
            except RPCError as error:
                assert error.status is RPCStatusCode.NOT_FOUND


@pytest.mark.parametrize("arguments", [("pause",), ("resume", "retention", "--all"), ("apply", "--execute")])
async def test_contradictions_are_usage_errors(lite_stage: Stage, arguments: tuple[str, ...]) -> None:
    answered = await rindle(lite_stage, "schedules", *arguments)

    assert (answered.returncode, answered.stdout) == (2, "")


async def test_without_temporal_the_commands_exit_with_4(lite_stage: Stage) -> None:
    away = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}", "RINDLE_TEMPORAL_CONNECT_SECONDS": "0.5"}

    refused = await rindle(lite_stage, "schedules", "apply", **away)

    assert refused.returncode == 4
    assert refused.stderr.startswith("temporal_unavailable: ")


async def test_expired_events_are_counted_and_deleted_without_temporal(lite_stage: Stage) -> None:
    away = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}", "RINDLE_TEMPORAL_CONNECT_SECONDS": "0.5"}

    shown = await rindle(lite_stage, "retention", "--local", **away)

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [
        "[DRY RUN] Retention of events",
        "  events:           0",
        "  progress_events:  0",
        "[DRY RUN] Done. Nothing was changed; add --execute.",
    ]
