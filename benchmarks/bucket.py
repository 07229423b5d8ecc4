"""1 GiB to MinIO: through the application by tus, beside boto3's own multipart upload to the same bucket.

Every upload by tus is one byte longer than what is sent of it, as in :mod:`benchmarks.resumable`. boto3 sends a file of
the disk in ten threads, as it does unless it is told otherwise.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import boto3

from benchmarks import machine
from benchmarks.report import Figure, Sample
from benchmarks.stack import Stack, running_stack
from benchmarks.tus_client import connected, make_source
from tests.servers import free_port

SIZE_BYTES = 1 << 30
ROUNDS = 3


async def measure() -> list[Figure]:
    """Send 1 GiB in turns by tus and by boto3."""
    async with running_stack(relay=False, with_bucket=True) as stack:
        port = free_port()
        with stack.web("granian", port=port) as web:
            source = await asyncio.to_thread(make_source, stack.home, SIZE_BYTES)
            await machine.wait_for_quiet()
            return await asyncio.to_thread(_measure, stack, f"http://127.0.0.1:{port}/tus/bucket_archive/", web, source)


def _measure(stack: Stack, url: str, web: int, source: Path) -> list[Figure]:
    s3: Any = boto3.client(
        "s3",
        endpoint_url=stack.buckets["BENCH_ENDPOINT"],
        aws_access_key_id=stack.buckets["BENCH_ACCESS_KEY"],
        aws_secret_access_key=stack.buckets["BENCH_SECRET_KEY"],
        region_name="us-east-1",
    )
    ours, used, theirs = [], [], []
    for number in range(ROUNDS + 1):
        before = machine.cpu_seconds([web])
        tus, boto = _tus(url, source), _boto3(s3, stack.buckets["BENCH_BUCKET"], source)
        if number:  # the first round warms up
            ours.append(SIZE_BYTES / tus / 2**20)
            used.append(machine.cpu_seconds([web]) - before)
            theirs.append(SIZE_BYTES / boto / 2**20)
    s3.close()
    cost = f"{Sample.of(used)} s of processor time per GiB in the web process"
    note = f"granian; one part at a time, while the next arrives; {cost}"
    return [
        Figure("one PATCH of 1 GiB, through the application to MinIO", Sample.of(ours), "MiB/s", note=note),
        Figure("boto3 upload_file", Sample.of(theirs), "MiB/s", is_peer=True, note="10 threads, from a file"),
    ]


def _tus(url: str, source: Path) -> float:
    with connected(url) as connection, source.open("rb") as file:
        path = connection.create(SIZE_BYTES + 1)
        began = time.perf_counter()
        connection.patch(path, 0, file, SIZE_BYTES)
        took = time.perf_counter() - began
        connection.delete(path)
    return took


def _boto3(s3: Any, bucket: str, source: Path) -> float:
    began = time.perf_counter()
    s3.upload_file(str(source), bucket, "peer")
    took = time.perf_counter() - began
    s3.delete_object(Bucket=bucket, Key="peer")
    return took
