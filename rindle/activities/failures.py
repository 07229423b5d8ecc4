"""Converts RindleError to ApplicationError, for all activities of this library.

The message contains nothing confidential; the cause and its stack trace stay in this process, because Temporal stores
failures in clear and SDK exceptions contain signed URLs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, TemporalError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from rindle import messages
from rindle.db.database import outage_of
from rindle.errors import InspectionFailed, RindleError, StateConflict, StorageError, StorageTransient
from rindle.security.redaction import scrub

log = logging.getLogger(__name__)

#: Longest failure text that enters a Temporal history.
MAX_FAILURE_CHARS = 500
#: Expected outcomes, which are excluded from error metrics and logs.
_EXPECTED = (InspectionFailed, StateConflict, StorageTransient)


def to_application_error(error: RindleError) -> ApplicationError:
    """Return the failure that crosses Temporal for ``error``."""
    return ApplicationError(
        scrub(error.message)[:MAX_FAILURE_CHARS],
        type=error.code,
        non_retryable=not error.retryable,
        next_retry_delay=None if error.retry_after is None else timedelta(seconds=error.retry_after),
        category=ApplicationErrorCategory.BENIGN
        if isinstance(error, _EXPECTED)
        else ApplicationErrorCategory.UNSPECIFIED,
    )


def is_outage(error: RindleError) -> bool:
    """Whether an attempt failed because the database or a store did not answer."""
    return error.retryable and isinstance(error, InspectionFailed | StorageError)


class FailureInterceptor(Interceptor):
    """Turns what Rindle's activities raise into typed failures without secrets.

    Args:
        on_outage: called inside an activity whose attempt failed because of an outage.
    """

    def __init__(self, on_outage: Callable[[], object] = lambda: None) -> None:
        self._on_outage = on_outage

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Translate(next, self._on_outage)


class _Translate(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, on_outage: Callable[[], object]) -> None:
        super().__init__(next)
        self._on_outage = on_outage

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if not messages.is_ours(activity.info().activity_type):  # the application's own
            return await self.next.execute_activity(input)
        try:
            return await self.next.execute_activity(input)
        except (TemporalError, asyncio.CancelledError):
            raise
        except RindleError as error:
            log.info("activity failed", extra={"action": "activity_failed", "code": error.code})
            if is_outage(error):
                self._on_outage()
            raise to_application_error(error) from None
        except Exception as error:
            outage = outage_of(error)
            if outage is not None:
                log.warning("activity failed", extra={"action": "activity_failed", "error": type(error).__name__})
                self._on_outage()
                raise to_application_error(outage) from None
            log.exception("activity failed", extra={"action": "activity_failed", "error": type(error).__name__})
            raise ApplicationError(f"unexpected {type(error).__name__}", type="unexpected") from None
