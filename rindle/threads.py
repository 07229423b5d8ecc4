"""Threads for the blocking calls of the library itself, mostly on files.

The event loop's default pool is not used: it has few threads, and an application's code may keep them all busy. Foreign
code has threads of its own (:mod:`rindle.plugins`), and so have adapters and databases.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Threads of the process; each is made when it is first needed.
SIZE = 32

_pool = ThreadPoolExecutor(SIZE, thread_name_prefix="rindle-own")


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return ``function(*args, **kwargs)``, called in a thread; only for calls that end by themselves.

    A caller that is cancelled leaves the call to end by itself.
    """
    context = contextvars.copy_context()  # trace and log context follow the call into the thread
    call = partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool, call)
