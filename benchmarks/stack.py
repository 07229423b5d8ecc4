"""The whole system on this machine: Postgres, a Temporal dev server, worker processes, and this process as the driver.

The servers are those of the test suite. Postgres keeps its durable defaults here: a benchmark that does not wait for
the disk would flatter both sides.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import psutil
import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from benchmarks import application
from rindle import Rindle, TemporalConnection
from rindle.db import migrate
from rindle.db.models import MediaUploadSession
from tests.servers import STARTUP_SECONDS, ending, free_port, gcs, minio, postgres
from tests.servers.temporal import running_temporal

ROOT = Path(__file__).resolve().parent.parent
#: What the tests switch off and a benchmark of durable work must not.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
#: Seconds between two looks at whether everything is ready, here and by the peer.
POLL_SECONDS = 0.1
#: Granian speaks RSGI with applications that do not ask for anything else.
_SERVER_OPTIONS = {
    "uvicorn": ("--log-level", "warning"),
    "granian": ("--interface", "asgi", "--workers", "1", "--log-level", "warning"),
}
_ENDED = """
SELECT state, count(*) FROM media_assets
WHERE id = ANY(%s::uuid[]) AND state IN ('ready', 'degraded', 'quarantined') GROUP BY state
"""


@dataclass
class Stack:
    """What is running. ``rindle`` is the application in this process; workers are processes of their own."""

    home: Path
    database_url: str
    temporal_target: str
    client: Client
    rindle: Rindle
    base_url: str
    server_pids: list[int]
    buckets: dict[str, str] = field(default_factory=dict, repr=False)
    worker_pids: list[int] = field(default_factory=list)

    @property
    def plain_database_url(self) -> str:
        """URL of the database for a connection of psycopg."""
        return self.database_url.replace("postgresql+psycopg://", "postgresql://")

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a process that runs the application."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(("RINDLE_", "TEMPORAL_"))},
            "BENCH_DATABASE_URL": self.database_url,
            "BENCH_HOME": str(self.home),
            "BENCH_BASE_URL": self.base_url,
            "TEMPORAL_ADDRESS": self.temporal_target,
            "RINDLE_TMP_DIR": str(self.home / "tmp"),
            "PYTHONPATH": str(ROOT),
            **self.buckets,
        }

    @contextmanager
    def worker(self, **settings: str) -> Iterator[int]:
        """Run one worker process while the block runs; ``settings`` are further environment variables."""
        health = f"127.0.0.1:{free_port()}"
        environment = {**self.environment, "RINDLE_HEALTH_ADDRESS": health, **settings}
        command = [sys.executable, ROOT / "worker.py", "--app", "benchmarks.application:rindle", "--grace", "5"]
        with (
            (self.home / "worker.log").open("ab") as log,
            subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log) as process,
            ending(process),
        ):
            _wait_until_ok(f"http://{health}/readyz", process)
            self.worker_pids.append(process.pid)
            try:
                yield process.pid
            finally:
                self.worker_pids.remove(process.pid)

    @contextmanager
    def web(self, server: str = "uvicorn", *, port: int | None = None, **settings: str) -> Iterator[int]:
        """Run the application's web server (:mod:`benchmarks.web`) while the block runs.

        Args:
            server: ``uvicorn`` or ``granian``, one process that works.
            port: where it listens; by default that of ``base_url``.
            settings: further environment variables.
        """
        at = int(self.base_url.rpartition(":")[2].partition("/")[0]) if port is None else port
        command = [sys.executable, "-m", server, "--factory", "benchmarks.web:create_app", *_SERVER_OPTIONS[server]]
        with (
            (self.home / "web.log").open("ab") as log,
            subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(at), "--no-access-log"],
                env={**self.environment, **settings},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as process,
            ending(process),
        ):
            _wait_until_ok(f"http://127.0.0.1:{at}/up", process)
            yield process.pid

    async def prepare(self, count: int, source: Path, profile: str = "photo") -> list[MediaUploadSession]:
        """Open and sign ``count`` uploads and put ``source`` into the store under their keys."""
        size = source.stat().st_size
        storage = self.rindle.storages["local"]
        uploads = []
        for _ in range(count):
            opened = await self.rindle.initiate_upload(profile, filename=source.name, size=size, actor="bench")
            signed = await self.rindle.sign_url(opened.id)
            await storage.store(signed.session.upload_key, source)
            uploads.append(signed.session)
        return uploads

    async def wait_until(self, asset_ids: Sequence[str], *, timeout_seconds: float = 300.0) -> None:
        """Return when all assets are ready.

        Looks with one plain statement of its own, as the peer does: the looking must not be what is measured.

        Raises:
            RuntimeError: they are not in time, or one has come to a bad end.
        """
        deadline = time.monotonic() + timeout_seconds
        async with await psycopg.AsyncConnection.connect(self.plain_database_url, autocommit=True) as connection:
            while True:
                answer = await connection.execute(_ENDED, [list(asset_ids)])
                counts = dict(await answer.fetchall())
                if counts.get("ready", 0) == len(asset_ids):
                    return
                if counts.keys() - {"ready"}:
                    raise RuntimeError("an asset of the benchmark failed; see the worker's log")
                if time.monotonic() > deadline:
                    raise RuntimeError("the assets of the benchmark are not ready in time")
                await asyncio.sleep(POLL_SECONDS)


@contextmanager
def running_database() -> Iterator[postgres.PostgresServer]:
    """Run a Postgres that keeps its promises, until the block is left."""
    with patch.dict(postgres.SETTINGS, DURABLE), postgres.running_postgres() as server:
        yield server


@asynccontextmanager
async def running_stack(
    *, relay: bool = True, with_bucket: bool = False, with_gcs: bool = False
) -> AsyncIterator[Stack]:
    """Run the servers and the application; workers are started by the caller.

    Args:
        relay: dispatch from this process too, as an application does.
        with_bucket: run MinIO as well, with a bucket for the profiles ``bucket_photo`` and ``bucket_archive``.
        with_gcs: run fake-gcs-server as well, with a bucket for the profile ``gcs_photo``.

    Raises:
        Unavailable: one of the servers is not installed.
    """
    mine = psutil.Process()
    with ExitStack() as files:
        home = Path(tempfile.mkdtemp(prefix="rindle-bench-"))
        files.callback(shutil.rmtree, home, ignore_errors=True)
        others = {child.pid for child in mine.children()}
        server = files.enter_context(running_database())
        async with AsyncExitStack() as stack:
            temporal = await stack.enter_async_context(running_temporal())
            servers = [child.pid for child in mine.children() if child.pid not in others]
            base_url = f"http://127.0.0.1:{free_port()}/local"
            url = server.new_database()
            buckets = (_bucket(files, home) if with_bucket else {}) | (_gcs(files, home) if with_gcs else {})
            rindle = application.make(
                database_url=url,
                home=home,
                base_url=base_url,
                environment=buckets,
                temporal=TemporalConnection(client=temporal.client),
            )
            stack.push_async_callback(rindle.database.engine.dispose)
            assert isinstance(rindle.database.engine, AsyncEngine)
            await migrate.async_upgrade(rindle.database.engine)
            stack.push_async_callback(rindle.close)
            if relay:
                await stack.enter_async_context(rindle)
            yield Stack(home, url, temporal.target, temporal.client, rindle, base_url, servers, buckets)


def _bucket(files: ExitStack, home: Path) -> dict[str, str]:
    """Run MinIO until ``files`` is closed and return a new bucket as variables of the application."""
    (home / "minio").mkdir()
    server = files.enter_context(minio.running_minio(home / "minio"))
    return {
        "BENCH_ENDPOINT": server.endpoint_url,
        "BENCH_BUCKET": server.new_bucket(),
        "BENCH_ACCESS_KEY": server.access_key,
        "BENCH_SECRET_KEY": server.secret_key,
    }


def _gcs(files: ExitStack, home: Path) -> dict[str, str]:
    """Run fake-gcs-server until ``files`` is closed and return a new bucket as variables of the application."""
    (home / "gcs" / "objects").mkdir(parents=True)
    server = files.enter_context(gcs.running_fake_gcs(home / "gcs", objects=home / "gcs" / "objects"))
    return {"BENCH_GCS_HOST": server.address, "BENCH_GCS_BUCKET": server.new_bucket()}


def _wait_until_ok(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None:
                raise RuntimeError(f"a process of the benchmark ended with status {process.returncode}") from None
            time.sleep(0.1)
    raise RuntimeError(f"a process of the benchmark did not answer within {STARTUP_SECONDS:.0f} s")
