"""Talks on a stage: an application whose creators upload to a provider in memory."""

from __future__ import annotations

from rindle import Rindle
from rindle.storage.memory import MemoryStorage
from rindle.streaming.memory import InMemoryProvider
from rindle.uploads.to_provider import DirectUpload
from rindle.workflows import ids
from tests.application import SECRET as SIGNING_SECRET
from tests.gallery import Gallery
from tests.patience import until
from tests.stage import Stage
from tests.unit.streaming.studio import Studio, make_profiles
from tests.workflows.fleet import in_stage


def studio_on(stage: Stage, provider: InMemoryProvider, **environment: str) -> Studio:
    """Return the stage's application with talks and a provider."""
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
    return Studio(Gallery(stage.adopt(rindle)), provider)


def workflow_of(stage: Stage, upload: DirectUpload) -> str:
    return ids.provider_upload_id(upload.asset_id, prefix=stage.prefix)


async def in_state(studio: Studio, upload: DirectUpload, state: str) -> None:
    async def look() -> bool:
        return (await studio.row_of(upload)).state == state

    await until(look, what=f"the talk to be {state} at its provider")


async def waiting(stage: Stage, upload: DirectUpload) -> None:
    """Wait until the workflow of an upload waits for its bytes."""
    await in_stage(stage, workflow_of(stage, upload), "waiting for the upload")


async def overdue(studio: Studio, upload: DirectUpload) -> None:
    """Let the time of an upload be over."""
    row = await studio.row_of(upload)
    await studio.change(await studio.asset_of(upload), inserted_at=row.inserted_at.replace(year=2020))
