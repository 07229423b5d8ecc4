"""An image engine for render children whose outputs do what their variant's name says.

``ok`` writes a file, ``refuse`` reports an error of the library, ``bug`` raises something unforeseen, ``crash`` dies of
a memory fault, ``wait`` blocks without using the CPU, ``spin`` never gives the interpreter back, as a decoder caught in
a loop does. Before it blocks or dies, the child writes its process id beside the source.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
from pathlib import Path

from rindle.errors import ContentRejected, ProcessorCapabilityMissing
from rindle.media.image_formats import ImageFeatures
from rindle.media.render_pool import RenderOrder, RenderResult
from rindle.protocols import ProbeResult
from rindle.states import MediaKind


def require_safe_libvips() -> None:
    """Be content with any machine."""


def features() -> ImageFeatures:
    """Say what limits this child runs under, in place of versions."""
    limits = (resource.getrlimit(resource.RLIMIT_AS)[0], resource.getrlimit(resource.RLIMIT_CORE)[0])
    return ImageFeatures(str(limits), str(os.getpid()), "", "", frozenset(), frozenset(), untrusted_blocked=True)


def probe_image(path: Path, mime: str | None, max_pixels: int, **options: object) -> ProbeResult:
    """Act on the file's name."""
    if path.stem == "refuse":
        raise ContentRejected("no picture", code="max_pixels_exceeded", detail={"limit": max_pixels})
    _act(path.stem, path)
    address_space, memory = (resource.getrlimit(limit)[0] for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    facts = {"pid": os.getpid(), "address_space": address_space, "memory": memory}
    return ProbeResult(kind=MediaKind.IMAGE, width=1, height=1, metadata=facts)


def render_images(
    source: Path, mime: str, orders: list[RenderOrder], max_pixels: int, kept: Path | None
) -> list[RenderResult]:
    """Act on each order's name, after writing half of its output."""
    return [_render(source, order) for order in orders]


def _render(source: Path, order: RenderOrder) -> RenderResult:
    order.dest.write_bytes(b"half")
    if order.name == "refuse":
        order.dest.unlink()
        missing = ProcessorCapabilityMissing("no encoder", detail={"format": order.recipe.format})
        return RenderResult(order.name, None, None, None, None, None, missing)
    _act(order.name.split("_")[0], source)
    order.dest.write_bytes(b"whole")
    return RenderResult(order.name, order.dest, 1, 1, 5, order.recipe.content_type, None)


def _act(name: str, source: Path) -> None:
    if name in ("crash", "wait", "spin"):
        draft = source.with_name(f"{os.getpid()}.draft")
        draft.write_text(str(os.getpid()))
        draft.replace(source.with_name(f"{name}.{os.getpid()}.pid"))
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "wait":
        threading.Event().wait()
    if name == "spin":
        re.match(r"(a|a)+$", "a" * 64 + "b")  # exponential, and in C with the interpreter lock held
    if name == "bug":
        raise _ForeignError("/etc/passwd")


class _ForeignError(Exception):
    """An exception that the parent has no business to know."""
