"""The web process of ``rindle dev``: uvicorn with the application, after a report when that cannot be imported."""

from __future__ import annotations

import contextlib
import socket
import sys

from rindle.cli.loading import load_object, report_of
from rindle.errors import ApplicationNotLoaded, MissingExtra
from rindle.extras import requires
from rindle.process import leave

#: Exit code of a process whose application cannot be imported: another start would end in the same way.
NOT_LOADED = 78


#: Exit code of a process whose application did not start, as uvicorn's own command has it.
_NOT_STARTED = 3


def serve(reference: str, listening: int) -> int:
    """Serve the ASGI application ``package.module:name`` until SIGTERM or SIGINT; returns the exit code.

    Args:
        listening: file descriptor of the listening socket, which the supervisor has opened.
    """
    try:
        application = load_object(reference, "--web media:app")
        with requires("http"):
            import uvicorn
    except (ApplicationNotLoaded, MissingExtra) as error:
        sys.stderr.write(report_of(error))
        return NOT_LOADED
    port = socket.socket(fileno=listening)
    port.set_inheritable(False)  # no program that the application starts keeps it open
    # No access log: the health checks of the supervisor would fill it.
    server = uvicorn.Server(uvicorn.Config(application, access_log=False))
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn, after it has stopped
        server.run(sockets=[port])
    return 0 if server.started else _NOT_STARTED


if __name__ == "__main__":
    leave(serve(sys.argv[1], int(sys.argv[2])))
