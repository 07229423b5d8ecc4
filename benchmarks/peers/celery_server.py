"""Runs the Celery peer: a Redis of its own, a prefork worker, and rounds of uploads through them.

``python -m benchmarks.peers.celery_server ENGINE WARM_UP UPLOADS ROUNDS`` prints the rounds as JSON. Each peer has its
own process, because Celery keeps connections to its broker.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg
import redis

from benchmarks import machine
from benchmarks.peers import celery_pipeline
from benchmarks.photo import photo
from benchmarks.stack import POLL_SECONDS, running_database
from tests.servers import STARTUP_SECONDS, Unavailable, ending, free_port, postgres

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Peer:
    """The running peer."""

    connection: psycopg.Connection
    media: Path
    pids: dict[str, list[int]]

    def round(self, source: Path, count: int) -> tuple[float, dict[str, float]]:
        """Take ``count`` stored uploads to ready; returns assets per second and CPU milliseconds per asset."""
        ids = [str(uuid.uuid4()) for _ in range(count)]
        for asset_id in ids:
            shutil.copyfile(source, self.media / f"{asset_id}.jpg")
            self.connection.execute(
                "INSERT INTO peer_assets (id, state, key) VALUES (%s, 'uploaded', %s)", [asset_id, f"{asset_id}.jpg"]
            )
        meter = machine.CpuMeter(
            {
                **{name: partial(machine.cpu_seconds, pids) for name, pids in self.pids.items()},
                "the application": partial(machine.own_cpu_seconds, [os.getpid()]),
            }
        )
        began = time.perf_counter()
        for asset_id in ids:
            celery_pipeline.process.delay(asset_id)
        while self._ready(ids) < count:
            time.sleep(POLL_SECONDS)
        return count / (time.perf_counter() - began), meter.per_asset(count)

    def _ready(self, ids: list[str]) -> int:
        counted = self.connection.execute(
            "SELECT count(*) FROM peer_assets WHERE id = ANY(%s) AND state = 'ready'", [ids]
        ).fetchone()
        return 0 if counted is None else int(counted[0])


@contextmanager
def running(database: postgres.PostgresServer, engine: str, *, concurrency: int) -> Iterator[Peer]:
    """Run the peer on ``database`` until the block is left; ``engine`` is the module that opens images.

    Raises:
        Unavailable: there is no Redis, or the peer did not start.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise Unavailable("no Redis server: install it (Debian: apt-get install redis-server)")
    url = database.new_database().replace("postgresql+psycopg://", "postgresql://")
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    home = Path(tempfile.mkdtemp(prefix="rindle-peer-"))
    media = home / "media"
    media.mkdir()
    environment = {
        **os.environ,
        "PEER_DATABASE": url,
        "PEER_BROKER": broker,
        "PEER_MEDIA": str(media),
        "PEER_ENGINE": engine,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery_pipeline", "worker"]
    try:
        with (
            (home / "log").open("wb") as log,
            subprocess.Popen(
                [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            ) as broker_process,
            ending(broker_process),
            psycopg.connect(url, autocommit=True) as connection,
        ):
            connection.execute(celery_pipeline.SCHEMA)
            _wait_for_broker(broker)
            celery_pipeline.app.conf.broker_url = broker
            with (
                subprocess.Popen(
                    [*command, "--concurrency", str(concurrency), "--loglevel", "WARNING"],
                    env=environment,
                    cwd=home,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                ) as worker,
                ending(worker),
            ):
                _wait_for_worker(worker)
                pids = {"the worker processes": [worker.pid], "redis-server": [broker_process.pid]}
                yield Peer(connection, media, pids | {"postgres": machine.children_named("postgres")})
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _wait_for_broker(url: str) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
                return
        except redis.ConnectionError:
            time.sleep(0.05)
    raise Unavailable(f"Redis did not answer within {STARTUP_SECONDS:.0f} s")


def _wait_for_worker(worker: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if worker.poll() is not None:
            raise Unavailable(f"the Celery worker ended with status {worker.returncode}")
        if celery_pipeline.app.control.inspect(timeout=0.5).ping():
            return
    raise Unavailable(f"the Celery worker did not answer within {STARTUP_SECONDS:.0f} s")


async def _measure(engine: str, warm_up: int, uploads: int, rounds: int) -> list[tuple[float, dict[str, float]]]:
    with running_database() as database, running(database, engine, concurrency=machine.cores()) as peer:
        await asyncio.to_thread(peer.round, photo(), warm_up)
        found = []
        for _ in range(rounds):
            await machine.wait_for_quiet()
            found.append(await asyncio.to_thread(peer.round, photo(), uploads))
        return found


if __name__ == "__main__":
    engine, *counts = sys.argv[1:]
    try:
        print(json.dumps(asyncio.run(_measure(engine, *map(int, counts)))))
    except Unavailable as error:
        sys.exit(str(error))
