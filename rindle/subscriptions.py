"""Subscriptions to an asset, variant or upload: every event once, in order, also across lost connections.

A process has one :class:`Listener` for all its subscriptions. It is notified of new events by LISTEN on Postgres and
polls every half second elsewhere. It reads each event once and delivers it to the subscriptions of the process. The
position of a subscription is a number per subject, never a position in the whole table: an open transaction of one
asset can neither hide events of another one nor be skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from rindle.db import subscriptions as rows
from rindle.db.assets import find_with_variants, no_such_asset
from rindle.db.database import Database
from rindle.db.events import CHANNEL
from rindle.db.ids import AssetOrId, SubjectOrId, id_of, id_of_asset
from rindle.db.listening import can_listen, keep_listening
from rindle.db.models import Base, MediaAsset, MediaUploadSession, MediaVariant, is_id, utc_now
from rindle.db.subscriptions import Feed, FeedEvent
from rindle.db.subscriptions import Subject as Subject
from rindle.db.subscriptions import SubjectStatus as SubjectStatus  # taken and returned by these flows
from rindle.errors import InvalidArgument, NotFound, NotSettled
from rindle.events import TERMINAL_ASSET_STATES, TERMINAL_STATES
from rindle.settings import Settings
from rindle.states import AssetState, VariantState

log = logging.getLogger(__name__)

#: Events that are queued for a slow consumer before progress is dropped, and finally all events.
QUEUE_SIZE = 256
#: Seconds between two reads of a listener: many notifications in a row lead to one read.
_GAP_SECONDS = 0.02
#: Events read from the database at once by a subscription that catches up, and by the listener.
PAGE, BATCH = 256, 1000

#: The rows of each scope; a ``provider_asset`` is named by its asset.
_MODELS: Mapping[str, type[Base]] = {
    "asset": MediaAsset,
    "variant": MediaVariant,
    "upload_session": MediaUploadSession,
    "provider_asset": MediaAsset,
}
_PROGRESS = "variant_progress"
#: Types of events after which an asset may be settled.
_SETTLING_EVENTS = frozenset({"asset_state_changed", "variant_ready", "variant_failed", "variant_cancelled", "reset"})
#: Largest id of an event: a 64-bit number.
MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        id: its number, which increases per asset; pass it as ``after`` to resume from here.
        type: a streamed type of ``rindle.events.EVENT_TYPES``, or ``reset``: events were missed, so read the
            state again. ``payload['reason']`` is then ``expired``, ``unknown``, ``too_many`` or ``overflow``.
        payload: as the type's contract defines it; ids are strings.
        occurred_at: when, in UTC.
        subjects: indexes of the followed subjects that the event is about.
    """

    id: int
    type: str
    payload: Mapping[str, Any]
    occurred_at: datetime
    subjects: tuple[int, ...] = (0,)


def subject_of(scope: str, subject: SubjectOrId) -> Subject:
    """Return the subject of ``scope`` that is named by its id or its row.

    Raises:
        InvalidArgument: a ``ValueError``: the scope is unknown, the id is not a UUID, or the row is of another kind.
    """
    if scope not in TERMINAL_STATES:
        raise InvalidArgument(f"scope is one of {', '.join(TERMINAL_STATES)}", detail={"option": "scope"})
    subject_id = id_of("id", subject, _MODELS[scope])
    if not is_id(subject_id):
        raise InvalidArgument("the id is not a UUID", detail={"option": "id"})
    return Subject(scope, subject_id)


async def read_statuses(listener: Listener, subjects: Sequence[Subject]) -> list[SubjectStatus | None]:
    """Return the current status of each of ``subjects``, ``None`` for one that never existed."""
    return await listener.database.read(rows.read_statuses, subjects)


# --- the listener ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Channel:
    """A followed feed: the last event delivered from it, and its subscriptions."""

    position: int
    followers: weakref.WeakSet[Subscription] = field(default_factory=weakref.WeakSet)


