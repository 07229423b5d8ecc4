"""Both variants of one photo by the warm render pool, beside the tools one would use instead.

One image at a time, with the same output everywhere: JPEG, quality 80, progressive, optimised, no metadata. Rounds are
interleaved, so that a busy minute affects all of them.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.application import SIDES
from benchmarks.peers import pillow_draft, vipsthumbnail
from benchmarks.peers.sharp import Sharp
from benchmarks.photo import photo
from benchmarks.report import Figure, Sample, left_out
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.recipes import ImageVariant
from tests.servers import Unavailable

ROUNDS, WARM_UP = 30, 3
#: How much faster than Pillow with ``draft`` the pool is to be.
PILLOW_FACTOR = 2.5

#: Peers that may be missing, and what is missing then; ``python -m benchmarks.peers`` installs it.
_INSTALL = {
    "vipsthumbnail": "no vipsthumbnail (Debian: apt-get install libvips-tools)",
    "sharp": "no Node.js with npm, or no registry to install sharp from",
}

Render = Callable[[Path, Path], Awaitable[object]]


async def measure() -> list[Figure]:
    """Measure the pool and every peer that is at hand."""
    home = Path(tempfile.mkdtemp(prefix="rindle-bench-"))
    pool = RenderPool(1)
    await asyncio.to_thread(pool.start)
    try:
        async with AsyncExitStack() as running:
            renders: dict[str, Render] = {"ours": partial(_ours, pool), "pillow": partial(_pillow)}
            if vipsthumbnail.version():
                renders["vipsthumbnail"] = vipsthumbnail.render
            if sharp := await Sharp.start(running):
                renders["sharp"] = sharp.render
            await machine.wait_for_quiet()
            found = await _interleaved(renders, home)
    finally:
        await pool.close()
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
    return _figures(found, sharp.version if sharp else "")


def _figures(found: dict[str, Sample], sharp: str) -> list[Figure]:
    missing = {name: reason for name, reason in _INSTALL.items() if name not in found}
    ours = found["ours"].median
    factor = found["pillow"].median / ours
    no_slower = "vipsthumbnail" not in found or ours <= found["vipsthumbnail"].median
    figures = [
        Figure(
            "warm pool, one decode for both",
            found["ours"],
            "ms",
            "no slower than vipsthumbnail",
            no_slower,
            note="1 child, 1 thread; hand-over between processes included",
        ),
        Figure(
            "times faster than Pillow with draft",
            Sample.of([factor]),
            "",
            f"at least {PILLOW_FACTOR:g}",
            factor >= PILLOW_FACTOR,
        ),
        Figure("Pillow with draft, one decode", found["pillow"], "ms", is_peer=True, note="warm, in this process"),
    ]
    for name, reason in missing.items():
        figures.append(left_out(name, Unavailable(reason)))
    if "vipsthumbnail" in found:
        note = f"{vipsthumbnail.version()}, one process per size"
        figures.append(Figure("vipsthumbnail", found["vipsthumbnail"], "ms", is_peer=True, note=note))
    if "sharp" in found:
        note = f"{sharp} in a warm Node process, its default threads"
        figures.append(Figure("sharp", found["sharp"], "ms", is_peer=True, note=note))
    return figures


async def _interleaved(renders: dict[str, Render], home: Path) -> dict[str, Sample]:
    source = photo()
    found: dict[str, list[float]] = {name: [] for name in renders}
    for number in range(WARM_UP + ROUNDS):
        for name, render in renders.items():
            dest = home / name
            dest.mkdir(exist_ok=True)
            began = time.perf_counter()
            await render(source, dest)
            if number >= WARM_UP:
                found[name].append((time.perf_counter() - began) * 1000)
    for name in renders:
        made = sorted(path.name for path in (home / name).iterdir())
        assert made == sorted(f"{variant}.jpg" for variant in SIDES), (name, made)
    return {name: Sample.of(values) for name, values in found.items()}


async def _ours(pool: RenderPool, source: Path, dest: Path) -> None:
    orders = [
        RenderOrder(name, ImageVariant(mode="fit", width=side, height=side), dest / f"{name}.jpg")
        for name, side in SIDES.items()
    ]
    for made in await pool.render(source, "image/jpeg", orders, max_pixels=100_000_000):
        if made.error is not None:
            raise made.error


async def _pillow(source: Path, dest: Path) -> None:
    pillow_draft.render(source, dest)
