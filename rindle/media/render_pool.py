"""Image work in warm child processes, as the worker sees it.

libvips cannot be stopped inside a thread, and a decoder that crashes would end the worker too. Images are therefore
opened in children that are forked from a server with libvips already loaded and no secret in its environment
(:mod:`rindle.media.render_server`). A child is killed when it takes too long or its task is cancelled, and replaced
after ``max_tasks`` images. This module never imports libvips.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rindle.cancellation import run_to_end
from rindle.errors import MediaError, Misconfigured, ProbeFailed, ProcessTimeout, RenderFailed, RindleError
from rindle.extras import requires
from rindle.media import render_child
from rindle.media.image_formats import READABLE_TYPES, ImageFeatures
from rindle.media.render_server import CleanContext
from rindle.process import usable_cores
from rindle.protocols import ProbeResult
from rindle.recipes import ImageVariant

with requires("images"):
    import pebble
    from pebble.pool.process import PoolManager

log = logging.getLogger(__name__)

#: Wall limit of one render, in seconds.
WALL_SECONDS = 120.0
#: Wall limit of one probe, in seconds: it decodes once, a render also resizes and encodes.
PROBE_SECONDS = 30.0
#: CPU time of a task, as a part of its wall limit. Less than all of it, so that a file which keeps a core busy ends at
#: this limit, which the file has caused, and not at the wall limit, which a busy machine may have caused.
CPU_SHARE = 0.9
#: Address space of one child, in bytes.
MEMORY_BYTES = 2 << 30
#: Tasks after which a child is replaced, so that a library's leaks stay small.
MAX_TASKS = 500
#: Module that holds the image functions; loaded in the children only.
ENGINE = "rindle.media.image"
#: Seconds that starting the first child may take.
START_SECONDS = 60.0
#: Seconds that a cancelled caller waits at most until its child is gone; a kill takes a tenth of one.
_GONE_SECONDS = 10.0
#: How often pebble looks for the task of a dead child, every tenth of a second: its message may not be read yet.
_LOOKS = 20


@dataclass(frozen=True, slots=True)
class RenderOrder:
    """One output to build: the variant's name, its recipe, and the file to write (its directory exists)."""

    name: str
    recipe: ImageVariant
    dest: Path


@dataclass(frozen=True, slots=True)
class RenderResult:
    """What became of one order.

    ``error`` is ``None`` when ``path`` holds the variant; then ``width`` and ``height`` are its pixels (of one frame)
    and ``byte_size`` its length. Otherwise ``error`` is the reason, and there is no file at the order's ``dest``.
    """

    name: str
    path: Path | None
    width: int | None
    height: int | None
    byte_size: int | None
    content_type: str | None
    error: RindleError | None


