"""Named places at which a test can kill this process, as a power failure would.

``RINDLE_CRASH_AT=<name>`` kills the process with SIGKILL the first time it passes the point; with
``RINDLE_CRASH_LOG=<file>`` the visit is recorded first. ``RINDLE_CRASH_SIGNAL=SIGSTOP`` stops it instead, and SIGCONT
lets it continue, as a machine that was suspended would. Without the variables a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

#: Every crash point: before, inside and after each side effect.
CRASH_POINTS: tuple[str, ...] = (
    "server_upload.begun",
    "server_upload.stored",
    "multipart.begun",
    "multipart.noted",
    "multipart.made",
    "direct.begun",
    "direct.opened",
    "direct.cancelled",
    "provider.uploading",
    "provider.created",
    "provider.event_applied",
    "provider.removed",
    "relay.sent",
    "upload.assemble.before",
    "upload.object_made",
    "upload.assembled",
    "upload.aborted",
    "upload.release.before",
    "upload.release.deleted",
    "admit.before",
    "admit.fetched",
    "admit.gated",
    "admit.probed",
    "admit.headers_replaced",
    "admit.promoted",
    "scan.before",
    "scan.passed",
    "render.before",
    "render.claimed",
    "render.fetched",
    "render.rendered",
    "render.stored",
    "render.recorded",
    "render.superseded_deleted",
    "purge.tombstoned",
    "purge.object_deleted",
    "purge.objects_deleted",
    "purge.row_deleted",
    "erasure.before",
    "erasure.detached",
    "erasure.settled",
    "requeue.moved",
    "cancel.moved",
)

_wanted = os.environ.get("RINDLE_CRASH_AT")


def crash_point(name: str) -> None:
    """Kill or stop this process when ``RINDLE_CRASH_AT`` names this point."""
    global _wanted
    if _wanted is None or name != _wanted:
        return
    _wanted = None  # a process that continues is not stopped again
    if name not in CRASH_POINTS:
        raise ValueError(f"crash point {name!r} is not listed in CRASH_POINTS")
    log_file = os.environ.get("RINDLE_CRASH_LOG")
    if log_file:
        with Path(log_file).open("a", encoding="utf-8") as log:
            log.write(f"{name}\n")
            log.flush()
            os.fsync(log.fileno())
    os.kill(os.getpid(), signal.Signals[os.environ.get("RINDLE_CRASH_SIGNAL", "SIGKILL")])
