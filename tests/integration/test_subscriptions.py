"""Following assets in Python: order, no loss, resuming, slow consumers, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, delete, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaVariant, Rindle, Settings, subscriptions
from rindle.db.notifier import Notifier, notifier_of
from rindle.db.purge import finish
from rindle.db.subscriptions import events_after
from rindle.errors import InvalidArgument, NotFound, NotSettled
from rindle.states import AssetState, VariantState
from rindle.storage.memory import MemoryStorage
from rindle.subscriptions import QUEUE_SIZE, Event, Subject, Subscription, subject_of
from tests.live import SECRET, Clip, Newsroom, Other, Running, age, newsroom, restart, restart_repeatedly
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import postgres


@pytest.fixture
async def news(tmp_path: Path, database_url: str) -> AsyncIterator[Newsroom]:
    async with newsroom(tmp_path, database_url) as opened:
        yield opened


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Newsroom]:
    async with newsroom(tmp_path, f"sqlite+aiosqlite:///{tmp_path / 'news.db'}") as opened:
        yield opened


@pytest.fixture
async def big(tmp_path: Path, postgres_server: postgres.PostgresServer) -> AsyncIterator[Newsroom]:
    url = postgres_server.new_database()
    async with newsroom(tmp_path, url) as opened:
        yield opened
    postgres_server.drop_database(url)


async def take(events: Subscription, count: int) -> list[Event]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [await anext(events) for _ in range(count)]


async def rest(events: Subscription) -> list[Event]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [told async for told in events]


# --- order and loss ----------------------------------------------------------------------------------------------


async def test_twenty_writers_lose_nothing_and_keep_each_assets_order(news: Newsroom) -> None:
    assets = [await news.running() for _ in range(4)]
    steps, writers = 6, 5
    subscriptions = [await news.rindle.subscribe("asset", asset.id).open() for asset in assets]
    together = await Subscription(news.rindle.listener, [subject_of("asset", asset.id) for asset in assets]).open()
    begun = {asset.id: await news.streamed(asset.id) for asset in assets}
    barrier = asyncio.Barrier(len(assets) * writers)

    async def write(asset: Any) -> None:
        await barrier.wait()
        await news.restarted(asset, steps)

    async with asyncio.TaskGroup() as group:
        for asset in assets:
            for _ in range(writers):
                group.create_task(write(asset))
        followers = [group.create_task(take(one, steps * writers)) for one in subscriptions]
        everything = group.create_task(take(together, steps * writers * len(assets)))

    for asset, follower in zip(assets, followers, strict=True):
        written = (await news.streamed(asset.id))[len(begun[asset.id]) :]
        assert len(written) == steps * writers
        assert [told.id for told in follower.result()] == written
        of_asset = [told for told in everything.result() if told.payload["asset_id"] == asset.id]
        assert [told.id for told in of_asset] == written
    assert together.cursors == [(await news.streamed(asset.id))[-1] for asset in assets]


async def test_an_open_transaction_neither_delays_other_assets_nor_loses_its_own_event(big: Newsroom) -> None:
    slow, quick = await big.running(), await big.running()
    engine = big.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    subjects = [subject_of("asset", slow.id), subject_of("asset", quick.id)]

    async with Subscription(big.rindle.listener, subjects) as events:
        async with AsyncSession(engine) as held:
            await held.run_sync(restart, slow.variant_id)
            await held.flush()  # its event has its id and nobody else can see it
            await big.restarted(quick, 3)
            told = await take(events, 3)
            late = await big.rindle.subscribe("asset", slow.id).open()  # begins in the middle of it
            await held.commit()
        (after,) = await take(events, 1)
        (to_late,) = await take(late, 1)

    assert {one.payload["asset_id"] for one in told} == {quick.id}
    assert after.payload["asset_id"] == slow.id and to_late.id == after.id
    assert after.id < told[0].id  # it was written first, and told although later ones were known
    late.close()


async def test_an_attachment_that_commits_first_hides_no_event(big: Newsroom) -> None:
    """Attaching takes a weaker lock: its event, which is not streamed, may have a higher id and be there before."""
    asset = await big.running()
    engine = big.rindle.database.engine
    assert isinstance(engine, AsyncEngine)

    async with AsyncSession(engine) as held:
        await held.run_sync(restart, asset.variant_id)
        await held.flush()
        await big.rindle.attach(asset.id, ("user", "1"), "avatar")
        async with big.rindle.subscribe("asset", asset.id) as events:
            await held.commit()
            (told,) = await take(events, 1)

    assert told.type == "variant_started"
    assert told.id < (await big.rindle.timeline(asset.id))[-1].id


async def test_a_change_that_is_rolled_back_is_told_to_nobody(news: Newsroom) -> None:
    asset = await news.running()

    async with news.rindle.subscribe("asset", asset.id) as events:
        with pytest.raises(ZeroDivisionError):
            await news.rindle.database.write(lambda session: restart(session, asset.variant_id) or 1 / 0)
        await news.progressed(asset, 40)
        (told,) = await take(events, 1)

    assert told.type == "variant_progress"


async def test_one_transaction_notifies_once_and_a_rollback_never(big: Newsroom, postgres_server: Any) -> None:
    asset, other = await big.running(), await big.running()
    engine = big.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    url = engine.url.render_as_string(hide_password=False).replace("postgresql+psycopg", "postgresql")
    sent = partial(asyncio.to_thread, notifier_of(engine.sync_engine).flush, PATIENCE_SECONDS)  # else they are merged
    await sent()

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listener:
        await listener.execute("LISTEN rindle_events")
        await big.restarted(asset)
        await sent()
        newest = (await big.streamed(asset.id))[-1]
        with pytest.raises(ZeroDivisionError):
            await big.rindle.database.write(lambda session: restart(session, asset.variant_id) or 1 / 0)

        def both(session: Session) -> None:
            restart(session, asset.variant_id)
            with pytest.raises(ZeroDivisionError), session.begin_nested():
                restart(session, asset.variant_id)
                raise ZeroDivisionError
            with session.begin_nested():
                restart(session, other.variant_id)

        await big.rindle.database.write(both)
        await big.rindle.attach(asset.id, ("user", "1"), "avatar")  # nobody is told about attachments
        await sent()
        await listener.execute("SELECT pg_notify('rindle_events', 'end')")
        heard: list[str] = []
        async with contextlib.aclosing(listener.notifies(timeout=PATIENCE_SECONDS)) as notices:
            while "end" not in heard:
                heard.append((await anext(notices)).payload)

    highest = (await big.streamed(other.id))[-1]
    assert heard == [f"{newest},{asset.id}", f"{highest},", "end"]


async def test_progress_is_written_while_the_build_owns_the_row(news: Newsroom) -> None:
    asset = await news.running()

    async with news.rindle.subscribe("variant", asset.variant_id) as events:
        assert await news.progressed(asset, 43)
        (told,) = await take(events, 1)
        row = await news.rindle.database.read(Session.get, MediaVariant, asset.variant_id)
        await news.restarted(asset)
        fenced = await news.progressed(asset, 60)
        (started,) = await take(events, 1)

    assert told.payload == {
        "asset_id": asset.id,
        "variant_id": asset.variant_id,
        "variant_name": "poster",
        "state": "processing",
        "progress": 43,
    }
    assert row is not None and row.progress == 43
    assert (fenced, started.type, started.payload["progress"]) == (False, "variant_started", 0)
    for percent in (0, 100):
        with pytest.raises(ValueError):
            await news.progressed(asset, percent)


# --- where to begin ----------------------------------------------------------------------------------------------


async def test_from_now_from_the_beginning_and_after_an_event(news: Newsroom) -> None:
    asset = await news.running()
    known = await news.streamed(asset.id)

    now = await news.rindle.subscribe("asset", asset.id).open()
    await news.restarted(asset, 2)
    written = await news.streamed(asset.id)
    async with news.rindle.subscribe("asset", asset.id, after=0) as oldest:
        assert [told.id for told in await take(oldest, len(written))] == written
    async with news.rindle.subscribe("asset", asset.id, after=known[1]) as resumed:
        assert [told.id for told in await take(resumed, len(written) - 2)] == written[2:]
        await news.restarted(asset)
        (fresh,) = await take(resumed, 1)

    assert [told.id for told in await take(now, 3)] == [*written[len(known) :], fresh.id]
    now.close()


async def test_a_long_history_is_read_in_pages(lite: Newsroom) -> None:
    asset = await lite.running()

    def much(session: Session) -> None:
        for _ in range(700):
            restart(session, asset.variant_id)
            session.flush()

    await lite.write(much)
    written = await lite.streamed(asset.id)

    async with lite.rindle.subscribe("asset", asset.id, after=0) as events:
        assert [told.id for told in await take(events, len(written))] == written


async def test_scopes_tell_their_own(news: Newsroom) -> None:
    asset = await news.running()
    session_id = (await news.gallery.session_of(await news.rindle.asset(asset.id))).id

    async with (
        news.rindle.subscribe("upload_session", session_id, after=0) as upload,
        news.rindle.subscribe("variant", asset.variant_id, after=0) as variant,
        news.rindle.subscribe("provider_asset", asset.id, after=0) as provider,
    ):
        await news.finished(asset)
        await news.deleted(asset.id)
        of_upload, of_variant, of_provider = await rest(upload), await rest(variant), await rest(provider)

    assert {told.type for told in of_upload} <= {
        "upload_session_initialized",
        "upload_session_signed",
        "upload_session_uploading",
        "upload_session_completed",
    }
    assert of_upload[-1].payload["state"] == "completed"
    assert [told.type for told in of_variant] == ["variant_started", "variant_ready"]
    assert of_provider == []


@pytest.mark.parametrize(("scope", "subject_id"), [("owner", "0" * 32), ("webhook", "x"), ("asset", "no uuid")])
async def test_what_cannot_be_followed_is_refused_at_once(lite: Newsroom, scope: str, subject_id: str) -> None:
    with pytest.raises(ValueError):
        lite.rindle.subscribe(scope, subject_id)
    with pytest.raises(InvalidArgument):
        lite.rindle.subscription_ticket(scope, subject_id)


async def test_an_unknown_asset_is_not_found_and_a_negative_number_refused(news: Newsroom) -> None:
    unknown = "01890a5d-ac96-774b-bcce-b302099a8057"
    for scope in ("asset", "variant", "upload_session", "provider_asset"):
        with pytest.raises(NotFound):
            await anext(news.rindle.subscribe(scope, unknown))
    with pytest.raises(ValueError):
        news.rindle.subscribe("asset", unknown, after=-1)
    assert await news.is_at_rest()


async def test_an_id_above_the_newest_is_reset_and_goes_on(news: Newsroom) -> None:
    asset = await news.running()

    async with news.rindle.subscribe("asset", asset.id, after=10**9) as events:
        (reset,) = await take(events, 1)
        await news.restarted(asset)
        (told,) = await take(events, 1)

    assert (reset.type, reset.payload) == ("reset", {"reason": "unknown", "last_id": "1000000000"})
    assert told.type == "variant_started"


async def test_an_id_older_than_what_is_kept_is_reset_and_goes_on_with_what_is_left(news: Newsroom) -> None:
    asset = await news.running()
    known = await news.streamed(asset.id)
    await age(news, asset.id)
    await news.restarted(asset)

    async with news.rindle.subscribe("asset", asset.id, after=known[0]) as events:
        reset, *told = await take(events, len(known) + 1)
    async with news.rindle.subscribe("asset", asset.id, after=0) as oldest:
        (first,) = await take(oldest, 1)
    resumed_after_sweep = (await news.streamed(asset.id))[-1]
    async with news.rindle.subscribe("asset", asset.id, after=resumed_after_sweep) as young:
        await news.restarted(asset)
        (next_one,) = await take(young, 1)

    assert reset.payload == {"reason": "expired", "last_id": str(known[0])}
    assert [one.id for one in told] == (await news.streamed(asset.id))[1 : len(known) + 1]
    assert first.id == known[0]
    assert next_one.type == "variant_started"


# --- slow consumers ----------------------------------------------------------------------------------------------


async def test_a_slow_consumer_loses_progress_first(news: Newsroom) -> None:
    asset = await news.running()

    async with news.rindle.subscribe("asset", asset.id) as events:
        for percent in range(1, 6):
            await news.progressed(asset, percent)
        await news.write(restart_repeatedly, asset.variant_id, QUEUE_SIZE)
        last = (await news.streamed(asset.id))[-1]
        await until(lambda: seen(events, last), what="the queue to be full")
        told = await take(events, QUEUE_SIZE)

    assert {one.type for one in told} == {"variant_started"}
    assert told[-1].id == last


async def test_a_slower_consumer_is_reset_and_goes_on_from_the_database_without_a_gap(news: Newsroom) -> None:
    asset = await news.running()
    known = await news.streamed(asset.id)

    async with news.rindle.subscribe("asset", asset.id) as events:
        await news.restarted(asset)
        (first,) = await take(events, 1)
        await news.write(restart_repeatedly, asset.variant_id, QUEUE_SIZE + 50)
        await until(lambda: owes(events), what="the queue to overflow")
        await news.restarted(asset)
        reset, *told = await take(events, QUEUE_SIZE + 52)

    assert (reset.type, reset.payload) == ("reset", {"reason": "overflow", "last_id": str(first.id)})
    assert [first.id, *(one.id for one in told)] == (await news.streamed(asset.id))[len(known) :]


async def seen(events: Subscription, event_id: int) -> bool:
    return event_id in events._read_up_to.values()


async def owes(events: Subscription) -> bool:
    return events.has_pending_reset


# --- ends --------------------------------------------------------------------------------------------------------


async def test_it_ends_after_the_event_that_the_asset_was_deleted(news: Newsroom) -> None:
    asset = await news.running()

    async with news.rindle.subscribe("asset", asset.id) as events:
        await news.progressed(asset, 50)
        await news.deleted(asset.id)
        told = await rest(events)

    assert [one.type for one in told] == ["variant_progress", "asset_state_changed"]
    assert told[-1].payload["state"] == "deleted"
    await until(news.is_at_rest, what="the listener to stop")


async def test_what_happened_to_a_purged_asset_can_still_be_read(news: Newsroom) -> None:
    asset = await news.running()
    await news.deleted(asset.id)
    await news.rindle.database.write(
        lambda session: finish(session, asset.id, objects=1, variants=1, late_put_seconds=None)
    )

    assert await news.rindle.database.read(Session.get, MediaAsset, asset.id) is None
    told = await rest(news.rindle.subscribe("asset", asset.id, after=0))
    assert told[-1].payload["state"] == "deleted"
    assert [one.id for one in told] == await news.streamed(asset.id)
    assert await rest(news.rindle.subscribe("asset", asset.id)) == []
    assert await rest(news.rindle.subscribe("variant", asset.variant_id)) == []


async def test_leaving_the_block_the_loop_or_by_cancellation_leaves_nothing_behind(news: Newsroom) -> None:
    asset = await news.running()

    async with news.rindle.subscribe("asset", asset.id) as events:
        await news.restarted(asset)
        await take(events, 1)
        assert news.rindle.listener.is_running
    await until(news.is_at_rest, what="the listener to stop after the block")

    async for told in news.rindle.subscribe("asset", asset.id, after=0):
        assert told.type
        break
    gc.collect()
    await until(news.is_at_rest, what="the listener to stop after break")

    waiting = asyncio.create_task(rest(news.rindle.subscribe("asset", asset.id)))
    await until(lambda: running(news), what="the listener to run")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    gc.collect()
    await until(news.is_at_rest, what="the listener to stop after a cancellation")
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("rindle-events")] == []


async def running(news: Newsroom) -> bool:
    return news.rindle.listener.is_running


async def test_closing_the_application_ends_everything(news: Newsroom) -> None:
    asset = await news.running()
    events = await news.rindle.subscribe("asset", asset.id).open()
    waiting = asyncio.create_task(rest(events))
    settling = asyncio.create_task(news.rindle.settled(asset.id, timeout=PATIENCE_SECONDS))
    await until(lambda: followed_by(news, 2), what="both to be there")

    await news.rindle.close()

    assert await waiting == []
    with pytest.raises(NotSettled):
        await settling
    assert not news.rindle.listener.is_running
    await until(news.is_at_rest, what="the server to end the connection that was closed")


async def followed_by(news: Newsroom, count: int) -> bool:
    return len(news.rindle.listener.subscriptions) == count


async def test_it_can_be_followed_again_after_everybody_left(news: Newsroom) -> None:
    asset = await news.running()
    for _ in range(3):
        async with news.rindle.subscribe("asset", asset.id) as events:
            await news.restarted(asset)
            await take(events, 1)


# --- the listener ------------------------------------------------------------------------------------------------


async def test_two_hundred_subscriptions_share_one_connection(big: Newsroom) -> None:
    assets = [await big.running() for _ in range(4)]
    subscriptions = [await big.rindle.subscribe("asset", assets[n % 4].id).open() for n in range(200)]
    await until(lambda: listens(big), what="LISTEN")

    for asset in assets:
        await big.restarted(asset)
    told = [(await take(events, 1))[0] for events in subscriptions]

    assert await big.listening() == 1
    assert [one.payload["asset_id"] for one in told] == [assets[n % 4].id for n in range(200)]
    for events in subscriptions:
        events.close()
    await until(big.is_at_rest, what="the connection to be closed")


async def listens(news: Newsroom) -> bool:
    return await news.listening() > 0


async def test_a_listener_whose_connection_is_killed_goes_on(big: Newsroom) -> None:
    asset = await big.running()
    engine = big.rindle.database.engine
    assert isinstance(engine, AsyncEngine)

    async with big.rindle.subscribe("asset", asset.id) as events:
        await until(lambda: listens(big), what="LISTEN")
        async with engine.connect() as connection:
            await connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN rindle_events'")
            )
        await big.restarted(asset, 2)
        told = await take(events, 2)
        await until(lambda: listens(big), what="LISTEN to come back")
        await big.restarted(asset)
        told += await take(events, 1)

    assert [one.id for one in told] == (await big.streamed(asset.id))[-3:]


async def test_an_event_of_a_process_that_dies_before_it_notifies_is_found_by_looking(
    big: Newsroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = await big.running()
    monkeypatch.setattr(Notifier, "post", lambda *given: None)

    async with big.rindle.subscribe("asset", asset.id) as events:
        await until(lambda: listens(big), what="LISTEN")
        await big.restarted(asset)
        told = await take(events, 1)

    assert [one.id for one in told] == (await big.streamed(asset.id))[-1:]


async def test_many_followed_assets_are_asked_about_in_one_statement(lite: Newsroom) -> None:
    assets = [await lite.running() for _ in range(5)]
    subscriptions = [await lite.rindle.subscribe("asset", asset.id).open() for asset in assets for _ in range(4)]
    engine = lite.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    positions = {events.statuses[0].feed: 0 for events in subscriptions}
    for events in subscriptions:
        events.close()
    await until(lite.is_at_rest, what="the listener to stop")
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *others: Any) -> None:
        statements.append(statement)

    def ask(session: Session) -> int:
        session.connection()
        statements.clear()
        return len(events_after(session, positions, limit=1000))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    found = await lite.rindle.database.read(ask)
    asked = [statement for statement in statements if "watched" in statement]
    event.remove(engine.sync_engine, "before_cursor_execute", note)

    assert found == sum([len(await lite.streamed(asset.id)) for asset in assets])
    assert len(asked) == 1


async def test_the_question_is_answered_by_the_index_of_the_asset(news: Newsroom) -> None:
    asset = await news.running()
    await news.write(restart_repeatedly, asset.variant_id, 50)
    async with news.rindle.subscribe("asset", asset.id) as events:
        feed = events.statuses[0].feed

    def explain(session: Session) -> str:
        postgres_only = news.rindle.database.dialect == "postgresql"
        if postgres_only:  # which chooses by size
            columns = "scope_key, scope_id, type, payload, audit, occurred_at, inserted_at, updated_at"
            session.execute(
                text(
                    f"INSERT INTO media_events (asset_id, {columns}) SELECT gen_random_uuid(), 'variant', 'x', "
                    "'variant_started', '{}', false, now(), now(), now() FROM generate_series(1, 20000)"
                )
            )
            session.execute(text("ANALYZE media_events"))
        told: list[str] = []

        def prefix(connection: Any, cursor: Any, statement: str, parameters: Any, *others: Any) -> Any:
            words = "EXPLAIN " if postgres_only else "EXPLAIN QUERY PLAN "
            cursor.execute(words + statement, parameters)
            told.extend(str(row) for row in cursor.fetchall())

        connection = session.connection()
        event.listen(connection, "before_cursor_execute", prefix)
        events_after(session, {feed: 0}, limit=100)
        return "\n".join(told)

    assert "ix_media_events_asset_id_id" in await news.rindle.database.write(explain)


# --- settled -----------------------------------------------------------------------------------------------------


async def test_settled_returns_when_the_asset_has_come_to_rest(news: Newsroom) -> None:
    ready, condemned, deleted = await news.running(), await news.running(), await news.running()
    waiting = [
        asyncio.create_task(news.rindle.settled(asset.id, timeout=PATIENCE_SECONDS))
        for asset in (ready, condemned, deleted)
    ]
    await until(lambda: running(news), what="somebody to wait")

    await news.finished(ready)
    await news.condemned(condemned.id)
    await news.deleted(deleted.id)
    found = await asyncio.gather(*waiting)

    assert [asset.state for asset in found] == [AssetState.READY, AssetState.QUARANTINED, AssetState.DELETED]
    assert [row.state for row in found[0].variants] == ["ready"]
    assert (await news.rindle.settled(ready.id)).state == "ready"
    await until(news.is_at_rest, what="the listener to stop")


async def test_settled_waits_for_every_variant_of_a_degraded_asset(news: Newsroom) -> None:
    asset = await news.running()

    def add(session: Session) -> str:
        other = MediaVariant(asset_id=asset.id, name="other", state="queued", recipe_digest="0" * 64)
        session.add(other)
        session.flush()
        return other.id

    other_id = await news.write(add)
    await news.failed(asset)
    assert (await news.rindle.asset(asset.id)).state == AssetState.DEGRADED

    with pytest.raises(NotSettled) as caught:
        await news.rindle.settled(asset.id, timeout=0.05)
    assert caught.value.detail == {"state": "degraded", "variants": {"other": "queued", "poster": "failed"}}

    waiting = asyncio.create_task(news.rindle.settled(asset.id, timeout=PATIENCE_SECONDS))
    await until(lambda: running(news), what="somebody to wait")
    other = Running(asset.id, other_id, 0)
    await news._build(other, [(VariantState.PROCESSING, {})])
    await news.finished(other)
    found = await waiting

    assert found.state == AssetState.DEGRADED
    assert {row.name: row.state for row in found.variants} == {"other": "ready", "poster": "failed"}


async def test_settled_gives_up_and_says_where_it_stands(news: Newsroom) -> None:
    asset = await news.running()

    with pytest.raises(NotSettled) as caught:
        await news.rindle.settled(asset.id, timeout=0.05)

    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.code, caught.value.retryable) == ("not_settled", True)
    assert caught.value.detail == {"state": "processing", "variants": {"poster": "processing"}}
    assert "processing" in str(caught.value) and "poster" in str(caught.value)
    for unknown in ("01890a5d-ac96-774b-bcce-b302099a8057", "no uuid"):
        with pytest.raises(NotFound):
            await news.rindle.settled(unknown)
    await until(news.is_at_rest, what="the listener to stop")


async def test_an_asset_that_comes_to_rest_as_the_time_ends_is_settled(
    news: Newsroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, gone = await news.running(), await news.running()

    async def too_late(_: object, subject: Subject, attachments: bool) -> MediaAsset:
        """Wait until the time is over; the asset comes to rest, and the event does not arrive any more."""
        if subject.id == ready.id:
            await news.finished(ready)
        else:
            await news.write(lambda session: session.execute(delete(MediaAsset).where(MediaAsset.id == gone.id)))
        raise TimeoutError

    monkeypatch.setattr(subscriptions, "_wait_until_settled", too_late)

    assert (await news.rindle.settled(ready.id)).state == "ready"
    with pytest.raises(NotFound):
        await news.rindle.settled(gone.id)


async def test_a_sync_engine_is_followed_by_looking(news: Newsroom) -> None:
    url = news.rindle.database.engine.url.render_as_string(hide_password=False)
    engine = create_engine(url.replace("sqlite+aiosqlite", "sqlite"))
    rindle = Rindle(
        engine=engine,
        profiles=[Clip, Other],
        storages={"media": MemoryStorage()},
        secrets=[SECRET],
        settings=Settings(event_poll_seconds=0.05, event_idle_poll_seconds=0.2),
    )
    asset = await news.running()
    try:
        async with rindle.subscribe("asset", asset.id) as events:
            settling = asyncio.create_task(rindle.settled(asset.id, timeout=PATIENCE_SECONDS))
            await news.progressed(asset, 10)
            (told,) = await take(events, 1)
            await news.finished(asset)
            assert (await settling).state == "ready"
        assert told.payload["progress"] == 10
    finally:
        await rindle.close()
        engine.dispose()
