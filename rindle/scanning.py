"""Asking a scanner, failing closed: clean, condemned, or to be asked again; never anything else."""

from __future__ import annotations

import asyncio
import inspect
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rindle.errors import ScannerUnavailable
from rindle.protocols import Quarantine, Scanner

if TYPE_CHECKING:
    from rindle.db.models import MediaAsset

log = logging.getLogger(__name__)


async def scan(scanner: Scanner, path: Path, *, asset: MediaAsset | None, timeout_seconds: float) -> None:
    """Return when ``scanner`` finds the file at ``path`` clean.

    Raises:
        Quarantine: the scanner condemns the file.
        ScannerUnavailable: it raised something else, answered something else, or did not answer in time.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            if inspect.iscoroutinefunction(scanner.scan):
                answer = await scanner.scan(path, asset=asset)
            else:
                answer = await asyncio.to_thread(scanner.scan, path, asset=asset)
                if inspect.isawaitable(answer):
                    answer = await answer
    except Quarantine:
        raise
    except Exception as error:
        log.warning("scanner failed", extra={"action": "scanner_failed", "error": type(error).__name__})
        raise ScannerUnavailable(
            "the scanner did not give a verdict; the upload is not accepted until it does",
            detail={"error": type(error).__name__},
        ) from error
    if answer is not None:
        # A scanner that returns False or a report instead of raising must not be taken for "clean".
        raise ScannerUnavailable(
            "the scanner returned a value: return None for clean and raise Quarantine to condemn",
            detail={"error": "answer", "found": type(answer).__name__},
        )
