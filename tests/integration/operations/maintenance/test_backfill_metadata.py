"""Analyzers run again over assets that exist: merged or replaced, and one failing asset does not stop the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rindle import Profile, Rindle
from rindle.bootstrap import reading_originals
from rindle.errors import UnknownProfile
from rindle.operations.maintenance import backfill_metadata as sweep
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.backfill_metadata import (
    BackfillMetadata,
    BackfillMetadataOptions,
    BackfillMetadataReport,
    backfill_metadata,
)
from rindle.protocols import ProbeResult
from tests.integration.cli.test_commands import rindle
from tests.stage import Stage, photo
from tests.workflows.test_variants import with_profiles


class Widths:
    """Finds what the test tells it; fails for images of a width."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"colour": "red", "version": 1}
        self.refused_width = 0
        self.calls = 0

    def analyze(self, path: Path, probe: ProbeResult) -> Mapping[str, Any]:
        self.calls += 1
        if probe.width == self.refused_width:
            raise ValueError("an image that the analyzer cannot read")
        return {**self.found, "width": probe.width}


@pytest.fixture
def analyzer() -> Widths:
    return Widths()


@pytest.fixture
async def application(stage: Stage, analyzer: Widths) -> Rindle:
    """The application with a profile that has the analyzer, and a worker of it."""
    analyzed = type("Analyzed", (Profile,), {"name": "analyzed", "storage": "media", "variants": {}})
    analyzed.analyzer = analyzer
    made = with_profiles(stage, analyzed)
    stage.rindle = stage.adopt(made)
    await stage.member(made)
    return made


async def uploaded(stage: Stage, *widths: int) -> list[str]:
    found = []
    for width in widths:
        body = photo(stage.home / f"{width}.jpg", width=width, height=40)
        found.append((await stage.ready("analyzed", body)).id)
    return found


async def swept(application: Rindle, **options: Any) -> tuple[BackfillMetadataReport, list[str]]:
    handle = await runs.start(application.services, BackfillMetadata(), BackfillMetadataOptions(**options))
    outcome = await runs.follow(application.services, handle, BackfillMetadata())
    return outcome.report, [failure.item for failure in outcome.failures]


async def test_results_are_merged_and_other_metadata_stays(stage: Stage, application: Rindle, analyzer: Widths) -> None:
    first, second = await uploaded(stage, 60, 70)
    await stage.ready("plain", photo(stage.home / "p.jpg", width=50, height=40))
    before = (await application.asset(first)).media_metadata
    assert before["analyzer"] == {"colour": "red", "version": 1, "width": 60}
    analyzer.calls = 0
    analyzer.found = {"version": 2, "faces": 0}

    report, _ = await swept(application)

    assert report == BackfillMetadataReport(assets_found=2, assets_updated=2)
    assert analyzer.calls == 2  # the asset without an analyzer is not read
    after = (await application.asset(first)).media_metadata
    assert after == {**before, "analyzer": {"colour": "red", "version": 2, "faces": 0, "width": 60}}
    assert (await swept(application))[0] == BackfillMetadataReport(assets_found=2)

    report, _ = await swept(application, profile="analyzed", replace=True)
    assert report == BackfillMetadataReport(assets_found=2, assets_updated=2)
    assert (await application.asset(second)).media_metadata["analyzer"] == {"version": 2, "faces": 0, "width": 70}


async def test_a_failing_asset_is_counted_and_the_others_are_done(
    stage: Stage, application: Rindle, analyzer: Widths
) -> None:
    broken, lost, good = await uploaded(stage, 60, 70, 80)
    await stage.storage.delete((await application.asset(lost)).storage_key)
    before = (await application.asset(broken)).media_metadata
    analyzer.found, analyzer.refused_width = {"version": 2}, 60

    report, failed = await swept(application)

    assert report == BackfillMetadataReport(assets_found=3, assets_updated=1, failures=2)
    assert sorted(failed) == sorted([broken, lost])
    assert (await application.asset(broken)).media_metadata == before
    assert (await application.asset(good)).media_metadata["analyzer"]["version"] == 2


async def test_a_page_ends_when_it_has_taken_long_enough(
    stage: Stage, application: Rindle, analyzer: Widths, monkeypatch: pytest.MonkeyPatch
) -> None:
    await uploaded(stage, 60, 70, 80)
    monkeypatch.setattr(sweep, "_PAGE_SECONDS", -1.0)
    monkeypatch.setattr(sweep, "AT_ONCE", 2)
    monkeypatch.setattr(sweep, "PAGE", 3)
    analyzer.found = {"version": 2}

    async with reading_originals(application) as originals:
        assert await backfill_metadata(application.services, originals) == BackfillMetadataReport(
            assets_found=3, assets_updated=3
        )
        with pytest.raises(UnknownProfile):
            await backfill_metadata(application.services, originals, profile="analysed")


async def test_the_command_runs_here_and_refuses_typing_errors(lite_stage: Stage) -> None:
    stage = lite_stage
    await stage.member()
    await stage.ready("plain")

    here = await rindle(stage, "backfill-metadata", "--local")
    assert here.returncode == 0, here.stderr
    assert here.stdout.splitlines() == [
        "Backfill metadata",
        "  assets_found:    0",
        "  assets_updated:  0",
        "  failures:        0",
        "Done.",
    ]
    by_worker = await rindle(stage, "backfill-metadata", "--profile", "plain")
    assert by_worker.returncode == 0, by_worker.stderr
    assert (await rindle(stage, "backfill-metadata", "--profile", "plane")).returncode == 1
    assert (await rindle(stage, "backfill-metadata", "--replcae")).returncode == 2
