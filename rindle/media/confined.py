"""Becomes another program, confined: ``python -I -S confined.py PARENT CPU MEMORY FILE NICE PROGRAM ARGUMENT...``.

Run as a file by :mod:`rindle.media.child_process` and never imported, so it needs nothing but the standard library. It
stands between the worker and ffmpeg because the alternatives are worse: ``preexec_fn`` runs Python in a fork of a
process with many threads, which can deadlock, and gives up vfork; ``setpriv`` and ``prlimit`` are not on every
machine and leave a gap in which a dying worker is missed. It costs 12 ms beside ffmpeg's own start of 55 ms, and the
process id stays the same, since the program replaces it.

Exits with 127, as a shell does, when the program cannot be run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys

#: Exit status when the program is not there or cannot be run.
CANNOT_RUN = 127
#: CPU seconds between SIGXCPU, at which ffmpeg still tidies up, and the kernel's SIGKILL.
CPU_GRACE_SECONDS = 5
#: prctl(2): signal to receive when the thread that started this process dies.
_PR_SET_PDEATHSIG = 1


def main(parent: int, cpu_seconds: int, memory_bytes: int, file_bytes: int, nice: int, *command: str) -> None:
    """Lower the limits and become ``command``; returns only when that is impossible."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return  # the worker ended before the kernel watched it
    _lower(resource.RLIMIT_CORE, 0, 0)
    _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + CPU_GRACE_SECONDS)
    _lower(resource.RLIMIT_FSIZE, file_bytes, file_bytes)
    _lower(resource.RLIMIT_AS, memory_bytes, memory_bytes)
    os.nice(nice)
    # Python ignores both, and a program inherits that: a file at its limit has to end ffmpeg, not to puzzle it.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.execv(command[0], command)  # noqa: S606 - no shell is the point


def _lower(limit: int, soft: int, hard: int) -> None:
    """Set both limits permanently, never above the limits of the machine; macOS has no RLIMIT_AS to lower."""
    _, ceiling = resource.getrlimit(limit)
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    with contextlib.suppress(ValueError):
        resource.setrlimit(limit, (soft, hard))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:6]), *sys.argv[6:])  # type: ignore[arg-type]
    sys.exit(CANNOT_RUN)
