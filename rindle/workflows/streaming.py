"""Bringing an asset to its streaming provider."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TypeVar

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from rindle import messages
    from rindle.messages import (
        Failure,
        ProviderEvents,
        ProviderFailure,
        ProviderPushInput,
        ProviderPushResult,
        ProviderStatus,
        StatusView,
    )
    from rindle.workflows import policies
    from rindle.workflows.steps import failure_of, note_outcome, start_step, uninterrupted

T = TypeVar("T")

#: Pause between two polls after the first two; a setting that is longer than this one is the pause of all.
POLL_SECONDS = 300.0
#: Webhooks that one activity applies.
EVENTS_AT_ONCE = 50


def longer_pause(seconds: float, *, polls: int) -> float:
    """Return the pause in seconds until the next poll, after one of ``seconds`` and so many polls."""
    longer = min(2 * seconds, POLL_SECONDS) if polls == 1 else POLL_SECONDS
    return max(seconds, longer)


@workflow.defn(name=messages.PROVIDER_PUSH_WORKFLOW)
class ProviderPushWorkflow:
    """Creates the asset at the provider once, then waits until it has settled there.

    A webhook wakes it; without one it polls: by default after 30 s, a minute, and then every five minutes. It may be
    started again at any time: the row says what is left to do. A late webhook starts it again too.

    Request Cancellation and the signal ``cancel`` end the waiting, never the creation: the asset that it creates would
    be billed and nobody would know it.
    """

    kind = "provider push"

    @workflow.init
    def __init__(self, order: ProviderPushInput) -> None:
        self._order = order
        self._events: list[int] = []
        self._woken = self._cancel_asked = False
        self._stage = "starting"
        self._state = "open"
        self._polls = 0
        self._poll_seconds = POLL_SECONDS
        self._last_error: str | None = None

    @workflow.signal
    def wake(self) -> None:
        """The source may have changed: look again before closing."""
        self._woken = True

    @workflow.signal
    def provider_event(self, outbox_ids: list[int]) -> None:
        """Webhooks of the asset are in the outbox."""
        self._events.extend(outbox_ids)

    @workflow.signal
    def cancel(self) -> None:
        """End the waiting; the asset at the provider stays."""
        self._cancel_asked = True

    @workflow.query
    def status(self) -> StatusView:
        """The status of this run, for operators."""
        return StatusView(
            kind=self.kind,
            state=self._state,
            stage=self._stage,
            attempts=self._polls,
            last_error_code=self._last_error,
            started_at=workflow.info().start_time,
        )

    @workflow.run
    async def run(self, order: ProviderPushInput) -> ProviderPushResult:
        """Push, then wait for the provider; what arrives meanwhile is handled before the end."""
        while True:
            self._woken = False
            status = await self._push()
            if not (self._woken or self._events) or self._cancel_asked:
                self._state = status.outcome
                workflow.set_current_details(f"**{status.outcome}** · polled {self._polls} times")
                note_outcome(status.outcome, is_usual=status.outcome == "ready")
                return ProviderPushResult(asset_id=order.asset_id, outcome=status.outcome, reason=status.reason)

    async def _push(self) -> ProviderStatus:
        has_events = bool(self._events)
        await self._apply_events()
        self._stage = "reading"
        status = await self._step(messages.ENSURE_PROVIDER_ROW, policies.DB_STEP, "read the row")
        if status.outcome in ("errored", "deleted") and not has_events:
            return status.model_copy(update={"outcome": "skipped", "reason": status.state})
        if status.needs_create and not self._cancel_asked:
            self._stage = "creating"
            status = await self._provider_step(
                messages.CREATE_PROVIDER_ASSET, policies.PROVIDER_CREATE, "create the asset at the provider"
            )
        self._poll_seconds = status.poll_seconds
        while not status.outcome:
            await self._wait_for_poll()
            if self._cancel_asked:
                return status.model_copy(update={"outcome": "cancelled"})
            if self._events:
                await self._apply_events()
                status = await self._step(messages.ENSURE_PROVIDER_ROW, policies.DB_STEP, "read the row")
            else:
                status = await self._poll()
        return status

    async def _wait_for_poll(self) -> None:
        self._stage = f"waiting for provider, polled {self._polls} times"
        await self._wait(self._poll_seconds)

    async def _wait(self, seconds: float) -> None:
        """Wait so long, or until something else is to be done."""
        if seconds <= 0:  # no timer
            return
        try:
            await workflow.wait_condition(
                self._has_news, timeout=timedelta(seconds=seconds), timeout_summary="until the provider is queried"
            )
        except TimeoutError:
            return
        except asyncio.CancelledError:
            self._cancel_asked = True

    def _has_news(self) -> bool:
        """Whether the wait for the provider is over before its time."""
        return bool(self._events) or self._cancel_asked

    async def _poll(self) -> ProviderStatus:
        """Read the state of the asset at the provider; the next pause is longer."""
        self._polls += 1
        self._poll_seconds = longer_pause(self._poll_seconds, polls=self._polls)
        return await self._provider_step(messages.POLL_PROVIDER_ASSET, policies.PROVIDER_CALL, "read its state")

    async def _apply_events(self) -> None:
        while self._events:
            batch, self._events = self._events[:EVENTS_AT_ONCE], self._events[EVENTS_AT_ONCE:]
            order = ProviderEvents(push=self._order, outbox_ids=tuple(dict.fromkeys(batch)))
            self._stage = "applying webhooks"
            try:
                await self._complete(
                    start_step(
                        messages.APPLY_PROVIDER_EVENTS,
                        order,
                        type(None),
                        policies.PROVIDER_CALL,
                        "apply webhooks",
                        task_queue=self._order.task_queue or None,
                    )
                )
            except ActivityError as error:  # polling finds out what they reported
                self._last_error = failure_of(error).code

    async def _provider_step(self, name: str, policy: workflow.ActivityConfig, summary: str) -> ProviderStatus:
        """Run an activity that calls the provider; when it gives up, so does the row."""
        try:
            return await self._complete(
                start_step(
                    name, self._order, ProviderStatus, policy, summary, task_queue=self._order.task_queue or None
                )
            )
        except ActivityError as error:
            return await self._failed(failure_of(error))

    async def _failed(self, failure: Failure) -> ProviderStatus:
        self._last_error = failure.code
        return await self._complete(
            start_step(
                messages.FAIL_PROVIDER_ASSET,
                ProviderFailure(push=self._order, failure=failure),
                ProviderStatus,
                policies.DB_STEP,
                "note why it failed",
            )
        )

    async def _step(self, name: str, policy: workflow.ActivityConfig, summary: str) -> ProviderStatus:
        return await self._complete(start_step(name, self._order, ProviderStatus, policy, summary))

    async def _complete(self, handle: asyncio.Future[T]) -> T:
        return await uninterrupted(handle, self.cancel)


@workflow.defn(name=messages.PROVIDER_PUSH_WORKFLOW, versioning_behavior=VersioningBehavior.AUTO_UPGRADE)
class MovingProviderPushWorkflow(ProviderPushWorkflow):
    """The same workflow for versioned workers: a push may wait for hours, so it moves to new versions."""

    @workflow.init
    def __init__(self, order: ProviderPushInput) -> None:
        super().__init__(order)

    @workflow.run
    async def run(self, order: ProviderPushInput) -> ProviderPushResult:
        """Run the inherited loop."""
        return await super().run(order)
