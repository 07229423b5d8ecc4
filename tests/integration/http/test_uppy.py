"""Uppy's S3 client in Chromium against the routes of Companion and MinIO, in both ways that it is configured."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from playwright.async_api import Page, Request
from sqlalchemy import select

from rindle import MediaUploadSession, Rindle
from rindle.storage.s3 import S3Storage
from rindle.uploads.sessions import Upload
from tests.browser import held, launched, window
from tests.gallery import png
from tests.integration.http.site import CLOSED_PORT, site
from tests.live import served
from tests.patience import until
from tests.servers.minio import MinioServer
from tests.servers.uppy import RELEASES

pytestmark = pytest.mark.external

PART_BYTES = 5 * 1024 * 1024

# Makes an uploader that keeps its state over a reload, and what it tells.
PREPARE = """
async ({ major, inParts, partBytes }) => {
  const { Uppy, AwsS3, GoldenRetriever } = await import("/uppy.mjs");
  const where = `${location.origin}/media/companion/avatar`;
  const server = major < 6 ? { endpoint: where, headers: { "X-Rindle": "1" } } : { companionEndpoint: where };
  window.told = { success: null, failures: 0, parts: [], restored: false };
  window.uppy = new Uppy({ meta: { caption: "schön" } }).use(AwsS3, {
    ...server, shouldUseMultipart: inParts, getChunkSize: () => partBytes, limit: 1,
  });
  uppy.on("s3-multipart:part-uploaded", (_, part) => window.told.parts.push(part.PartNumber));
  uppy.on("upload-error", () => { window.told.failures += 1; });
  uppy.on("upload-success", (_, { body, uploadURL }) => { window.told.success = { body, uploadURL }; });
  uppy.on("restored", () => { window.told.restored = true; });
  uppy.use(GoldenRetriever);
}
"""

# Gives the chosen file to the uploader.
ADD = """
() => {
  const file = document.querySelector("#file").files[0];
  uppy.addFile({ name: file.name, type: file.type, data: file });
}
"""

# Whether the uploader has written the id of an upload to what survives a reload: Uppy 5 and 6 have different places.
IS_KEPT = """
async (id) => {
  const local = localStorage.getItem("uppyState:uppy");
  if (local !== null) return local.includes(id);
  const done = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  const database = await done(indexedDB.open("uppy-blobs"));
  try {
    if (!database.objectStoreNames.contains("metadata")) return false;
    const rows = await done(database.transaction("metadata").objectStore("metadata").getAll());
    return rows.some((row) => row.metadata.includes(id));
  } finally {
    database.close();
  }
}
"""


@dataclass
class Photos:
    """A page with an empty uploader, and the application behind it."""

    page: Page
    rindle: Rindle
    store: S3Storage
    major: int

    async def begin(self, file: Path, *, in_parts: bool) -> None:
        """Choose the file and begin."""
        await self.prepare(in_parts=in_parts)
        await self.choose(file)
        await self.page.evaluate("void uppy.upload()")

    async def prepare(self, *, in_parts: bool) -> None:
        """Make the uploader of this page."""
        given = {"major": self.major, "inParts": in_parts, "partBytes": PART_BYTES}
        await self.page.evaluate(PREPARE, given)

    async def choose(self, file: Path) -> None:
        """Choose the file, as a user does."""
        await self.page.set_input_files("#file", file)
        await self.page.evaluate(ADD)

    async def told(self, what: str) -> Any:
        """Wait until Uppy has told something, and return it."""

        async def is_told() -> bool:
            return bool(await self.page.evaluate(f"window.told.{what}"))

        await until(is_told, what=f"told.{what}")
        return await self.page.evaluate(f"window.told.{what}")

    async def upload(self) -> MediaUploadSession:
        """Return the row of the only upload."""
        return await self.rindle.database.read(lambda session: session.scalars(select(MediaUploadSession)).one())

    async def stored_digest(self, upload: Upload, tmp_path: Path) -> str:
        """Return the SHA-256 of the stored object."""
        copy = await self.store.download(upload.session.upload_key, tmp_path / "copy")
        return hashlib.sha256(copy.read_bytes()).hexdigest()


@pytest.fixture(params=RELEASES, ids=lambda major: f"uppy-{RELEASES[major][0]}")
async def photos(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    minio: MinioServer,
    chromium: Path,
    uppy_bundles: dict[int, Path],
) -> AsyncIterator[Photos]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    store = S3Storage(
        minio.new_bucket(),
        endpoint_url=minio.endpoint_url,
        access_key_id=minio.access_key,
        secret_access_key=minio.secret_key,
    )

    def include(gallery: Any, app: FastAPI) -> None:
        app.add_api_route("/", lambda: HTMLResponse("<!doctype html><title>Photos</title><input id=file type=file>"))
        app.add_api_route("/uppy.mjs", lambda: FileResponse(uppy_bundles[request.param], media_type="text/javascript"))

    async with (
        site(tmp_path, storage=store, prepare=include, companion={"avatar"}) as web,
        served(web.app, lifespan="off") as address,
        launched(chromium) as browser,
        window(browser, base_url=address) as opened,
    ):
        page = await opened.new_page()
        await page.goto("/")
        yield Photos(page, web.rindle, store, request.param)


def file_of(tmp_path: Path, size: int) -> tuple[Path, str]:
    """Make a picture with padding; returns it and its SHA-256."""
    path = tmp_path / "schön 1.png"
    path.write_bytes(png() + os.urandom(size))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def requests_of(page: Page) -> list[Request]:
    """Return what the page asks from now on."""
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    return asked


async def test_a_single_file_arrives_as_a_form(photos: Photos, tmp_path: Path) -> None:
    path, digest = file_of(tmp_path, 10_000)
    asked = requests_of(photos.page)

    await photos.begin(path, in_parts=False)
    success = await photos.told("success")

    sent = [one.method for one in asked if photos.store.bucket in one.url]
    assert sent == ["POST"]
    upload = await photos.upload()
    assert success["body"]["key"] == upload.upload_key
    assert success["uploadURL"].endswith(upload.upload_key)
    assert upload.auto_verify and '"caption":"sch\\u00f6n"' in str(upload.upload_metadata)
    done = await photos.rindle.verify_completion(upload.id)
    assert done.asset.display_name == path.name
    assert await photos.stored_digest(done, tmp_path) == digest


async def test_a_file_in_parts_continues_after_a_break(photos: Photos, tmp_path: Path) -> None:
    path, digest = file_of(tmp_path, 2 * PART_BYTES)
    sent = requests_of(photos.page)
    await photos.page.route("**partNumber=2&**", lambda route: route.abort("connectionreset"), times=1)

    await photos.begin(path, in_parts=True)
    # The client repeats the part by itself, or ends with an error, after which the user lets it continue.
    await photos.told("success || window.told.failures")
    if not await photos.page.evaluate("window.told.success"):
        await photos.page.evaluate("void uppy.retryAll()")
    success = await photos.told("success")

    # Only the part that was broken off is sent twice.
    numbers = [part for one in sent for part in re.findall(r"[?&]partNumber=(\d)&", one.url) if one.method == "PUT"]
    assert sorted(numbers) == ["1", "2", "2", "3"]
    upload = await photos.upload()
    assert sorted(await photos.page.evaluate("window.told.parts")) == [1, 2, 3]
    assert success["uploadURL"].endswith(upload.upload_key) and "?" not in success["uploadURL"]
    done = await photos.rindle.verify_completion(upload.id)
    assert (done.session.state, done.asset.state) == ("completed", "validating")
    assert await photos.stored_digest(done, tmp_path) == digest
    assert await photos.store.list_multipart_uploads(upload.upload_key) == []


async def test_a_file_in_parts_continues_after_a_reload(photos: Photos, tmp_path: Path) -> None:
    path, digest = file_of(tmp_path, 2 * PART_BYTES)
    sent = requests_of(photos.page)
    async with held(photos.page, "**partNumber=2&**", method="PUT", times=1) as reached:
        await photos.begin(path, in_parts=True)
        await reached.wait()
        upload = await photos.upload()

        async def is_kept() -> bool:
            return bool(await photos.page.evaluate(IS_KEPT, upload.id))

        await until(is_kept, what="the state of the uploader is kept")
        await photos.page.reload()

    await photos.prepare(in_parts=True)
    await photos.told("restored")
    # Uppy keeps files of up to 10 MiB itself; a larger one is chosen again.
    await photos.choose(path)
    await photos.page.evaluate("void uppy.emit('restore-confirmed')")
    await photos.told("success")

    # Only the part that had not arrived is sent again.
    numbers = [part for one in sent for part in re.findall(r"[?&]partNumber=(\d)&", one.url) if one.method == "PUT"]
    assert sorted(numbers) == ["1", "2", "2", "3"]
    done = await photos.rindle.verify_completion((await photos.upload()).id)  # still the only one
    assert (done.session.id, done.session.state) == (upload.id, "completed")
    assert await photos.stored_digest(done, tmp_path) == digest
    assert await photos.store.list_multipart_uploads(upload.upload_key) == []


async def test_cancelling_ends_the_upload(photos: Photos, tmp_path: Path) -> None:
    path, _ = file_of(tmp_path, 2 * PART_BYTES)

    async with (
        photos.page.expect_response(lambda answer: answer.request.method == "DELETE") as deleted,
        held(photos.page, "**partNumber=2&**", method="PUT") as reached,
    ):
        await photos.begin(path, in_parts=True)
        await reached.wait()
        await photos.page.evaluate("void uppy.cancelAll()")
        answer = await deleted.value

    assert answer.status == 200  # Uppy 6 does not read the body, so that a browser may never have it
    assert (await photos.upload()).state == "aborted"


async def test_a_refusal_reaches_the_page(photos: Photos, tmp_path: Path) -> None:
    path = tmp_path / "setup.exe"
    path.write_bytes(b"MZ")

    async with photos.page.expect_response(lambda answer: "/s3/" in answer.url) as refused:
        await photos.begin(path, in_parts=False)
        answer = await refused.value

    assert answer.status == 422
    await photos.told("failures")
