"""Checks that everything Rindle needs is there and fits together; changes nothing.

All checks run at once, each within its own time. What a check raises becomes a row that names the exception's class and
nothing else, so no output holds a password, a URL or somebody's answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy import Connection, func, inspect, select
from sqlalchemy.orm import Session
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
)
from temporalio.service import RPCError, RPCStatusCode

from rindle import telemetry
from rindle.cancellation import run_to_end
from rindle.capabilities import PROCESSOR_CAPABILITIES, capabilities_of
from rindle.db import migrate
from rindle.db import outbox as outbox_rows
from rindle.db.models import TABLES, UtcDateTime
from rindle.errors import InvalidArgument, RindleError, TemporalUnavailable, UnknownProfile
from rindle.process import ephemeral_runtime
from rindle.profile import Profile
from rindle.protocols import Storage
from rindle.recipes import ImageVariant, VariantSpec, is_av_work
from rindle.security import sniff
from rindle.services import Services
from rindle.states import OutputKind
from rindle.temporal_client import TemporalConnection
from rindle.workflows import ids

Status = Literal["ok", "warn", "error", "skipped"]

#: Seconds one check may take; those that start a process or cross a network several times get a multiple.
TIMEOUT_SECONDS = 5.0
#: Oldest libvips with ``block_untrusted``, and oldest Temporal server that Rindle is tested with.
LIBVIPS_FLOOR = (8, 13)
TEMPORAL_FLOOR = (1, 29)
#: Room one output may need on the scratch disk; twice as much must be free.
OUTPUT_BYTES = 500 * 1024 * 1024
#: Clock skew in seconds that breaks expiry times noticeably, and that breaks signatures.
SKEW_WARN_SECONDS, SKEW_ERROR_SECONDS = 30.0, 300.0
#: Age in seconds of the oldest row nobody has sent.
LAG_WARN_SECONDS, LAG_ERROR_SECONDS = 60.0, 600.0
#: A poller that has not asked for so many seconds is gone: a poll takes at most 60.
POLLER_SECONDS = 65.0
#: Shortest retention under which a finished upload can still be looked at the next morning.
RETENTION = timedelta(days=1)

_DATABASE_FIX = "start the database, check the URL of the engine you give to Rindle"
_MOUNT = (
    "pass LocalStorage(base_url=..., secrets=[...]) and mount rindle.http.local.local_router there; 403 means that the "
    "processes do not share their secrets"
)
_TEMPORAL_FIX = "start the server (rindle dev, docker compose) or check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE"


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the report.

    ``fix`` says what to do about a warning or an error; ``detail`` holds JSON-compatible facts.
    """

    id: str
    status: Status
    component: str
    summary: str
    fix: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All checks by id. ``success`` when none failed; warnings never fail."""

    checks: tuple[Check, ...]
    failed: int
    warned: int
    total: int

    @property
    def success(self) -> bool:
        """Whether no check found an error."""
        return self.failed == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON shows it."""
        return {
            "success": self.success,
            "total": self.total,
            "failed": self.failed,
            "warned": self.warned,
            "checks": [asdict(check) for check in self.checks],
        }


