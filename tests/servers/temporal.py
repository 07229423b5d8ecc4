"""Temporal dev servers: one shared by the whole run, and one a test may take down and bring back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from unittest.mock import patch

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from rindle.cli.temporal_server import DEV_SERVER_ARGS, dev_server_environment, find_temporal_cli
from rindle.workflows.ids import SEARCH_ATTRIBUTES
from tests.patience import until
from tests.servers import POLL_SECONDS, STARTUP_SECONDS, Unavailable, free_port, version_of

NAMESPACE = "default"
_CONFIG = "--dynamic-config-value"


@dataclass(frozen=True)
class TemporalServer:
    """A running dev server; ``target`` is ``host:port``, ``client`` lives on the session's event loop."""

    target: str
    client: Client
    namespace: str = NAMESPACE


def program() -> Path:
    """Return the Temporal CLI."""
    found = find_temporal_cli()
    if found is None:
        raise Unavailable("no Temporal CLI: run `make setup`, or put `temporal` on PATH")
    return found


def server_version() -> str:
    """Return the version of the server inside the CLI; the CLI's own is 0.0.0 in a build by ``go install``."""
    return version_of(program(), "--version", pattern=r"Server ([\d.]+)")


@asynccontextmanager
async def running_temporal() -> AsyncIterator[TemporalServer]:
    """Run the shared dev server until the block is left."""
    with patch.dict(os.environ, dev_server_environment()):  # the SDK's server inherits ours
        environment = await WorkflowEnvironment.start_local(
            namespace=NAMESPACE,
            data_converter=pydantic_data_converter,
            search_attributes=SEARCH_ATTRIBUTES,
            dev_server_existing_path=str(program()),
            dev_server_startup_timeout=timedelta(seconds=STARTUP_SECONDS),
            dev_server_extra_args=DEV_SERVER_ARGS,
        )
    async with environment:
        client = environment.client
        yield TemporalServer(target=client.service_client.config.target_host, client=client)


class StoppableTemporal:
    """A dev server on one port and one database file that a test stops, kills, suspends and starts again.

    Workflows survive, as they would in production. Nothing runs until :meth:`start`; leaving the ``async with`` block
    stops it.

    Args:
        database: SQLite file of the server; made at the first start.
        config: dynamic configuration beside that of every dev server, values as JSON.
    """

    def __init__(self, database: Path, config: Mapping[str, str] | None = None) -> None:
        self.namespace = NAMESPACE
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self._database = database
        self._config = [part for name, value in (config or {}).items() for part in (_CONFIG, f"{name}={value}")]
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> StoppableTemporal:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.returncode is None

    async def client(self) -> Client:
        """Return a new client, connected."""
        return await Client.connect(self.target, namespace=self.namespace, data_converter=pydantic_data_converter)

    async def start(self) -> None:
        """Start the server and return when its namespace answers. Does nothing while it runs.

        Raises:
            Unavailable: it ended, or did not answer within :data:`STARTUP_SECONDS`.
        """
        if self.is_running:
            return
        attributes = (part for key in SEARCH_ATTRIBUTES for part in ("--search-attribute", f"{key.name}=Keyword"))
        self._process = await asyncio.create_subprocess_exec(
            *(program(), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(self.port), "--headless"),
            *("--namespace", self.namespace, "--db-filename", self._database, "--log-level", "error"),
            *DEV_SERVER_ARGS,
            *self._config,
            *attributes,
            env={**os.environ, **dev_server_environment()},
            stdin=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.wait_for(self._answers(self._process), STARTUP_SECONDS)
        except BaseException as error:
            await self.kill()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"Temporal did not answer within {STARTUP_SECONDS:.0f} s") from error
            raise

    async def stop(self) -> None:
        """Stop the server as Ctrl-C would (SIGINT) and wait until it is gone. Does nothing while it is down."""
        await self._end(signal.SIGINT)

    async def kill(self) -> None:
        """Kill the server without warning (SIGKILL) and wait until it is gone. Does nothing while it is down."""
        await self._end(signal.SIGKILL)

    async def suspend(self) -> None:
        """Stop all threads of the server (SIGSTOP): its connections stay open and nothing answers any more."""
        assert self._process is not None
        pid = self._process.pid
        self._process.send_signal(signal.SIGSTOP)
        await until(lambda: _threads_are_stopped(pid), what="all threads of Temporal to stop")

    def resume(self) -> None:
        """Let a suspended server go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def restart(self) -> None:
        """Stop the server and start it again on the same port and data."""
        await self.stop()
        await self.start()

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # what is suspended hears of SIGINT only when it goes on
        try:
            await asyncio.wait_for(process.wait(), STARTUP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _answers(self, process: asyncio.subprocess.Process) -> None:
        while True:
            try:
                client = await self.client()
                await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=self.namespace))
            except (RPCError, RuntimeError):  # nobody listens yet, or the namespace is still being made
                try:
                    await asyncio.wait_for(process.wait(), POLL_SECONDS)
                except TimeoutError:
                    continue
                raise Unavailable(f"Temporal ended with status {process.returncode} while starting") from None
            else:
                return


def _threads_are_stopped(pid: int) -> bool:
    """Whether a signal has stopped every thread of a process (state ``T``): one that runs stops after the others."""
    try:
        threads = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):  # a thread has ended meanwhile
        return False
    return all(thread.rpartition(")")[2].split()[0] == "T" for thread in threads)


@asynccontextmanager
async def suggesting_temporal(home: Path, *, after: int) -> AsyncIterator[StoppableTemporal]:
    """Run a server of its own that suggests to continue as new after so many events of a history."""
    config = {"limit.historyCount.suggestContinueAsNew": str(after)}
    async with StoppableTemporal(home / "temporal.db", config) as server:
        await server.start()
        yield server
