"""``rindle.attachments``: the calls of synchronous code are those of the asynchronous API, on the same slots."""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from docs.generate import example_of
from rindle import MediaAsset, MediaOutbox, MediaUploadSession, Profile, Rindle
from rindle.attachments import SessionAttachments
from rindle.db.database import CONFLICT_TRIES
from rindle.errors import InvalidArgument, ProfileMismatch, StateConflict
from rindle.protocols import Storage
from rindle.sqlite import WRITE_OPTION, configure
from rindle.uploads.direct import initiate_and_sign
from rindle.uploads.sessions import UploadRequest
from tests.gallery import Gallery, opened
from tests.integration.test_docstring_examples import run


class AppBase(DeclarativeBase):
    """The application's own tables."""


class Member(AppBase):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)


def make_profiles(store: Storage) -> list[type[Profile]]:
    class Photo(Profile):
        name = "photo"
        storage = store
        variants = {}

    class Clip(Photo):
        name = "clip"

    return [Photo, Clip]


@pytest.fixture
async def gallery(tmp_path: Path, database_url: str) -> AsyncIterator[Gallery]:
    """An application with an owner type, a slot and settings of its own."""
    async with opened(tmp_path, make_profiles, database_url=database_url, workflow_id_prefix="shop") as made:
        async with _async_engine(made).begin() as connection:
            await connection.run_sync(AppBase.metadata.create_all)
        made.rindle.register_owner_type("customer", Member, slots={"avatar": "photo"})
        yield made


@pytest.fixture
def engine(gallery: Gallery, database_url: str) -> Iterator[Engine]:
    """The engine of the application's synchronous code."""
    made = create_engine(database_url.replace("sqlite+aiosqlite", "sqlite"))
    yield made
    made.dispose()


def _async_engine(gallery: Gallery) -> AsyncEngine:
    engine = gallery.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    return engine


async def _photo(gallery: Gallery) -> MediaAsset:
    return await gallery.available(gallery.rindle.profiles.get("photo"), actor="ada")


# --- one world ----------------------------------------------------------------------------------------------------


async def test_both_apis_read_and_write_the_same_slot(gallery: Gallery, engine: Engine) -> None:
    rindle = gallery.rindle
    first, second = await _photo(gallery), await _photo(gallery)

    with Session(engine, expire_on_commit=False) as session, session.begin():
        member = Member()
        session.add(member)
        session.flush()
        attached = rindle.attachments.attach(first, member, "avatar", uploaded_by="ada", session=session)
        assert (attached.owner_type, attached.owner_id) == ("customer", str(member.id))
    seen = await rindle.attachment_for(member, "avatar")
    assert seen is not None and seen.asset_id == first.id

    await rindle.attach(second, member, "avatar")
    with Session(engine) as session:
        found = rindle.attachments.attachment_for(member, "avatar", load=("variants",), session=session)
        assert found is not None and found.asset.id == second.id
        assert rindle.attachments.ready_variants_for(found.asset, session=session) == []

    with Session(engine) as session, session.begin():
        rindle.attachments.detach(member, "avatar", session=session)
    assert await rindle.attachment_for(member, "avatar") is None
    purges = await rindle.database.read(lambda s: s.scalars(select(MediaOutbox.workflow_id)).all())
    assert {f"shop-purge:{asset.id}" for asset in (first, second)} <= set(purges)


async def test_the_application_s_slots_hold_for_synchronous_code(gallery: Gallery, engine: Engine) -> None:
    clip = await gallery.available(gallery.rindle.profiles.get("clip"))

    with Session(engine) as session, session.begin(), pytest.raises(ProfileMismatch):
        gallery.rindle.attachments.attach(clip, ("customer", 1), "avatar", session=session)


def test_the_arguments_are_those_of_rindle_in_the_same_order() -> None:
    for name, member in inspect.getmembers(SessionAttachments, inspect.isfunction):
        if name.startswith("_"):
            continue
        here = dict(inspect.signature(member).parameters)
        there = dict(inspect.signature(getattr(Rindle, name)).parameters)
        session = here.pop("session")
        assert session.default is session.empty and session.kind is session.KEYWORD_ONLY
        there.pop("session", None)
        assert list(here.values()) == list(there.values())


