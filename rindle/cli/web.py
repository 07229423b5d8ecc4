"""The web process of ``rindle dev``: uvicorn with the application, after a report when that cannot be imported."""

from __future__ import annotations

import sys

from rindle.cli.loading import load_object, report_of
from rindle.errors import ApplicationNotLoaded, MissingExtra
from rindle.extras import requires
from rindle.process import leave

#: Exit code of a process whose application cannot be imported: another start would end in the same way.
NOT_LOADED = 78


def serve(reference: str, host: str, port: int) -> int:
    """Serve the ASGI application ``package.module:name`` until SIGTERM or SIGINT; returns the exit code."""
    try:
        application = load_object(reference, "--web media:app")
        with requires("http"):
            import uvicorn
    except (ApplicationNotLoaded, MissingExtra) as error:
        sys.stderr.write(report_of(error))
        return NOT_LOADED
    # No access log: the health checks of the supervisor would fill it.
    uvicorn.run(application, host=host, port=port, access_log=False)
    return 0


if __name__ == "__main__":
    leave(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