@dataclass(frozen=True, slots=True)
class _Finding:
    status: Status
    summary: str
    fix: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Subject:
    """What is looked at."""

    services: Services
    temporal: TemporalConnection
    profiles: tuple[type[Profile], ...]
    unknown_profiles: tuple[str, ...]
    secrets: tuple[str, ...] = field(repr=False)
    threads: ThreadPoolExecutor

    async def off_loop(self, fn: Callable[[], _Finding]) -> _Finding:
        """Run a check that blocks (disk, libmagic) where it cannot hold up the others."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, fn)

    async def read(self, fn: Callable[[Session], _Finding]) -> _Finding:
        return await self.services.database.read(fn)


@dataclass(frozen=True, slots=True)
class _Planned:
    """A check to run; ``patience`` multiplies its time, ``leaves_process`` says that ``offline`` skips it."""

    id: str
    component: str
    look: Callable[[_Subject], Awaitable[_Finding]]
    leaves_process: bool = False
    patience: int = 1


async def doctor(
    services: Services,
    temporal: TemporalConnection,
    *,
    profiles: Iterable[str | type[Profile]] | None = None,
    secrets: Sequence[str | SecretStr] = (),
    live: bool = False,
    workers: bool = True,
    offline: bool = False,
    only: Collection[str] | None = None,
    timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - the limit of each check, part of the public signature
) -> DoctorReport:
    """Check everything Rindle needs.

    Args:
        profiles: look at these only; all registered ones when left out. An unknown name is a finding, not an exception.
        secrets: the signing secrets in use; those of the settings when left out.
        live: also write, read and delete a 32-byte object in every storage, and fetch it by a signed URL.
        workers: expect workers to be polling.
        offline: look at nothing outside this machine's process and disk.
        only: ids of the checks to run; all when left out.
        timeout: seconds each check may take; starting a process or talking to a network takes a multiple.

    Returns:
        The report, its checks ordered by id. A check that does not concern the configuration is absent or ``ok``.

    Raises:
        InvalidArgument: ``only`` names a check that does not exist here.
    """
    known = services.profiles
    wanted: list[type[Profile]] = []
    unknown: list[str] = []
    for asked in known if profiles is None else profiles:
        try:
            wanted.append(known.get(asked))
        except UnknownProfile:
            unknown.append(asked if isinstance(asked, str) else getattr(asked, "__name__", "?"))
    planned = _plan(services, wanted, live=live, workers=workers)
    if only is not None:
        there = sorted(check.id for check in planned)
        strangers = sorted(set(only) - set(there))
        if strangers:
            raise InvalidArgument(
                f"no check is called {', '.join(strangers)}; there are {', '.join(there)}",
                detail={"option": "only", "unknown": strangers},
            )
        planned = [check for check in planned if check.id in only]
    given = tuple(
        one.get_secret_value() if isinstance(one, SecretStr) else one for one in secrets or services.settings.secrets
    )
    threads = ThreadPoolExecutor(4, thread_name_prefix="rindle-doctor")
    subject = _Subject(services, temporal, tuple(wanted), tuple(unknown), given, threads)
    try:
        checks = await asyncio.gather(*(_run(check, subject, timeout, offline) for check in planned))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # a thread that hangs on a dead disk is left behind
    return DoctorReport(
        checks=tuple(sorted(checks, key=lambda check: check.id)),
        failed=sum(check.status == "error" for check in checks),
        warned=sum(check.status == "warn" for check in checks),
        total=len(checks),
    )


async def _run(planned: _Planned, subject: _Subject, timeout_seconds: float, offline: bool) -> Check:
    started = time.monotonic()
    limit = timeout_seconds * planned.patience
    if offline and planned.leaves_process:
        finding = _Finding("skipped", "not looked at: offline")
    else:
        try:
            finding = await asyncio.wait_for(planned.look(subject), limit)
        except TimeoutError:
            finding = _Finding("error", f"no answer within {limit:g} s", "see whether it is up and reachable from here")
        except RindleError as error:
            finding = _Finding("error", f"{type(error).__name__} ({error.code})", error.action, {"code": error.code})
        except Exception as error:
            # Only the class: drivers and SDKs put passwords, hosts and whole answers into their messages.
            finding = _Finding("error", f"the check ended with {type(error).__name__}", _fix_of(planned.component))
    telemetry.emit(
        "rindle.runtime.check.stop",
        {"check": planned.id, "status": finding.status, "component": planned.component},
        {"duration_us": (time.monotonic() - started) * 1e6},
    )
    return Check(planned.id, finding.status, planned.component, finding.summary, finding.fix, finding.detail)


def _fix_of(component: str) -> str | None:
    return {"database": _DATABASE_FIX, "temporal": _TEMPORAL_FIX}.get(component)


def _plan(services: Services, profiles: Sequence[type[Profile]], *, live: bool, workers: bool) -> list[_Planned]:
    pollers = _temporal_pollers if workers else _no_workers
    planned = [
        _Planned("profiles.load", "profiles", _profiles_load),
        _Planned("profiles.capability_mismatch", "profiles", _profiles_capabilities),
        _Planned("delivery.support", "delivery", _delivery_support),
        _Planned("libmagic", "media", _libmagic),
        _Planned("temp.dir", "host", _temp_dir),
        _Planned("security.secrets", "security", _secrets),
        _Planned("db.connect", "database", _db_connect, leaves_process=True),
        _Planned("db.migrations", "database", _db_migrations, leaves_process=True),
        _Planned("db.schema", "database", _db_schema, leaves_process=True, patience=2),
        _Planned("db.clock", "database", _db_clock, leaves_process=True),
        _Planned("outbox.backlog", "database", _outbox_backlog, leaves_process=True),
        _Planned("temporal.reachable", "temporal", _temporal_reachable, leaves_process=True),
        _Planned("temporal.pollers", "temporal", pollers, leaves_process=True, patience=2),
        _Planned("temporal.search_attributes", "temporal", _search_attributes, leaves_process=True),
    ]
    if any(isinstance(spec, ImageVariant) for profile in profiles for spec in profile.variants.values()):
        planned.append(_Planned("libvips.features", "media", _libvips_features, patience=4))
    planned.append(_Planned("ffmpeg.version", "media", _ffmpeg_version, patience=4))
    if _av_variants(profiles):
        planned.append(_Planned("ffmpeg.features", "media", _ffmpeg_features, patience=4))
        planned.append(_Planned("profiles.runtime_fit", "profiles", _runtime_fit))
    if any("local" in capabilities_of(storage) for storage in services.storages.values()):
        planned.append(_Planned("delivery.local_endpoint", "delivery", _local_endpoint))
    for name, storage in services.storages.items():
        reach, trip = _storage_reachable(storage), _storage_round_trip(storage)
        planned.append(_Planned(f"storage.{name}.reachable", "storage", reach, leaves_process=True, patience=2))
        if live:
            planned.append(_Planned(f"storage.{name}.round_trip", "storage", trip, leaves_process=True, patience=4))
    return planned


# --- profiles and delivery -----------------------------------------------------------------------------------------


async def _profiles_load(subject: _Subject) -> _Finding:
    names = subject.services.profiles.names
    if subject.unknown_profiles:
        return _Finding(
            "error",
            f"no profile is called {', '.join(subject.unknown_profiles)}",
            f"registered here: {', '.join(names) or 'none'}",
            {"unknown": list(subject.unknown_profiles), "registered": names},
        )
    if not names:
        return _Finding("warn", "no profile is registered", "pass your Profile classes as Rindle(profiles=[...])")
    return _Finding("ok", f"{len(subject.profiles)} loaded: {', '.join(sorted(one.name for one in subject.profiles))}")


async def _profiles_capabilities(subject: _Subject) -> _Finding:
    problems: list[str] = []
    unused: list[str] = []
    for profile in subject.profiles:
        offered = capabilities_of(subject.services.storage(profile))
        problems += [
            f"{profile.name}: its storage does not offer {need!r}"
            for need in ("head", "read_range")
            if need not in offered
        ]
        if "presigned_put" not in offered:
            unused.append(f"{profile.name}: its storage takes no direct uploads")
        # The bundled engines, for profiles without a processor of their own, build every kind of variant.
        declared = profile.processor.capabilities if profile.processor is not None else PROCESSOR_CAPABILITIES
        for name, spec in profile.variants.items():
            lacking = sorted(spec.required_capabilities - declared)
            if lacking:
                problems.append(f"{profile.name}.{name}: no processor offers {', '.join(lacking)}")
    if problems:
        return _Finding(
            "error",
            "; ".join(problems),
            "give the profile another storage or a processor that can build the variant",
            {"problems": problems},
        )
    if unused:
        return _Finding(
            "warn",
            "; ".join(unused),
            "give a LocalStorage its base_url and secrets, or upload through the server only",
            {"profiles": unused},
        )
    return _Finding("ok", "storages and processors can do what the profiles declare")


async def _delivery_support(subject: _Subject) -> _Finding:
    problems = []
    for profile in subject.profiles:
        need = "public_url" if profile.delivery_policy().public else "signed_url"
        if need not in capabilities_of(subject.services.storage(profile)):
            way = "public" if need == "public_url" else "private"
            problems.append(f"{profile.name} is {way} and its storage does not offer {need!r}")
    if problems:
        return _Finding(
            "error",
            "; ".join(problems),
            "use another storage, give it a delivery address and secret, or declare delivery={'public': ...}",
            {"problems": problems},
        )
    return _Finding("ok", "every profile can be delivered")


async def _local_endpoint(subject: _Subject) -> _Finding:
    silent = [
        name
        for name, storage in subject.services.storages.items()
        if "local" in capabilities_of(storage) and "signed_url" not in capabilities_of(storage)
    ]
    if silent:
        return _Finding(
            "error", f"{', '.join(silent)} has no base_url: it can neither deliver nor take uploads", _MOUNT
        )
    return _Finding("ok", "address and secrets are set; --live asks the address itself")


# --- host ----------------------------------------------------------------------------------------------------------

#: Run in a process of its own: libvips must not be loaded where the application runs, and may crash.
_FEATURES = """
import json
try:
    from rindle.media.image import features
    found = features()
    print(json.dumps({
        "libvips": found.libvips, "pi_heif": found.pi_heif, "readable": sorted(found.readable),
        "writable": sorted(found.writable), "untrusted_blocked": found.untrusted_blocked,
    }))
