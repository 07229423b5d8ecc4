"""The examples of ``docs/temporal.md``: mypy reads what this file imports. Some need a server that no test has.

Never run.
"""

from __future__ import annotations

import asyncio
from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncEngine

from examples.temporal.cluster import cluster
from examples.temporal.encrypted import encrypted
from examples.temporal.namespaces import for_tenant
from examples.temporal.own_client import own_client
from examples.temporal.worker import work
from rindle import Profile, Rindle, TemporalConnection
from rindle.protocols import Storage


async def examples(engine: AsyncEngine, storage: Storage, profiles: list[type[Profile]]) -> None:
    """Use each of them."""
    assert_type([cluster(), encrypted(), own_client()], list[TemporalConnection])
    rindle = assert_type(for_tenant("acme", engine, storage, profiles), Rindle)
    await work(rindle, asyncio.Event())