async def test_a_session_of_the_other_kind_is_refused_with_the_call_to_use(gallery: Gallery) -> None:
    async with AsyncSession(_async_engine(gallery)) as session:
        with pytest.raises(InvalidArgument, match="await"):
            gallery.rindle.attachments.detach(("customer", 1), "avatar", session=session)  # type: ignore[arg-type]


async def test_scoped_sessions_are_sessions(gallery: Gallery, engine: Engine) -> None:
    """The ``db.session`` of Flask is one."""
    rindle = gallery.rindle
    asset = await _photo(gallery)
    scoped = scoped_session(sessionmaker(engine))
    rindle.attachments.attach(asset, ("customer", 1), "avatar", session=scoped)
    await rindle.attach(asset, ("customer", 2), "avatar", session=scoped)
    scoped.commit()
    scoped.remove()
    async_scoped = async_scoped_session(async_sessionmaker(_async_engine(gallery)), scopefunc=lambda: 1)
    await rindle.attach(asset, ("customer", 3), "avatar", session=async_scoped)
    await async_scoped.commit()
    await async_scoped.remove()

    for number in (1, 2, 3):
        assert await rindle.attachment_for(("customer", number), "avatar") is not None


# --- transactions that meet ---------------------------------------------------------------------------------------


@contextmanager
def _first_commit_fails(times: int = 1) -> Iterator[list[int]]:
    """Let the first ``times`` transactions meet another one: databases report that at the commit at the latest."""
    seen: list[int] = []

    def fail(session: Session) -> None:
        if not session.in_nested_transaction():
            seen.append(1)
            if len(seen) <= times:
                raise StateConflict("another transaction was first")

    event.listen(Session, "before_commit", fail)
    try:
        yield seen
    finally:
        event.remove(Session, "before_commit", fail)


async def _upload(gallery: Gallery) -> str:
    signed = await initiate_and_sign(gallery.rindle.services, "photo", UploadRequest(filename="a.png"))
    return signed.session.id


@pytest.mark.parametrize(
    "flow",
    [
        lambda gallery, asset: gallery.rindle.attach(asset, ("customer", 1), "avatar"),
        lambda gallery, asset: gallery.rindle.detach(("customer", 1), "avatar"),
        lambda gallery, asset: gallery.rindle.purge_asset(asset),
        lambda gallery, asset: gallery.rindle.initiate_upload("photo", filename="a.png"),
        lambda gallery, asset: _upload(gallery),
    ],
    ids=["attach", "detach", "purge", "initiate", "initiate and sign"],
)
async def test_a_flow_repeats_its_own_transaction(gallery: Gallery, flow: Callable[[Gallery, MediaAsset], Any]) -> None:
    asset = await _photo(gallery)

    with _first_commit_fails() as commits:
        await flow(gallery, asset)

    assert len(commits) == 2
    uploads = await gallery.rindle.database.read(lambda s: s.scalars(select(MediaUploadSession.id)).all())
    assert len(uploads) <= 2  # that of the photo, and a new one


async def test_a_flow_gives_up_at_last(gallery: Gallery) -> None:
    with _first_commit_fails(times=100) as commits, pytest.raises(StateConflict):
        await gallery.rindle.initiate_upload("photo", filename="a.png")

    assert len(commits) == CONFLICT_TRIES
    assert await gallery.rindle.database.read(lambda s: s.scalars(select(MediaUploadSession.id)).all()) == []


async def test_a_caller_s_own_transaction_is_not_repeated(gallery: Gallery, engine: Engine) -> None:
    asset = await _photo(gallery)

    with _first_commit_fails() as commits, pytest.raises(StateConflict), Session(engine) as session, session.begin():
        await gallery.rindle.attach(asset, ("customer", 1), "avatar", session=session)

    assert len(commits) == 1
    assert await gallery.rindle.attachment_for(("customer", 1), "avatar") is None


