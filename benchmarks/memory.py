"""Memory of the processes an upload of 4 GiB passes through, by both lanes whose bytes we touch ourselves.

The file is the photo with zeros behind its end: a decoder stops at the end marker, so that it goes all the way to
``ready``, while every byte is spooled, hashed, stored and measured.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator

import httpx

from benchmarks import machine
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack

SIZE_BYTES = 4 << 30
BUDGET_MIB = 64
#: Free disk the benchmark wants: the spool and the stored object of one lane, and room to breathe.
_DISK_BYTES = 3 * SIZE_BYTES


async def measure() -> list[Figure]:
    """Send 4 GiB through the application's server and by a signed PUT, and take each to ready."""
    async with running_stack(relay=False) as stack:
        if shutil.disk_usage(stack.home).free < _DISK_BYTES:
            raise RuntimeError(f"{_DISK_BYTES >> 30} GiB of free disk are needed")
        with stack.worker() as worker, stack.web() as web:
            # A whole small upload by each lane first: what is imported and pooled once is not growth.
            for lane in (_server_side, _signed_put):
                await lane(stack, photo().stat().st_size)
            figures = []
            for name, lane in (("server-side upload", _server_side), ("signed PUT to the local store", _signed_put)):
                began = time.perf_counter()
                with machine.watching(worker=worker, web=web) as watch:
                    asset_id = await lane(stack, SIZE_BYTES)
                seconds = time.perf_counter() - began
                await _remove(stack, asset_id)
                figures.extend(_figures(name, watch, seconds))
    return figures


def _figures(lane: str, watch: machine.MemoryWatch, seconds: float) -> list[Figure]:
    note = f"4 GiB taken to ready in {seconds:.0f} s"
    return [
        Figure(
            f"growth of the {what}: {lane}",
            Sample.of([watch.growth(process)]),
            "MiB",
            f"under {BUDGET_MIB} MiB",
            watch.growth(process) < BUDGET_MIB,
            note=f"from {watch.before[process]:.0f} MiB; {note}",
        )
        for process, what in (("worker", "worker"), ("web", "web server"))
    ]


async def _server_side(stack: Stack, size: int) -> str:
    """Stream ``size`` bytes into ``rindle.upload`` inside the web server; returns the asset's id when it is ready."""
    url = stack.base_url.replace("/local", "/take/photo.jpg")
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.post(url, content=_body(size))
    answer.raise_for_status()
    asset_id = str(answer.json()["asset_id"])
    await stack.wait_until([asset_id])
    return asset_id


async def _signed_put(stack: Stack, size: int) -> str:
    """Stream ``size`` bytes by a signed PUT, verify, and return the asset's id when it is ready."""
    opened = await stack.rindle.initiate_upload("photo", filename="photo.jpg", size=size, actor="bench")
    grant = (await stack.rindle.sign_url(opened.id)).presigned
    headers = {**grant.headers, "Content-Length": str(size)}
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.put(grant.url, content=_body(size), headers=headers)
    answer.raise_for_status()
    done = await stack.rindle.verify_completion(opened.id)
    await stack.wait_until([done.asset.id])
    return done.asset.id


async def _body(size: int) -> AsyncIterator[bytes]:
    """Yield the photo and then zeros, ``size`` bytes in all."""
    image = await asyncio.to_thread(photo().read_bytes)
    yield image
    left = size - len(image)
    piece = bytes(1 << 20)
    while left > 0:
        yield piece[: min(left, len(piece))]
        left -= len(piece)


async def _remove(stack: Stack, asset_id: str) -> None:
    asset = await stack.rindle.asset(asset_id)
    await stack.rindle.storages["local"].delete(asset.storage_key)
