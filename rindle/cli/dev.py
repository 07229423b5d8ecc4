"""``rindle dev``: everything embedded, in one command, until Ctrl-C.

SQLite, local storage, a Temporal dev server, a worker and the application. All state lies below ``RINDLE_HOME``, with
one secret that all parts share. For development and small installations on one machine.
"""

from __future__ import annotations

import ast
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType

import click

from rindle.cli.application import APP_VARIABLE
from rindle.cli.loading import not_found
from rindle.cli.supervisor import UNHEALTHY_SECONDS, Supervisor
from rindle.cli.temporal_server import DEV_SERVER_ARGS, dev_server_environment, ensure_temporal_cli
from rindle.cli.terminal import print_line
from rindle.cli.web import NOT_LOADED
from rindle.errors import Misconfigured, SetupIncomplete
from rindle.extras import require
from rindle.workflows.ids import SEARCH_ATTRIBUTES

HOST = "127.0.0.1"
#: Default ports; another free port is used when one of them is taken.
TEMPORAL_PORT, UI_PORT, WEB_PORT = 7233, 8233, 8000
#: Namespace of the dev server when ``TEMPORAL_NAMESPACE`` names none.
NAMESPACE = "default"
#: Timeout of one health check in seconds, and of one look at an application that is starting.
_HEALTH_SECONDS, _START_LOOK_SECONDS = 5.0, 2.0
#: Connections that wait while the application starts.
_BACKLOG = 128
#: Seconds that the worker's running work may take to finish after Ctrl-C.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports of the parts; ``None`` means the default port, or any free one when that is taken."""

    web: int | None = None
    temporal: int | None = None
    ui: int | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Addresses of the running parts: ``ui`` is ``None`` with an external Temporal, ``web`` without an application."""

    temporal: str
    health: str
    ui: str | None
    web: str | None
    environment: dict[str, str]

    def __repr__(self) -> str:
        # The environment holds the secret.
        return f"Stack(temporal={self.temporal!r}, ui={self.ui!r}, web={self.web!r})"


@click.command()
@click.option(
    "--app", "application", envvar=APP_VARIABLE, required=True, metavar="MODULE:NAME", help="The Rindle object."
)
@click.option(
    "--web",
    envvar="RINDLE_WEB",
    metavar="MODULE:NAME",
    help="The ASGI application; `app` of --app's module if there is one.",
)
@click.option(
    "--home", envvar="RINDLE_HOME", type=click.Path(path_type=Path), default=Path("var/rindle"), show_default=True,
    help="Directory of all state.",
)  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), help=f"Port of the application.  [default: {WEB_PORT}]")
@click.option("--temporal-port", type=click.IntRange(1, 65535), help=f"[default: {TEMPORAL_PORT}]")
@click.option("--ui-port", type=click.IntRange(1, 65535), help=f"Port of Temporal's UI.  [default: {UI_PORT}]")
@click.option(
    "--unhealthy-seconds", type=click.FloatRange(min=0), default=UNHEALTHY_SECONDS, show_default=True,
    help="Seconds a part may be unhealthy before it is restarted; 0 never restarts it (for debuggers).",
)  # fmt: skip
def dev(
    application: str,
    web: str | None,
    home: Path,
    port: int | None,
    temporal_port: int | None,
    ui_port: int | None,
    unhealthy_seconds: float,
) -> None:
    """Run the application, a worker, a Temporal dev server and SQLite until Ctrl-C."""
    supervisor = Supervisor(
        home,
        report=lambda line: click.echo(f"rindle dev: {line}", err=True),
        unhealthy_seconds=unhealthy_seconds,
    )

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        supervisor.request_stop()

    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted, request_stop)
    try:
        with supervisor:
            stack = start(supervisor, application=application, web=web, ports=Ports(port, temporal_port, ui_port))
            _print(stack, supervisor.home)
            supervisor.wait_for_stop_request()
    except KeyboardInterrupt:
        pass  # the block above has stopped all parts
    print_line("rindle dev has stopped.")


def start(supervisor: Supervisor, *, application: str, web: str | None = None, ports: Ports | None = None) -> Stack:
    """Migrate the database, start all parts under ``supervisor``, and return when they are ready.

    The parts are ``temporal`` (not when ``TEMPORAL_ADDRESS`` is set), ``worker`` and ``web`` (when there is one). A
    part is restarted for its own health only: Temporal when it cannot read its namespace, the worker when its event
    loop is blocked, the application when it answers no request at all. A worker that waits for Temporal is healthy.

    Args:
        application: ``module:name`` of the Rindle object, as for ``--app``.
        web: ``module:name`` of the ASGI application; ``app`` of the same module, if it has one, when left out.

    Raises:
        SetupIncomplete: a part does not start, or there is no Temporal CLI.
        Misconfigured: a requested port is taken, or the data was made by another Temporal version.
    """
    requested = ports or Ports()
    home = supervisor.home
    web = web or _web_beside(application)
    if web is not None:
        require("http", "uvicorn")  # before anything is downloaded or started
    environment = _environment(home, application)
    serving = None if web is None else _listening(requested.web, WEB_PORT)
    if serving is not None:
        environment["RINDLE_WEB_URL"] = "http://{}:{}".format(*serving.getsockname())
    embedded = None
    if "TEMPORAL_ADDRESS" not in os.environ:
        environment["TEMPORAL_NAMESPACE"] = os.environ.get("TEMPORAL_NAMESPACE") or NAMESPACE
        embedded = _Temporal(requested)
        environment |= embedded.environment
        _start_temporal(supervisor, embedded, environment["TEMPORAL_NAMESPACE"])
    _migrate(environment)  # while Temporal starts
    if embedded is not None:
        supervisor.wait_ready("temporal")
        environment |= embedded.keep()
    health = environment["RINDLE_HEALTH_ADDRESS"] = f"{HOST}:{_free_port()}"
    worker = ["worker.py"] if Path("worker.py").is_file() else ["-m", "rindle.cli.worker"]
    # Ctrl-C does not wait for a transcode: it is handed back and repeated after the next start.
    command = [sys.executable, *worker, "--grace", f"{_GRACE_SECONDS:g}"]
    supervisor.start_part(
        "worker", command, environment, ready=_answers(health, "/readyz"), healthy=_answers(health, "/livez")
    )
    if web is not None and serving is not None:
        address = environment["RINDLE_WEB_URL"].removeprefix("http://")
        supervisor.start_part(
            "web",
            [sys.executable, "-m", "rindle.cli.web", web, str(serving.fileno())],
            environment,
            # Any status counts: the prefix of its router is not known here, and a 404 needs a running event loop too.
            # Nothing answers before the application has started: until then connections wait.
            ready=_answers(address, "/livez", any_status=True, seconds=_START_LOOK_SECONDS),
            healthy=_answers(address, "/livez", any_status=True),
            hopeless_status=NOT_LOADED,
            listening=serving,
        )
        supervisor.wait_ready("web")
    supervisor.wait_ready("worker")
    return Stack(
        temporal=environment.get("TEMPORAL_ADDRESS", os.environ.get("TEMPORAL_ADDRESS", "")),
        health=f"http://{health}",
        ui=environment.get("RINDLE_TEMPORAL_UI"),
        web=environment.get("RINDLE_WEB_URL"),
        environment=environment,
    )


def _print(stack: Stack, home: Path) -> None:
    print_line(f"RINDLE_HOME  {home}")
    if stack.web:
        print_line(f"Application  {stack.web}")
    if stack.ui:
        print_line(f"Temporal UI  {stack.ui}")
    print_line(f"Temporal     {stack.temporal}")
    print_line(f"Worker       {stack.health}/readyz")
    print_line("Ready. Ctrl-C stops everything.", "green")


# --- shared by the parts --------------------------------------------------------------------------------------------


def _environment(home: Path, application: str) -> dict[str, str]:
    database = os.environ.get("DATABASE_URL") or f"sqlite+aiosqlite:///{home / 'rindle.db'}"
    return {
        APP_VARIABLE: application,
        "RINDLE_HOME": str(home),
        "RINDLE_SECRETS": os.environ.get("RINDLE_SECRETS") or _secret(home / "secret"),
        "DATABASE_URL": database,
        "RINDLE_DATABASE_URL": database,
    }


def _secret(path: Path) -> str:
    """Return the secret of this home; the first start makes it, readable by its owner only."""
    with suppress(FileExistsError):
        # The mode is set at creation: otherwise others could read the file before a chmod.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def _web_beside(application: str) -> str | None:
    """Return ``module:app`` when the module of the Rindle object also defines ``app``; it is parsed, not run.

    A module that cannot be parsed has none: the migration imports it and reports the error.
    """
    module = application.partition(":")[0]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    source = _source_of(module)
    if source is None:
        raise not_found(module)
    try:
        statements = ast.parse(source.read_bytes()).body
    except (SyntaxError, ValueError):
        return None
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "app" for target in targets):
            return f"{module}:app"
    return None


def _source_of(module: str) -> Path | None:
    """Return the file of a module; unlike ``importlib.util.find_spec``, without importing its packages."""
    found: ModuleSpec | None = None
    path: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        found = next((spec for spec in specs if spec is not None), None)
        if found is None:
            return None
        path = found.submodule_search_locations or ()
    origin = (found.origin if found is not None else None) or ""
    return Path(origin) if origin.endswith(".py") else None


def _migrate(environment: dict[str, str]) -> None:
    """Migrate with the application's own engine in a child process; the application is never loaded here."""
    done = subprocess.run(
        [sys.executable, "-m", "rindle.cli", "db", "upgrade"],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        check=False,
    )
    if done.returncode:
        raise SetupIncomplete(
            "the application could not be loaded, or its database not migrated; the lines above show the cause"
        )


