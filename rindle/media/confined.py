"""Becomes another program, confined: ``python -I -S confined.py PARENT CPU MEMORY FILE NICE PROGRAM ARGUMENT...``.

Run as a file by :mod:`rindle.media.child_process`, so it needs nothing but the standard library. It
stands between the worker and ffmpeg because the alternatives are worse: ``preexec_fn`` runs Python in a fork of a
process with many threads, which can deadlock, and gives up vfork; ``setpriv`` and ``prlimit`` are not on every
machine and leave a gap in which a dying worker is missed. It costs 12 ms beside ffmpeg's own start of 55 ms, and the
process id stays the same, since the program replaces it.

The worker imports it for :func:`isolate`, which its render children call as well.

Without arguments it prints why the kernel does not isolate it, and nothing when it does.

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
#: Open files of a child: a program that reads one file and writes one needs few.
MAX_OPEN_FILES = 256
#: Threads and processes of a child and of what it starts. x264 and the decoders of four inputs need a hundred.
MAX_TASKS = 512
#: First kernel that counts RLIMIT_NPROC per user namespace; an older one counts all processes of the user.
_NPROC_PER_NAMESPACE = (5, 14)
# Numbers of prctl(2), unshare(2) and capset(2).
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522


def main(parent: int, cpu_seconds: int, memory_bytes: int, file_bytes: int, nice: int, *command: str) -> None:
    """Lower the limits and become ``command``; returns only when that is impossible."""
    isolate()
    if sys.platform == "linux":
        die_with_parent()
        if os.getppid() != parent:
            return  # the worker ended before the kernel watched it
    _lower(resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + CPU_GRACE_SECONDS)
    _lower(resource.RLIMIT_FSIZE, file_bytes, file_bytes)
    _lower(resource.RLIMIT_AS, memory_bytes, memory_bytes)
    os.nice(nice)
    # Python ignores both, and a program inherits that: a file at its limit has to end ffmpeg, not to puzzle it.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        os.execv(command[0], command)  # noqa: S606 - no shell is the point


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def isolate() -> str | None:
    """Take from this process what a decoder does not need: new privileges, core dumps, many files, the network.

    It moves into namespaces of its own (user, network, IPC) without capabilities. There it has no network interface,
    not even loopback, and the kernel denies it ``ptrace`` and ``/proc/PID/environ`` of every process outside, including
    the worker. Files are the same as before. Call it while the process has one thread.

    Returns:
        why the kernel refused the namespaces (containers and some distributions deny them); ``None`` when it did not.

    Source: user_namespaces(7), network_namespaces(7), ptrace(2) "Ptrace access mode checking", prctl(2).
    """
    _lower(resource.RLIMIT_CORE, 0, 0)
    _lower(resource.RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES)
    if sys.platform != "linux":
        return "only Linux has namespaces"
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) != 0:
        return os.strerror(ctypes.get_errno())
    # Its own number inside too, so that nothing takes it for another user.
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
            file.write(content)
    _drop_capabilities(libc)
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= _NPROC_PER_NAMESPACE:
        _lower(resource.RLIMIT_NPROC, MAX_TASKS, MAX_TASKS)
    return None


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up all capabilities, which are those of the new namespace, also for programs that are started from here."""
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def _lower(limit: int, soft: int, hard: int) -> None:
    """Set both limits permanently, never above the limits of the machine; macOS has no RLIMIT_AS to lower."""
    _, ceiling = resource.getrlimit(limit)
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    with contextlib.suppress(ValueError):
        resource.setrlimit(limit, (soft, hard))


if __name__ == "__main__":
    if len(sys.argv) == 1:  # ``rindle doctor`` asks whether it works here
        sys.stdout.write(isolate() or "")
        sys.exit()
    main(*map(int, sys.argv[1:6]), *sys.argv[6:])  # type: ignore[arg-type]
    sys.exit(CANNOT_RUN)
