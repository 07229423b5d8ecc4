"""Two namespaces in one program: one ``Rindle`` object for each, with tables of its own."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from rindle import Profile, Rindle, Settings, TemporalConnection
from rindle.protocols import Storage


def for_tenant(tenant: str, engine: AsyncEngine, storage: Storage, profiles: list[type[Profile]]) -> Rindle:
    """Return the application of one tenant, whose database, bucket and namespace are its own."""
    return Rindle(
        engine=engine,
        profiles=profiles,
        storages={"media": storage},
        settings=Settings(),
        temporal=TemporalConnection(namespace=f"media-{tenant}"),
    )
