"""Memory of the processes that a large upload passes through, by every lane: to the local store, MinIO and GCS.

The file is the photo with zeros behind its end: a decoder stops at the end marker, so that it goes all the way to
``ready``, while every byte is spooled, hashed, stored and measured.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

from benchmarks import application, machine
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample, left_out
from benchmarks.stack import Stack, running_stack
from rindle.db.streams import find_stream
from rindle.security.upload_token import read_upload
from tests.servers import Unavailable, gcs, minio

SIZE_BYTES = 4 << 30
#: The emulator of Google Cloud Storage holds several copies of a body in memory: 22 GB for 4 GiB.
GCS_BYTES = 512 << 20
BUDGET_MIB = 64
#: Free disk the benchmark wants: the spool and the stored object of one lane, and room to breathe.
_DISK_BYTES = 3 * SIZE_BYTES


@dataclass(frozen=True)
class Lane:
    """One way of an upload.

    Attributes:
        name: as the table names it.
        send: sends a file of a size with a profile and returns the id of its asset when it is ready.
        profile: ``photo`` of the local store, ``bucket_photo`` or ``gcs_photo``.
        is_direct: whether the bytes do not pass through the web server.
    """

    name: str
    send: Callable[[Stack, str, int], Awaitable[str]]
    profile: str = "photo"
    is_direct: bool = False

    @property
    def size(self) -> int:
        """Bytes of its large file."""
        return GCS_BYTES if self.profile == "gcs_photo" else SIZE_BYTES

    async def take(self, stack: Stack, size: int) -> str:
        """Take a file to ready and return the id of its asset."""
        return await self.send(stack, self.profile, size)


async def measure() -> list[Figure]:
    """Send a large file by each lane and take it to ready."""
    figures = []
    profiles = {"photo"}
    for profile, server in (("bucket_photo", minio), ("gcs_photo", gcs)):
        try:
            server.program()
            profiles.add(profile)
        except Unavailable as error:
            figures.append(left_out(f"lanes of {profile}", error))
    lanes = tuple(lane for lane in LANES if lane.profile in profiles)
    async with running_stack(
        relay=False, with_bucket="bucket_photo" in profiles, with_gcs="gcs_photo" in profiles
    ) as stack:
        if shutil.disk_usage(stack.home).free < _DISK_BYTES:
            raise RuntimeError(f"{_DISK_BYTES >> 30} GiB of free disk are needed")
        with stack.worker() as worker, stack.web() as web:
            # A whole small upload by each lane first: what is imported and pooled once is not growth.
            for lane in lanes:
                await lane.take(stack, photo().stat().st_size)
            for lane in lanes:
                began = time.perf_counter()
                with machine.watching(worker=worker, web=web) as watch:
                    asset_id = await lane.take(stack, lane.size)
                seconds = time.perf_counter() - began
                await _remove(stack, asset_id)
                figures.extend(_figures(lane, watch, seconds))
    return figures


def _figures(lane: Lane, watch: machine.MemoryWatch, seconds: float) -> list[Figure]:
    note = f"{lane.size / (1 << 30):g} GiB taken to ready in {seconds:.0f} s"
    parts = [("worker", "worker"), *([] if lane.is_direct else [("web", "web server")])]
    return [
        Figure(
            f"growth of the {what}: {lane.name}",
            Sample.of([watch.growth(process)]),
            "MiB",
            f"under {BUDGET_MIB} MiB",
            watch.growth(process) < BUDGET_MIB,
            note=f"from {watch.before[process]:.0f} MiB; {note}",
        )
        for process, what in parts
    ]


async def _server_side(stack: Stack, profile: str, size: int) -> str:
    """Stream the file into ``rindle.upload`` inside the web server."""
    url = stack.base_url.replace("/local", f"/take/{profile}/photo.jpg")
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.post(url, content=_body(size))
    answer.raise_for_status()
    asset_id = str(answer.json()["asset_id"])
    await stack.wait_until([asset_id])
    return asset_id


async def _signed_put(stack: Stack, profile: str, size: int) -> str:
    """Stream the file by a signed PUT, and verify."""
    opened = await stack.rindle.initiate_upload(profile, filename="photo.jpg", size=size, actor="bench")
    grant = (await stack.rindle.sign_url(opened.id)).presigned
    headers = {**grant.headers, "Content-Length": str(size)}
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.put(grant.url, content=_body(size), headers=headers)
    answer.raise_for_status()
    done = await stack.rindle.verify_completion(opened.id)
    await stack.wait_until([done.asset.id])
    return done.asset.id


async def _multipart(stack: Stack, profile: str, size: int) -> str:
    """Send the parts to the store one after the other, and complete."""
    opened = await stack.rindle.initiate_multipart_upload(profile, filename="photo.jpg", size=size, actor="bench")
    pieces = _body(size, piece_bytes=opened.multipart.part_size)
    async with httpx.AsyncClient(timeout=None) as client:
        number = 0
        async for piece in pieces:
            number += 1
            grant = (await stack.rindle.sign_multipart_part(opened.session.id, number)).presigned
            (await client.put(grant.url, content=piece, headers=grant.headers)).raise_for_status()
    done = await stack.rindle.complete_multipart_upload(opened.session.id)
    await stack.wait_until([done.asset.id])
    return done.asset.id


async def _tus(stack: Stack, profile: str, size: int) -> str:
    """Send the file in one PATCH to the web server."""
    site = stack.base_url.removesuffix("/local")
    headers = {"Tus-Resumable": "1.0.0"}
    async with httpx.AsyncClient(timeout=None, headers=headers) as client:
        created = await client.post(
            f"{site}/tus/{profile}/",
            headers={"Upload-Length": str(size), "Upload-Metadata": "filename cGhvdG8uanBn"},  # photo.jpg
        )
        created.raise_for_status()
        location = created.headers["Location"]
        headers = {
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(size),
        }
        (await client.patch(urljoin(site, location), content=_body(size), headers=headers)).raise_for_status()
    claims = read_upload(location.rpartition("/")[2], [application.SECRET])
    found = await stack.rindle.database.read(find_stream, claims.session_id)
    if found is None or found.asset is None:
        raise RuntimeError("the upload has no asset")
    await stack.wait_until([found.asset.id])
    return found.asset.id


async def _ietf(stack: Stack, profile: str, size: int) -> str:
    """Send the file in one POST of the draft of the IETF to the web server."""
    site = stack.base_url.removesuffix("/local")
    headers = {
        "Upload-Complete": "?1",
        "Content-Type": "image/jpeg",
        "Content-Disposition": 'attachment; filename="photo.jpg"',
        "Content-Length": str(size),
    }
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.post(f"{site}/resumable/{profile}/", content=_body(size), headers=headers)
    answer.raise_for_status()
    asset_id = str(answer.json()["session"]["asset_id"])
    await stack.wait_until([asset_id])
    return asset_id


async def _store_session(stack: Stack, profile: str, size: int) -> str:
    """Send the file in one PUT to a resumable session of the store, and verify."""
    opened = await stack.rindle.initiate_resumable_session(profile, filename="photo.jpg", size=size, actor="bench")
    headers = {"Content-Length": str(size), "Content-Range": f"bytes 0-{size - 1}/{size}"}
    async with httpx.AsyncClient(timeout=None) as client:
        uri = opened.resumable.session_uri.get_secret_value()
        (await client.put(uri, content=_body(size), headers=headers)).raise_for_status()
    done = await stack.rindle.verify_completion(opened.session.id)
    await stack.wait_until([done.asset.id])
    return done.asset.id


LANES = (
    Lane("server-side upload", _server_side),
    Lane("signed PUT to the local store", _signed_put),
    Lane("tus to the local store", _tus),
    Lane("draft of the IETF to the local store", _ietf),
    Lane("server-side upload to MinIO", _server_side, "bucket_photo"),
    Lane("signed PUT to MinIO", _signed_put, "bucket_photo", is_direct=True),
    Lane("multipart to MinIO", _multipart, "bucket_photo", is_direct=True),
    Lane("tus to MinIO", _tus, "bucket_photo"),
    Lane("draft of the IETF to MinIO", _ietf, "bucket_photo"),
    Lane("server-side upload to GCS", _server_side, "gcs_photo"),
    Lane("resumable session of GCS", _store_session, "gcs_photo", is_direct=True),
)


async def _body(size: int, *, piece_bytes: int = 1 << 20) -> AsyncIterator[bytes]:
    """Yield the photo and then zeros, ``size`` bytes in all, in pieces of one size."""
    waiting = await asyncio.to_thread(photo().read_bytes)
    for start in range(0, size, piece_bytes):
        length = min(piece_bytes, size - start)
        piece, waiting = waiting[:length], waiting[length:]
        yield piece + bytes(length - len(piece))


async def _remove(stack: Stack, asset_id: str) -> None:
    asset = await stack.rindle.asset(asset_id)
    storage = stack.rindle.profiles.get(asset.profile).storage
    await stack.rindle.storages[str(storage)].delete(asset.storage_key)
