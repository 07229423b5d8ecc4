"""What an operator does in a test that plays a breakage: types commands, and reads what they print."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shlex
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from rindle import MediaAsset, MediaVariant
from rindle.cli.commands import execute
from rindle.db.models import utc_now
from rindle.operations import doctor, lost_runs, runs
from rindle.operations import runtime_status as status
from rindle.operations.checks import database, storage
from rindle.operations.checks.report import Check, Planned, Subject
from rindle.operations.runtime_status import RuntimeStatus
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import REPOSITORY, Stage

#: Age of everything that is broken, beyond all thresholds.
OLD = timedelta(hours=3)


async def prepare(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrate an application, and give this process its variables, as a shell of its operator has them."""
    for name, value in stage.environment.items():
        monkeypatch.setenv(name, value)
    await stage.stamp()
    let_checks_take_long(monkeypatch)
    # Nobody waits for minutes here.
    monkeypatch.setattr(status, "NO_WORKER_SECONDS", -1)
    monkeypatch.setattr(runs, "WAITING_SECONDS", 0)
    monkeypatch.setattr(lost_runs, "RUN_SECONDS", 0)


def let_checks_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the checks of ``doctor`` the time that a busy machine takes; a call with a limit of its own keeps that."""
    run = doctor._run

    async def run_patiently(planned: Planned, subject: Subject, seconds: float, offline: bool) -> Check:
        limit = PATIENCE_SECONDS if seconds == doctor.TIMEOUT_SECONDS else seconds
        return await run(planned, subject, limit, offline)

    monkeypatch.setattr(doctor, "_run", run_patiently)
    monkeypatch.setattr(doctor, "busy_factor", lambda: 1.0)
    # The limits that checks have inside: of a notification, and of a request to a signed URL.
    monkeypatch.setattr(database, "_ARRIVAL_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(storage, "URL_SECONDS", PATIENCE_SECONDS)


async def typed(command: str) -> tuple[int, str]:
    """Type a command of ``rindle``; returns its exit code and what it prints."""
    program, *arguments = shlex.split(command)
    assert program == "rindle", command
    printed = io.StringIO()

    def execute_it() -> int:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return execute(arguments)

    return await asyncio.to_thread(execute_it), printed.getvalue()


async def reported(stage: Stage, *names: str) -> RuntimeStatus:
    """Wait until Temporal has answered and exactly these classes are reported; its visibility lags behind."""
    seen: set[str] = set()

    async def look() -> RuntimeStatus | None:
        seen.clear()
        report = await stage.rindle.runtime_status()
        seen.update(one.name for one in report.findings)
        return report if report.temporal.verified and seen == set(names) else None

    try:
        return await until(look, what=f"exactly {sorted(names)} to be reported")
    except AssertionError as late:
        late.add_note(f"reported: {sorted(seen)}")
        raise


async def everything_is_fine(stage: Stage) -> None:
    """Wait until nothing is found, and until monitoring sees the same.

    A purge that is started once more, for an asset that is gone, is a run without rows until it has ended.
    """
    await reported(stage)
    printed = ""

    async def look() -> bool:
        nonlocal printed
        code, printed = await typed("rindle runtime-status --fail-on any")
        return code == 0

    await until(look, what=lambda: f"nothing to be found; last printed: {printed}")


def commands_of(report: RuntimeStatus, name: str) -> list[str]:
    """Return the printed command of one class, once for each asset concerned."""
    [surface] = [one.surface for one in report.recommendations if one.name == name]
    samples = [one for finding in report.findings if finding.name == name for one in finding.samples]
    keys = sorted({str(getattr(sample, "asset_id", "")) for sample in samples})
    return sorted({surface.replace("ASSET", key) for key in keys or [""]})


async def breaks(stage: Stage, row: type, key: str | None, **values: Any) -> None:
    """Change a row behind the library's back, long ago."""
    old = {"updated_at": utc_now() - OLD}
    await stage.rindle.database.write(
        lambda session: session.execute(
            update(row).where(row.id == key).values(**{**old, **values})  # type: ignore[attr-defined]
        )
    )


async def variants_break(stage: Stage, asset: MediaAsset, **states: str) -> None:
    """Change the states of an asset's variants behind the library's back."""
    for name, state in states.items():
        row = await stage.variant(asset.id, name)
        await breaks(stage, MediaVariant, row.id, state=state)


@contextlib.asynccontextmanager
async def started(command: str, log: Path) -> AsyncIterator[None]:
    """Type a command that runs until it is stopped."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=REPOSITORY, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()
