"""Record the history of every branch anew: ``python -m tests.workflows.record [case ...]``.

Needed when a workflow changes on purpose. Move the old files of branches that older workers may still have open to
``earlier/unreleased`` first: the new code must replay both, or the change needs ``workflow.patched``. A release keeps
its histories with ``python -m tests.workflows.freeze VERSION``.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from rindle import process
from tests.servers.temporal import running_temporal
from tests.stage import staged
from tests.workflows.branches import BRANCHES, Branch, scrub
from tests.workflows.fleet import Fleet, replayer


async def record(branch: Branch, target: str) -> None:
    """Play one branch, check that it is the branch meant and that it replays, and save its history."""
    with tempfile.TemporaryDirectory(prefix="rindle-record-") as directory:
        home = Path(directory)
        url = f"sqlite+aiosqlite:///{home}/stage.db"
        async with (
            branch.target(target) as own,
            staged(home, url, own, branch.environment) as stage,
            Fleet(stage) as fleet,
        ):
            history = await branch.played(stage, fleet)
    branch.check(history)
    await replayer().replay_workflow(history)
    branch.file.parent.mkdir(parents=True, exist_ok=True)
    branch.file.write_text(scrub(history), encoding="utf-8")


async def main(cases: Collection[str]) -> None:
    """Record the named cases, or all of them."""
    async with running_temporal() as server:
        for branch in BRANCHES:
            if not cases or branch.case in cases:
                await record(branch, server.target)
                sys.stdout.write(f"{branch.file.parent.name}/{branch.file.name}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
    process.leave(0)
