"""Every timeout and retry policy, with its reason. Every backoff doubles.

Workflows have no retry policy: one that fails is a bug, which a retry cannot fix. Uploads and builds have an execution
timeout far beyond their longest life, which ends only runs that nobody works on any more. Purges and erasures have
none.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

#: How long infrastructure may be unavailable before work fails.
BUDGET = timedelta(hours=24)
#: Execution timeout of uploads and builds. The longest upload session lives for a week, and each of its steps has a day
#: for outages; a build that is woken again and again continues for weeks. No business rule depends on it.
LONGEST_LIFE = timedelta(days=365)
HEARTBEAT = timedelta(seconds=30)
#: Longest pause in seconds between two attempts. Nobody should wait longer for a service that answers again; usually
#: the worker's :class:`~rindle.activities.outages.OutageWatch` ends the pause earlier.
OUTAGE_PAUSE_SECONDS = 30.0


def _retry(initial_seconds: float, max_seconds: float, *, attempts: int = 0) -> RetryPolicy:
    # Usually without an attempt limit: a rolling deployment costs attempts too (WorkerShutdown). So time limits the
    # work, and the rows count its own failures.
    return RetryPolicy(
        initial_interval=timedelta(seconds=initial_seconds),
        maximum_interval=timedelta(seconds=max_seconds),
        backoff_coefficient=2.0,
        maximum_attempts=attempts,
    )


#: Pure SQL: quick, and retried for a day.
DB_STEP = ActivityConfig(
    start_to_close_timeout=timedelta(seconds=10),
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(0.2, 10),
)

#: A HEAD or a listing, with the row it moves.
STORAGE_HEAD = ActivityConfig(
    start_to_close_timeout=timedelta(seconds=30),
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(1, OUTAGE_PAUSE_SECONDS),
)

#: Make the object of an upload from its parts or from other uploads, and verify it: a copy of gigabytes at most.
ASSEMBLE = ActivityConfig(
    start_to_close_timeout=timedelta(hours=1),
    heartbeat_timeout=HEARTBEAT,
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(1, OUTAGE_PAUSE_SECONDS),
)

#: Deletions have no budget, and no error of theirs is final: they are reported as stuck, but never abandoned. The pause
#: grows to an hour, because the cause may be a permission or a profile that an operator has to restore.
DELETION = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=_retry(5, 3600),
)

#: SQL of an erasure: one transaction over all attachments of an owner. It has no budget: an erasure is never given up.
ERASURE_STEP = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=_retry(0.2, OUTAGE_PAUSE_SECONDS),
)

#: Ends running work, for a limited time of its own; what it waits for is Temporal and other workers.
STOP_WORK = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=_retry(5, 300),
)

#: Fetch once, sniff, probe, analyse.
ADMIT = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=15),
    heartbeat_timeout=HEARTBEAT,
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(2, OUTAGE_PAUSE_SECONDS),
)

#: No file passes while the scanner is unavailable; the scan is retried for a day.
SCAN = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=15),
    heartbeat_timeout=HEARTBEAT,
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(5, OUTAGE_PAUSE_SECONDS),
)

#: Includes the wait for a render child; one render has its own limit inside the pool. The workflow writes ``cancelled``
#: only after the children have ended, hence the cancellation type.
RENDER_IMAGES = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=30),
    heartbeat_timeout=HEARTBEAT,
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(5, OUTAGE_PAUSE_SECONDS),
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

#: One ffmpeg build: the longest wall limit it can have (``AvLimits``: four hours), and a quarter of an hour to fetch
#: the source and store the output. Cancelled as a render: ``cancelled`` is written when no process is left.
BUILD_AV = ActivityConfig(
    start_to_close_timeout=timedelta(hours=4, minutes=15),
    heartbeat_timeout=HEARTBEAT,
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(10, OUTAGE_PAUSE_SECONDS),
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

#: One page of a sweep. It gives up soon: an operator waits for the report, a schedule starts the next run, and a
#: repeated run does what is left.
SWEEP_PAGE = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=5),
    heartbeat_timeout=HEARTBEAT,
    schedule_to_close_timeout=timedelta(hours=1),
    retry_policy=_retry(5, 300, attempts=3),
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

#: Creates an asset at a streaming provider, which may take its time to accept the source. A repeated attempt first
#: looks for what an earlier one created.
PROVIDER_CREATE = ActivityConfig(
    start_to_close_timeout=timedelta(minutes=5),
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(5, 300),
)

#: Any other call to a streaming provider.
PROVIDER_CALL = ActivityConfig(
    start_to_close_timeout=timedelta(seconds=60),
    schedule_to_close_timeout=BUDGET,
    retry_policy=_retry(5, 300),
)
