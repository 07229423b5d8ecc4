"""Sends notifications of committed transactions, from a thread with a connection of its own.

A transaction that contains a NOTIFY holds a lock of the whole Postgres server from its commit until that commit is on
the disk. With a NOTIFY in every transaction, commits happen one after the other. A transaction that only notifies
writes nothing and does not wait for the disk, and one of them serves many commits.

A process that is killed between a commit and its notification loses the notification. Readers therefore also poll.

Source: PostgreSQL, ``src/backend/commands/async.c`` (``PreCommit_Notify``, ``AtCommit_Notify``).
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from sqlalchemy import Connection, Engine, Pool, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

log = logging.getLogger(__name__)

#: Reduces the payloads of one channel to those that readers need.
Merge = Callable[[Collection[str]], Collection[str]]

#: Shortest time between two statements of a process: notifications that arrive meanwhile share the next one.
WINDOW_SECONDS = 0.005
#: Time without notifications after which the thread ends and closes its connection.
IDLE_SECONDS = 60.0
#: Pause after a failure. Readers poll, so what could not be sent is dropped.
_PAUSE_SECONDS = 1.0
#: Longest time for which closing waits for the last statement.
CLOSE_SECONDS = 2.0
#: Payloads of one channel that are kept before they are merged.
_MOST_WAITING = 1_000
_STATEMENT = text(
    "SELECT pg_notify(notice.channel, notice.payload) "
    "FROM unnest(CAST(:channels AS text[]), CAST(:payloads AS text[])) AS notice(channel, payload)"
)


class _Link(Protocol):
    """A connection that stays open between statements."""

    def send(self, channels: Sequence[str], payloads: Sequence[str]) -> None:
        """Notify; connects first where necessary."""

    def disconnect(self) -> None:
        """Close the connection, also a broken one."""

    def close(self) -> None:
        """Disconnect and release everything else."""


class _BlockingLink:
    """For synchronous drivers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    def send(self, channels: Sequence[str], payloads: Sequence[str]) -> None:
        if self._connection is None:
            self._connection = self._engine.connect()
        self._connection.execute(_STATEMENT, {"channels": list(channels), "payloads": list(payloads)})

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()

    def close(self) -> None:
        self.disconnect()


class _AsyncLink:
    """For asyncio drivers: their connection belongs to an event loop of the thread, which runs while it is used."""

    def __init__(self, engine: Engine) -> None:
        self._engine = AsyncEngine(engine)
        self._connection: AsyncConnection | None = None
        self._runner = asyncio.Runner()

    def send(self, channels: Sequence[str], payloads: Sequence[str]) -> None:
        self._runner.run(self._send(list(channels), list(payloads)))

    async def _send(self, channels: list[str], payloads: list[str]) -> None:
        if self._connection is None:
            self._connection = await self._engine.connect()
        await self._connection.execute(_STATEMENT, {"channels": channels, "payloads": payloads})

    def disconnect(self) -> None:
        self._runner.run(self._disconnect())

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.invalidate()
            await connection.close()

    def close(self) -> None:
        try:
            self.disconnect()
        finally:
            self._runner.close()


