"""An image engine that reports what a decoder could reach if somebody had taken it over."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from rindle.protocols import ProbeResult
from rindle.states import MediaKind


def require_safe_libvips() -> None:
    """Be content with any machine."""


def probe_image(path: Path, mime: str | None, max_pixels: int, **options: object) -> ProbeResult:
    """Report this process; the file holds the id of the worker and a port of the loopback."""
    worker, port = path.read_text().split()
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    facts = {
        "pid": os.getpid(),
        "environ": dict(os.environ),
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "arguments": sys.argv,
        "no_new_privileges": status["NoNewPrivs"],
        "capabilities": {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "worker_environ": _error(lambda: Path("/proc", worker, "environ").read_bytes()),
        "worker_memory": _error(lambda: Path("/proc", worker, "mem").open("rb").close()),
        "loopback": _error(lambda: socket.create_connection(("127.0.0.1", int(port)), timeout=10).close()),
    }
    return ProbeResult(kind=MediaKind.IMAGE, width=1, height=1, metadata=facts)


def _error(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return None