class RenderPool:
    """Warm children that probe and render images, one per core.

    Use it from one event loop. Every call may be cancelled: the child is killed and, for a render, the call returns
    only when the child is gone and its files are removed.

    Args:
        workers: children; defaults to the cores this process may use.
        wall_seconds: limit of one render.
        probe_seconds: limit of one probe; never above ``wall_seconds``.
        cpu_share: CPU time of a task, as a part of its limit; a task that uses it up is not repeated.
        memory_bytes: address space of one child.
        max_tasks: tasks after which a child is replaced.
        engine: module with ``probe_image``, ``render_images``, ``features`` and ``require_safe_libvips``.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        wall_seconds: float = WALL_SECONDS,
        probe_seconds: float = PROBE_SECONDS,
        cpu_share: float = CPU_SHARE,
        memory_bytes: int = MEMORY_BYTES,
        max_tasks: int = MAX_TASKS,
        engine: str = ENGINE,
    ) -> None:
        self._workers = workers or usable_cores()
        self._wall_seconds = wall_seconds
        self._probe_seconds = min(probe_seconds, wall_seconds)
        self._cpu_share = cpu_share
        self._memory_bytes = memory_bytes
        self._max_tasks = max_tasks
        self._engine = engine
        self._pool: pebble.ProcessPool | None = None
        self._pool_guard = threading.Lock()
        # pebble hands every task to its pipe at once, where it can no longer be taken back; so no more are handed
        # over than there are children.
        self._slots = asyncio.Semaphore(self._workers)
        self._running: set[Future[Any]] = set()
        self._closed = False
        # Ending a pool joins threads and processes; that is done here, off the loop.
        self._shutdown_executor = ThreadPoolExecutor(1, thread_name_prefix="rindle-render-close")

    def start(self) -> None:
        """Start the children and check their libraries. Blocks for about half a second; call it once at startup.

        Raises:
            Misconfigured: libvips is missing or older than 8.13, or no child comes up.
        """
        with self._pool_guard:
            if self._closed:
                raise Misconfigured("the render pool is closed")
            if self._pool is not None:
                return
            self._pool = self._new_pool()
        try:
            self._schedule("require_safe_libvips", None, (), {}).result(timeout=START_SECONDS)
            problem = self._pool.schedule(render_child.isolation_problem).result(timeout=START_SECONDS)
        except Exception as error:
            pool, self._pool = self._pool, None
            _end(pool)
            if isinstance(error, RindleError):
                raise
            raise Misconfigured("no render child could be started; the worker's log holds its last words") from error
        if problem is not None:
            log.warning("the kernel does not isolate render children", extra={"reason": problem})

    async def probe(
        self,
        path: Path,
        mime: str | None = None,
        *,
        max_pixels: int,
        placeholder: bool = True,
        recipes: Sequence[ImageVariant] = (),
        keep: Path | None = None,
    ) -> ProbeResult:
        """Return the facts of the image at ``path``; ``mime`` is its sniffed type, ``None`` sniffs in the child.

        With ``keep`` the image decoded for ``recipes`` is written into that file, for :meth:`render` to read. Without
        ``placeholder`` none is made.

        Raises:
            ContentRejected: ``no_probe_for_mime``, ``max_pixels_exceeded``, ``content_too_complex`` or
                ``decode_failed``.
            UploadRejected: ``unknown_mime``, only when the type was to be sniffed.
            ProcessTimeout: the decoder took longer than the limit and was killed; retryable, unless it had used up its
                CPU time.
            ProbeFailed: the child died or the file could not be read; retryable.
        """
        try:
            found = await self._run(
                "probe_image", None, path, mime, max_pixels, placeholder=placeholder, recipes=tuple(recipes), keep=keep
            )
        except _ChildLost as lost:
            if isinstance(lost.error, ProcessTimeout):
                raise lost.error from None
            raise ProbeFailed(
                "the process that read the image died", detail=lost.error.detail, retryable=True
            ) from None
        assert isinstance(found, ProbeResult)  # noqa: S101 - narrows what came through a pipe
        return found

    async def render(
        self, source: Path, mime: str, orders: Sequence[RenderOrder], *, max_pixels: int, kept: Path | None = None
    ) -> list[RenderResult]:
        """Build all ``orders`` from one decode of ``source``; names are unique, all ``dest`` on one file system.

        An order that cannot be built fails alone, in its ``error``. When the child dies or takes too long, the orders
        are tried again with a child for each, so that only the culprit fails (``render_failed``, ``process_timeout``).
        When the call raises or is cancelled, no file of it is left. ``kept`` is the file that a probe kept; it is
        read, not removed.

        Returns:
            one result per order, in the order given.

        Raises:
            Misconfigured: the pool is not started or its libraries cannot work.
        """
        if not orders:
            return []
        try:
            return await self._render_together(source, mime, orders, max_pixels, kept)
        except _ChildLost as lost:
            if len(orders) == 1:
                return [_failed(orders[0], lost.error)]
            log.warning("render child lost; trying its variants one by one", extra={"code": lost.error.code})
        except MediaError as error:
            return [_failed(order, error) for order in orders]
        async with asyncio.TaskGroup() as singly:
            retries = [singly.create_task(self._render_alone(source, mime, order, max_pixels)) for order in orders]
        return [retry.result() for retry in retries]

    async def features(self) -> ImageFeatures:
        """Return the features of the image libraries, tried in a child process (for ``rindle doctor``)."""
        try:
            found = await self._run("features", None)
        except _ChildLost as lost:
            raise lost.error from None
        assert isinstance(found, ImageFeatures)  # noqa: S101 - narrows what came through a pipe
        return found

    async def close(self) -> None:
        """Kill what is running, end the children and wait for them. Callers that still wait get ``render_failed``."""
        with self._pool_guard:
            self._closed = True
            pool, self._pool = self._pool, None
        for future in list(self._running):
            future.cancel()
        if pool is not None:
            await run_to_end(asyncio.get_running_loop().run_in_executor(self._shutdown_executor, _end, pool))
        self._shutdown_executor.shutdown(wait=False)

    # --- inside --------------------------------------------------------------------------------------------------

    async def _render_alone(self, source: Path, mime: str, order: RenderOrder, max_pixels: int) -> RenderResult:
        try:
            return (await self._render_together(source, mime, [order], max_pixels))[0]
        except _ChildLost as lost:
            return _failed(order, lost.error)
        except RindleError as error:
            return _failed(order, error)

    async def _render_together(
        self, source: Path, mime: str, orders: Sequence[RenderOrder], max_pixels: int, kept: Path | None = None
    ) -> list[RenderResult]:
        """Render in a directory of this call's own and move what was made to its place."""
        try:
            scratch = Path(tempfile.mkdtemp(prefix=".rindle-render-", dir=orders[0].dest.parent))
        except OSError as error:
            raise RenderFailed("the scratch directory cannot be written", detail={"errno": error.errno}) from error
        drafts = [
            replace(order, dest=scratch / f"{number}{order.recipe.extension}") for number, order in enumerate(orders)
        ]
        try:
            made = await self._run("render_images", scratch, source, mime, drafts, max_pixels, kept)
            return [_moved(result, order) for result, order in zip(made, orders, strict=True)]
        finally:
            await run_to_end(_remove_idle(scratch))

    async def _run(self, function: str, busy: Path | None, *arguments: Any, **options: Any) -> Any:
        async with self._child():
            try:
                return await self._result(function, busy, arguments, options)
            except (BrokenProcessPool, RuntimeError):
                # The pool broke under us (pebble gives up when an idle child is killed). A fresh one gets one try.
                log.warning("render pool broke; starting another")
            if busy is not None:
                async with _idle(busy):
                    pass  # the broken pool's child must be gone before another works there
            try:
                return await self._result(function, busy, arguments, options)
            except (BrokenProcessPool, RuntimeError) as error:
                # A child that dies before pebble has noted its task breaks the pool, too: this task may be the cause.
                raise _ChildLost(RenderFailed("the render pool broke twice in a row")) from error

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[None]:
        """Wait for a child to be free, and keep it for the block."""
        await self._slots.acquire()
        try:
            yield
        finally:
            self._slots.release()

    async def _result(
        self, function: str, busy: Path | None, arguments: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        wall_seconds = self._limit_of(function)
        future = self._schedule(function, busy, arguments, options)
        self._running.add(future)
        try:
            return await asyncio.wrap_future(future)
        except (TimeoutError, pebble.ProcessExpired) as error:
            raise _ChildLost(_loss(error, wall_seconds, wall_seconds * self._cpu_share)) from error
        except (asyncio.CancelledError, FutureCancelled):
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise RenderFailed("the render pool was closed") from None
            raise
        finally:
            self._running.discard(future)

    def _limit_of(self, function: str) -> float:
        if function == "require_safe_libvips":
            return START_SECONDS  # it includes the start of the child, which has nothing to do with a file
        return self._probe_seconds if function == "probe_image" else self._wall_seconds

    def _schedule(
        self, function: str, busy: Path | None, arguments: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Future[Any]:
        with self._pool_guard:
            if self._closed or self._pool is None:
                raise Misconfigured("the render pool is not running")
            if not self._pool.active:
                self._shutdown_executor.submit(_end, self._pool)
                self._pool = self._new_pool()
            wall = self._limit_of(function)
            task = (self._engine, function, wall, wall * self._cpu_share, busy, arguments, dict(options))
            scheduled: Future[Any] = self._pool.schedule(render_child.call, args=task, timeout=wall)
            return scheduled

    def _new_pool(self) -> pebble.ProcessPool:
        context = CleanContext(self._engine, render_child.__name__, "pebble.pool.process")
        pool = pebble.ProcessPool(
            max_workers=self._workers,
            max_tasks=self._max_tasks,
            initializer=render_child.enter,
            initargs=(self._memory_bytes,),
            context=context,
        )
        pool._pool_manager = _PoolManager(pool._context, context)
        return pool


class ImageProbe:
    """The bundled :class:`rindle.protocols.Probe` for images.

    Args:
        pool: started pool in which images are opened.
        max_pixels: frames times width times height at most.
        placeholder: whether to make one.
        recipes: the recipes that will be rendered from the image.
        keep: file in which pixels are left for that render; nothing is kept when left out.
    """

    def __init__(
        self,
        pool: RenderPool,
        max_pixels: int,
        *,
        placeholder: bool = True,
        recipes: Sequence[ImageVariant] = (),
        keep: Path | None = None,
    ) -> None:
        self._pool = pool
        self._options: dict[str, Any] = {
            "max_pixels": max_pixels,
            "placeholder": placeholder,
            "recipes": recipes,
            "keep": keep,
        }

    def accepts(self, mime: str) -> bool:
        """Whether images of the sniffed type ``mime`` are read."""
        return mime in READABLE_TYPES

    async def probe(self, path: Path) -> ProbeResult:
        """Sniff and read the image at ``path``; raises what :meth:`RenderPool.probe` raises."""
        return await self._pool.probe(path, **self._options)


class _PoolManager(PoolManager):
    """Finds the task of a child that died before the message that it has begun was read.

    pebble looks once, as soon as it sees a dead child. When another thread has not read the child's message by then,
    nobody ends the task before its time limit, or the whole pool is given up.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._deaths: list[tuple[Any, int]] = []

    def update_workers(self) -> None:
        deaths, self._deaths = self._deaths, []
        for death, looks in deaths:
            self._look(death, looks)
        super().update_workers()  # type: ignore[no-untyped-call]

    def handle_worker_expiration(self, expiration: Any) -> None:
        self._look(expiration, _LOOKS)

    def _look(self, death: Any, looks: int) -> None:
        try:
            self.find_expired_task(death[0])
        except (LookupError, BrokenProcessPool):
            if looks > 1:
                self._deaths.append((death, looks - 1))
                return
        super().handle_worker_expiration(death)


class _ChildLost(Exception):
    """The child has ended; never leaves this module."""

    def __init__(self, error: MediaError) -> None:
        super().__init__(error.code)
        self.error = error


def _loss(error: BaseException, wall_seconds: float, cpu_seconds: float) -> MediaError:
    """Return why a child has ended: its time limit, the kernel's limit, or its own failure.

    Used-up CPU time is the work that the file costs, on every machine and in every attempt; wall time may be the
    machine's fault.
    """
    code = error.exitcode if isinstance(error, pebble.ProcessExpired) else None
    if code == -signal.SIGXCPU:
        return ProcessTimeout(
            f"image work used up {cpu_seconds:g} seconds of CPU time and was ended",
            detail={"part": "cpu_seconds", "limit": cpu_seconds},
            retryable=False,
        )
    if code is None or code == -signal.SIGALRM:
        return ProcessTimeout(
            f"image work took longer than {wall_seconds:g} seconds and was ended", detail={"limit": wall_seconds}
        )
    cause = {"signal": signal.Signals(-code).name} if code < 0 else {"exit_code": code}
    return RenderFailed("the process that rendered the variant died", detail=cause)


def _failed(order: RenderOrder, error: RindleError) -> RenderResult:
    return RenderResult(order.name, None, None, None, None, order.recipe.content_type, error)


def _moved(result: RenderResult, order: RenderOrder) -> RenderResult:
    if result.path is None:
        return result
    try:
        result.path.replace(order.dest)
    except OSError as error:
        return _failed(order, RenderFailed("the variant cannot be put into place", detail={"errno": error.errno}))
    return replace(result, path=order.dest)


async def _remove_idle(directory: Path) -> None:
    """Remove ``directory`` with all it holds, once no child works in it."""
    async with _idle(directory):
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _idle(directory: Path) -> AsyncIterator[None]:
    """Wait until no child works in ``directory``, and keep any other from starting there within the block.

    A child holds the directory's lock from before it opens an image until it answers or ends.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        deadline = asyncio.get_running_loop().time() + _GONE_SECONDS
        while not _locked_now(handle):
            if asyncio.get_running_loop().time() > deadline:
                log.error("a render child did not go away in time")
                break
            await asyncio.sleep(0.02)
        yield
    finally:
        os.close(handle)


def _locked_now(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(pool: pebble.ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()