async def test_a_busy_sqlite_file_is_waited_for_again(tmp_path: Path) -> None:
    """A writer that waits for the lock may be passed by others until its busy timeout ends."""
    async with opened(tmp_path, make_profiles) as gallery:
        asset = await _photo(gallery)
        engine = _async_engine(gallery).sync_engine
        await _async_engine(gallery).dispose()
        event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA busy_timeout=0").close())
        holder = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        refused: list[str] = []

        def release(context: Any) -> None:
            refused.append(str(context.original_exception))
            if holder.in_transaction:
                holder.execute("ROLLBACK")

        event.listen(engine, "handle_error", release)

        await gallery.rindle.attach(asset, ("customer", 1), "avatar")

        holder.close()
        assert refused == ["database is locked"]
        assert await gallery.rindle.attachment_for(("customer", 1), "avatar") is not None


@pytest.mark.parametrize("call", ["attach", "replace", "detach"])
@pytest.mark.parametrize("configured", [True, False], ids=["rindle's", "the driver's"])
async def test_a_sqlite_transaction_that_begins_with_a_call_is_not_refused(
    tmp_path: Path, call: str, configured: bool
) -> None:
    """Another process tries to write as soon as the call has read: the call has the write lock by then."""
    async with opened(tmp_path, make_profiles) as gallery:
        old, new = await _photo(gallery), await _photo(gallery)
        if call != "attach":
            await gallery.rindle.attach(old, ("customer", 1), "avatar")
        engine = create_engine(f"sqlite:///{tmp_path / 'gallery.db'}")
        if configured:
            configure(engine)
        worker = sqlite3.connect(tmp_path / "gallery.db", isolation_level=None, timeout=0)
        refused: list[str] = []

        def write_meanwhile(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            if statement.startswith("SELECT"):
                try:
                    worker.execute("UPDATE media_assets SET updated_at = updated_at")
                except sqlite3.OperationalError as error:
                    refused.append(str(error))

        event.listen(engine, "after_cursor_execute", write_meanwhile)

        with Session(engine) as session, session.begin():
            if call == "detach":
                gallery.rindle.attachments.detach(("customer", 1), "avatar", session=session)
            else:
                gallery.rindle.attachments.attach(new, ("customer", 1), "avatar", session=session)

        assert refused and set(refused) == {"database is locked"}
        worker.close()
        engine.dispose()
        found = await gallery.rindle.attachment_for(("customer", 1), "avatar")
        assert (found and found.asset_id) == (None if call == "detach" else new.id)


# --- the recipe ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_the_recipe_repeats_a_transaction_that_met_another_one(
    gallery: Gallery, engine: Engine, kind: str
) -> None:
    """The examples in the docstrings, on both databases, with a conflict in their first transaction."""
    rindle = gallery.rindle
    names = {
        "AsyncSession": AsyncSession,
        "Session": Session,
        "StateConflict": StateConflict,
        "asset": await _photo(gallery),
        "engine": _async_engine(gallery),
        "member": ("customer", 1),
        "rindle": rindle,
        "sync_engine": engine,
    }
    documented: Any = Rindle.attach if kind == "async" else inspect.getattr_static(Rindle, "attachments")

    with _first_commit_fails(times=2) as commits:
        await run(example_of(documented), names)

    assert len(commits) == 3
    assert await rindle.attachment_for(("customer", 1), "avatar") is not None
    with _first_commit_fails(times=3), pytest.raises(StateConflict):
        await run(example_of(documented), names)


async def test_a_sqlite_transaction_with_the_write_option_never_meets_another_one(tmp_path: Path) -> None:
    async with opened(tmp_path, make_profiles) as gallery:
        asset = await _photo(gallery)
        engine = create_engine(f"sqlite:///{tmp_path / 'gallery.db'}")
        rindle = Rindle(engine=engine, profiles=gallery.rindle.profiles, settings=gallery.rindle.settings)
        with Session(engine.execution_options(**{WRITE_OPTION: True})) as session, session.begin():
            session.scalars(select(MediaAsset)).all()  # another process cannot write after this
            rindle.attachments.attach(asset.id, ("customer", 1), "avatar", session=session)
        await rindle.close()
        engine.dispose()
        assert await gallery.rindle.attachment_for(("customer", 1), "avatar") is not None
