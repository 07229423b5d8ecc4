"""A stage for whole-pipeline tests: one database, one storage, queues and ids of its own, and workers to start and
kill."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import skimage.data
from PIL import Image
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from temporalio.client import Client

from rindle import MediaAsset, MediaEvent, MediaOutbox, MediaUploadSession, MediaVariant, Rindle, relay
from rindle.bootstrap import WorkerProcess
from rindle.db import migrate
from rindle.db.models import utc_now
from rindle.db.transitions import set_fields
from rindle.errors import ErasurePending, TemporalUnavailable
from rindle.operations import schedules
from rindle.protocols import Storage, StreamingProvider
from rindle.sqlite import WRITE_OPTION
from rindle.states import OutboxState
from rindle.workflows import ids
from tests import application
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port
from tests.servers.minio import MinioServer
from tests.tables import create_tables

T = TypeVar("T")
#: For tests of what only Postgres does or promises: they are collected on that database alone, instead of passing on
#: SQLite without a look.
on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
REPOSITORY = Path(__file__).resolve().parent.parent
#: For stages whose workers are killed: a lost one is noticed after so many seconds. Everywhere else a worker that was
#: merely starved would be taken for a lost one, and its work would be done twice.
NOTICES_LOST_WORKERS = {"RINDLE_HEARTBEAT_SECONDS": "5", "APP_STICKY_SECONDS": "1"}


def photo(path: Path, *, width: int = 800, height: int = 600) -> Path:
    """Write a real photograph (scikit-image's) as JPEG."""
    Image.fromarray(skimage.data.astronaut()).resize((width, height)).save(path, quality=85)
    return path


def on_bucket(minio: MinioServer) -> dict[str, str]:
    """Return the variables of an application whose store is a fresh bucket."""
    return {
        "APP_STORAGE": "s3",
        "APP_BUCKET": minio.new_bucket(),
        "APP_ENDPOINT": minio.endpoint_url,
        "APP_ACCESS_KEY": minio.access_key,
        "APP_SECRET_KEY": minio.secret_key,
    }


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (state ``T`` of ``/proc``)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


class SpawnedWorker:
    """A ``python worker.py`` of its own."""

    def __init__(self, process: asyncio.subprocess.Process, health: str, log: Path) -> None:
        self.process = process
        self.health = health
        self.log = log

    async def ready(self) -> None:
        """Wait until ``/readyz`` answers 200 or the process has ended (a crash point may be passed at once)."""

        async def look() -> bool:
            return self.process.returncode is not None or await status_of(f"{self.health}/readyz") == 200

        await until(look, what=f"worker to be ready; log: {self.tail()}")

    async def wait(self) -> int:
        """Wait for the end and return the exit status (negative: the signal that killed it)."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_SECONDS)

    async def kill(self) -> None:
        """SIGKILL, as if the machine had lost power."""
        if self.process.returncode is None:
            self.process.kill()
        await self.wait()

    async def stop(self) -> int:
        """SIGTERM, and wait for the graceful end."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.wait()

    def tail(self) -> str:
        """Return the last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.is_file() else ""


async def status_of(url: str) -> int | None:
    """Return the HTTP status ``url`` answers with, or ``None``."""

    def get() -> int | None:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    return await asyncio.to_thread(get)


class Stage:
    """One application on its stage; see the fixture ``stage``."""

    def __init__(self, home: Path, database_url: str, target: str, environment: dict[str, str]) -> None:
        self.home = home
        self.prefix = f"t{uuid.uuid4().hex[:10]}"
        self.environment = {
            "APP_HOME": str(home),
            "APP_DATABASE_URL": database_url,
            "TEMPORAL_ADDRESS": target,
            "TEMPORAL_NAMESPACE": "default",
            "RINDLE_APP": "tests.application:make",
            "RINDLE_TASK_QUEUE_PREFIX": self.prefix,
            "RINDLE_WORKFLOW_ID_PREFIX": self.prefix,
            "RINDLE_TMP_DIR": str(home / "tmp"),
            "RINDLE_RENDER_WORKERS": "1",
            "RINDLE_HEARTBEAT_SECONDS": "60",
            "RINDLE_RETRY_INITIAL_SECONDS": "0.2",
            "RINDLE_LATE_PUT_SECONDS": "0",
            "RINDLE_RELAY_POLL_SECONDS": "0.2",
            "RINDLE_RELAY_IDLE_POLL_SECONDS": "0.5",
            "RINDLE_EVENT_POLL_SECONDS": "0.1",
            "RINDLE_EVENT_IDLE_POLL_SECONDS": "0.5",
            "RINDLE_ERASURE_REPORT_SECONDS": str(PATIENCE_SECONDS),
            "RINDLE_SCHEDULES": "false",
            **environment,
        }
        self._workers: list[SpawnedWorker] = []
        self._members: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        self._applications: list[Rindle] = []
        self.rindle: Rindle = None  # type: ignore[assignment]

    # -- the application ------------------------------------------------------------------------------------------

    async def open(self, *, store: Storage | None = None) -> None:
        """Build the application and its tables."""
        os.environ["APP_HOME"] = str(self.home)  # plug-ins that run in this process read it
        self.rindle = self.application(store=store)
        await create_tables(self.engine)

    def application(
        self, *, store: Storage | None = None, providers: Sequence[StreamingProvider] = (), **environment: str
    ) -> Rindle:
        """Return another process's view of the same application."""
        made = application.make({**self.environment, **environment}, store=store, providers=providers)
        self._applications.append(made)
        return made

    def adopt(self, rindle: Rindle) -> Rindle:
        """Close an application made elsewhere together with the stage."""
        self._applications.append(rindle)
        return rindle

    async def close(self) -> None:
        """End every worker and close the application."""
        for plugin in ("processor", "scanner"):
            self.tell(plugin, "")
        for worker in self._workers:
            await worker.kill()
        for stop, task in self._members:
            stop.set()
            await task
        for made in self._applications:
            await made.close()
            disposing = made.database.engine.dispose()
            if inspect.isawaitable(disposing):
                await disposing

    @property
    def storage(self) -> Storage:
        """The application's store."""
        return self.rindle.storages["media"]

    @property
    def engine(self) -> AsyncEngine:
        """The application's engine."""
        engine = self.rindle.database.engine
        assert isinstance(engine, AsyncEngine)
        return engine

    async def stamp(self) -> None:
        """Note that the tables are those of this release, which reports require.

        It belongs before the first worker: on SQLite a busy one can keep others from writing for longer than they wait.
        """
        async with self.engine.begin() as connection:
            await connection.run_sync(migrate.stamp)

    def transaction(self, *, writes: bool = False) -> AsyncSession:
        """Return a session such as the application's own code would use.

        Args:
            writes: take SQLite's write lock when it begins, as code does that reads and writes beside a worker.
        """
        return AsyncSession(self.engine.execution_options(**{WRITE_OPTION: writes}), expire_on_commit=False)

    # -- workers --------------------------------------------------------------------------------------------------

    async def worker(self, *arguments: str, wait: bool = True, **environment: str) -> SpawnedWorker:
        """Start ``python worker.py`` and wait until it polls."""
        port = free_port()
        log = self.home / f"worker-{len(self._workers)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "worker.py",
                *arguments,
                cwd=REPOSITORY,
                env={
                    **os.environ,
                    **self.environment,
                    "RINDLE_HEALTH_ADDRESS": f"127.0.0.1:{port}",
                    **environment,
                },
                stdout=output,
                stderr=output,
            )
        worker = SpawnedWorker(process, f"http://127.0.0.1:{port}", log)
        self._workers.append(worker)
        if wait:
            await worker.ready()
        return worker

    async def killed(self, point: str, *command: str, **environment: str) -> None:
        """Run ``python -m command`` on this application until the crash point kills it."""
        visited = self.home / "visited"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command),
            cwd=REPOSITORY,
            env={
                **os.environ,
                **self.environment,
                "RINDLE_CRASH_AT": point,
                "RINDLE_CRASH_LOG": str(visited),
                **environment,
            },
        )
        assert await process.wait() == -signal.SIGKILL
        assert visited.read_text() == f"{point}\n"

    async def member(self, rindle: Rindle | None = None, **options: Any) -> WorkerProcess:
        """Run a fleet member inside the test's process: quicker, for tests that kill nothing."""
        member = WorkerProcess(rindle or self.rindle, grace_seconds=5, **options)
        stop = asyncio.Event()
        task = asyncio.create_task(member.run(stop))
        self._members.append((stop, task))

        async def polling() -> bool:
            if task.done():
                await task
            return member.is_polling

        await until(polling, what="the fleet member to poll")
        return member

    @asynccontextmanager
    async def working(self, **environment: str) -> AsyncIterator[None]:
        """Run a fleet member of its own until the block is left, for what a test only prepares."""
        await self.member(self.application(**environment))
        stop, task = self._members[-1]
        try:
            yield
        finally:
            stop.set()
            await task

    async def asked_to_erase(self, owner: tuple[str, str], operation_id: str) -> ErasurePending:
        """Ask for an erasure while no worker runs, until Temporal has accepted it; returns what the caller is told."""
        impatient = self.application(RINDLE_ERASURE_REPORT_SECONDS="1")

        async def accepted() -> ErasurePending | None:
            try:
                await impatient.erase_owner(owner, operation_id=operation_id)
            except TemporalUnavailable:  # a busy server needs longer, and the request was withdrawn
                return None
            except ErasurePending as pending:
                return pending
            raise AssertionError("somebody has answered")

        pending = await until(accepted, what="Temporal to accept the erasure")
        assert pending is not None
        return pending

    def tell(self, name: str, content: str) -> None:
        """Tell the plug-ins of all processes something; see ``tests/application.py``."""
        (self.home / name).write_text(content)

    # -- steps ----------------------------------------------------------------------------------------------------

    async def put(self, session_id: str, body: bytes | Path) -> None:
        """Send bytes to a session's key as its signed URL would."""
        session = await self.rindle.upload_session(session_id)
        source = self.home / f"body-{uuid.uuid4().hex}"
        source.write_bytes(body if isinstance(body, bytes) else body.read_bytes())
        await self.storage.store(session.upload_key, source)

    async def sent(
        self, profile: str = "avatar", body: bytes | Path | None = None, **options: Any
    ) -> MediaUploadSession:
        """Initiate, sign and send an upload; it is not verified yet.

        Its ticket expires at once, because a purge waits for that; the bytes go to the store itself.
        """
        options.setdefault("filename", "me.jpg")
        session = await self.rindle.initiate_upload(profile, **options)
        await self.rindle.sign_url(session.id, expires_in=1)
        await self.put(session.id, body or photo(self.home / "photo.jpg"))
        return session

    async def let_tickets_expire(self, session_id: str, *, hours: float = 0) -> None:
        """Set the clock of a session: its row says that the last ticket expired so many hours ago.

        A ticket with a negative number is still valid so long.
        """

        await self._set_session(session_id, url_expires_at=utc_now() - timedelta(hours=hours))

    async def let_session_expire(self, session_id: str) -> None:
        """Set the clock of a session: its row says that it expires now."""
        await self._set_session(session_id, expires_at=utc_now())

    async def _set_session(self, session_id: str, **values: Any) -> None:
        def change(session: Session) -> None:
            set_fields(session, session.get_one(MediaUploadSession, session_id), **values)

        await self.rindle.database.write(change)

    async def make_due(self) -> None:
        """Set the clock of the outbox: what waits for its time, such as a purge after its delay, is due now."""

        def due(session: Session) -> None:
            waiting = update(MediaOutbox).where(MediaOutbox.state == OutboxState.PENDING)
            session.execute(waiting.values(available_at=utc_now()))

        await self.rindle.database.write(due)

    async def verified(self, profile: str = "avatar", body: bytes | Path | None = None, **options: Any) -> MediaAsset:
        """Send an upload and verify it."""
        session = await self.sent(profile, body, **options)
        return (await self.rindle.verify_completion(session.id)).asset

    async def ready(self, profile: str = "avatar", body: bytes | Path | None = None, **options: Any) -> MediaAsset:
        """Send an upload, verify it and wait until it has come to rest."""
        asset = await self.verified(profile, body, **options)
        return await self.settled(asset.id)

    async def settled(self, asset_id: str) -> MediaAsset:
        """Wait until the asset has come to rest."""
        return await self.rindle.settled(asset_id, timeout=PATIENCE_SECONDS)

    async def gone(self, asset_id: str) -> None:
        """Wait until the asset's rows are gone."""

        async def look() -> bool:
            return await self.read(lambda session: session.get(MediaAsset, asset_id)) is None

        await until(look, what=f"asset {asset_id} to be purged")

    async def state(self, asset_id: str, *states: str) -> MediaAsset:
        """Wait until the asset is in one of ``states``."""

        async def look() -> MediaAsset | None:
            asset = await self.rindle.asset(asset_id)
            return asset if asset.state in states else None

        found = await until(look, what=f"asset {asset_id} to be {states}")
        assert found is not None
        return found

    async def variant(self, asset_id: str, name: str, *states: str) -> MediaVariant:
        """Wait until a variant is in one of ``states`` (any when left out)."""

        async def look() -> MediaVariant | None:
            for row in (await self.rindle.asset(asset_id)).variants:
                if row.name == name and (not states or row.state in states):
                    return row
            return None

        found = await until(look, what=f"variant {name} to be {states}")
        assert found is not None
        return found

    # -- looking --------------------------------------------------------------------------------------------------

    async def read(self, look: Callable[[Session], T]) -> T:
        """Run a read on the database."""
        return await self.rindle.database.read(look)

    async def session(self, session_id: str) -> MediaUploadSession:
        """Return an upload session as it is now."""
        return await self.rindle.upload_session(session_id)

    async def events(self, asset_id: str, event_type: str | None = None) -> list[MediaEvent]:
        """Return the asset's events, oldest first."""
        found = await self.rindle.timeline(asset_id)
        return [event for event in found if event_type in (None, event.type)]

    async def outbox(self) -> list[MediaOutbox]:
        """Return all outbox rows."""
        return await self.read(lambda session: list(session.scalars(select(MediaOutbox).order_by(MediaOutbox.id))))

    async def keys(self) -> set[str]:
        """Return every key in the store."""
        return {found.key for found in (await self.storage.list_keys("")).objects}

    async def client(self) -> Client:
        """Return the Temporal client; a busy server may need several attempts to connect."""

        async def connected() -> Client | None:
            try:
                return await self.rindle.temporal.client()
            except TemporalUnavailable:
                return None

        found = await until(connected, what="Temporal to accept a connection")
        assert found is not None
        return found

    def upload_workflow(self, session_id: str) -> str:
        """Return the id of a session's workflow."""
        return ids.upload_id(session_id, prefix=self.prefix)

    def variants_workflow(self, asset_id: str, group: str = "images") -> str:
        """Return the id of a group's workflow."""
        return ids.variants_id(asset_id, group, prefix=self.prefix)


def wait_for_temporal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let applications that are made from now on, here and by commands, wait for a busy Temporal server.

    A relay that has waited for ten seconds sends its rows again, and then a workflow may run twice. Production needs
    these limits, and so do tests of a server that is away without refusing connections.
    """
    monkeypatch.setattr(relay, "_RPC_SECONDS", timedelta(seconds=PATIENCE_SECONDS))
    monkeypatch.setattr(schedules, "_RPC_SECONDS", timedelta(seconds=PATIENCE_SECONDS))
    monkeypatch.setattr(application, "CONNECT_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setenv("APP_CONNECT_SECONDS", str(PATIENCE_SECONDS))


@asynccontextmanager
async def staged(
    home: Path,
    database_url: str,
    target: str,
    environment: dict[str, str] | None = None,
    *,
    store: Storage | None = None,
) -> AsyncIterator[Stage]:
    """Open a stage and close it whatever happens."""
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    stage = Stage(home, database_url, target, environment or {})
    await stage.open(store=store)
    try:
        yield stage
    finally:
        await stage.close()
