"""Keeping a slip at an operator's terminal from stopping a workflow."""

from __future__ import annotations

import inspect

from temporalio import workflow
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class SignalGuard(Interceptor):
    """Drops signals with more or fewer arguments than their handler takes.

    The SDK drops inputs of a wrong type by itself, but calls a handler with a wrong number of them: the workflow task
    would fail, and be tried again, for ever. Part of what a replay needs: dropping a signal is a decision.
    """

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        """Return the interceptor of every workflow."""
        return _Guard


class _Guard(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        handler = workflow.get_signal_handler(input.signal)
        if handler is not None:
            try:
                inspect.signature(handler).bind(*input.args)
            except TypeError:
                workflow.logger.warning("signal dropped: wrong number of arguments", extra={"signal": input.signal})
                return
        await super().handle_signal(input)