except Exception as error:
    print(json.dumps({"error": type(error).__name__}))
"""


async def _tried(script: str, *arguments: str) -> dict[str, Any]:
    """Run one of our scripts in a Python of its own and return the JSON it prints; ``error`` says why it did not."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await run_to_end(child.wait())
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        return {"error": f"exit status {child.returncode}"}
    return found


async def _libvips_features(subject: _Subject) -> _Finding:
    found = await _tried(_FEATURES)
    fix = "install rindle[images]; it brings libvips 8.13 or newer and pi-heif"
    if "error" in found:
        return _Finding("error", f"libvips could not be tried ({found['error']})", fix)
    if _version(found["libvips"]) < LIBVIPS_FLOOR:
        return _Finding("error", f"libvips {found['libvips']} cannot block untrusted loaders", fix, found)
    if not found["untrusted_blocked"]:
        return _Finding("error", "untrusted loaders of libvips are not blocked", "unset VIPS_BLOCK_UNTRUSTED=0", found)
    formats = {
        spec.format
        for profile in subject.profiles
        for spec in profile.variants.values()
        if isinstance(spec, ImageVariant)
    }
    if unwritable := sorted(formats - set(found["writable"])):
        return _Finding("error", f"profiles ask for formats that are not writable: {', '.join(unwritable)}", fix, found)
    accepted = {mime for profile in subject.profiles for mime in profile.allow_mime or ()}
    needed = {"image/jpeg", "image/png", "image/webp", "image/avif", "image/heic"} & accepted
    if unreadable := sorted(needed - set(found["readable"])):
        return _Finding("error", f"profiles accept types that are not readable: {', '.join(unreadable)}", fix, found)
    return _Finding("ok", f"libvips {found['libvips']}, untrusted loaders blocked", detail=found)


