"""Saved histories of every branch replay on today's code, and a changed workflow is noticed."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.workflow import NondeterminismError

from rindle import workflows
from tests.servers.temporal import TemporalServer
from tests.stage import staged
from tests.workflows import broken
from tests.workflows.branches import BRANCHES, HISTORIES, Branch
from tests.workflows.fleet import Fleet, replayer
from tests.workflows.freeze import EARLIER

EVERY_BRANCH = pytest.mark.parametrize("branch", BRANCHES, ids=str)


def test_the_table_and_the_saved_histories_agree() -> None:
    saved = {path.relative_to(HISTORIES) for path in HISTORIES.rglob("*") if path.is_file()}

    assert saved == {branch.file.relative_to(HISTORIES) for branch in BRANCHES}
    assert len({str(branch) for branch in BRANCHES}) == len(BRANCHES)


@EVERY_BRANCH
async def test_a_saved_history_goes_through_its_branch_and_replays(branch: Branch) -> None:
    history = branch.load()

    branch.check(history)
    await replayer().replay_workflow(history)


@pytest.mark.parametrize(
    "path", sorted(EARLIER.rglob("*.json")), ids=lambda path: path.relative_to(EARLIER).with_suffix("").as_posix()
)
async def test_a_history_of_an_earlier_release_replays(path: Path) -> None:
    await replayer().replay_workflow(WorkflowHistory.from_json(path.stem, path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("heartbeat_seconds", [None, 60.0])
async def test_workers_with_other_timeouts_replay_the_same_histories(heartbeat_seconds: float | None) -> None:
    for branch in BRANCHES:
        await replayer(heartbeat_seconds=heartbeat_seconds).replay_workflow(branch.load())


async def test_workers_of_a_deployment_replay_the_same_histories() -> None:
    for branch in BRANCHES:
        await replayer(workflows.VERSIONED).replay_workflow(branch.load())


@pytest.mark.parametrize(
    ("workflow", "case"),
    [
        ("UploadWorkflow", "happy"),
        ("UploadWorkflow", "expired"),
        ("VariantWorkflow", "built"),
        ("VariantWorkflow", "cancel_request"),
        ("ProviderPushWorkflow", "pushed_and_polled"),
        ("PurgeWorkflow", "purged"),
        ("OwnerErasureWorkflow", "erased"),
        ("MaintenanceWorkflow", "swept_in_parts"),
    ],
)
async def test_a_careless_change_of_a_workflow_makes_the_replay_fail(workflow: str, case: str) -> None:
    [branch] = [found for found in BRANCHES if (found.workflow, found.case) == (workflow, case)]

    with pytest.raises(NondeterminismError):
        await replayer(broken.ALL).replay_workflow(branch.load())


@EVERY_BRANCH
def test_saved_histories_tell_nothing_of_the_machine_that_made_them(branch: Branch) -> None:
    document = json.loads(branch.file.read_text(encoding="utf-8"))
    texts = list(_texts(document))

    found = [text for text in texts if socket.gethostname() in text or re.search(r"(^|[\s\"'(=])/\w+/", text)]
    assert found == []
    assert not any(key in ("stackTrace", "workerVersion") for key in _keys(document))


@EVERY_BRANCH
async def test_every_branch_also_works_when_each_task_is_replayed_from_its_history(
    branch: Branch, tmp_path: Path, temporal_server: TemporalServer
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with (
        branch.target(temporal_server.target) as target,
        staged(tmp_path, url, target, branch.environment) as stage,
        Fleet(stage, cached_workflows=0) as fleet,
    ):
        history = await branch.played(stage, fleet)

    branch.check(history)
    await replayer().replay_workflow(history)


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a document; payloads in clear."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "data" and isinstance(item, str):
                yield base64.b64decode(item).decode()
            else:
                yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _keys(item)
