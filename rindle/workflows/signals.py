"""Protection of workflows from signals with wrong arguments."""

from __future__ import annotations

import inspect

from temporalio import workflow
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from rindle import messages


class SignalGuard(Interceptor):
    """Drops signals of Rindle's workflows with more or fewer arguments than their handler takes.

    The SDK drops arguments of a wrong type, but calls a handler with a wrong number of them: the workflow task would
    fail and be retried for ever. A replay needs this interceptor too, since a dropped signal changes the workflow.
    """

    def workflow_interceptor_class(
        self, input: WorkflowInterceptorClassInput
    ) -> type[WorkflowInboundInterceptor] | None:
        """Return the interceptor of every workflow."""
        return _Guard


class _Guard(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        is_ours = messages.is_ours(workflow.info().workflow_type)
        handler = workflow.get_signal_handler(input.signal) if is_ours else None
        if handler is not None:
            try:
                inspect.signature(handler).bind(*input.args)
            except TypeError:
                workflow.logger.warning("signal dropped: wrong number of arguments", extra={"signal": input.signal})
                return
        await super().handle_signal(input)