#: Run where the libraries of workers are, which the process that asks need not have loaded.
_FFMPEG = """
import json, subprocess, sys
from pathlib import Path
try:
    from rindle.media.ffmpeg import FfmpegTools
    found = FfmpegTools.find(*(Path(given) if given else None for given in sys.argv[1:3]))
    filters = ""
    if found.problem is None:
        asked = [found.ffmpeg, "-v", "error", "-filters"]
        filters = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=10).stdout
    print(json.dumps({
        "problem": found.problem, "ffmpeg": found.version, "ffprobe": found.ffprobe_version,
        "capabilities": sorted(found.capabilities),
        "filters": sorted({"scale", "pad", "select", "tile", "loudnorm"} & set(filters.split())),
    }))
except Exception as error:
    print(json.dumps({"error": type(error).__name__}))
"""
_FFMPEG_FIX = "install rindle[av], and ffmpeg 5.1 or newer with ffprobe: on PATH or named by RINDLE_FFMPEG_PATH"
#: Filters that the recipes of a capability are made with.
_FILTERS = {
    "video_transcode": {"scale", "pad"},
    "video_frame_extract": {"select"},
    "video_thumbnail_strip": {"scale", "pad", "tile"},
    "audio_normalize": {"loudnorm"},
}
#: First release whose every option the recipes were made for; older ones work.
_FFMPEG_RECOMMENDED = (6, 0)


