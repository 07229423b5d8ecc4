"""``GET /events``: Server-Sent Events of assets, variants and uploads, resumable after a lost connection.

Source: WHATWG HTML, "Server-sent events" (``text/event-stream``, ``Last-Event-ID``, 204 ends reconnecting).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal, Unpack

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import StringConstraints
from sqlalchemy.exc import SQLAlchemyError
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from rindle import telemetry
from rindle.app import Rindle
from rindle.errors import InvalidArgument, InvalidLastEventId, RindleError, TooManyStreams, Unauthorized
from rindle.events import TERMINAL_STATES
from rindle.http.access import Access, Rules, actor_name
from rindle.http.errors import NO_STORE
from rindle.http.routes import Route, router_of
from rindle.http.schemas import ClientText
from rindle.instants import iso_instant
from rindle.security import read_ticket
from rindle.subscriptions import MAX_ID, Event, Subject, SubjectStatus, Subscription, read_statuses, subject_of

log = logging.getLogger(__name__)

#: Subjects of one stream.
MAX_SUBJECTS = 20
#: Missed events of one subject that are sent again; after more than these the client gets a ``reset``.
MAX_REPLAYED = 1_000
#: Milliseconds after which a browser connects again.
RETRY_MS = 3_000
#: ``Retry-After`` in seconds for a client with too many streams.
_BUSY_SECONDS = 5

_HEADERS = {**NO_STORE, "X-Accel-Buffering": "no", "Content-Encoding": "identity"}
_LAST_ID = re.compile(r"[0-9]{1,19}(\.[0-9]{1,19})*")
#: One message for unknown and denied subjects, so that it does not reveal which ids exist.
_REFUSED = "not allowed to follow this"

_Scopes = Annotated[
    list[Literal["asset", "variant", "upload_session", "provider_asset"]],
    Query(alias="scope", min_length=1, max_length=MAX_SUBJECTS, description="What to follow; repeatable, see `id`."),
]
_Ids = Annotated[
    list[Annotated[ClientText, StringConstraints(max_length=64)]],
    Query(
        alias="id",
        min_length=1,
        max_length=MAX_SUBJECTS,
        description="Id of the first, second, ... `scope`; a `provider_asset` is named by its asset.",
    ),
]
_Snapshot = Annotated[bool, Query(description="Send the state of each subject before the next events.")]
_Until = Annotated[Literal["terminal"] | None, Query(description="End soon after all subjects are in terminal states.")]
_LastIdQuery = Annotated[
    ClientText | None, Query(alias="last_event_id", description="Same as the header, which takes precedence.")
]
_LastIdHeader = Annotated[
    ClientText | None, Header(alias="Last-Event-ID", description="Continue after this `id` of an earlier stream.")
]
_Tickets = Annotated[
    list[Annotated[ClientText, StringConstraints(max_length=2048)]] | None,
    Query(alias="ticket", max_length=MAX_SUBJECTS, description="Ticket of `Rindle.subscription_ticket`; repeatable."),
]


def events_router(rindle: Rindle, **rules: Unpack[Rules]) -> APIRouter:
    """Return ``/events``; see :class:`rindle.http.access.Access` for the rules.

    The authorizer (or else the one of the asset's profile) is called with ``subscribe`` for each subject before the
    first byte. Without an authorizer every subject needs a ticket, unless ``allow_anonymous`` is set.

    Raises:
        Misconfigured: there is no profile.
    """
    return event_routes(Access(rindle, **rules))


def event_routes(access: Access) -> APIRouter:
    """Return the route of :func:`events_router`."""
    return router_of(_ROUTES, _Events(access), tag="events")


class _Caller(StrEnum):
    """The kinds of callers. Those without a name of their own share a part of the streams of the process."""

    #: Named by ``actor_from_request``.
    ACTOR = "actor"
    #: Without an actor, but with a ticket for every subject.
    TICKET = "ticket"
    ANONYMOUS = "anonymous"


class _Events:
    def __init__(self, access: Access) -> None:
        self._rindle = access.rindle
        self._access = access
        self._settings = access.rindle.settings
        #: Open streams by kind of caller, and by actor.
        self._open: Counter[_Caller] = Counter()
        self._of_actor: Counter[str] = Counter()

    async def stream(
        self,
        request: Request,
        scopes: _Scopes,
        ids: _Ids,
        snapshot: _Snapshot = False,
        until: _Until = None,
        last_event_id: _LastIdQuery = None,
        last_event_id_header: _LastIdHeader = None,
        tickets: _Tickets = None,
    ) -> Response:
        """Send new events, after the missed ones when the stream is resumed.

        Each event has `id:` (where to resume), `event:` (its type) and one line of JSON. Fields and types may be added:
        ignore unknown ones. After a `reset` events are missing; snapshots follow.
        """
        subjects = _subjects(scopes, ids)
        after = _numbers(last_event_id_header or last_event_id, len(subjects))
        actor = await self._access.actor(request)
        granted = self._granted(tickets or ())
        statuses = await self._allowed(actor, subjects, granted)
        release = self._count_stream(actor_name(actor), has_tickets=granted.issuperset(subjects))
        subscription = Subscription(self._rindle.listener, subjects, after, most_missing=MAX_REPLAYED)
        try:
            await subscription.open(statuses)
            has_all_events = until is not None and last_event_id_header and await subscription.has_caught_up()
        except BaseException:
            subscription.close()
            release()
            raise
        if has_all_events and _are_at_rest(subjects, [status.state for status in statuses]):
            subscription.close()
            release()
            return Response(status_code=204, headers=NO_STORE)
        stream = _Stream(subscription, subjects, self._rindle, snapshot=snapshot, until_terminal=until is not None)
        return _Answer(stream, self._rindle, release)

    async def _allowed(self, actor: Any, subjects: Sequence[Subject], granted: set[Subject]) -> list[SubjectStatus]:
        """Return the status of the subjects, if every one of them may be followed; ``granted`` are those of tickets.

        Raises:
            Unauthorized: one of them is unknown or denied; the response is the same.
        """
        allowed: list[SubjectStatus] = []
        for subject, status in zip(subjects, await read_statuses(self._rindle.listener, subjects), strict=True):
            if status is None or status.asset is None or not self._access.offers(status.asset.profile):
                raise Unauthorized(_REFUSED)
            if subject not in granted:
                try:
                    await self._access.allow_subscription(actor, status.asset, status.upload)
                except Unauthorized:
                    raise Unauthorized(_REFUSED) from None
            allowed.append(status)
        return allowed

    def _granted(self, tickets: Sequence[str]) -> set[Subject]:
        """Return the subjects of the valid tickets; invalid tickets are ignored."""
        granted = set()
        for ticket in tickets if self._rindle.secrets else ():
            with contextlib.suppress(Unauthorized):
                granted.add(Subject(*read_ticket(ticket, self._rindle.secrets)))
        return granted

    def _count_stream(self, actor: str | None, *, has_tickets: bool) -> Callable[[], None]:
        """Count one more stream and return the function that ends it.

        Raises:
            TooManyStreams: the limit of the actor, of this kind of caller or of the process is reached.
        """
        caller = _Caller.ACTOR if actor is not None else _Caller.TICKET if has_tickets else _Caller.ANONYMOUS
        settings = self._settings
        limits = [("process", self._open.total(), settings.streams_per_process)]
        if actor is not None:
            limits.append(("actor", self._of_actor[actor], settings.streams_per_actor))
        else:
            limits.append((caller.value, self._open[caller], self._share_of(caller)))
        for whose, open_streams, limit in limits:
            if open_streams >= limit:
                raise TooManyStreams(
                    "too many open event streams; follow several subjects with one stream",
                    detail={"limit": limit, "of": whose},
                    retry_after=_BUSY_SECONDS,
                )

        def count(by: int) -> None:
            self._open[caller] += by
            if actor is not None:
                self._of_actor[actor] += by
                if not self._of_actor[actor]:
                    del self._of_actor[actor]
            telemetry.emit("rindle.sse.connections", {}, {"streams": self._open.total()})

        count(1)
        return partial(count, -1)

    def _share_of(self, caller: _Caller) -> int:
        """Return how many streams all callers of a kind that is not authenticated may have together, at least one."""
        settings = self._settings
        share = settings.streams_ticket_share if caller is _Caller.TICKET else settings.streams_anonymous_share
        return max(1, int(settings.streams_per_process * share))


_ROUTES = (
    Route(
        "GET",
        "/events",
        _Events.stream,
        "follow_events",
        "Follow assets, variants and uploads as they change",
        errors=("invalid_last_event_id", "too_many_streams"),
        responses={
            200: {
                "description": "Server-Sent Events: `snapshot`, `reset` and the streamed event types.",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
            },
            204: {"description": "A browser has reconnected after the last event; it does not reconnect again."},
        },
        options={"response_class": Response},
    ),
)


def _subjects(scopes: Sequence[str], ids: Sequence[str]) -> list[Subject]:
    if len(scopes) != len(ids):
        raise InvalidArgument("scope and id must be repeated equally often, in the same order", detail={"option": "id"})
    return [subject_of(scope, subject_id) for scope, subject_id in zip(scopes, ids, strict=True)]


def _numbers(text: str | None, count: int) -> list[int] | None:
    """Return the numbers of a ``Last-Event-ID``, one for each of ``count`` subjects; ``None`` when there is none."""
    if not text:
        return None
    numbers = [int(part) for part in text.split(".")] if _LAST_ID.fullmatch(text) else []
    if len(numbers) != count or max(numbers) > MAX_ID:
        raise InvalidLastEventId(
            f"Last-Event-ID must be {count} whole numbers joined by dots, one for each subject",
            detail={"subjects": count},
        )
    return numbers


def _are_at_rest(subjects: Sequence[Subject], states: Sequence[str | None]) -> bool:
    return all(state in TERMINAL_STATES[subject.scope] for subject, state in zip(subjects, states, strict=True))


class _Stream:
    """The events of one connection, as text."""

    def __init__(
        self,
        subscription: Subscription,
        subjects: Sequence[Subject],
        rindle: Rindle,
        *,
        snapshot: bool,
        until_terminal: bool,
    ) -> None:
        self._events = subscription
        self._subjects = subjects
        self._settings = rindle.settings
        self._owes_snapshots = snapshot
        self._is_resumed = subscription.is_resumed
        self._until_terminal = until_terminal
        self._states = [status.state for status in subscription.statuses]
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + self._settings.stream_max_seconds
        self._rest_ends_at: float | None = None

    async def text(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream piece by piece until it ends."""
        try:
            yield self._greeting()
            while True:
                if self._owes_snapshots and await self._events.has_caught_up():
                    for piece in self._snapshots(await self._events.read_statuses() if self._is_resumed else None):
                        yield piece
                event = await self._next()
                if event is None:
                    return
                self._note(event)
                if event.type != "reset":
                    yield self._encoded(event.type, {**event.payload, "occurred_at": iso_instant(event.occurred_at)})
                    continue
                # Without an id: a client that loses the connection before the snapshots resumes from here.
                yield self._encoded("reset", event.payload, is_place=False)
                for piece in self._snapshots(await self._events.skip()):
                    yield piece
        except (RindleError, SQLAlchemyError) as error:  # the client reconnects later
            log.warning("event stream ended", extra={"error": type(error).__name__})

    def close(self) -> None:
        """Stop listening."""
        self._events.close()

    async def _next(self) -> Event | None:
        """Return the next event, ``None`` at the end of the stream."""
        ends_at = self._ends_at
        # The stream ends only after every event was sent, however short the grace and slow the database.
        if self._until_terminal and _are_at_rest(self._subjects, self._states) and await self._events.has_caught_up():
            if self._rest_ends_at is None:
                self._rest_ends_at = self._loop.time() + self._settings.stream_grace_seconds
            ends_at = min(ends_at, self._rest_ends_at)
        else:
            self._rest_ends_at = None
        try:
            async with asyncio.timeout_at(ends_at):
                return await anext(self._events, None)
        except TimeoutError:
            return None

    def _note(self, event: Event) -> None:
        """Remember the states of an event."""
        for number in event.subjects:
            if self._subjects[number].scope != "asset" or event.type == "asset_state_changed":
                self._states[number] = event.payload.get("state", self._states[number])

    def _greeting(self) -> bytes:
        # A block with an id and no data sets the place to resume from without an event.
        place = "" if self._events.has_pending_reset else f"id: {self._place()}\n"
        return f"retry: {RETRY_MS}\n: connected\n{place}\n".encode()

    def _snapshots(self, statuses: Sequence[SubjectStatus] | None) -> list[bytes]:
        """Return the state of every subject, from ``statuses`` or else as read at the start."""
        self._owes_snapshots = False
        found = self._events.statuses if statuses is None else statuses
        self._states = [status.state for status in found]
        return [self._encoded("snapshot", {"scope": status.subject.scope, **status.snapshot}) for status in found]

    def _encoded(self, event_type: str, payload: Mapping[str, Any], *, is_place: bool = True) -> bytes:
        data = json.dumps({"type": event_type, **payload}, ensure_ascii=False, separators=(",", ":"))
        place = self._place() if is_place else None
        return ServerSentEvent(data, event=event_type, id=place, sep="\n").encode()

    def _place(self) -> str:
        return ".".join(map(str, self._events.cursors))


class _Answer(EventSourceResponse):
    """The response: keeps the connection alive, and releases everything when it ends."""

    def __init__(self, stream: _Stream, rindle: Rindle, release: Callable[[], None]) -> None:
        self._text = stream.text()
        super().__init__(
            self._text,
            headers=_HEADERS,
            ping=rindle.settings.stream_ping_seconds,
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
            send_timeout=rindle.settings.stream_send_seconds,
        )
        del self.headers["connection"]  # the server sets it; HTTP/2 forbids it
        self._stream = stream
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._text):  # a client that disconnects leaves it unfinished
                await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.info("event stream ended: its client does not read")
        finally:
            self._stream.close()
            self._release()
