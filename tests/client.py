"""A client program for tests that need a process of their own: ``python -m tests.client <command> ...``."""

from __future__ import annotations

import asyncio
import sys

from rindle.process import leave
from tests.application import make


async def upload(path: str) -> None:
    """Take in a file on the server side."""
    rindle = make()
    asset = await rindle.upload("avatar", path, filename="me.jpg")
    print(asset.id)  # noqa: T201 - this program's answer


async def ping() -> None:
    """Connect to Temporal, ask something, and end: what every command of a client does."""
    rindle = make()
    async with rindle:
        print(await rindle.temporal.healthy())  # noqa: T201 - this program's answer


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    asyncio.run({"upload": upload, "ping": ping}[command](*arguments))
    leave(0)
