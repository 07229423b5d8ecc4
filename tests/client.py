"""A client program for tests that need a process of their own: ``python -m tests.client <command> ...``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import httpx

from rindle.process import leave
from tests import application
from tests.application import make
from tests.patience import PATIENCE_SECONDS


async def upload(path: str) -> None:
    """Take in a file on the server side."""
    rindle = make()
    asset = await rindle.upload("avatar", path, filename="me.jpg")
    print(asset.id)  # noqa: T201 - this program's answer


async def send_in_parts(path: str) -> None:
    """Send a file as the one part of a multipart upload."""
    rindle, body = make(), Path(path).read_bytes()
    opened = await rindle.initiate_multipart_upload("avatar", filename="me.jpg", size=len(body))
    grant = (await rindle.sign_multipart_part(opened.session.id, 1)).presigned
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS, trust_env=False) as browser:
        (await browser.put(grant.url, content=body, headers=dict(grant.headers))).raise_for_status()
    await rindle.complete_multipart_upload(opened.session.id)


async def ping() -> int:
    """Connect to Temporal, ask something, and return the exit status: what every command of a client does."""
    application.CONNECT_SECONDS = PATIENCE_SECONDS
    rindle = make()
    async with rindle:
        return 0 if await rindle.temporal.healthy() else 1


def pings(times: int) -> None:
    """Do ``ping`` in so many processes, five at once, and print how many ended with each status.

    They are forked before anything runs in this one: what they spare is the imports, not their own end. They print
    nothing: the lines of processes that share an output are not kept apart where it is unbuffered.
    """
    ends: Counter[int] = Counter()
    for begun in range(times):
        if begun >= 5:
            ends[os.waitstatus_to_exitcode(os.wait()[1])] += 1
        if os.fork() == 0:
            leave(asyncio.run(ping()))
    for _ in range(min(times, 5)):
        ends[os.waitstatus_to_exitcode(os.wait()[1])] += 1
    print(dict(ends))  # noqa: T201 - this program's answer


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "pings":
        pings(int(arguments[0]))
        leave(0)
    asyncio.run({"upload": upload, "parts": send_in_parts}[command](*arguments))
    leave(0)
