"""How the outcome of a sweep is printed."""

from __future__ import annotations

import json

import pytest

from rindle.cli.sweeping import _print
from rindle.messages import MAX_SWEEP_FAILURES, SweepFailure
from rindle.operations.maintenance.cleanup_orphans import CleanupOrphans, CleanupOrphansOptions, CleanupOrphansReport
from rindle.operations.maintenance.sweep import Outcome

FAILURES = tuple(SweepFailure(item=f"row-{number}", code="storage_transient") for number in range(MAX_SWEEP_FAILURES))
OUTCOME = Outcome(CleanupOrphansReport(sessions_found=9, storage_errors=7), FAILURES, failed=7)


def test_the_first_failures_are_named_and_the_others_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _print(CleanupOrphans(), CleanupOrphansOptions(dry_run=False), OUTCOME, "text")

    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == [
        *(f"  row-{number}: storage_transient" for number in range(5)),
        "  ... 2 more",
        "Clean up orphans",
    ]
    assert lines[-2:] == ["  storage_errors:     7", "Done."]


def test_a_program_reads_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    _print(CleanupOrphans(), CleanupOrphansOptions(), OUTCOME, "json")

    printed = json.loads(capsys.readouterr().out)
    assert printed["storage_errors"] == 7
    assert printed["failures"][0] == {"item": "row-0", "code": "storage_transient"}
    assert printed["dry_run"] is True
