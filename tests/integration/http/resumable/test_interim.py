"""The routes under a real server: interim responses, and requests that break or meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest

from rindle.http.resumable.interim import InterimProtocol
from tests.integration.http.resumable.conftest import Mount
from tests.live import served
from tests.patience import until
from tests.tus import session_of


class Line:
    """One connection; it keeps every response, also interim ones."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.state = h11.Connection(h11.CLIENT)

    def send(self, *events: h11.Event) -> None:
        for event in events:
            self.writer.write(self.state.send(event) or b"")

    async def response(self) -> h11.InformationalResponse | h11.Response:
        while True:
            event = self.state.next_event()
            if isinstance(event, h11.InformationalResponse | h11.Response):
                return event
            assert event is h11.NEED_DATA
            self.state.receive_data(await self.reader.read(65536))


def named(response: h11.InformationalResponse | h11.Response) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in response.headers}


def creation(size: int, **headers: str) -> h11.Request:
    sent = {"Host": "files.test", "Content-Length": str(size), "Upload-Complete": "?1", **headers}
    return h11.Request(method="POST", target="/files/", headers=list(sent.items()))


VERSION = {"Upload-Draft-Interop-Version": "8"}


@asynccontextmanager
async def line(address: str) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def test_a_104_says_where_to_continue_before_the_bytes_are_sent(mount: Mount) -> None:
    async with served(mount.app, http=InterimProtocol) as address:
        async with line(address) as first:
            first.send(creation(11, **VERSION))
            interim = await first.response()
            first.send(h11.Data(b"hello"))
            await first.writer.drain()
        url = named(interim)["location"]
        offset, _, _ = await mount.state(url)  # the server drops what the routes had not read before the break
        answer = await mount.patch(url, offset, b"hello world"[offset:], complete="?1")

    assert interim.status_code == 104
    assert named(interim)["upload-limit"].startswith("max-size=")
    assert named(interim)["upload-draft-interop-version"] == "8"
    assert answer.status_code == 200
    assert await mount.assembled(session_of(url)) == ("completed", b"hello world")


async def test_an_expectation_is_met_by_a_100_beside_the_104(mount: Mount) -> None:
    async with served(mount.app, http=InterimProtocol) as address, line(address) as connection:
        connection.send(creation(5, Expect="100-continue", **VERSION))
        interim = [(await connection.response()).status_code for _ in range(2)]
        connection.send(h11.Data(b"hello"), h11.EndOfMessage())
        answer = await connection.response()

    assert interim == [104, 100]
    assert (answer.status_code, named(answer)["upload-complete"]) == (200, "?1")


@pytest.mark.parametrize(("http", "headers"), [(InterimProtocol, {}), ("h11", VERSION)])
async def test_no_104_for_other_clients_and_under_other_servers(
    mount: Mount, http: type[InterimProtocol] | str, headers: dict[str, str]
) -> None:
    async with served(mount.app, http=http) as address, line(address) as connection:
        connection.send(creation(5, **headers), h11.Data(b"hello"), h11.EndOfMessage())
        answer = await connection.response()

    assert (answer.status_code, named(answer)["upload-complete"]) == (200, "?1")


async def test_a_newer_request_ends_the_older_one_and_what_arrived_counts(mount: Mount) -> None:
    url = await mount.create(upload_length="11")
    async with served(mount.app, http=InterimProtocol) as address, line(address) as older:
        sent = {
            "Host": "files.test",
            "Content-Type": "application/partial-upload",
            "Content-Length": "11",
            "Upload-Offset": "0",
            "Upload-Complete": "?1",
        }
        older.send(h11.Request(method="PATCH", target=url, headers=list(sent.items())), h11.Data(b"hello"))

        async def holds() -> bool:
            return (await mount.row(url)).lock_owner is not None

        await until(holds, what="the older request to be received")
        offset, is_complete, _ = await mount.state(url)
        refused = await older.response()
        answer = await mount.patch(url, offset, b"hello world"[offset:], complete="?1")

    assert (is_complete, refused.status_code, named(refused)["upload-complete"]) == ("?0", 503, "?0")
    assert answer.status_code == 200
    assert await mount.assembled(session_of(url)) == ("completed", b"hello world")
