"""How long tests wait, and what keeps a busy machine from being taken for a broken program."""

from __future__ import annotations

#: Longest wait for anything. It only ends a test that hangs: no test is quicker for a shorter one, and none may depend
#: on how much of it is used. Above it is pytest's limit for a whole test (``pyproject.toml``).
PATIENCE_SECONDS = 240.0
PATIENCE_MS = 1000 * PATIENCE_SECONDS

_LIMIT = "_deadlock_timeout_seconds"


def widen_deadlock_detector() -> None:
    """Let the workers and replayers of this process wait for a starved workflow task.

    The SDK fails a task that has not yielded for two seconds (TMPRL1101), which production keeps. Its debug mode would
    do more than switch that off: it runs workflows on the event loop and lifts a restriction of the sandbox. So the
    limit alone is replaced, in every process that imports ``tests.application``: the tests' own and their workers'.

    Raises:
        RuntimeError: the SDK decides in another way by now.
    """
    from temporalio.worker import _workflow  # slow to load, and many only want the number above

    if _LIMIT not in _workflow._WorkflowWorker.__init__.__code__.co_names:
        raise RuntimeError(f"temporalio's workflow worker no longer has {_LIMIT}")
    setattr(_workflow._WorkflowWorker, _LIMIT, property(lambda worker: PATIENCE_SECONDS, lambda worker, given: None))