def _av_variants(profiles: Iterable[type[Profile]]) -> list[tuple[type[Profile], str, VariantSpec]]:
    """Return the variants that the bundled audio and video engine builds."""
    return [
        (profile, name, spec)
        for profile in profiles
        if profile.processor is None
        for name, spec in profile.variants.items()
        if is_av_work(spec)
    ]


async def _ask_ffmpeg(subject: _Subject) -> dict[str, Any]:
    settings = subject.services.settings
    found = await _tried(_FFMPEG, *(str(path or "") for path in (settings.ffmpeg_path, settings.ffprobe_path)))
    return found if "error" not in found else {"problem": f"ffmpeg could not be tried ({found['error']})"}


async def _ffmpeg_version(subject: _Subject) -> _Finding:
    found = await _ask_ffmpeg(subject)
    if found["problem"] is not None:
        needed = _av_variants(subject.profiles)
        unneeded = "" if needed else "; no profile here needs it"
        return _Finding("error" if needed else "warn", f"{found['problem']}{unneeded}", _FFMPEG_FIX)
    versions = f"ffmpeg {found['ffmpeg']}, ffprobe {found['ffprobe']}"
    told = {name: found[name] for name in ("ffmpeg", "ffprobe")}
    if "development" in told.values():
        return _Finding("warn", f"{versions}: not a release", "use a release of ffmpeg in production", told)
    if any(_version(version) < _FFMPEG_RECOMMENDED for version in told.values()):
        return _Finding("warn", f"{versions}: works; 6.0 or newer is recommended", "upgrade ffmpeg when you can", told)
    return _Finding("ok", versions, detail=told)


async def _ffmpeg_features(subject: _Subject) -> _Finding:
    found = await _ask_ffmpeg(subject)
    if found["problem"] is not None:
        return _Finding("error", found["problem"], _FFMPEG_FIX)
    problems = []
    for profile, name, spec in _av_variants(subject.profiles):
        lacking = sorted(
            need
            for need in spec.required_capabilities
            if need not in found["capabilities"] or not _FILTERS.get(need, set()) <= set(found["filters"])
        )
        if lacking:
            problems.append(f"{profile.name}.{name}: {', '.join(lacking)}")
    if problems:
        return _Finding(
            "error",
            f"this ffmpeg lacks encoders or filters for {'; '.join(problems)}",
            "install a build with libx264, aac, libmp3lame and mjpeg, such as your distribution's",
            {"problems": problems},
        )
    return _Finding("ok", "encoders and filters for every variant are there")


async def _runtime_fit(subject: _Subject) -> _Finding:
    builds = _av_variants(subject.profiles)
    names = [f"{profile.name}.{name}" for profile, name, _ in builds]
    films = [f"{profile.name}.{name}" for profile, name, spec in builds if spec.output_kind is OutputKind.VIDEO]
    runtime = ephemeral_runtime()
    if runtime is not None and films:
        return _Finding(
            "error",
            f"{', '.join(films)}: no video is built on {runtime}",
            "run a worker on a machine of its own for the queue of audio and video",
            {"variants": films},
        )
    free, wanted = await _room(subject)
    if free < wanted:
        return _Finding(
            "error",
            f"{', '.join(names)}: {free >> 20} MiB are free for builds, {wanted >> 20} MiB are wanted",
            "free some disk, or point RINDLE_TMP_DIR at a larger one",
            {"free_bytes": free, "required_bytes": wanted},
        )
    return _Finding("ok", f"{len(names)} variants of audio and video can be built here")


async def _room(subject: _Subject) -> tuple[int, int]:
    settings = subject.services.settings
    free = await asyncio.to_thread(lambda: shutil.disk_usage(settings.tmp_dir).free)
    return free, 2 * settings.av_max_output_bytes


#: The first bytes of the two formats every installation must tell apart.
_SAMPLES = {
    "image/png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde",
    "video/mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41\x00\x00\x00\x08free",
}


async def _libmagic(subject: _Subject) -> _Finding:
    def look() -> _Finding:
        with tempfile.TemporaryDirectory(prefix="rindle-doctor-") as scratch:
            for expected, head in _SAMPLES.items():
                sample = Path(scratch) / "sample"
                sample.write_bytes(head)
                found = sniff(sample)
                if found != expected:
                    return _Finding(
                        "error",
                        f"libmagic takes a file of type {expected} for {found}",
                        "install libmagic 5.40 or newer with its database",
                    )
        return _Finding("ok", "PNG and MP4 are recognised")

    return await subject.off_loop(look)


