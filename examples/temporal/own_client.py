"""Connects with a key that is read when it is needed, and with options that only this application has."""

from __future__ import annotations

import os

from temporalio.client import Client

from rindle import TemporalConnection


async def read_secret(name: str) -> str:
    """Read a secret where your platform keeps it."""
    return os.environ[name]


async def connect() -> Client:
    """Return a connected client."""
    return await Client.connect(
        "media.a1b2c.tmprl.cloud:7233",
        namespace="media.a1b2c",
        api_key=await read_secret("MEDIA_TEMPORAL_KEY"),
        rpc_metadata={"team": "media"},
    )


def own_client() -> TemporalConnection:
    """Return what is passed as ``Rindle(temporal=...)``."""
    return TemporalConnection(connect=connect, connect_seconds=10)
