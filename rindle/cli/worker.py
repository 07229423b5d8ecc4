"""``python worker.py``: one worker process, until SIGTERM or SIGINT.

After the first signal running work finishes within the grace period or is handed back; the second one exits at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from temporalio.runtime import LoggingConfig, LoggingFormat, PrometheusConfig, Runtime, TelemetryConfig, TelemetryFilter

from rindle.bootstrap import AV_GRACE_SECONDS, GRACE_SECONDS, MAINTENANCE_GRACE_SECONDS, WorkerProcess
from rindle.errors import RindleError
from rindle.extras import requires
from rindle.process import leave
from rindle.security import RedactingFilter
from rindle.settings import Settings

with requires("cli"):
    import click

    from rindle.cli.application import load_application
    from rindle.cli.loading import traceback_of

log = logging.getLogger("rindle.worker")

#: Seconds without a heartbeat after which the event loop counts as stuck.
_STUCK_SECONDS = 15.0
#: What a process lacks, and warnings.
_Found = tuple[Sequence[str], Sequence[str]]
#: What the health response then lists as missing.
_STUCK = ("event loop",)
#: Timeout in seconds of the readiness check on the event loop; it waits 3 s for database and Temporal, concurrently.
_ANSWER_SECONDS = 5.0
#: Seconds beyond the longest grace period, counted from the signal, after which a worker exits anyway.
_WATCHDOG_SECONDS = 30.0
#: New objects after which Python collects garbage cycles; its own default is 700. One task makes thousands of objects,
#: and reference counting frees nearly all of them.
_GARBAGE_THRESHOLD = 10_000


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message and every extra field."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in self._STANDARD},
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error_class"] = record.exc_info[0].__name__
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure_logging() -> None:
    """Write redacted JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RedactingFilter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _runtime(settings: Settings) -> Runtime:
    """Make Temporal's runtime before anything connects: metrics configured later would miss the client's."""
    prometheus = None
    if settings.metrics_address:
        prometheus = PrometheusConfig(
            bind_address=settings.metrics_address,
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
    core_logs = LoggingConfig(filter=TelemetryFilter(core_level="WARN", other_level="ERROR"), format=LoggingFormat.JSON)
    return Runtime(telemetry=TelemetryConfig(logging=core_logs, metrics=prometheus))


def _serve_health(address: str, process: WorkerProcess, loop: asyncio.AbstractEventLoop) -> ThreadingHTTPServer:
    """Answer ``/livez`` (the event loop runs) and ``/readyz`` (pollers, database, Temporal, threads) from a thread.

    The body of a 503 names what is missing; a line for each warning follows, also after a 200.
    """

    def live() -> _Found:
        return ((), ()) if time.monotonic() - process.last_beat < _STUCK_SECONDS else (_STUCK, ())

    def ready() -> _Found:
        if any(live()):
            return _STUCK, ()
        try:
            return asyncio.run_coroutine_threadsafe(process.readiness(), loop).result(timeout=_ANSWER_SECONDS)
        except TimeoutError:
            return _STUCK, ()

    checks: dict[str, Callable[[], _Found]] = {"/livez": live, "/readyz": ready}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            check = checks.get(self.path)
            try:
                missing, warnings = ((), ()) if check is None else check()
            except Exception as error:
                log.warning("health check failed", extra={"error": type(error).__name__})
                missing, warnings = ("health check",), ()
            status, text = (503, f"not ready: {', '.join(missing)}") if missing else (200, "ok")
            if check is None:
                status, text = 404, "not found"
            body = "".join(f"{line}\n" for line in (text, *(f"warning: {one}" for one in warnings))).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing: probes arrive every few seconds."""

    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host or "127.0.0.1", int(port)), Handler)
    threading.Thread(target=server.serve_forever, name="rindle-health", daemon=True).start()
    return server


def _freeze_gc() -> None:
    """Exclude the modules and mappings that are loaded by now from garbage collection.

    Source: Python "gc", ``gc.freeze``.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD, *gc.get_threshold()[1:])


async def _work(app: str | None, queues: list[str] | None, grace_seconds: float | None) -> None:
    rindle = load_application(app)
    rindle.temporal.use_runtime(_runtime(rindle.settings))
    process = WorkerProcess(rindle, queues=queues, grace_seconds=grace_seconds)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    received: list[int] = []

    def request_stop(number: int, _interrupted: object) -> None:
        # Runs also while the event loop is blocked, so that the time limit counts from the signal.
        if received:
            log.warning("second signal: exiting at once")
            leave(1)
        received.append(number)
        longest = max(process.grace_of(queue) for queue in process.queues)
        watchdog = threading.Timer(longest + _WATCHDOG_SECONDS, leave, args=(1,))
        watchdog.daemon = True
        watchdog.start()
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(stop.set)

    for wanted in (signal.SIGTERM, signal.SIGINT):
        signal.signal(wanted, request_stop)
    health = None
    if rindle.settings.health_address:
        health = _serve_health(rindle.settings.health_address, process, loop)
    _freeze_gc()
    try:
        await process.run(stop)
    finally:
        if health is not None:
            health.shutdown()


@click.command(name="worker")
@click.option("--app", default=None, help="The application as package.module:rindle; RINDLE_APP when left out.")
@click.option("--queues", default=None, help="Task queues to poll, separated by commas; all of them when left out.")
@click.option(
    "--grace",
    "grace_seconds",
    type=click.FloatRange(min=0),
    default=None,
    help=f"Seconds running work may take after SIGTERM; {AV_GRACE_SECONDS:.0f} on the audio and video queue, "
    f"{MAINTENANCE_GRACE_SECONDS:.0f} on that of sweeps and {GRACE_SECONDS:.0f} on the others when left out.",
)
def worker(app: str | None, queues: str | None, grace_seconds: float | None) -> None:
    """Run uploads, builds of variants, purges and sweeps until SIGTERM or SIGINT."""
    configure_logging()
    chosen = None if queues is None else [name.strip() for name in queues.split(",") if name.strip()]
    try:
        asyncio.run(_work(app, chosen, grace_seconds))
    except RindleError as error:
        if trace := traceback_of(error):
            sys.stderr.write(trace)  # readable as it is, which a field of a JSON line is not
        log.error(error.message, extra={"action": "worker_failed", "code": error.code})
        leave(1)
    except Exception as error:
        log.exception("worker failed", extra={"action": "worker_failed", "error": type(error).__name__})
        leave(1)
    leave(0)


def main() -> None:
    """Entry point of ``worker.py``."""
    worker.main(standalone_mode=True)


if __name__ == "__main__":
    main()