class Listener:
    """Reads new events for all subscriptions of a process; runs only while there are any."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        #: All live subscriptions, also those that are not open yet.
        self.subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._channels: dict[Feed, _Channel] = {}
        self._due: set[Feed] = set()
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Whether Postgres notifies this process of events now.
        self._has_notifications = False

    @property
    def is_running(self) -> bool:
        """Whether the listener has a task, and on Postgres a connection."""
        return bool(self._tasks or self._stopping)

    def join(self, subscription: Subscription, newest: Mapping[Feed, int]) -> None:
        """Deliver new events of the feeds to ``subscription``; ``newest`` is the last known event of each feed."""
        for feed, known in newest.items():
            channel = self._channels.setdefault(feed, _Channel(known))
            channel.followers.add(subscription)
            if channel.position > known:
                subscription.mark_lagging()
        self._start()
        # Events committed since the feeds were read may have been notified before this process listened.
        self._mark_due(newest)

    def leave(self, subscription: Subscription) -> None:
        """Forget ``subscription``; the last one to leave stops the listener."""
        for channel in self._channels.values():
            channel.followers.discard(subscription)
        self._tidy()

    def discard_abandoned(self) -> None:
        """Drop subscriptions that were deleted without being closed; callable from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tidy)

    async def close(self) -> None:
        """End all subscriptions and wait until no task and no connection is left."""
        for subscription in tuple(self.subscriptions):
            subscription.close()
        self._tidy()
        while self._stopping:
            await asyncio.wait(self._stopping)

    def _start(self) -> None:
        if any(not task.done() for task in self._tasks):  # the tasks of a closed loop are done
            return
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._due.clear()
        self._tasks = [asyncio.create_task(self._run(), name="rindle-events")]
        if can_listen(self.database.engine):
            self._tasks.append(asyncio.create_task(self._listen(), name="rindle-events-listen"))

    def _tidy(self) -> None:
        for feed in [feed for feed, channel in self._channels.items() if not channel.followers]:
            del self._channels[feed]
        if not self._channels:
            tasks, self._tasks = self._tasks, []
            for task in tasks:
                self._stopping.add(task)
                task.add_done_callback(self._stopping.discard)
                task.cancel()

    def _mark_due(self, feeds: Iterable[Feed]) -> None:
        self._due.update(feeds)
        self._woken.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause, poll_at = self._quick_pause, loop.time()
        while True:
            everything = loop.time() >= poll_at
            self._woken.clear()
            due, self._due = set(self._channels) if everything else self._due, set()
            try:
                found = await self._deliver_new(due)
            except Exception as error:  # a database that is unavailable for a moment must not end the streams
                log.warning("events cannot be read", extra={"action": "events_read", "error": type(error).__name__})
                found = False
                self._due |= due
            if everything or found:
                pause = self._quick_pause if found else min(pause * 1.5, self.settings.event_idle_poll_seconds)
                # Spread the polls of many processes: random jitter, not cryptography.
                poll_at = loop.time() + pause * random.uniform(0.8, 1.2)  # noqa: S311
            await asyncio.sleep(_GAP_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(poll_at):
                    await self._woken.wait()

    @property
    def _quick_pause(self) -> float:
        """Shortest pause between two polls of all feeds; with notifications of Postgres, polling is the safety net."""
        return self.settings.event_idle_poll_seconds if self._has_notifications else self.settings.event_poll_seconds

    async def _deliver_new(self, feeds: Iterable[Feed]) -> bool:
        """Read new events of the feeds and deliver them to their followers; returns whether there were any."""
        positions = {feed: self._channels[feed].position for feed in feeds if feed in self._channels}
        found = False
        while positions:
            events = await self.database.read(rows.events_after, positions, limit=BATCH)
            for event in events:
                positions[event.feed] = event.id
                channel = self._channels.get(event.feed)
                if channel is None or event.id <= channel.position:
                    continue
                channel.position = event.id
                for subscription in tuple(channel.followers):
                    subscription.push(event)
            found = found or bool(events)
            if len(events) < BATCH:
                break
        return found

    async def _listen(self) -> None:
        """Wake on NOTIFY. Polling continues, so that a lost connection costs only latency."""

        def on_change(is_listening: bool) -> None:
            self._has_notifications = is_listening
            if is_listening:
                self._mark_due(self._channels)

        await keep_listening(
            self.database.engine,
            CHANNEL,
            self._on_notification,
            pause_seconds=self.settings.event_idle_poll_seconds,
            on_change=on_change,
        )

    def _on_notification(self, payload: str) -> None:
        number, _, asset_id = payload.partition(",")
        if not asset_id:  # several assets, or a session without one
            self._mark_due(self._channels)
            return
        channel = self._channels.get(Feed(asset_id))
        if channel is not None and not (number.isdigit() and int(number) <= channel.position):
            self._mark_due([Feed(asset_id)])


# --- subscriptions -----------------------------------------------------------------------------------------------


class Subscription:
    """The events of one or more subjects, as an async iterator and context manager; see ``Rindle.subscribe``.

    Args:
        listener: the listener of the process.
        subjects: the subjects to follow.
        after: one number per subject to resume from; ``None`` begins now.
        most_missing: largest number of missed events that is read per subject; ``None`` means all.

    Attributes:
        cursors: the number of the last delivered event, per subject: where to resume.
        statuses: the status of each subject when this was opened.
    """

    def __init__(
        self,
        listener: Listener,
        subjects: Sequence[Subject],
        after: Sequence[int] | None = None,
        *,
        most_missing: int | None = None,
    ) -> None:
        self._listener = listener
        self._subjects = tuple(subjects)
        self._after = None if after is None else tuple(after)
        self._most_missing = most_missing
        self.cursors: list[int] = []
        self.statuses: list[SubjectStatus] = []
        #: Why events were missed, until the consumer has received the ``reset``.
        self._reset: str | None = None
        self._queue: deque[FeedEvent] = deque()
        self._arrived = asyncio.Event()
        #: Per feed the last event read, and the last one delivered.
        self._read_up_to: dict[Feed, int] = {}
        self._done: dict[Feed, int] = {}
        self._ended: set[Feed] = set()
        self._is_open = self._is_closed = False
        #: Whether the database has events that are not queued yet; until they are read, pushed events are not queued.
        self._is_behind = self._has_missed = False
        listener.subscriptions.add(self)

    # -- life -----------------------------------------------------------------------------------------------------

    async def open(self, statuses: Sequence[SubjectStatus] | None = None) -> Self:
        """Begin to listen. Entering the block or iterating does the same.

        Args:
            statuses: the status of the subjects, if it has just been read.

        Raises:
            NotFound: one of the subjects never existed.
        """
        if self._is_open:
            return self
        found = await self.read_statuses() if statuses is None else list(statuses)
        numbers = [status.newest for status in found]
        if self._after is not None:
            self._reset = await self._reset_reason(found, self._after)
            if self._reset is None or self._most_missing is None:
                # A consumer without snapshots continues with the events that are left.
                numbers = [min(number, newest) for number, newest in zip(self._after, numbers, strict=True)]
        self._begin(found, numbers)
        self._is_open = True
        if not self._is_closed:
            self._listener.join(self, {status.feed: status.newest for status in found})
        return self

    async def _reset_reason(self, statuses: Sequence[SubjectStatus], after: Sequence[int]) -> str | None:
        if self._most_missing is None and not any(after):
            return None  # from the oldest event that is kept
        settings = self._listener.settings
        kept_since = utc_now() - timedelta(seconds=settings.event_retention_seconds)
        return await self._listener.database.read(
            rows.reset_reason, statuses, after, kept_since=kept_since, most=self._most_missing
        )

    def _begin(self, statuses: Sequence[SubjectStatus], numbers: Sequence[int]) -> None:
        """Set the position to ``numbers`` and continue from there."""
        self.statuses, self.cursors = list(statuses), list(numbers)
        self._queue.clear()
        self._done = {}
        newest: dict[Feed, int] = {}
        for status, number in zip(statuses, numbers, strict=True):
            self._done[status.feed] = min(number, self._done.get(status.feed, MAX_ID))
            newest[status.feed] = max(status.newest, newest.get(status.feed, 0))
        self._read_up_to = dict(self._done)
        self._ended = {status.feed for status in statuses if status.is_over}
        if any(self._read_up_to[feed] < known for feed, known in newest.items()):
            self.mark_lagging()

    async def read_statuses(self) -> list[SubjectStatus]:
        """Return the current status of the subjects.

        Raises:
            NotFound: one of them never existed.
        """
        found = await read_statuses(self._listener, self._subjects)
        known = [status for status in found if status is not None]
        if len(known) < len(found):
            missing = self._subjects[found.index(None)]
            raise NotFound(f"could not follow the {missing.scope}: not found", detail={"entity": missing.scope})
        return known

    async def skip(self) -> list[SubjectStatus]:
        """Skip all past events and return the current status of the subjects: the reaction to a ``reset``."""
        found = await self.read_statuses()
        self._begin(found, [status.newest for status in found])
        self.mark_lagging()  # there may be newer events
        return found

    def close(self) -> None:
        """Stop listening; iteration ends. Closing twice is fine."""
        if not self._is_closed:
            self._is_closed = True
            self._listener.subscriptions.discard(self)
            self._queue.clear()
            self._arrived.set()
            if self._is_open:
                self._listener.leave(self)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # After ``break`` in a plain ``async for`` only the garbage collector notices, perhaps in another thread.
        if self._is_open and not self._is_closed:
            self._listener.discard_abandoned()

    # -- iteration ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        await self.open()
        while not self._is_closed:
            if self._reset is not None:
                return self._take_reset()
            if self._queue:
                event = self._deliver(self._queue.popleft())
                if event is not None:
                    return event
            elif self._is_behind:
                await self._catch_up()
            elif self._ended >= self._read_up_to.keys():
                self.close()
            else:
                self._arrived.clear()
                await self._arrived.wait()
        raise StopAsyncIteration

    @property
    def is_resumed(self) -> bool:
        """Whether this resumes an earlier subscription."""
        return self._after is not None

    @property
    def has_pending_reset(self) -> bool:
        """Whether the next event is a ``reset``."""
        return self._reset is not None

    async def has_caught_up(self) -> bool:
        """Whether all missed events have been delivered; reads until that is known."""
        while self._is_behind and not self._queue and self._reset is None:
            await self._catch_up()
        return not (self._is_behind or self._queue or self._reset)

    def _take_reset(self) -> Event:
        reason, self._reset = self._reset, None
        numbers = self._after if self._after is not None and reason != "overflow" else self.cursors
        payload = {"reason": reason, "last_id": ".".join(map(str, numbers))}
        return Event(max(self.cursors), "reset", payload, utc_now(), tuple(range(len(self._subjects))))

    def _deliver(self, event: FeedEvent) -> Event | None:
        self._done[event.feed] = event.id
        indexes = tuple(
            number
            for number, status in enumerate(self.statuses)
            if status.feed == event.feed and event.concerns(status.subject) and self.cursors[number] < event.id
        )
        for number in indexes:
            self.cursors[number] = event.id
        return Event(event.id, event.type, event.payload, event.occurred_at, indexes) if indexes else None

    # -- what the listener calls ----------------------------------------------------------------------------------

    def push(self, event: FeedEvent) -> None:
        """Queue a new event."""
        if self._is_behind:
            self._has_missed = True
        else:
            self._take(event)
        self._arrived.set()

    def mark_lagging(self) -> None:
        """Read from the database before queuing pushed events."""
        self._is_behind = self._has_missed = True
        self._arrived.set()

    async def _catch_up(self) -> None:
        """Queue the next page of missed events."""
        self._has_missed = False
        try:
            page = await self._listener.database.read(rows.events_after, self._read_up_to, limit=PAGE)
        except BaseException:
            self._has_missed = True
            raise
        for event in page:
            self._take(event)
        if len(page) < PAGE and not self._has_missed:
            self._is_behind = False

    def _take(self, event: FeedEvent) -> None:
        if event.id <= self._read_up_to[event.feed]:
            return
        self._read_up_to[event.feed] = event.id
        if event.is_last:
            self._ended.add(event.feed)
        if any(status.feed == event.feed and event.concerns(status.subject) for status in self.statuses):
            if len(self._queue) >= QUEUE_SIZE and not self._make_room(event):
                return
            self._queue.append(event)

    def _make_room(self, event: FeedEvent) -> bool:
        """Drop the oldest progress event, or else all events; returns whether ``event`` may be queued."""
        for number, waiting in enumerate(self._queue):
            if waiting.type == _PROGRESS:
                del self._queue[number]
                return True
        if event.type != _PROGRESS:
            self._queue.clear()
            self._read_up_to = dict(self._done)
            self._reset = "overflow"
            self.mark_lagging()
        return False


# --- waiting -----------------------------------------------------------------------------------------------------


async def settled(
    listener: Listener, asset: AssetOrId, *, timeout_seconds: float, attachments: bool = False
) -> MediaAsset:
    """Return the asset once it is settled; see ``Rindle.settled``.

    Args:
        attachments: load them with the asset, for its delivery.
    """
    asset_id = id_of_asset(asset)
    if not is_id(asset_id):
        raise no_such_asset()
    subject = subject_of("asset", asset_id)
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _wait_until_settled(listener, subject, attachments)
    except TimeoutError:
        found = await _read(listener, subject.id, attachments)
        if found is None:
            raise no_such_asset() from None
        if _is_settled(found):  # since the last event that was received
            return found
        raise _not_settled(found, timeout_seconds) from None


async def _wait_until_settled(listener: Listener, subject: Subject, attachments: bool) -> MediaAsset:
    async with Subscription(listener, [subject]) as events:
        # The subscription is open: every event after this read is received.
        asset = await _read(listener, subject.id, attachments)
        while asset is not None and not _is_settled(asset):
            event = await anext(events, None)
            if event is None:  # the application is closing: there will be no event
                raise TimeoutError
            if event.type in _SETTLING_EVENTS:
                asset = await _read(listener, subject.id, attachments)
        if asset is None:
            raise no_such_asset()
        return asset


def _is_settled(asset: MediaAsset) -> bool:
    """Whether the state of an asset is terminal and none of its variants is open.

    An asset is ``degraded`` as soon as one variant has failed, while others may still wait or be built.
    """
    if asset.state not in TERMINAL_ASSET_STATES:
        return False
    if asset.state in (AssetState.QUARANTINED, AssetState.DELETED):
        return True
    return all(row.dynamic or row.state not in (VariantState.QUEUED, VariantState.PROCESSING) for row in asset.variants)


def _not_settled(asset: MediaAsset, seconds: float) -> NotSettled:
    variants = {row.name: row.state for row in asset.variants if not row.dynamic}
    unfinished = [name for name, known in variants.items() if known not in TERMINAL_STATES["variant"]]
    listed = f"; unfinished variants: {', '.join(unfinished)}" if unfinished else ""
    return NotSettled(
        f"the asset is still {asset.state} after {seconds:g} s{listed}",
        detail={"state": asset.state, "variants": variants},
    )


async def _read(listener: Listener, asset_id: str, attachments: bool = False) -> MediaAsset | None:
    return await listener.database.read(find_with_variants, asset_id, attachments=attachments)
