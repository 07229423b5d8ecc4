"""``rindle verify-storage``, ``cleanup-orphans`` and ``abort-incomplete-uploads`` as an operator types them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys

from temporalio.client import WorkflowExecutionStatus

from rindle.db.models import new_id
from rindle.workflows import ids
from tests.integration.cli.test_commands import rindle
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port
from tests.stage import REPOSITORY, Stage


async def ended(stage: Stage) -> None:
    """Leave an upload that was cancelled after its bytes had arrived."""
    session = await stage.sent()
    await stage.rindle.cancel_upload(session.id)
    await stage.let_tickets_expire(session.id, hours=1)


async def test_a_sweep_in_this_process_needs_no_temporal(lite_stage: Stage) -> None:
    stage = lite_stage
    await ended(stage)
    away = {"TEMPORAL_ADDRESS": f"127.0.0.1:{free_port()}", "RINDLE_TEMPORAL_CONNECT_SECONDS": "0.5"}

    shown = await rindle(stage, "cleanup-orphans", "--local", **away)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [
        "[DRY RUN] Clean up orphans",
        "  sessions_found:     1",
        "  sessions_deleted:   0",
        "  objects_deleted:    0",
        "  resumable_skipped:  0",
        "  storage_skipped:    0",
        "  storage_errors:     0",
        "[DRY RUN] Done. Nothing was changed; add --execute.",
    ]
    assert shown.stderr == "cleanup-orphans: page 1, sessions_found 1\n"

    done = await rindle(stage, "cleanup-orphans", "--local", "--execute", "--format", "json", **away)
    assert json.loads(done.stdout) == {
        "sessions_found": 1,
        "sessions_deleted": 1,
        "objects_deleted": 1,
        "resumable_skipped": 0,
        "storage_skipped": 0,
        "storage_errors": 0,
    }

    refused = await rindle(stage, "cleanup-orphans", **away)
    assert refused.returncode == 4
    assert refused.stderr.startswith("temporal_unavailable: ")


async def test_a_sweep_by_a_worker_is_followed_and_a_detached_one_is_not(lite_stage: Stage) -> None:
    stage = lite_stage
    await ended(stage)
    workflow_id = ids.maintenance_id("abort-incomplete-uploads", prefix=stage.prefix)

    detached = await rindle(stage, "abort-incomplete-uploads", "--detach")
    assert (detached.returncode, detached.stdout) == (0, f"{workflow_id}\n"), detached.stderr
    second = await rindle(stage, "abort-incomplete-uploads")
    assert second.returncode == 1
    assert second.stderr.startswith(f"maintenance_running: abort-incomplete-uploads is running already: {workflow_id}")

    await stage.member()
    await (await stage.client()).get_workflow_handle(workflow_id).result()
    followed = await rindle(stage, "abort-incomplete-uploads", "--format", "json")
    assert followed.returncode == 0, followed.stderr
    assert json.loads(followed.stdout)["sessions_found"] == 0
    assert f"{workflow_id} has started; cancel it with: temporal workflow cancel" in followed.stderr
    assert re.search(r"abort-incomplete-uploads: page \d, nothing found\n", followed.stderr)
    assert await stage.keys() == set()


async def test_ctrl_c_ends_the_command_and_not_the_sweep(lite_stage: Stage) -> None:
    stage = lite_stage
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rindle.cli", "verify-storage"),
        env={**os.environ, **stage.environment},
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # A shell that runs the tests in the background has SIGINT ignored, and every process inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert command.stderr is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        started = await command.stderr.readline()
        command.send_signal(signal.SIGINT)
        out, err = await command.communicate()

    assert b"verify-storage has started" in started
    assert (command.returncode, out) == (130, b"")
    assert b"verify-storage goes on without this command" in err
    workflow_id = ids.maintenance_id("verify-storage", prefix=stage.prefix)
    handle = (await stage.client()).get_workflow_handle(workflow_id)
    assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_keys_of_unknown_objects_are_shown_where_they_are_found(lite_stage: Stage) -> None:
    stage = lite_stage
    stranger = f"avatar/{new_id()}/left.jpg"
    source = stage.home / "left"
    source.write_bytes(b"left")
    await stage.storage.store(stranger, source)

    found = await rindle(stage, "verify-storage", "--local", "--min-age", "0", "--format", "json")

    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["unreferenced"] == 1
    assert f"object without a row: media {stranger}" in found.stderr


async def test_mistyped_options_and_contradictions_are_usage_errors(lite_stage: Stage) -> None:
    for arguments in (
        ("verify-storage", "--orginals"),
        ("verify-storage", "--execute"),
        ("cleanup-orphans", "--detach", "--local"),
        ("verify-storage", "--min-age", "-1"),
    ):
        answered = await rindle(lite_stage, *arguments)
        assert (answered.returncode, answered.stdout) == (2, ""), arguments
    assert (await rindle(lite_stage, "verify-storage", "--local", "--profile", "avatr")).returncode == 1
