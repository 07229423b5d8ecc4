"""A scan of an upload that Temporal has done again."""

from __future__ import annotations

from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from rindle.messages import SCAN
from tests.stage import Stage


class LosesAnAnswer(Interceptor):
    """Loses the answer of the first attempt of each scan."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """Return the interceptor of every activity of the worker."""
        attempts = self.attempts

        class Activity(ActivityInboundInterceptor):
            async def execute_activity(self, input: ExecuteActivityInput) -> Any:
                answer = await super().execute_activity(input)
                if activity.info().activity_type == SCAN:
                    attempts.append(activity.info().attempt)
                    if activity.info().attempt == 1:
                        raise ConnectionError("the answer was lost")
                return answer

        return Activity(next)


async def test_bytes_that_have_passed_a_scan_whose_answer_was_lost_are_not_scanned_again(stage: Stage) -> None:
    losing = LosesAnAnswer()
    await stage.member(interceptors=[losing])

    asset = await stage.ready("scanned")

    assert (asset.state, losing.attempts) == ("ready", [1, 2])
    assert (stage.home / "scans").read_text() == "scan\n"
