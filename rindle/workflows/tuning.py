"""A worker's own heartbeat timeout and first retry pause, which override those of the policies.

Operators shorten them to detect a lost worker sooner, and tests shorten them to run in seconds. A replay does not
compare activity options, so the values may differ between workers.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio.common import RetryPolicy
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ActivityHandle

from rindle import messages


def _with_first_pause(policy: RetryPolicy, initial: timedelta) -> RetryPolicy:
    # The server rejects a policy whose first pause exceeds its longest, and the workflow would be stuck.
    longest = policy.maximum_interval or initial
    return replace(policy, initial_interval=min(initial, longest))


class PolicyTuning(Interceptor):
    """Replaces the heartbeat timeout of Rindle's activities that have one, and the first pause of their retry policies.

    Args:
        heartbeat_seconds: heartbeat timeout; the policies' own when ``None``.
        retry_initial_seconds: first pause before an activity is retried; likewise.
    """

    def __init__(self, *, heartbeat_seconds: float | None, retry_initial_seconds: float | None) -> None:
        self._heartbeat_seconds = heartbeat_seconds
        self._retry_initial_seconds = retry_initial_seconds

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        """Return an interceptor class with this worker's values in it."""
        if self._heartbeat_seconds is None and self._retry_initial_seconds is None:
            return None
        heartbeat, initial = self._heartbeat_seconds, self._retry_initial_seconds

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> ActivityHandle[Any]:
                if not messages.is_ours(input.activity):  # the application's own
                    return super().start_activity(input)
                if heartbeat is not None and input.heartbeat_timeout is not None:
                    input.heartbeat_timeout = timedelta(seconds=heartbeat)
                if initial is not None and input.retry_policy is not None:
                    input.retry_policy = _with_first_pause(input.retry_policy, timedelta(seconds=initial))
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound
