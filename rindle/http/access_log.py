"""Access logs without credentials: paths of local files and queries of event streams contain tokens."""

from __future__ import annotations

import logging

from rindle.security import RedactingFilter

#: Loggers in which ASGI servers write the path and query of a request.
ACCESS_LOGGERS = ("uvicorn.access", "uvicorn.asgi", "hypercorn.access", "gunicorn.access", "granian.access")


def scrub_access_logs() -> None:
    """Replace credentials in the access logs of this process by ``[REDACTED]``; repeating it is harmless.

    Every router of Rindle calls it. It works for servers that log through :mod:`logging`, in whatever order the server
    configures its loggers. A proxy in front of the application has its own log.
    """
    for name in ACCESS_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, RedactingFilter) for present in logger.filters):
            logger.addFilter(RedactingFilter())
