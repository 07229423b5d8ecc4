"""What the check of worker deployments makes of pollers and routing."""

from __future__ import annotations

import pytest

from rindle.operations.checks.worker_versions import Build, Routing, compare

ONE, TWO, NONE = Build("shop", "1"), Build("shop", "2"), Build()
WORKFLOWS, ACTIVITIES, IMAGES = ("rindle", "workflow"), ("rindle", "activity"), ("images", "activity")
PROMOTE_TWO = "temporal worker deployment set-current-version --deployment-name shop --build-id 2"


def on_all(*builds: Build) -> dict[tuple[str, str], frozenset[Build]]:
    return dict.fromkeys((WORKFLOWS, ACTIVITIES, IMAGES), frozenset(builds))


@pytest.mark.parametrize(
    ("found", "routings", "summary"),
    [
        (on_all(NONE), {}, "workers are unversioned"),
        (on_all(), {}, "no worker polls"),
        (on_all(ONE), {"shop": Routing(ONE, {"1": "current"})}, "current: shop:1"),
        (on_all(ONE, TWO), {"shop": Routing(TWO, {"1": "draining", "2": "current"})}, "current: shop:2"),
        (on_all(ONE, TWO), {"shop": Routing(ONE, {"1": "current", "2": "ramping"})}, "current: shop:1"),
        (
            on_all(ONE, TWO),
            {"shop": Routing(TWO, {"1": "drained", "2": "current"})},
            "current: shop:2; shop:1 has no runs left and can stop",
        ),
    ],
)
def test_a_fleet_that_gets_its_work_is_fine(found: object, routings: object, summary: str) -> None:
    result = compare(found, routings)  # type: ignore[arg-type]

    assert (result.status, result.summary, result.fix) == ("ok", summary, None)


@pytest.mark.parametrize(
    ("found", "routings", "summary", "fix"),
    [
        (on_all(TWO), {"shop": None}, "shop has no current version, so its workers get no work", PROMOTE_TWO),
        (on_all(TWO), {"shop": Routing(None, {"2": "inactive"})}, "shop has no current version", PROMOTE_TWO),
        (
            on_all(ONE, TWO),
            {"shop": Routing(ONE, {"1": "current", "2": "inactive"})},
            "shop:2 polls, but gets no new work: shop:1 is current",
            PROMOTE_TWO,
        ),
        (
            {**on_all(TWO), IMAGES: frozenset({ONE})},
            {"shop": Routing(TWO, {"1": "draining", "2": "current"})},
            "no worker of shop:2, which is current, polls images",
            "start workers with RINDLE_BUILD_ID=2",
        ),
        (
            on_all(TWO, NONE),
            {"shop": Routing(TWO, {"2": "current"})},
            "some workers are unversioned and get no new work",
            "set RINDLE_DEPLOYMENT_NAME and RINDLE_BUILD_ID for every worker",
        ),
    ],
)
def test_workers_without_new_work_are_a_warning(found: object, routings: object, summary: str, fix: str) -> None:
    result = compare(found, routings)  # type: ignore[arg-type]

    assert result.status == "warn"
    assert summary in result.summary
    assert result.fix == fix