# --- Temporal ------------------------------------------------------------------------------------------------------


class _Temporal:
    """The ports of the embedded server.

    Whether a port is free is known for a moment only, and the server opens its ports itself. A start that fails because
    another program was quicker is followed by one on other ports, unless they were requested.
    """

    def __init__(self, requested: Ports) -> None:
        self._requested = requested
        self._is_kept = False
        self.port, self.ui = _port(requested.temporal, TEMPORAL_PORT), _port(requested.ui, UI_PORT)
        # Of the requests that the health check makes.
        self.api = _free_port()

    def arguments(self) -> list[str]:
        """Return the ports as arguments, for each start; other parts must know the address, so it is kept once used."""
        if not self._is_kept:
            self.port = self._again(self._requested.temporal, self.port)
            self.ui = self._again(self._requested.ui, self.ui)
            self.api = self._again(None, self.api)
        return ["--port", str(self.port), "--ui-port", str(self.ui), "--http-port", str(self.api)]

    def keep(self) -> dict[str, str]:
        """Change no port from now on; returns the environment of the other parts."""
        self._is_kept = True
        return self.environment

    @property
    def environment(self) -> dict[str, str]:
        """Address and UI as the other parts read them."""
        return {"TEMPORAL_ADDRESS": f"{HOST}:{self.port}", "RINDLE_TEMPORAL_UI": f"http://{HOST}:{self.ui}"}

    @staticmethod
    def _again(requested: int | None, chosen: int) -> int:
        return chosen if requested is not None or _is_free(chosen) else _free_port()


