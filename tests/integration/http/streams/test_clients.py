"""Clients that many use send a file over a line that breaks, to two web processes, and a worker makes the asset."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import select
from tusclient.client import TusClient
from tusclient.uploader import Uploader

from rindle import MediaUploadSession
from rindle.protocols import MultipartUploads, Storage
from tests.integration.http.resumable.conftest import PARTIAL, digest
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port, npm
from tests.servers.curl import Answer, Curl
from tests.servers.cutting import CuttingProxy
from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer
from tests.stage import REPOSITORY, Stage, on_bucket, staged, status_of
from tests.tus import BYTES, encoded, session_of

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that cannot be compressed: over two parts of 8 MiB."""
    path = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.frombytes("RGB", (2600, 2400), os.urandom(2600 * 2400 * 3)).save(path, compress_level=0)
    return path


@pytest.fixture(scope="module", params=["local", pytest.param("s3", marks=pytest.mark.external)])
async def tus_stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, temporal_server: TemporalServer
) -> AsyncIterator[Stage]:
    """A stage whose worker runs, on each store in turn; every upload of a test ends before the next test."""
    environment, home = {}, tmp_path_factory.mktemp("tus")
    if request.param == "s3":
        server: MinioServer = request.getfixturevalue("minio")
        environment = on_bucket(server)
    url = f"sqlite+aiosqlite:///{home}/stage.db"
    async with staged(home, url, temporal_server.target, environment) as ready:
        await ready.member()
        yield ready


