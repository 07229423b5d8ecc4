"""Histories of releases: every release has its own, and nobody changes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.freeze import CHANGELOG, SUMS, changed, freeze, released, releases


def test_every_release_of_the_changelog_has_its_histories() -> None:
    wanted = set(released(CHANGELOG.read_text(encoding="utf-8")))

    assert wanted - {path.name for path in releases()} == set(), "run: python -m tests.workflows.freeze VERSION"


def test_the_histories_of_a_release_are_as_they_were_frozen() -> None:
    assert {path.name: changed(path) for path in releases() if changed(path)} == {}


def test_a_release_takes_todays_histories_and_those_that_were_replaced_since_the_last_one(tmp_path: Path) -> None:
    today, earlier = tmp_path / "histories", tmp_path / "earlier"
    for path, text in (
        (today / "UploadWorkflow" / "happy.json", "now"),
        (earlier / "unreleased" / "UploadWorkflow" / "happy.json", "then"),
        (earlier / "unreleased" / "PurgeWorkflow" / "gone.json", "then"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    kept = freeze("1.2.0", histories=today, earlier=earlier)

    release = earlier / "1.2.0"
    assert {path.relative_to(release).as_posix(): path.read_text() for path in kept} == {
        "PurgeWorkflow/gone.json": "then",
        "UploadWorkflow/happy.json": "now",
        "UploadWorkflow/happy_before.json": "then",
    }
    assert [*(earlier / "unreleased").rglob("*.json")] == []
    assert releases(earlier) == [release] and changed(release) == []
    kept[0].write_text("edited")
    kept[1].unlink()
    (release / "UploadWorkflow" / "new.json").write_text("new")
    assert changed(release) == ["PurgeWorkflow/gone.json", "UploadWorkflow/happy.json", "UploadWorkflow/new.json"]
    assert (release / SUMS).is_file()


def test_a_release_is_frozen_once_and_under_its_version(tmp_path: Path) -> None:
    (tmp_path / "histories").mkdir()
    freeze("1.0.0", histories=tmp_path / "histories", earlier=tmp_path / "earlier")

    with pytest.raises(ValueError, match="frozen already"):
        freeze("1.0.0", histories=tmp_path / "histories", earlier=tmp_path / "earlier")
    with pytest.raises(ValueError, match="not a version"):
        freeze("../1.0", histories=tmp_path / "histories", earlier=tmp_path / "earlier")


def test_releases_are_the_numbered_sections_of_the_changelog() -> None:
    assert released("# Changelog\n\n## [Unreleased]\n\n## [1.1.0] - 2026-12-01\n\n## [1.0.0]\n") == ["1.1.0", "1.0.0"]