def _start_temporal(supervisor: Supervisor, ports: _Temporal, namespace: str) -> None:
    program = ensure_temporal_cli(report=lambda line: click.echo(f"rindle dev: {line}", err=True))
    database = supervisor.home / "temporal.db"
    _check_version(program, database)
    attributes = [part for key in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{key.name}=Keyword")]

    # The request of the CLI's "operator namespace describe", without a process for each check. It reads the server's
    # database, so it also fails when only the database is broken, which gRPC's own health check does not notice.
    def is_healthy() -> bool:
        return _answers(f"{HOST}:{ports.api}", f"/api/v1/namespaces/{namespace}")()

    def command() -> list[str]:
        return [
            *(str(program), "server", "start-dev", "--ip", HOST, *ports.arguments(), "--namespace", namespace),
            *("--db-filename", str(database), "--log-level", "error"),
            *DEV_SERVER_ARGS,
            *attributes,
        ]

    supervisor.start_part(
        "temporal",
        command,
        dev_server_environment(),
        ready=lambda: is_healthy() and _is_open(ports.port),
        healthy=is_healthy,
        stop_signal=signal.SIGINT,  # other signals leave its write-ahead log and port behind
    )


def _check_version(program: Path, database: Path) -> None:
    """Refuse data of another Temporal version: the dev server makes its schema once and never migrates it."""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    ours = printed.stdout.strip()
    note = database.with_suffix(".version")
    theirs = note.read_text().strip() if note.is_file() else None
    if database.exists() and theirs is not None and theirs != ours:
        raise Misconfigured(
            f"temporal.db was made by {theirs!r}; {ours!r} cannot read it. To fix: 1. use the other version "
            "(RINDLE_TEMPORAL_CLI); 2. or remove temporal.db* from RINDLE_HOME: this deletes histories, not media or "
            "rows; rindle resume restarts what was running"
        )
    note.write_text(f"{ours}\n")


# --- ports and health ----------------------------------------------------------------------------------------------


def _port(requested: int | None, default: int) -> int:
    if requested is None:
        return default if _is_free(default) else _free_port()
    if not _is_free(requested):
        raise _taken(requested)
    return requested


def _listening(requested: int | None, default: int) -> socket.socket:
    """Return a socket that listens on the requested port, or on the default one, or on any that is free.

    It is open before its process starts, so nobody else can take the port meanwhile.
    """
    for port in [default, 0] if requested is None else [requested]:
        try:
            return socket.create_server((HOST, port), backlog=_BACKLOG)
        except OSError:
            continue
    raise _taken(requested)


def _taken(port: int | None) -> Misconfigured:
    return Misconfigured(f"port {port} is taken; leave the option out to get a free one")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections left by the last run are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_open(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=_HEALTH_SECONDS):
            return True
    except OSError:
        return False


def _answers(
    address: str, path: str, *, any_status: bool = False, seconds: float = _HEALTH_SECONDS
) -> Callable[[], bool]:
    """Return a check of ``http://address/path``: true for status 200, or for any with ``any_status``."""

    def check() -> bool:
        connection = HTTPConnection(address, timeout=seconds)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200 or any_status
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    return check
