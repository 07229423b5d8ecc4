"""Run directories of dead processes are removed, those in use never; workers do it by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rindle.activities.liveness import scratch_directory
from rindle.operations.maintenance.sweep_temp_files import SweepTempFilesReport, sweep_temp_files
from rindle.run_directories import Swept, held, sweep
from tests.integration.cli.test_commands import rindle
from tests.patience import until
from tests.stage import REPOSITORY, Stage


def old_directory(root: Path, name: str) -> Path:
    """Make a run directory of long ago, with a file in it."""
    made = root / name
    made.mkdir(parents=True)
    (made / "source").write_bytes(b"left")
    os.utime(made, (0, 0))
    return made


def test_only_old_directories_of_killed_processes_are_swept(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    old_directory(root, "old")
    outside.mkdir()
    (root / "new").mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").touch()
    for name in ("link", "file"):
        os.utime(root / name, (0, 0), follow_symlinks=False)

    assert sweep(root, dry_run=True) == Swept(scanned=2, orphans=1)
    assert sweep(root) == Swept(scanned=2, orphans=1, deleted=1)

    assert sorted(entry.name for entry in root.iterdir()) == ["file", "link", "new"]
    assert outside.is_dir()
    assert sweep(tmp_path / "missing") == Swept()


def test_a_link_inside_an_old_directory_does_not_lead_out(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    left = old_directory(tmp_path / "root", "old")
    (left / "link").symlink_to(kept)
    os.utime(left, (0, 0))

    assert sweep(tmp_path / "root").deleted == 1
    assert (kept / "file").exists()


def test_a_root_that_is_a_link_or_of_another_user_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = old_directory(tmp_path / "elsewhere", "old")
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")

    assert sweep(tmp_path / "root") == Swept(errors=1)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep(tmp_path / "elsewhere") == Swept(errors=1)
    assert left.is_dir()


def test_a_directory_in_use_is_left_however_old_it_is(tmp_path: Path) -> None:
    used = old_directory(tmp_path, "used")

    with held(used), held(used):  # as a child process beside its parent
        assert sweep(tmp_path) == Swept(scanned=1)
    assert sweep(tmp_path) == Swept(scanned=1, orphans=1, deleted=1)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    used = old_directory(tmp_path, "used")
    program = (
        "import pathlib, sys\n"
        "from rindle.run_directories import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n"
        "    print(1, flush=True)\n"
        "    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, used], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        assert sweep(tmp_path).orphans == 0
        other.kill()

    assert sweep(tmp_path).deleted == 1


async def test_the_directory_of_an_activity_is_locked(tmp_path: Path) -> None:
    async with scratch_directory(tmp_path) as directory:
        os.utime(directory, (0, 0))
        assert sweep(tmp_path) == Swept(scanned=1)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_counted_and_does_not_stop_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        old_directory(tmp_path, name)
    remove = shutil.rmtree

    def refuse_one(path: str) -> None:
        if path.endswith("b"):
            raise PermissionError(13, "refused")
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", refuse_one)

    assert sweep(tmp_path) == Swept(scanned=3, orphans=3, deleted=2, errors=1)


async def test_the_command_only_counts_unless_it_is_told_to(lite_stage: Stage) -> None:
    stage = lite_stage
    left = old_directory(stage.rindle.settings.scratch, "old")

    shown = await rindle(stage, "sweep-temp-files")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [
        "[DRY RUN] Sweep temporary files",
        "  run_dirs_scanned:  1",
        "  orphan_count:      1",
        "  run_dirs_deleted:  0",
        "  errors:            0",
        "[DRY RUN] Done. Nothing was changed; add --execute.",
    ]
    assert left.is_dir()
    assert await sweep_temp_files(stage.rindle.services, dry_run=False) == SweepTempFilesReport(
        run_dirs_scanned=1, orphan_count=1, run_dirs_deleted=1
    )


async def test_a_worker_sweeps_its_host_again_and_again(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member(stage.application(RINDLE_TEMP_SWEEP_SECONDS="0.05"))
    for name in ("first", "second"):
        left = old_directory(stage.rindle.settings.scratch, name)

        async def gone(left: Path = left) -> bool:
            return not left.exists()

        await until(gone, what=f"the worker to remove {name}")