class WebProcess:
    """A web process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port = process, port

    async def kill(self) -> None:
        """SIGKILL."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def resident_bytes(self) -> int:
        """Return the most memory that the process has used so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024


@asynccontextmanager
async def web_process(stage: Stage) -> AsyncIterator[WebProcess]:
    port = free_port()
    with (stage.home / f"web-{port}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "tests.tus_site:app", "--port", str(port), "--no-access-log"),
            cwd=REPOSITORY,
            env={**os.environ, **stage.environment},
            stdout=log,
            stderr=log,
        )
    web = WebProcess(process, port)
    try:

        async def serves() -> bool:
            assert process.returncode is None
            return await status_of(f"http://127.0.0.1:{port}/") == httpx.codes.OK

        await until(serves, what="the web process to serve")
        yield web
    finally:
        await web.kill()


@pytest.fixture(scope="module")
async def web_ports(tus_stage: Stage) -> AsyncIterator[list[int]]:
    """The ports of two web processes."""
    async with AsyncExitStack() as stack:
        webs = [await stack.enter_async_context(web_process(tus_stage)) for _ in range(2)]
        yield [web.port for web in webs]


@pytest.fixture
async def proxy(web_ports: list[int]) -> AsyncIterator[CuttingProxy]:
    """Breaks every connection to the web processes after 1 to 4 MiB."""
    async with CuttingProxy(web_ports, fewest=1 * MIB, most=4 * MIB) as running:
        yield running


@contextmanager
def uploader_of(port: int, path: Path, chunk_size: int) -> Iterator[Uploader]:
    """Yield a client that tries again whatever happens; its metadata names the file."""
    client = TusClient(f"http://127.0.0.1:{port}/files/")
    with path.open("rb") as file:  # by a path, it would open the file for every request and close none
        yield client.uploader(
            file_stream=file, chunk_size=chunk_size, retries=400, retry_delay=0.2, metadata={"filename": path.name}
        )


async def digest_of(stage: Stage, url: str) -> str:
    """Wait until an upload has become a ready asset; returns the SHA-256 of its object."""

    async def completed() -> bool:
        return (await stage.session(session_of(url))).state == "completed"

    await until(completed, what="the upload to be verified")
    session = await stage.session(session_of(url))
    assert (await stage.settled(str(session.asset_id))).state == "ready"
    found = await stage.storage.download(session.upload_key, stage.home / "downloaded")
    return hashlib.sha256(await asyncio.to_thread(found.read_bytes)).hexdigest()


async def everything_else_is_gone(stage: Stage, url: str) -> bool:
    """Whether the store has the objects of this and earlier uploads and nothing else, neither parts nor tails."""
    rows = await stage.read(lambda session: list(session.scalars(select(MediaUploadSession))))
    made = {row.id: row.upload_key for row in rows if row.state == "completed"}
    if session_of(url) not in made or await stage.keys() != set(made.values()):
        return False
    if "APP_BUCKET" not in stage.environment:
        return not any(path.is_file() for path in (stage.home / "media" / ".rindle" / "tus").rglob("*"))
    bucket = stage.environment["APP_BUCKET"]
    with MinioServer.of(stage.environment).client() as client:
        found = await asyncio.to_thread(client.list_objects_v2, Bucket=bucket, Prefix=".rindle/")
    assert isinstance(stage.storage, MultipartUploads)
    unfinished = [await stage.storage.list_multipart_uploads(row.upload_key) for row in rows]
    return found["KeyCount"] == 0 and not any(unfinished)


@pytest.mark.parametrize("chunk_size", [sys.maxsize, 3 * MIB], ids=["whole", "in pieces"])
async def test_tuspy_sends_a_file_over_a_line_that_breaks(
    tus_stage: Stage, proxy: CuttingProxy, picture: Path, chunk_size: int
) -> None:
    with uploader_of(proxy.port, picture, min(chunk_size, picture.stat().st_size)) as uploader:
        await asyncio.to_thread(uploader.upload)

    assert proxy.cuts > 0
    assert uploader.offset == picture.stat().st_size
    assert await digest_of(tus_stage, str(uploader.url)) == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert await everything_else_is_gone(tus_stage, str(uploader.url))


#: Sends a file with tus-js-client.
SEND = Path(__file__).with_name("send.mjs")
OPTIONS: Mapping[str, dict[str, Any]] = {
    "whole": {},
    # A creation that breaks is repeated as another upload: its bytes have to fit before the first break.
    "with its creation": {"uploadDataDuringCreation": True, "chunkSize": MIB // 2},
    "three parts at a time": {"parallelUploads": 3},
    "of a length that is known at the end": {"uploadLengthDeferred": True, "chunkSize": 5 * MIB},
    "by other methods": {"overridePatchMethod": True, "chunkSize": 5 * MIB},
}


# Beside tus it speaks iteration 6 of the draft of the IETF, whose requests are those of iteration 8.
WAYS = [pytest.param("files", options, id=name) for name, options in OPTIONS.items()]
WAYS += [pytest.param("resumable", {"protocol": "ietf-draft-05", "chunkSize": 5 * MIB}, id="by the draft of the IETF")]


async def sent_by_tus_js(
    npm_script: Callable[[str, str], Path], endpoint: str, path: Path, options: Mapping[str, Any]
) -> str:
    """Send a file with the client; returns the URL of the upload."""
    client = await asyncio.create_subprocess_exec(
        *(npm.node(), SEND, npm_script("tus-js-client", "package.json"), endpoint, path, json.dumps(options)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        told, wrong = await asyncio.wait_for(client.communicate(), PATIENCE_SECONDS)
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    assert client.returncode == 0, wrong.decode()
    return told.decode().strip()


@pytest.mark.external
@pytest.mark.parametrize(("mount", "options"), WAYS)
async def test_tus_js_client_sends_a_file_over_a_line_that_breaks(
    tus_stage: Stage,
    proxy: CuttingProxy,
    picture: Path,
    npm_script: Callable[[str, str], Path],
    mount: str,
    options: dict[str, Any],
) -> None:
    url = await sent_by_tus_js(npm_script, f"http://127.0.0.1:{proxy.port}/{mount}/", picture, options)

    assert proxy.cuts > 0
    assert await digest_of(tus_stage, url) == hashlib.sha256(picture.read_bytes()).hexdigest()

    async def only_the_object_is_left() -> bool:  # the parts of a joined upload are removed by their own workflows
        return await everything_else_is_gone(tus_stage, url)

    await until(only_the_object_is_left, what="the rest of the upload to be removed")


#: How the client speaks the protocol of each strategy.
STRATEGIES: Mapping[str, dict[str, Any]] = {
    "tus": {},
    "ietf": {"protocol": "ietf-draft-05", "chunkSize": 5 * MIB},
}


@pytest.mark.external
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_tus_js_client_sends_a_file_to_the_address_of_an_upload_session(
    tus_stage: Stage, proxy: CuttingProxy, picture: Path, npm_script: Callable[[str, str], Path], strategy: str
) -> None:
    site, wanted = f"http://127.0.0.1:{proxy.port}", {"profile": "plain", "filename": picture.name}
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False, headers={"X-Rindle": "1"}) as browser:
        opened = await browser.post(
            f"{site}/uploads", json={**wanted, "size": picture.stat().st_size, "strategy": strategy}
        )
        assert opened.status_code == 201, opened.text
        session_id = opened.json()["session"]["id"]
        reloaded = await browser.get(f"{site}/uploads/{session_id}")
    url = f"{site}{reloaded.json()[strategy]['upload_url']}"

    told = await sent_by_tus_js(npm_script, f"{site}/nowhere/", picture, {**STRATEGIES[strategy], "uploadUrl": url})

    assert proxy.cuts > 0
    assert (told, session_of(url)) == (url, session_id)
    assert await digest_of(tus_stage, url) == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert await everything_else_is_gone(tus_stage, url)


async def test_an_upload_outlives_the_process_that_receives_it(
    tus_stage: Stage, web_ports: list[int], picture: Path
) -> None:
    body = picture.read_bytes()
    async with AsyncExitStack() as stack:
        first, second_port = await stack.enter_async_context(web_process(tus_stage)), web_ports[0]
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False))
        made = await client.post(
            f"http://127.0.0.1:{first.port}/files/",
            headers={
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(len(body)),
                "Upload-Metadata": encoded(filename="noise.png"),
            },
        )
        path = made.headers["location"]

        async def half() -> AsyncIterator[bytes]:
            for start in range(0, len(body) // 2, MIB):
                yield body[start : start + MIB]
            await first.kill()

        with pytest.raises(httpx.TransportError):
            await client.patch(
                f"http://127.0.0.1:{first.port}{path}",
                headers={"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": BYTES},
                content=half(),
            )
        uploader = stack.enter_context(uploader_of(second_port, picture, len(body)))
        uploader.set_url(f"http://127.0.0.1:{second_port}{path}")

        async def is_free() -> bool:  # the lease of the killed process has to end
            answer = await client.head(str(uploader.url), headers={"Tus-Resumable": "1.0.0"})
            return answer.status_code == httpx.codes.NO_CONTENT

        await until(is_free, what="the second process to take the upload over")
        uploader.offset = uploader.get_offset()
        await asyncio.to_thread(uploader.upload)

    assert await digest_of(tus_stage, path) == hashlib.sha256(body).hexdigest()
    assert await everything_else_is_gone(tus_stage, path)


# --- curl, by the draft of the IETF -----------------------------------------------------------------------------------

APPEND = ("--header", f"Content-Type: {PARTIAL}")


async def created(curl: Curl, port: int, picture: Path, *fields: str) -> str:
    """Create an upload without content, as curl would; returns its path."""
    named = f'Content-Disposition: inline; filename="{picture.name}"'
    fields = ("Upload-Complete: ?0", f"Upload-Length: {picture.stat().st_size}", named, *fields)
    headers = [part for one in fields for part in ("--header", one)]
    answer = await curl("--request", "POST", *headers, f"http://127.0.0.1:{port}/resumable/")
    assert answer.status == httpx.codes.CREATED
    return answer.headers["location"]


async def continued(curl: Curl, port: int, path: str, picture: Path) -> Answer:
    """Send a file, and after each break what the server does not have, until it answers about the whole file."""
    url, offset = f"http://127.0.0.1:{port}{path}", 0
    while True:
        where = ("--header", f"Upload-Offset: {offset}", "--header", "Upload-Complete: ?1")
        rest = ("--upload-file", picture, *(("--continue-at", str(offset)) if offset else ()))
        body = rest if offset < picture.stat().st_size else ()
        answer = await curl("--request", "PATCH", *body, *APPEND, *where, url)
        if answer.headers.get("upload-complete") == "?1":
            return answer
        assert answer.status in (None, httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE)
        offset = await offset_of(curl, url)


async def offset_of(curl: Curl, url: str) -> int:
    """Return the offset of an upload when no request holds it any more."""

    async def free() -> Answer | None:
        answer = await curl("--head", url)
        return answer if answer.status == httpx.codes.NO_CONTENT else None

    answer = await until(free, what="the upload to be free")
    assert answer is not None
    return int(answer.headers["upload-offset"])


async def test_curl_sends_a_file_over_a_line_that_breaks(
    tus_stage: Stage, proxy: CuttingProxy, picture: Path, curl: Curl
) -> None:
    whole = digest(picture.read_bytes())
    path = await created(curl, proxy.port, picture, f"Repr-Digest: {whole}")

    answer = await continued(curl, proxy.port, path, picture)

    assert answer.status == httpx.codes.OK
    assert proxy.cuts > 0
    assert await digest_of(tus_stage, path) == hashlib.sha256(picture.read_bytes()).hexdigest()
    found = await curl("--head", f"http://127.0.0.1:{proxy.port}{path}")
    assert (found.headers["upload-complete"], found.headers["repr-digest"]) == ("?1", whole)
    assert await everything_else_is_gone(tus_stage, path)


async def test_a_file_that_is_not_what_curl_announced_is_refused_and_removed(
    tus_stage: Stage, web_ports: list[int], picture: Path, curl: Curl
) -> None:
    path = await created(curl, web_ports[0], picture, f"Repr-Digest: {digest(b'another file')}")
    where = ("--header", "Upload-Offset: 0", "--header", "Upload-Complete: ?1")
    await curl(
        *("--request", "PATCH", "--data-binary", f"@{picture}"),
        *APPEND,
        *where,
        f"http://127.0.0.1:{web_ports[1]}{path}",
    )

    async def removed() -> bool:
        row = await tus_stage.session(session_of(path))
        return row.backing_released_at is not None

    await until(removed, what="the object to be removed")
    row = await tus_stage.session(session_of(path))
    asset = await tus_stage.rindle.asset(str(row.asset_id))
    assert (row.state, row.error_code, asset.state) == ("failed", "digest_mismatch", "quarantined")
    assert row.upload_key not in await tus_stage.keys()
    answer = await continued(curl, web_ports[0], path, picture)
    assert (answer.status, json.loads(answer.body)["code"]) == (400, "digest_mismatch")


async def test_the_digest_of_a_file_costs_no_second_transfer(
    tus_stage: Stage, web_ports: list[int], picture: Path, curl: Curl, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, transferred = type(tus_stage.storage), []

    async def noted(self: Storage, key: str, to: Path, **options: Any) -> Path:
        transferred.append(key)
        return await download(self, key, to, **options)

    download = store.download
    monkeypatch.setattr(store, "download", noted)
    path = await created(curl, web_ports[0], picture, "Want-Repr-Digest: sha-512=1")
    await continued(curl, web_ports[0], path, picture)

    async def completed() -> bool:
        return (await tus_stage.session(session_of(path))).state == "completed"

    await until(completed, what="the upload to be verified")
    row = await tus_stage.session(session_of(path))
    assert (await tus_stage.settled(str(row.asset_id))).state == "ready"
    assert transferred == ([row.upload_key] if "APP_BUCKET" in tus_stage.environment else [])


async def test_curl_continues_an_upload_whose_process_was_killed(
    tus_stage: Stage, web_ports: list[int], picture: Path, curl: Curl
) -> None:
    async with web_process(tus_stage) as first:
        path = await created(curl, first.port, picture)
        where = ("--header", "Upload-Offset: 0", "--header", "Upload-Complete: ?1", "--limit-rate", "200K")
        sending = asyncio.create_task(
            curl(
                *("--request", "PATCH", "--upload-file", picture, *APPEND, *where),
                f"http://127.0.0.1:{first.port}{path}",
            )
        )

        async def is_held() -> bool:
            return (await tus_stage.session(session_of(path))).lock_owner is not None

        await until(is_held, what="the first process to receive bytes")
        await first.kill()
        assert (await sending).status is None

    assert (await continued(curl, web_ports[0], path, picture)).status == httpx.codes.OK
    assert await digest_of(tus_stage, path) == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert await everything_else_is_gone(tus_stage, path)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
async def test_memory_does_not_grow_with_the_file(tus_stage: Stage) -> None:
    size, piece = 160 * MIB, os.urandom(MIB)
    async with web_process(tus_stage) as web, httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as client:

        async def body(pieces: int) -> AsyncIterator[bytes]:
            for _ in range(pieces):
                yield piece

        async def send(pieces: int) -> None:
            made = await client.post(
                f"http://127.0.0.1:{web.port}/files/",
                headers={"Tus-Resumable": "1.0.0", "Upload-Length": str(size)},
            )
            answer = await client.patch(
                f"http://127.0.0.1:{web.port}{made.headers['location']}",
                headers={"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": BYTES},
                content=body(pieces),
            )
            assert int(answer.headers["upload-offset"]) == pieces * MIB
            ended = await client.delete(str(answer.url), headers={"Tus-Resumable": "1.0.0"})
            assert ended.status_code == httpx.codes.NO_CONTENT

        await send(9)  # everything is loaded, and a part was sent
        before = web.resident_bytes()
        await send(150)

        assert web.resident_bytes() - before < 24 * MIB
