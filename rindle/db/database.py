"""Runs ``Session`` functions on the application's engine, sync or async.

Every SQL step of Rindle is a plain function on ``sqlalchemy.orm.Session``. :class:`Database` opens the transaction and
runs the function: with ``run_sync`` on an async engine, in a bounded thread pool on a sync one. It then commits. It
translates the errors of conflicting transactions.

A transaction that has begun runs to its commit or rollback in its own task or thread, which the cancellation of the
caller does not reach. A driver that is interrupted twice could otherwise leave a transaction open: aiosqlite then keeps
the write lock of the file.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, QueuePool
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from rindle import sqlite
from rindle.cancellation import run_to_end
from rindle.db import notifier
from rindle.errors import InspectionFailed, RindleError, StateConflict
from rindle.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")

#: PostgreSQL's serialization_failure and deadlock_detected; 55P03 is lock_not_available.
_CONFLICT_STATES = frozenset({"40001", "40P01", "55P03"})
#: Classes of SQLSTATE: connection, authorization, catalog, resources, operator intervention, system error.
_OUTAGE_CLASSES = frozenset({"08", "28", "3D", "53", "57", "58"})
#: Errors whose cause is the database or the way to it, not the statement.
_OUTAGES = (OperationalError, InterfaceError, InternalError, PendingRollbackError, PoolTimeout)
#: Longest time in seconds for which a cancelled caller waits for its transaction to end: more than the 10 s for which a
#: SQLite connection waits for the write lock.
CANCEL_LIMIT_SECONDS = 15.0
#: How often a conflicting transaction runs, and for how many seconds after its start it is repeated. A SQLite
#: connection has then waited for the write lock at least once.
CONFLICT_TRIES, CONFLICT_SECONDS = 4, 15.0
#: Half of the longest pause before the first repetition, in seconds; it doubles. Pauses are random, so that two
#: transactions do not conflict again.
CONFLICT_PAUSE_SECONDS = 0.05

#: A caller's own session; a scoped one stands for the session of its thread, task or request.
AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]


@contextmanager
def translating_conflicts() -> Iterator[None]:
    """Translate the errors of conflicting transactions to ``state_conflict``; every other error passes unchanged.

    Raises:
        StateConflict: deadlock, serialization failure, a lock that was not available, or a busy SQLite file.
    """
    try:
        yield
    except DBAPIError as error:
        reason = _conflict_reason(error)
        if reason is None:
            raise
        raise StateConflict(
            "another transaction changed the same rows first; roll back and repeat the transaction",
            detail={"reason": reason},
        ) from error


def _conflict_reason(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)  # pgcode: psycopg2
    if state in _CONFLICT_STATES:
        return str(state)
    text = str(error.orig).lower()
    busy = isinstance(error, OperationalError) and ("database is locked" in text or "database table is locked" in text)
    return "sqlite_busy" if busy else None


@contextmanager
def _outages_as_operational_errors() -> Iterator[None]:
    """Raise ``OperationalError``, as with other drivers, where asyncpg raises ``OSError`` or a plain ``DBAPIError``."""
    try:
        yield
    except RindleError:
        raise
    except OSError as error:  # nothing but a connection to the database is opened in a transaction
        raise OperationalError("connect", None, error) from error
    except DBAPIError as error:
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if type(error) is DBAPIError and (error.connection_invalidated or state[:2] in _OUTAGE_CLASSES):
            raise OperationalError(
                error.statement, error.params, error.orig or error, connection_invalidated=error.connection_invalidated
            ) from error
        raise


def outage_of(error: BaseException) -> RindleError | None:
    """Return the retryable error that stands for ``error`` when the database or its connection is the cause.

    A connection was lost or refused, the server stops or fails over, the pool is exhausted, or a transaction met
    another one. ``None`` for every other error, also those of a statement or its values, which would be raised again.
    """
    if isinstance(error, StateConflict):
        return error
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(
        error, OperationalError | InterfaceError | InternalError | PendingRollbackError | PoolTimeout
    ):
        # Only the class: drivers put hosts, users and statements into their messages.
        return InspectionFailed(
            f"the database did not answer ({type(error).__name__}); the work continues when it answers again",
            detail={"component": "database"},
        )
    return None


class _Turns:
    """Lets transactions of an asynchronous engine have its connections in the order of their requests.

    The pool itself gives a returned connection to whoever requests one next, also before those that wait. Where all
    connections are in use for a while, some callers wait until the timeout of the pool although the database answers
    others. Here the timeout of the pool begins again with each transaction that ends: a long queue is no outage.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        pool = engine.pool
        self._limit: int | None = None
        if isinstance(pool, QueuePool) and pool._max_overflow >= 0:
            self._limit, self._seconds = pool.size() + pool._max_overflow, pool.timeout()
        self._ended_at = 0.0
        # An engine may be used by several event loops, but the connections of its pool belong to one.
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the turn of a transaction, which lasts as long as the block.

        Raises:
            PoolTimeout: no transaction of the queue has ended within the timeout of the pool.
        """
        if not self._limit:
            yield
            return
        turns = self._by_loop.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._limit))
        if turns.locked():
            await self._wait(turns)
        else:
            await turns.acquire()
        try:
            yield
        finally:
            self._ended_at = time.monotonic()
            turns.release()

    async def _wait(self, turns: asyncio.Semaphore) -> None:
        began_at, acquiring = time.monotonic(), asyncio.ensure_future(turns.acquire())
        try:
            while not acquiring.done():
                left = max(began_at, self._ended_at) + self._seconds - time.monotonic()
                if left <= 0:
                    raise PoolTimeout(f"no connection of the pool was free within {self._seconds:g} s")
                await asyncio.wait([acquiring], timeout=left)
        except BaseException:
            if acquiring.done():
                turns.release()
            acquiring.cancel()
            raise


class Database:
    """Runs functions of the form ``fn(session, *args)``, each in its own transaction.

    Args:
        engine: the application's own engine. Its configuration does not change, except that a SQLite engine gets
            :func:`rindle.sqlite.configure`.
        threads: size of the thread pool used with a sync engine.
    """

    def __init__(self, engine: Engine | AsyncEngine, *, threads: int = 8) -> None:
        sqlite.configure(engine)
        self.engine = engine
        self._async = isinstance(engine, AsyncEngine)
        self.dialect = engine.dialect.name
        self._threads = None if self._async else ThreadPoolExecutor(threads, thread_name_prefix="rindle-sql")
        self._turns = _Turns(engine) if isinstance(engine, AsyncEngine) else None
        #: Open transactions.
        self._units: set[asyncio.Future[Any]] = set()
        writing: dict[str, Any] = {sqlite.WRITE_OPTION: True}
        self._writers = self._sessions(engine.execution_options(**writing))
        self._readers = self._sessions(engine)

    @staticmethod
    def _sessions(engine: Engine | AsyncEngine) -> Callable[[], Any]:
        if isinstance(engine, AsyncEngine):
            return partial(AsyncSession, engine, expire_on_commit=False)
        return sessionmaker(engine, expire_on_commit=False)

    async def write(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` in a transaction that may write, and commit it.

        A transaction that conflicts with another one is repeated (see ``CONFLICT_TRIES``), so ``fn`` may run several
        times: it changes nothing but the session that it is given.

        A cancelled caller is cancelled when the transaction has ended, committed or not; after
        ``CANCEL_LIMIT_SECONDS`` at the latest.

        Raises:
            StateConflict: also in the last repetition: deadlock, serialization failure, a busy SQLite file, or ``fn``
                found that the rows had changed; nothing was written.
        """
        began = time.monotonic()
        for number in range(1, CONFLICT_TRIES):
            try:
                return await self._run(self._writers, fn, *args, **kwargs)
            except StateConflict:
                if time.monotonic() - began > CONFLICT_SECONDS:
                    raise
            await asyncio.sleep(random.uniform(0, CONFLICT_PAUSE_SECONDS * 2**number))  # noqa: S311 - not a secret
        return await self._run(self._writers, fn, *args, **kwargs)

    async def read(self, fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``fn`` in a transaction that only reads (on SQLite it takes no write lock).

        A cancelled caller is cancelled when the transaction has ended, as with :meth:`write`.
        """
        return await self._run(self._readers, fn, *args, **kwargs)

    async def _run(
        self, factory: Callable[[], Any], fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        unit: asyncio.Future[T]
        if self._threads is None:
            unit = asyncio.ensure_future(self._transaction(factory, fn, *args, **kwargs))
        else:
            work = partial(self._blocking, factory, fn, *args, **kwargs)
            unit = asyncio.get_running_loop().run_in_executor(self._threads, work)
        self._units.add(unit)
        unit.add_done_callback(self._units.discard)
        with translating_conflicts():
            return await run_to_end(unit, limit_seconds=CANCEL_LIMIT_SECONDS)

    async def _transaction(
        self,
        factory: Callable[[], AsyncSession],
        fn: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        assert self._turns is not None  # noqa: S101 - the engine is asynchronous
        async with self._turns.taken():
            with _outages_as_operational_errors():
                async with factory() as session, session.begin():
                    return await session.run_sync(fn, *args, **kwargs)

    @staticmethod
    def _blocking(
        factory: Callable[[], Session], fn: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with factory() as session, session.begin():
            return fn(session, *args, **kwargs)

    async def within(
        self,
        session: AnySession | None,
        fn: Callable[Concatenate[Session, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run ``fn`` in the caller's transaction if ``session`` is given (not committed here), else in a new one."""
        if session is None:
            return await self.write(fn, *args, **kwargs)
        own = session if isinstance(session, Session | AsyncSession) else session()
        with translating_conflicts():
            if isinstance(own, AsyncSession):
                return await own.run_sync(fn, *args, **kwargs)
            return fn(own, *args, **kwargs)

    async def close(self) -> None:
        """Wait for open transactions and for the last notification, and stop the thread pool.

        The engine belongs to the application and stays open.
        """
        loop = asyncio.get_running_loop()
        units = [unit for unit in tuple(self._units) if unit.get_loop() is loop]
        if units:
            await run_to_end(asyncio.wait(units, timeout=CANCEL_LIMIT_SECONDS))
        if self.dialect == "postgresql":
            engine = self.engine.sync_engine if isinstance(self.engine, AsyncEngine) else self.engine
            await in_thread(notifier.close, engine)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def dispose(self) -> None:
        """Close the connections of the engine's pool; for programs that exit afterwards."""
        if isinstance(self.engine, AsyncEngine):
            await self.engine.dispose()
        else:
            self.engine.dispose()