class Notifier:
    """Sends the notifications of the transactions of one connection pool.

    Args:
        engine: an engine of that pool. The notifier connects in the same way, outside the pool.
    """

    def __init__(self, engine: Engine) -> None:
        own = Engine(engine.pool.recreate(), engine.dialect, engine.url)
        self._engine = own.execution_options(isolation_level="AUTOCOMMIT")
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[Merge, list[str]]] = {}
        self._thread: threading.Thread | None = None
        #: Kept here and not in the frame of the thread: a forked process must not close the connection of its parent.
        self._link: _Link | None = None
        self._is_sending = self._is_closing = self._has_failed = False

    def post(self, channel: str, payload: str, merge: Merge) -> None:
        """Notify ``channel`` soon; returns at once, and never raises."""
        with self._changed:
            _, payloads = self._waiting.setdefault(channel, (merge, []))
            payloads.append(payload)
            if len(payloads) > _MOST_WAITING:
                payloads[:] = merge(payloads)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="rindle-notify", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down
                    self._waiting.clear()
                    return
                self._thread = thread
            self._changed.notify_all()

    def flush(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Wait until everything posted was sent, for a limited time."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._is_sending), timeout_seconds)

    def close(self, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Send what is waiting and close the connection, in a limited time; a later :meth:`post` opens another one."""
        with self._changed:
            thread = self._thread
            self._is_closing = thread is not None
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_seconds)

    def _run(self) -> None:
        link: _Link = _AsyncLink(self._engine) if self._engine.dialect.is_async else _BlockingLink(self._engine)
        self._link = link
        try:
            while waiting := self._take():
                began = time.monotonic()
                is_sent = self._send(link, waiting)
                with self._changed:
                    self._is_sending = False
                    self._changed.notify_all()
                    pause = began + WINDOW_SECONDS - time.monotonic() if is_sent else _PAUSE_SECONDS
                    if pause > 0:
                        self._changed.wait_for(lambda: self._is_closing, pause)
        finally:
            with self._changed:
                if self._thread is threading.current_thread():  # an unexpected error: the next post starts another one
                    self._thread, self._is_closing, self._is_sending = None, False, False
            try:
                link.close()
            except Exception as error:
                log.debug("a connection was not closed properly", extra={"error": type(error).__name__})

    def _take(self) -> Mapping[str, tuple[Merge, list[str]]]:
        """Wait for notifications; empty when the thread has to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing, IDLE_SECONDS)
            waiting, self._waiting = self._waiting, {}
            self._is_sending = bool(waiting)
            if not waiting:
                self._thread, self._is_closing = None, False
            return waiting

    def _send(self, link: _Link, waiting: Mapping[str, tuple[Merge, list[str]]]) -> bool:
        """Notify; tries a second time, since an idle connection may have been closed by the server or a proxy."""
        notices = [(channel, one) for channel, (merge, payloads) in waiting.items() for one in merge(payloads)]
        channels, payloads = [channel for channel, _ in notices], [payload for _, payload in notices]
        failure: Exception | None = None
        for _ in range(2):
            try:
                link.send(channels, payloads)
            except Exception as error:
                failure = error
                self._disconnect(link)
            else:
                self._has_failed = False
                return True
        if not self._has_failed:
            log.warning(
                "notifications were not sent; other processes find the changes when they poll",
                extra={"action": "notify_failed", "error": type(failure).__name__},
            )
        self._has_failed = True
        return False

    @staticmethod
    def _disconnect(link: _Link) -> None:
        try:
            link.disconnect()
        except Exception as error:
            log.debug("a connection was not closed properly", extra={"error": type(error).__name__})


# --- the notifiers of this process --------------------------------------------------------------------------------

_notifiers: weakref.WeakKeyDictionary[Pool, Notifier] = weakref.WeakKeyDictionary()
_lock = threading.Lock()
#: Notifiers that a forked process has inherited: never used, and never collected, because that would close connections.
_inherited: list[Notifier] = []


def notifier_of(engine: Engine) -> Notifier:
    """Return the notifier of the engine's pool in this process."""
    with _lock:
        found = _notifiers.get(engine.pool)
        if found is None:
            found = _notifiers[engine.pool] = Notifier(engine)
        return found


def close(engine: Engine) -> None:
    """Send what the process has to notify, and close the connection of the engine's notifier; takes seconds at most."""
    with _lock:
        own, all_of_them = _notifiers.get(engine.pool), list(_notifiers.values())
    for one in all_of_them:
        if one is not own:
            one.flush()
    if own is not None:
        own.close()


@atexit.register
def _close_all() -> None:
    with _lock:
        all_of_them = list(_notifiers.values())
    for one in all_of_them:
        one.close()


def _forget_after_fork() -> None:
    """Begin without notifiers: the threads exist only in the parent, and the connections belong to it."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_notifiers.values())
    _notifiers.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
