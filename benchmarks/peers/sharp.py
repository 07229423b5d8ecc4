"""sharp, the Node library on libvips, in a process that stays warm; installed from npm into ``var/bench``."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.application import SIDES

#: The release that is measured.
SHARP = "sharp@0.35"
HOME = Path("var") / "bench" / "sharp"
_SCRIPT = Path(__file__).with_name("sharp.mjs").resolve()
_INSTALL_SECONDS = 180


class Sharp:
    """A Node process that renders one photo at a time."""

    def __init__(self, process: asyncio.subprocess.Process, version: str) -> None:
        self._process = process
        self.version = version

    @classmethod
    async def start(cls, running: AsyncExitStack) -> Sharp | None:
        """Start the process until ``running`` is left; ``None`` without Node, npm or a registry to install from."""
        if not await asyncio.to_thread(installed):
            return None
        process = await asyncio.create_subprocess_exec(
            "node", _SCRIPT, cwd=HOME, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        running.push_async_callback(_end, process)
        assert process.stdout is not None
        first = await process.stdout.readline()
        if not first:
            return None
        versions = json.loads(first)
        return cls(process, f"sharp {versions['sharp']} (libvips {versions['vips']})")

    async def render(self, source: Path, dest: Path) -> None:
        """Make every size of ``source`` in the directory ``dest``."""
        outputs = [{"path": str(dest / f"{name}.jpg"), "side": side} for name, side in SIDES.items()]
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"source": str(source), "outputs": outputs}).encode() + b"\n")
        await self._process.stdin.drain()
        if not await self._process.stdout.readline():
            raise RuntimeError("sharp ended")


def installed() -> bool:
    """Whether sharp is there; installs it where npm and a registry are."""
    if shutil.which("node") is None:
        return False
    if (HOME / "node_modules" / "sharp").is_dir():
        return True
    npm = shutil.which("npm")
    if npm is None:
        return False
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / "package.json").write_text('{"private": true}\n')
    command = [npm, "install", "--no-audit", "--no-fund", "--loglevel", "error", SHARP]
    try:
        return subprocess.run(command, cwd=HOME, timeout=_INSTALL_SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        process.kill()
        await process.wait()
