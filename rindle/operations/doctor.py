"""Check that everything Rindle needs is present and compatible; changes nothing.

All checks run concurrently, each with its own timeout. An exception becomes a row that names its class only, so the
output holds no password, URL or response. The checks are in :mod:`rindle.operations.checks`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from pydantic import SecretStr

from rindle import telemetry
from rindle.errors import InvalidArgument, RindleError, UnknownProfile
from rindle.operations.checks import database, host, lanes, storage
from rindle.operations.checks import profiles as profile_checks
from rindle.operations.checks import streaming as streaming_checks
from rindle.operations.checks import temporal as temporal_checks
from rindle.operations.checks.report import Check, DoctorReport, Planned, Result, Subject
from rindle.profile import Profile
from rindle.services import Services

#: Timeout of one check in seconds; checks that start a process or send several requests get a multiple.
TIMEOUT_SECONDS = 5.0
#: Largest factor by which a busy machine lengthens the timeouts: half a minute for the shortest one.
MAX_BUSY_FACTOR = 6.0
#: Threads for blocking checks.
_THREADS = 4


async def doctor(
    services: Services,
    *,
    profiles: Iterable[str | type[Profile]] | None = None,
    live: bool = False,
    streaming: bool = False,
    workers: bool = True,
    offline: bool = False,
    only: Collection[str] | None = None,
    timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the limit of each check, part of the public signature
) -> DoctorReport:
    """Check everything Rindle needs.

    Args:
        profiles: check these only; all registered ones when left out. An unknown name is a finding, not an exception.
        live: also write, read and delete a 32-byte object in every storage, fetch it by a signed URL, and send
            others by the lanes for large files.
        streaming: also send one request to every streaming provider, with its credentials.
        workers: require polling workers.
        offline: check nothing outside this process and its disk.
        only: ids of the checks to run; all when left out.
        timeout: seconds each check may take; checks that start a process or send several requests get a multiple, and
            on a busy machine all of them do, up to six times.

    Returns:
        The report, its checks ordered by id. A check that does not concern the configuration is absent or ``ok``.

    Raises:
        InvalidArgument: ``only`` names an unknown check.
    """
    given = tuple(one.get_secret_value() if isinstance(one, SecretStr) else one for one in services.secrets)
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="rindle-doctor")
    subject = Subject(services, *_named(services, profiles), given, threads)
    try:
        planned = _chosen(_plan(subject, live=live, streaming=streaming, workers=workers), only)
        checks = await asyncio.gather(*(_run(check, subject, timeout, offline) for check in planned))
    finally:
        await subject.close()
        threads.shutdown(wait=False, cancel_futures=True)  # a thread that hangs on a dead disk is abandoned
    return DoctorReport(
        checks=tuple(sorted(checks, key=lambda check: check.id)),
        failed=sum(check.status == "error" for check in checks),
        warned=sum(check.status == "warn" for check in checks),
        total=len(checks),
    )


def _named(
    services: Services, wanted: Iterable[str | type[Profile]] | None
) -> tuple[tuple[type[Profile], ...], tuple[str, ...]]:
    """Return the requested profiles, and the requested names that no profile has."""
    known = services.profiles
    found: list[type[Profile]] = []
    unknown: list[str] = []
    for one in known if wanted is None else wanted:
        try:
            found.append(known.get(one))
        except UnknownProfile:
            unknown.append(one if isinstance(one, str) else getattr(one, "__name__", "?"))
    return tuple(found), tuple(unknown)


def _plan(subject: Subject, *, live: bool, streaming: bool, workers: bool) -> list[Planned]:
    return [
        *profile_checks.planned(subject),
        *host.planned(subject),
        *database.planned(subject),
        *temporal_checks.planned(subject, workers=workers),
        *storage.planned(subject, live=live),
        *(lanes.planned(subject) if live else ()),
        *streaming_checks.planned(subject, ping=streaming),
    ]


def _chosen(planned: list[Planned], only: Collection[str] | None) -> list[Planned]:
    if only is None:
        return planned
    known = sorted(check.id for check in planned)
    unknown = sorted(set(only) - set(known))
    if unknown:
        raise InvalidArgument(
            f"unknown check {', '.join(unknown)}; choose from {', '.join(known)}",
            detail={"option": "only", "unknown": unknown},
        )
    return [check for check in planned if check.id in only]


def busy_factor() -> float:
    """Return the factor for timeouts on this machine now: the processes that want to run, for each processor."""
    try:
        wanted = os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:  # not every system has the number
        wanted = 1.0
    return round(min(MAX_BUSY_FACTOR, max(1.0, wanted)), 1)


def _late(planned: Planned, limit_seconds: float) -> Result:
    """Return the result of a check that did not end: a service does not answer, or a program of this machine hangs."""
    busy = f"this machine is busy ({busy_factor():g} processes for each processor): " if busy_factor() > 1 else ""
    longer = f"repeat it alone and with more time: rindle doctor --only {planned.id} --timeout {limit_seconds * 4:.0f}"
    if planned.leaves_process:
        fix = f"{busy}check that it is up and reachable from this machine; {longer}"
        return Result("error", f"no answer within {limit_seconds:g} s", fix)
    return Result("error", f"not finished on this machine within {limit_seconds:g} s", f"{busy}{longer}")


async def _run(planned: Planned, subject: Subject, timeout_seconds: float, offline: bool) -> Check:
    started = time.monotonic()
    limit = timeout_seconds * planned.patience * busy_factor()
    if offline and planned.leaves_process:
        result = Result("skipped", "not checked: offline")
    else:
        try:
            result = await asyncio.wait_for(planned.run(subject), limit)
        except TimeoutError:
            result = _late(planned, limit)
        except RindleError as error:
            result = Result("error", f"{type(error).__name__} ({error.code})", error.action, {"code": error.code})
        except Exception as error:
            # Only the class: drivers and SDKs put passwords, hosts and whole responses into their messages.
            result = Result("error", f"the check failed with {type(error).__name__}", planned.fix)
    telemetry.emit(
        "rindle.runtime.check.stop",
        {"check": planned.id, "status": result.status, "component": planned.component},
        {"duration_us": (time.monotonic() - started) * 1e6},
    )
    return Check(planned.id, result.status, planned.component, result.summary, result.fix, result.detail)
