"""Every public name of ``Rindle`` has an example in its docstring, and the examples run.

They run on a real application (SQLite, local storage, Temporal), each on one of its own, with the names that
:func:`names` prepares. An example that waits for an asset, or erases an owner, gets a worker.
"""

from __future__ import annotations

import ast
import inspect
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from docs.generate import example_of
from rindle import MediaAsset, MediaUploadSession, Rindle
from rindle.db import migrate
from rindle.db.ids import AssetOrId
from rindle.errors import StateConflict
from tests.application import Avatar, Lesson, Talk
from tests.gallery import Gallery
from tests.integration.uploads.conftest import send_part
from tests.integration.uploads.test_resumable import environment_of
from tests.patience import PATIENCE_SECONDS
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged

#: ``Rindle`` itself (its constructor), then every public method and property, also those of its parts.
PUBLIC = ["Rindle", *sorted(name for name in dir(Rindle) if not name.startswith("_"))]
#: Examples that show the recipe of a caller's own transaction, which is longer.
RECIPES = ("attach", "attachments")
#: Examples of uploads in parts, which local storage does not take.
IN_PARTS = ("initiate_multipart_upload", "sign_multipart_part", "list_parts", "complete_multipart_upload")
#: Examples of sessions of the store, which only Google Cloud Storage has.
IN_SESSIONS = ("initiate_resumable_session", "resumable_session_status")
#: Examples of uploads to a streaming provider.
TO_PROVIDER = ("create_direct_upload", "cancel_direct_upload")
#: Bytes that are of the type video/mp4 or audio/wav, and no more than that: nothing decodes them here.
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\0\x08free"
WAV = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x44\xac\0\0\x88\x58\x01\0\x02\0\x10\0data\0\0\0\0"
VIDEO = {"kind": "video", "width": 1920, "height": 1080, "has_video_track": True, "has_audio_track": True}
AUDIO = {"kind": "audio", "width": None, "height": None, "has_audio_track": True}


class _Tables(DeclarativeBase):
    pass


class Member(_Tables):
    """A mapped class of the application."""

    __tablename__ = "members"

    id: Mapped[int] = mapped_column(primary_key=True)


def documented(name: str) -> Any:
    """Return what a name of :data:`PUBLIC` stands for."""
    return Rindle if name == "Rindle" else inspect.getattr_static(Rindle, name)


async def run(code: str, names: dict[str, Any]) -> None:
    """Run code that may await at its top level."""
    compiled = compile(code, "<example>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running: Any = eval(compiled, names)
    if inspect.isawaitable(running):
        await running


async def _built(gallery: Gallery, actor: str = "ada") -> MediaAsset:
    """Return an asset whose ``thumb`` is ready and whose ``large`` has failed."""
    return await gallery.ready(Avatar, "thumb", actor=actor)


async def _asset(stage: Stage, gallery: Gallery, name: str, code: str) -> MediaAsset:
    if "settled(" in code:
        return await stage.verified("avatar", actor="ada")
    if "reprobe(" in code:
        return await stage.ready("avatar", actor="ada")  # with an original that a worker can read
    asset = await _built(gallery)
    if name == "cancel_processing":
        await stage.rindle.requeue_variants(asset)
    return asset


async def _session(stage: Stage, name: str) -> MediaUploadSession:
    """Return an upload whose bytes were sent, whole or as the one part of a multipart upload; or an open session."""
    if name in IN_SESSIONS:
        return (await stage.rindle.initiate_resumable_session("avatar", filename="me.jpg", actor="ada")).session
    if name not in IN_PARTS:
        return await stage.sent("avatar", actor="ada")
    body = photo(stage.home / "photo.jpg").read_bytes()
    opened = await stage.rindle.initiate_multipart_upload("avatar", filename="me.jpg", size=len(body), actor="ada")
    await send_part(stage, opened.session.id, 1, body)
    return opened.session


@pytest.fixture
async def example_stage(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, temporal_server: TemporalServer
) -> AsyncIterator[Stage]:
    """The application on SQLite, with local storage unless the example needs a bucket."""
    environment = {}
    if name in IN_PARTS:
        environment = request.getfixturevalue("bucket_environment")
    elif name in IN_SESSIONS:
        environment = environment_of(request.getfixturevalue("gcp_emulator"))
    elif name in TO_PROVIDER:
        environment = {"APP_PROVIDER": "memory"}
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, environment) as ready:
        yield ready


