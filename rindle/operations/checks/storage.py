"""Checks of storages: connection, setup, address of local ones, and with ``live`` a round trip of an object."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from rindle.cancellation import run_to_end
from rindle.capabilities import capabilities_of
from rindle.errors import RindleError
from rindle.operations.checks.report import Planned, Result, Subject
from rindle.protocols import SetupCheck, Storage

#: Timeout of a request to a signed URL in seconds.
URL_SECONDS = 5.0

#: Levels of findings, the worst first.
_LEVELS = ("error", "warn", "skipped", "ok")
_MOUNT_FIX = (
    "pass LocalStorage(base_url=..., secrets=[...]) and mount rindle.http.local.local_router there; 403 means that the "
    "processes have different secrets"
)


def planned(subject: Subject, *, live: bool) -> list[Planned]:
    """Return the checks of every storage; with ``live`` also those that store an object."""
    storages = subject.services.storages
    checks = []
    if any("local" in capabilities_of(storage) for storage in storages.values()):
        checks.append(Planned("delivery.local_endpoint", "delivery", _local_endpoint))
    for name, storage in storages.items():
        reach, trip = _storage_reachable(storage), _storage_round_trip(storage)
        checks.append(Planned(f"storage.{name}.reachable", "storage", reach, leaves_process=True, patience=2))
        if isinstance(storage, SetupCheck):
            setup = _storage_setup(storage)
            checks.append(Planned(f"storage.{name}.setup", "storage", setup, leaves_process=True, patience=2))
        if live:
            checks.append(Planned(f"storage.{name}.round_trip", "storage", trip, leaves_process=True, patience=4))
    return checks


async def _local_endpoint(subject: Subject) -> Result:
    without_url = [
        name
        for name, storage in subject.services.storages.items()
        if "local" in capabilities_of(storage) and "signed_url" not in capabilities_of(storage)
    ]
    if without_url:
        return Result(
            "error",
            f"{', '.join(without_url)} has no base_url, so it cannot deliver files or accept uploads",
            _MOUNT_FIX,
        )
    return Result("ok", "address and secrets are set; --live sends a request to the address")


def _storage_reachable(storage: Storage) -> Callable[[Subject], Awaitable[Result]]:
    async def check(subject: Subject) -> Result:
        await storage.ping()
        return Result("ok", f"{storage.adapter_name or type(storage).__name__} answers")

    return check


def _storage_setup(storage: SetupCheck) -> Callable[[Subject], Awaitable[Result]]:
    async def check(subject: Subject) -> Result:
        found = sorted(await storage.check(), key=lambda finding: _LEVELS.index(finding.level))
        worst = found[0].level if found else "ok"
        # Beside what is wrong, what is right only distracts.
        shown = [finding for finding in found if worst in ("ok", "skipped") or finding.level in ("error", "warn")]
        fixes = [finding.fix for finding in shown if finding.fix is not None]
        return Result(
            "ok" if worst == "skipped" else worst,
            "; ".join(finding.summary for finding in shown) or "the store has nothing to set up",
            "; ".join(fixes) or None,
            {"findings": [asdict(finding) for finding in found]},
        )

    return check


def _probe_key() -> str:
    return f"rindle-doctor/{uuid.uuid4()}"


def _storage_round_trip(storage: Storage) -> Callable[[Subject], Awaitable[Result]]:
    async def check(subject: Subject) -> Result:
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
                return Result(
                    "error", f"the object read differs from the object stored ({step})", "find what rewrites objects"
                )
            if "signed_url" not in offered:
                return Result("ok", "put, head and ranged get work; the storage does not sign URLs")
            step = "signed URL"
            url = await storage.url(key, expires_in=60)
            if urlsplit(url).scheme not in ("http", "https"):
                return Result("ok", "put, head and ranged get work; its URLs are relative to the application's URL")
            status = await status_of(subject, url)
            if status != 200:
                fix = _MOUNT_FIX if "local" in offered else "check the clock and the endpoint's address"
                return Result(
                    "error",
                    f"the signed URL returned {f'status {status}' if status else 'no response'}",
                    fix,
                    {"step": step},
                )
            return Result("ok", "put, head, ranged get and signed URL work")
        except RindleError as error:
            return Result("error", f"{step} failed ({error.code})", "check credentials and permissions", {"step": step})
        finally:
            with contextlib.suppress(RindleError):
                await run_to_end(storage.delete(key))

    return check


async def status_of(
    subject: Subject,
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> int | None:
    """Return the HTTP status of a request, or ``None`` without a response.

    The URL is a credential and is not logged.
    """

    def fetch() -> int | None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=URL_SECONDS)
        try:
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(method, path, body=body, headers=dict(headers or {}))
            return connection.getresponse().status
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    return await subject.off_loop(fetch)
