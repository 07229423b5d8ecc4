"""Films on a stage: an application whose provider is in memory, and what a test does with its pushes."""

from __future__ import annotations

from sqlalchemy.orm import Session

from rindle import MediaAsset, Rindle, outbox
from rindle.storage.memory import MemoryStorage
from rindle.streaming.memory import InMemoryProvider
from rindle.workflows import ids
from tests.application import SECRET as SIGNING_SECRET
from tests.gallery import Gallery
from tests.patience import until
from tests.stage import Stage
from tests.unit.streaming.cinema import Cinema, make_profiles


def cinema_on(stage: Stage, provider: InMemoryProvider, **environment: str) -> Cinema:
    """Return the stage's application with films and a provider."""
    made = stage.application(**environment)
    store = MemoryStorage()
    rindle = Rindle(
        engine=made.database.engine,
        storages={"media": store},
        profiles=make_profiles(store),
        secrets=[SIGNING_SECRET],
        settings=made.settings,
        temporal=made.temporal,
        providers=[provider],
    )
    return Cinema(Gallery(stage.adopt(rindle)), provider)


def workflow_of(stage: Stage, asset: MediaAsset) -> str:
    return ids.provider_push_id(asset.id, "memory", prefix=stage.prefix)


async def start(cinema: Cinema, asset: MediaAsset) -> None:
    """Request the push as the build of the source does."""

    def begin(session: Session) -> None:
        outbox.push_source(session, cinema.rindle.settings, asset.id, cinema.profile(asset.profile), {"web_720p"})

    await cinema.rindle.database.write(begin)


async def in_state(cinema: Cinema, asset: MediaAsset, state: str) -> None:
    async def look() -> bool:
        try:
            return (await cinema.row(asset)).state == state
        except AssertionError:
            return False

    await until(look, what=f"the film to be {state} at its provider")