@asynccontextmanager
async def names(stage: Stage, name: str, code: str) -> AsyncIterator[dict[str, Any]]:
    """Prepare what examples use: an upload whose bytes were sent, an asset, a member whose slot is taken, and so on."""
    rindle, gallery = stage.rindle, Gallery(stage.rindle)
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    async with engine.begin() as connection:
        await connection.run_sync(_Tables.metadata.create_all)
        await connection.run_sync(migrate.stamp)
    sync_engine = create_engine(stage.environment["APP_DATABASE_URL"].replace("sqlite+aiosqlite", "sqlite"))
    async with AsyncSession(engine, expire_on_commit=False) as transaction, transaction.begin():
        member = Member()
        transaction.add(member)
    if "settled(" in code:
        await stage.member()
    else:
        await rindle.attach(await _built(gallery, "bob"), member, "avatar")
    if "erase_owner" in code or "reprobe(" in code:
        await stage.member()
    rindle.services = replace(rindle.services, force_delete_policy=lambda *facts: None)
    wanted: dict[str, Callable[[], Any]] = {
        "asset": lambda: _asset(stage, gallery, name, code),
        "session": lambda: _session(stage, name),
        "video": lambda: gallery.available(Lesson, data=MP4, filename="lesson.mp4", facts=VIDEO),
        "audio": lambda: gallery.available(Talk, data=WAV, filename="talk.wav", facts=AUDIO),
    }
    if name in TO_PROVIDER:
        wanted["upload"] = lambda: rindle.create_direct_upload("reel", cors_origin="https://example.com")
    used = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    rows = {key: await make() for key, make in wanted.items() if key in used}
    known = {
        "AsyncSession": AsyncSession,
        "Avatar": Avatar,
        "Member": Member,
        "Rindle": Rindle,
        "Session": Session,
        "StateConflict": StateConflict,
        "UTC": UTC,
        "datetime": datetime,
        "engine": engine,
        "escape": escape,
        "member": member,
        "rindle": rindle,
        "storage": stage.storage,
        "sync_engine": sync_engine,
    }
    yield known | rows
    sync_engine.dispose()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_short_example(name: str) -> None:
    lines = example_of(documented(name)).splitlines()

    assert 1 <= len(lines) <= (8 if name in RECIPES else 3), (
        f"give the docstring of {name} a section `Example:` of two lines"
    )
    used = {node.attr for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.Attribute)}
    assert name in used | {"Rindle"}, f"the example of {name} does not use it"


@pytest.mark.parametrize("name", PUBLIC)
async def test_the_example_runs(
    name: str, example_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = example_of(documented(name))
    real = Rindle.settled

    async def settled(rindle: Rindle, asset: AssetOrId, *, timeout: float = 0) -> MediaAsset:  # noqa: ASYNC109
        return await real(rindle, asset, timeout=max(timeout, PATIENCE_SECONDS))

    monkeypatch.setattr(Rindle, "settled", settled)  # a busy machine needs longer than the examples wait
    folder = tmp_path / "application"
    folder.mkdir()
    shutil.copy(photo(tmp_path / "me.jpg"), folder)
    for variable, value in example_stage.environment.items():
        monkeypatch.setenv(variable, value)
    async with names(example_stage, name, code) as prepared:
        monkeypatch.chdir(folder)

        await run(code, prepared)
