"""What the commands log on a terminal: one line for each record, without tracebacks."""

from __future__ import annotations

import logging
import sys

from rindle.cli.commands import PlainFormatter


def test_an_exception_is_named_by_its_class_and_leaves_no_traceback() -> None:
    try:
        raise ConnectionError("postgresql://rindle:canary@db")
    except ConnectionError:
        record = logging.LogRecord(
            "sqlalchemy.pool", logging.ERROR, "pool.py", 1, "Exception closing\nconnection %r", (7,), sys.exc_info()
        )

    line = PlainFormatter().format(record)

    assert line == "ERROR sqlalchemy.pool: Exception closing connection 7 (ConnectionError)"
