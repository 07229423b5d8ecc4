"""libvips' own command line tool, one run per size: what a shell script would do."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from functools import cache
from pathlib import Path

from benchmarks.application import SIDES

#: Options of the JPEG writer that make the output the same as everybody's; ``strip`` works in every release so far.
_OUTPUT = "[Q=80,optimize_coding,interlace,strip]"


@cache
def version() -> str:
    """Return what the tool calls itself, empty when it is not installed."""
    program = shutil.which("vipsthumbnail")
    if program is None:
        return ""
    printed = subprocess.run([program, "--vips-version"], capture_output=True, text=True, check=False).stdout.strip()
    return printed.split("-")[0].replace("libvips", "vipsthumbnail") if printed else "vipsthumbnail"


async def render(source: Path, dest: Path) -> None:
    """Make every size of ``source`` in the directory ``dest``."""
    for name, side in SIDES.items():
        command = ("vipsthumbnail", source, "--size", f"{side}x{side}", "-o", f"{dest / name}.jpg{_OUTPUT}")
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
        if await process.wait() != 0:
            raise RuntimeError("vipsthumbnail failed")
