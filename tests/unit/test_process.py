"""Leaving a process: what was done is reported, whatever the interpreter would have done afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent

import pytest

from tests.patience import PATIENCE_SECONDS


def leaving(body: str) -> subprocess.CompletedProcess[str]:
    """Run ``body`` in a process of its own; what it prints goes into a pipe and so is buffered."""
    program = "from rindle.process import leave\n" + dedent(body)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 3), (255, 255), (256, 1), (512, 1), (-1, 1)])
def test_the_exit_status_is_the_code_and_no_failure_becomes_zero(code: int, status: int) -> None:
    assert leaving(f"leave({code})").returncode == status


def test_buffered_output_and_log_lines_are_written() -> None:
    done = leaving("""
        import logging, logging.handlers, sys
        target = logging.StreamHandler(sys.stderr)
        logging.getLogger().addHandler(logging.handlers.MemoryHandler(100, target=target))
        logging.warning("kept in memory")
        print("buffered")
        sys.stdout.write("no newline")
        leave(0)
    """)

    assert (done.returncode, done.stdout) == (0, "buffered\nno newline")
    assert "kept in memory" in done.stderr


def test_closers_run_in_order_and_one_that_fails_stops_nothing() -> None:
    done = leaving("""
        def broken():
            raise RuntimeError("closed twice")
        leave(2, lambda: print("first"), broken, lambda: print("last"))
    """)

    assert (done.returncode, done.stdout) == (2, "first\nlast\n")
    assert "closed twice" in done.stderr


def test_nothing_runs_after_it() -> None:
    done = leaving("""
        import atexit, threading
        atexit.register(print, "atexit")
        threading.Thread(target=threading.Event().wait).start()  # would keep the interpreter for ever
        try:
            leave(0)
        finally:
            print("finally")
    """)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("stream", ["sys.stdout.close()", "sys.stdout = None", "os.close(1); print('lost')"])
def test_a_reader_that_has_gone_does_not_keep_the_process(stream: str) -> None:
    assert leaving(f"import os, sys\n{stream}\nleave(0)").returncode == 0