async def _temp_dir(subject: _Subject) -> _Finding:
    settings = subject.services.settings
    largest = max((profile.max_bytes or 0 for profile in subject.profiles), default=0)
    headroom = 2 * max(OUTPUT_BYTES, largest)

    def look() -> _Finding:
        fix = "point RINDLE_TMP_DIR at a writable directory with room"
        if not settings.tmp_dir.is_dir():
            return _Finding("error", "the temporary directory does not exist", fix)
        try:
            with tempfile.TemporaryFile(dir=settings.tmp_dir) as probe:
                probe.write(b"rindle")
        except OSError as error:
            return _Finding("error", f"the temporary directory cannot be written to ({type(error).__name__})", fix)
        if settings.scratch.is_dir() and stat.S_IMODE(settings.scratch.stat().st_mode) & 0o077:
            return _Finding(
                "error", "other users can look into the scratch directory", "chmod 700 the rindle.tmp directory in it"
            )
        free = shutil.disk_usage(settings.tmp_dir).free
        detail = {"free_bytes": free, "wanted_bytes": headroom}
        if free < headroom:
            return _Finding("warn", f"{free >> 20} MiB free, {headroom >> 20} MiB wanted", fix, detail)
        return _Finding("ok", f"writable, {free >> 30} GiB free", detail=detail)

    return await subject.off_loop(look)


_EXAMPLE = re.compile(r"change|example|secret|password|your[-_ ]|dummy|test|xxxx|1234", re.IGNORECASE)


async def _secrets(subject: _Subject) -> _Finding:
    if not subject.secrets:
        return _Finding("ok", "no signing secrets, and nothing that needs them is checked here")
    problems = []
    for number, secret in enumerate(subject.secrets, 1):
        if len(secret.encode()) < 32:
            problems.append(f"secret {number} is shorter than 32 bytes")
        elif _EXAMPLE.search(secret) or len(set(secret)) < 10:
            problems.append(f"secret {number} looks like an example")
        # A secret that also signs the application's sessions is lost with them.
        shared = sorted(name for name, value in os.environ.items() if value == secret and "RINDLE" not in name)
        problems += [f"secret {number} is also the value of {name}" for name in shared]
    if len(set(subject.secrets)) < len(subject.secrets):
        problems.append("one secret is listed twice")
    if problems:
        return _Finding("warn", "; ".join(problems), "make one with: openssl rand -hex 32", {"problems": problems})
    return _Finding("ok", f"{len(subject.secrets)} set")


# --- database ------------------------------------------------------------------------------------------------------


async def _db_connect(subject: _Subject) -> _Finding:
    def look(session: Session) -> _Finding:
        connection = session.connection()
        connection.exec_driver_sql("SELECT 1")
        dialect = connection.dialect
        version = ".".join(str(part) for part in (dialect.server_version_info or ())[:2])
        if dialect.name == "sqlite":
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
            if not connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
                return _Finding("error", "SQLite does not enforce foreign keys", "call rindle.sqlite.configure(engine)")
            if journal != "wal":
                return _Finding(
                    "error",
                    f"SQLite's journal is {journal!r}, so readers and writers wait for one another",
                    "use a database file on a local disk and call rindle.sqlite.configure(engine)",
                )
        elif dialect.name != "postgresql":
            return _Finding("error", f"{dialect.name} is not supported", "use PostgreSQL or SQLite")
        return _Finding("ok", f"{dialect.name} {version}".strip(), detail={"dialect": dialect.name, "version": version})

    return await subject.read(look)


async def _db_migrations(subject: _Subject) -> _Finding:
    needed, known = migrate.head(), migrate.revisions()

    def look(session: Session) -> _Finding:
        connection = session.connection()
        found = migrate.current(connection)
        detail = {"found": found, "needed": needed}
        if found == needed:
            return _Finding("ok", f"at {needed}", detail=detail)
        if found is None:
            if _tables_present(connection):
                fix = "rindle db stamp, if create_all of this release made them"
                return _Finding("error", "the tables exist and no migration of ours has run", fix, detail)
            return _Finding("error", "no migration has run", "rindle db upgrade", detail)
        if found in known:
            return _Finding("error", f"behind: at {found}, needs {needed}", "rindle db upgrade", detail)
        return _Finding("error", "ahead: a newer release has migrated it", "deploy the newer release here too", detail)

    return await subject.read(look)


