"""The test servers themselves: each answers, says which version it is, and is gone afterwards."""

from __future__ import annotations

import os
import socket
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.async_api import async_playwright
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from temporalio import workflow
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError
from temporalio.worker import Worker

from rindle.workflows.ids import SEARCH_ATTRIBUTES
from tests.patience import PATIENCE_MS, PATIENCE_SECONDS
from tests.servers import chromium as browser
from tests.servers import free_port, version_of
from tests.servers.minio import MinioServer
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.temporal import StoppableTemporal, TemporalServer, server_version


@workflow.defn(sandboxed=False)  # the sandbox would import boto3 and Playwright again with this module
class WaitForWord:
    """Waits for one word and returns it."""

    def __init__(self) -> None:
        self._word: str | None = None

    @workflow.signal
    def say(self, word: str) -> None:
        self._word = word

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: self._word is not None)
        return str(self._word)


def test_a_free_port_is_kept_for_the_server_that_names_it() -> None:
    port = free_port()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)

    given: set[int] = set()
    for reuse in (0, 1):
        for _ in range(10):
            with ExitStack() as batch:
                for _ in range(100):
                    taken = batch.enter_context(socket.socket())
                    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                    taken.bind(("127.0.0.1", 0))
                    given.add(taken.getsockname()[1])
    assert port not in given

    with (
        socket.create_server(("127.0.0.1", port)) as server,  # sets SO_REUSEADDR, as all servers do
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client,
    ):
        answering, _ = server.accept()
        with answering:
            answering.sendall(b"here")
        assert client.recv(4) == b"here"


async def test_temporal_answers_with_the_version_of_its_program(temporal_server: TemporalServer) -> None:
    info = await temporal_server.client.workflow_service.get_system_info(GetSystemInfoRequest())

    assert info.server_version == server_version()
    assert temporal_server.client.namespace == temporal_server.namespace
    assert temporal_server.target.startswith("127.0.0.1:")


async def test_temporal_knows_our_search_attributes(temporal_server: TemporalServer) -> None:
    attributes = TypedSearchAttributes([SearchAttributePair(key, "probe") for key in SEARCH_ATTRIBUTES])
    handle = await temporal_server.client.start_workflow(
        WaitForWord.run, id="search-attributes", task_queue="nobody-listens", search_attributes=attributes
    )

    assert (await handle.describe()).typed_search_attributes == attributes
    await handle.terminate()


async def test_workflows_survive_a_temporal_server_that_is_stopped_and_killed(
    stoppable_temporal: StoppableTemporal,
) -> None:
    client = await stoppable_temporal.client()
    await client.start_workflow(WaitForWord.run, id="survivor", task_queue="words")

    await stoppable_temporal.stop()
    assert not stoppable_temporal.is_running
    with pytest.raises((RPCError, RuntimeError)):
        await stoppable_temporal.client()
    await stoppable_temporal.start()
    await stoppable_temporal.kill()
    await stoppable_temporal.restart()

    client = await stoppable_temporal.client()
    async with Worker(client, task_queue="words", workflows=[WaitForWord]):
        handle = client.get_workflow_handle_for(WaitForWord.run, "survivor")
        await handle.signal(WaitForWord.say, "back")
        assert await handle.result() == "back"


def test_postgres_gives_every_test_an_empty_database(postgres_server: PostgresServer) -> None:
    first, second = postgres_server.new_database(), postgres_server.new_database()

    assert first != second
    assert first.startswith("postgresql+psycopg://")
    for url in (first, second):
        postgres_server.drop_database(url)


def test_postgres_leaves_nothing_behind_when_it_ends() -> None:
    with running_postgres() as server:
        home = server.socket_directory
        pid = int((home / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)

    assert not home.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_both_databases_answer_with_their_version(database_url: str) -> None:
    engine = create_async_engine(database_url)
    question = "SELECT sqlite_version()" if engine.dialect.name == "sqlite" else "SHOW server_version"
    async with engine.begin() as connection:
        answer = (await connection.execute(text(question))).scalar_one()
        await connection.execute(text("CREATE TABLE empty_database (id INTEGER)"))
    await engine.dispose()

    assert int(answer.split(".")[0]) >= 3


def test_minio_stores_an_object(minio: MinioServer) -> None:
    bucket = minio.new_bucket()
    with minio.client() as client:
        client.put_object(Bucket=bucket, Key="a", Body=b"bytes")
        stored = client.get_object(Bucket=bucket, Key="a")
        with stored["Body"] as body:
            assert body.read() == b"bytes"

    assert stored["ResponseMetadata"]["HTTPHeaders"]["server"] == "MinIO"
    assert minio.secret_key not in repr(minio)


def test_minio_is_healthy(minio: MinioServer) -> None:
    with urllib.request.urlopen(f"{minio.endpoint_url}/minio/health/live", timeout=PATIENCE_SECONDS) as answer:
        assert answer.status == 200


async def test_chromium_shows_a_page(chromium: Path) -> None:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(
            executable_path=chromium, args=[*browser.ARGUMENTS], timeout=PATIENCE_MS
        )
        page = await opened.new_page()
        await page.set_content("<title>Rindle</title>", timeout=PATIENCE_MS)

        assert await page.title() == "Rindle"
        assert opened.version == version_of(chromium, "--version")
        await opened.close()
