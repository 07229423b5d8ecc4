"""Applications of the guide, copied into a directory of their own, where Rindle is a package like any other."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.patience import until
from tests.stage import SpawnedWorker, status_of


@asynccontextmanager
async def process(
    home: Path, environment: Mapping[str, str], health: str, *arguments: str, python: str = sys.executable
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python program in the application's directory until the block is left; entered when ``health`` answers."""
    log = home.parent / f"{arguments[-1].replace('/', '_')}.log"
    with log.open("wb") as output:
        running = await asyncio.create_subprocess_exec(
            python, *arguments, cwd=home, env=environment, stdout=output, stderr=output
        )
    worker = SpawnedWorker(running, health, log)

    async def answers() -> bool:
        assert running.returncode is None, worker.tail()
        return await status_of(health) == 200

    try:
        await until(answers, what=f"{arguments} to answer")
        yield running
    finally:
        await worker.kill()