def _tables_present(connection: Connection) -> bool:
    return bool(set(TABLES) & set(inspect(connection).get_table_names()))


async def _db_schema(subject: _Subject) -> _Finding:
    def look(session: Session) -> _Finding:
        missing = migrate.missing_parts(session.connection())
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            return _Finding("error", f"missing: {shown}", "rindle db upgrade", {"missing": missing})
        return _Finding("ok", f"{len(TABLES)} tables with their keys and indexes")

    return await subject.read(look)


async def _db_clock(subject: _Subject) -> _Finding:
    def look(session: Session) -> _Finding:
        if session.get_bind().dialect.name == "sqlite":
            return _Finding("ok", "SQLite uses this host's clock")
        before = datetime.now(UTC)
        theirs: datetime = session.execute(select(func.clock_timestamp(type_=UtcDateTime()))).scalar_one()
        ours = before + (datetime.now(UTC) - before) / 2
        skew = abs((theirs - ours).total_seconds())
        detail = {"skew_seconds": round(skew, 3)}
        fix = "synchronise the clocks of both machines (NTP)"
        if skew > SKEW_ERROR_SECONDS:
            return _Finding("error", f"the database's clock is {skew:.0f} s off: signatures fail", fix, detail)
        if skew > SKEW_WARN_SECONDS:
            return _Finding("warn", f"the database's clock is {skew:.0f} s off", fix, detail)
        return _Finding("ok", f"{skew:.1f} s apart", detail=detail)

    return await subject.read(look)


async def _outbox_backlog(subject: _Subject) -> _Finding:
    def look(session: Session) -> _Finding:
        waiting = outbox_rows.backlog(session)
        detail = asdict(waiting)
        if waiting.parked:
            return _Finding(
                "error", f"{waiting.parked} rows were refused by Temporal and are parked", "rindle outbox drain", detail
            )
        age = f"the oldest of {waiting.pending} rows has waited {waiting.oldest_age_seconds:.0f} s"
        fix = "start a worker, see whether it reaches Temporal; rindle outbox drain sends by hand"
        if waiting.oldest_age_seconds > LAG_ERROR_SECONDS:
            return _Finding("error", age, fix, detail)
        if waiting.oldest_age_seconds > LAG_WARN_SECONDS:
            return _Finding("warn", age, fix, detail)
        return _Finding("ok", f"{waiting.pending} waiting, none parked", detail=detail)

    return await subject.read(look)


# --- Temporal ------------------------------------------------------------------------------------------------------


async def _temporal_reachable(subject: _Subject) -> _Finding:
    try:
        client = await subject.temporal.client()
        info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
        namespace = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=client.namespace)
        )
    except TemporalUnavailable:
        return _Finding("error", "no connection could be made", _TEMPORAL_FIX)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return _Finding("error", "the namespace does not exist", "create it: temporal operator namespace create")
        return _Finding("error", f"the server answered {error.status.name}", _TEMPORAL_FIX)
    retention = namespace.config.workflow_execution_retention_ttl.ToTimedelta()
    detail = {"server": info.server_version, "retention_seconds": retention.total_seconds()}
    if retention and retention < RETENTION:
        return _Finding(
            "error",
            f"finished runs are kept for {retention.total_seconds() / 3600:.1f} h only",
            "temporal operator namespace update --retention 7d",
            detail,
        )
    if _version(info.server_version) < TEMPORAL_FLOOR:
        return _Finding("warn", f"server {info.server_version} is older than 1.29", "upgrade the server", detail)
    return _Finding("ok", f"server {info.server_version}", detail=detail)


async def _no_workers(subject: _Subject) -> _Finding:
    return _Finding("skipped", "no workers are expected")


