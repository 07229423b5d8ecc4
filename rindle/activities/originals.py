"""Read originals again, for repairs: their technical facts, and what their analyzer finds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rindle import plugins
from rindle.activities.probing import Prober, columns_of
from rindle.activities.source_cache import SourceCache
from rindle.db.models import MediaAsset
from rindle.errors import ProcessTimeout, RindleError, Unexpected, UploadRejected
from rindle.profile import Profile
from rindle.protocols import ProbeResult
from rindle.security import sniff, type_of_content
from rindle.security.av_containers import type_of_kind
from rindle.services import Services
from rindle.threads import in_thread

log = logging.getLogger(__name__)

#: Longest time in seconds that one original may take, its download included: shorter than a page of a sweep.
ORIGINAL_SECONDS = 240.0


class OriginalReader:
    """Reads the originals of assets that are validated already; no row is changed.

    Args:
        services: the application's collaborators.
        sources: the host's cache of originals.
        prober: reads the technical facts.
    """

    def __init__(self, services: Services, *, sources: SourceCache, prober: Prober) -> None:
        self._services = services
        self._sources = sources
        self._prober = prober

    async def facts(self, asset: MediaAsset) -> Mapping[str, Any]:
        """Return the columns of an asset that a probe of its original gives: type, kind, size, duration, tracks.

        Raises:
            UploadRejected, ContentRejected: the original cannot be read.
            RindleError: the content is not the cause.
        """
        profile = self._services.profile(asset.profile)
        async with self._limited(asset), self._opened(asset, profile) as path:
            mime, result = await self._read(path, profile, asset)
        try:
            mime = type_of_content(profile.upload_policy(), mime, result.kind)
        except UploadRejected:  # the profile does not accept the type any more, which is no reason to keep wrong facts
            mime = type_of_kind(mime, result.kind)
        return columns_of(result, mime)

    async def analysis(self, asset: MediaAsset) -> Mapping[str, Any]:
        """Return what the analyzer of the asset's profile finds.

        Raises:
            Unexpected: the analyzer failed.
            RindleError: the original cannot be read.
        """
        profile = self._services.profile(asset.profile)
        if profile.analyzer is None:
            return {}
        async with self._limited(asset), self._opened(asset, profile) as path:
            _, result = await self._read(path, profile, asset)
            found = await plugins.analyze(profile.analyzer, path, result, asset_id=asset.id)
        if found is None:
            raise Unexpected("the analyzer failed; the log has the class of its error")
        return found

    async def _read(self, path: Path, profile: type[Profile], asset: MediaAsset) -> tuple[str, ProbeResult]:
        mime = await in_thread(sniff, path)
        return mime, await self._prober.read(path, mime, profile, corrects=asset)

    @asynccontextmanager
    async def _opened(self, asset: MediaAsset, profile: type[Profile]) -> AsyncIterator[Path]:
        storage, size = self._services.storage(profile), asset.byte_size
        if size is None:  # a row that another program has written
            size = (await storage.head(asset.storage_key)).size
        async with self._sources.open_local(
            storage, self._services.storage_name(profile), asset.storage_key, asset.stored_etag, size
        ) as path:
            yield path

    @asynccontextmanager
    async def _limited(self, asset: MediaAsset) -> AsyncIterator[None]:
        """Limit the time of the block, and let only errors of Rindle leave it: one asset must not end a sweep."""
        try:
            async with asyncio.timeout(ORIGINAL_SECONDS):
                yield
        except RindleError:
            raise
        except TimeoutError as error:
            raise ProcessTimeout(
                f"reading the original took longer than {ORIGINAL_SECONDS:g} seconds",
                detail={"limit": ORIGINAL_SECONDS},
            ) from error
        except Exception as error:
            log.exception("original not read", extra={"asset_id": asset.id, "error": type(error).__name__})
            raise Unexpected(f"unexpected {type(error).__name__} while the original was read") from error
