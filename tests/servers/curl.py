"""The system's curl: a client of HTTP that knows nothing of uploads which continue."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.patience import PATIENCE_SECONDS
from tests.servers import Unavailable


def program() -> Path:
    """Return the program.

    Raises:
        Unavailable: it is missing.
    """
    found = shutil.which("curl")
    if found is None:
        raise Unavailable("no curl: install it (Debian: apt-get install curl; macOS has it)")
    return Path(found)


@dataclass(frozen=True)
class Answer:
    """The last response that curl has read; without a status when the connection broke before it."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Curl:
    """Runs curl with the arguments that somebody would type; the settings of this user and machine do not count."""

    def __init__(self, program: Path) -> None:
        self._program = program

    async def __call__(self, *arguments: str | Path) -> Answer:
        """Run it to its end and return the response."""
        with tempfile.TemporaryDirectory() as directory:
            heads, body = Path(directory, "heads"), Path(directory, "body")
            process = await asyncio.create_subprocess_exec(
                *(self._program, "-q", "--silent", "--show-error", "--noproxy", "*"),
                *("--dump-header", heads, "--output", body, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            return _answer(heads.read_text() if heads.exists() else "", body.read_bytes() if body.exists() else b"")


def _answer(heads: str, body: bytes) -> Answer:
    """Return the last of several responses; interim ones come before it."""
    last = heads.strip().rpartition("\n\n")[2]
    first, *lines = last.splitlines() or [""]
    status = int(first.split()[1]) if first.startswith("HTTP/") else 0
    if status < 200:
        return Answer()
    pairs = (line.partition(":") for line in lines)
    return Answer(status, {name.strip().lower(): value.strip() for name, _, value in pairs}, body)