async def _temporal_pollers(subject: _Subject) -> _Finding:
    settings = subject.services.settings
    needed = {(settings.queue(), kind) for kind in ("workflow", "activity")} | {(settings.image_queue, "activity")}
    if _av_variants(subject.profiles):
        needed.add((settings.av_queue, "activity"))
    client = await subject.temporal.client()
    kinds = {
        "workflow": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        "activity": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
    }

    async def is_polled(queue: str, kind: str) -> bool:
        answer = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kinds[kind]
            )
        )
        oldest = datetime.now(UTC) - timedelta(seconds=POLLER_SECONDS)
        return any(poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest for poller in answer.pollers)

    asked = sorted(needed)
    polled = await asyncio.gather(*(is_polled(queue, kind) for queue, kind in asked))
    alone = [f"{queue} ({kind})" for (queue, kind), yes in zip(asked, polled, strict=True) if not yes]
    if alone:
        return _Finding(
            "error",
            f"no worker polls {', '.join(alone)}",
            "start one: python worker.py (or rindle dev); --no-workers if none is expected",
            {"queues": alone},
        )
    return _Finding("ok", f"polled: {', '.join(sorted({queue for queue, _ in asked}))}")


async def _search_attributes(subject: _Subject) -> _Finding:
    if not subject.services.settings.search_attributes:
        return _Finding("ok", "switched off")
    client = await subject.temporal.client()
    try:
        listed = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        return _Finding(
            "warn",
            f"they cannot be listed ({error.status.name})",
            "have the cluster's operator add them, or set RINDLE_SEARCH_ATTRIBUTES=false",
        )
    missing = [key.name for key in ids.SEARCH_ATTRIBUTES if key.name not in listed.custom_attributes]
    if missing:
        return _Finding(
            "warn",
            f"missing, so runs cannot be searched for: {', '.join(missing)}",
            "start a worker, which registers them, or use: temporal operator search-attribute create --type Keyword",
            {"missing": missing},
        )
    return _Finding("ok", f"{len(ids.SEARCH_ATTRIBUTES)} registered")


# --- storage -------------------------------------------------------------------------------------------------------


def _storage_reachable(storage: Storage) -> Callable[[_Subject], Awaitable[_Finding]]:
    async def look(subject: _Subject) -> _Finding:
        await storage.ping()
        return _Finding("ok", f"{storage.adapter_name or type(storage).__name__} answers")

    return look


def _probe_key() -> str:
    return f"rindle-doctor/{uuid.uuid4()}"


def _storage_round_trip(storage: Storage) -> Callable[[_Subject], Awaitable[_Finding]]:
    async def look(subject: _Subject) -> _Finding:
        key, content = _probe_key(), os.urandom(32)
        offered = capabilities_of(storage)
        step = "put"
        try:
            with tempfile.TemporaryDirectory(prefix="rindle-doctor-") as scratch:
                source = Path(scratch) / "object"
                source.write_bytes(content)
                await storage.store(key, source, content_type="application/octet-stream")
            step = "head"
            head = await storage.head(key)
            step = "ranged get"
            middle = await storage.read_range(key, 8, 16)
            if head.size != len(content) or middle != content[8:24]:
                return _Finding("error", f"what came back is not what was stored ({step})", "see what rewrites objects")
            if "signed_url" not in offered:
                return _Finding("ok", "put, head and ranged get work; it does not sign URLs")
            step = "signed URL"
            url = await storage.url(key, expires_in=60)
            if urlsplit(url).scheme not in ("http", "https"):
                return _Finding("ok", "put, head and ranged get work; its URLs are relative to the application's")
            status = await _status_of(subject, url)
            if status != 200:
                fix = _MOUNT if "local" in offered else "check the clock and the endpoint's address"
                return _Finding("error", f"the signed URL was answered with {status or 'nothing'}", fix, {"step": step})
            return _Finding("ok", "put, head, ranged get and signed URL work")
        except RindleError as error:
            return _Finding("error", f"{step} failed ({error.code})", "check credentials and rights", {"step": step})
        finally:
            with contextlib.suppress(RindleError):
                await run_to_end(storage.delete(key))

    return look


async def _status_of(subject: _Subject, url: str) -> int | None:
    """Return the HTTP status of a GET, or ``None`` without an answer. The URL is a credential and goes nowhere else."""

    def fetch() -> int | None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", f"{parts.path}?{parts.query}" if parts.query else parts.path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    return await asyncio.get_running_loop().run_in_executor(subject.threads, fetch)


def _version(text_of: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text_of)[:3])
