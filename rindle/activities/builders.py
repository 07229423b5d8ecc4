"""How a claimed variant is built: the choice of the engine, and what is rejected before the source is fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rindle import plugins
from rindle.activities.decode_cache import DecodeCache
from rindle.activities.event_family import EventFamily
from rindle.db.models import MediaAsset
from rindle.db.variants import Claim
from rindle.errors import OutputMissing, PluginUnavailable, ProcessorCapabilityMissing, RindleError
from rindle.media.av_processor import AvProcessor, check_headroom, check_runtime
from rindle.media.render_pool import RenderOrder, RenderPool
from rindle.profile import Profile
from rindle.protocols import Probe, Processor
from rindle.recipes import ImageVariant, VariantSpec, is_av_work
from rindle.services import Services
from rindle.settings import PIXEL_CEILING
from rindle.threads import in_thread

#: Takes 0 to 99 while a build goes on; callable from any thread.
ReportProgress = Callable[[int], None]
#: Capabilities of the bundled image engine; the audio and video engine declares its own.
_IMAGE_CAPABILITIES = frozenset({"image_resize"})


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of one claim: a file and its column values, or the error.

    ``source_duration_ms`` is the duration of the original, if the build had to measure it.
    """

    claim: Claim
    path: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    error: RindleError | None = None
    source_duration_ms: int | None = None


class Builders:
    """The engines of one worker.

    Args:
        services: the application's collaborators.
        pool: warm render children, for image variants.
        av: the bundled audio and video engine.
        probes: read what a profile's own processor made; the first that accepts it.
    """

    def __init__(self, services: Services, *, pool: RenderPool, av: AvProcessor, probes: Sequence[Probe]) -> None:
        self._services = services
        self._pool = pool
        self._av = av
        self._probes = tuple(probes)
        self._decode_cache = DecodeCache(services.settings.scratch)

    def refusal(self, profile: type[Profile], claim: Claim) -> RindleError | None:
        """Return why ``claim`` cannot be built in this process, whatever its source contains, or ``None``."""
        spec = profile.variants[claim.name]
        if profile.processor is not None:
            name, declared = type(profile.processor).__name__, profile.processor.capabilities
        elif is_av_work(spec):
            name, declared = type(self._av).__name__, self._av.capabilities
        else:
            name, declared = type(self._pool).__name__, _IMAGE_CAPABILITIES
        if not spec.required_capabilities <= declared:
            return ProcessorCapabilityMissing(
                f"the processor {name} of profile {profile.name!r} cannot build variant {claim.name!r}: it needs "
                f"{', '.join(sorted(spec.required_capabilities - declared))}",
                detail={
                    "processor": name,
                    "required": sorted(spec.required_capabilities),
                    "declared": sorted(declared),
                    "variant": claim.name,
                    "profile": profile.name,
                },
            )
        try:
            check_runtime(spec)
        except RindleError as error:
            return error
        return None

    def require_room(self, source_bytes: int) -> None:
        """Raise unless the disk has room for the source and output of an audio or video build.

        Raises:
            InsufficientDiskHeadroom: retryable; another worker may have room.
        """
        check_headroom(self._services.settings.scratch, self._av.limits, source_bytes)

    async def render(
        self, source: Path, asset: MediaAsset, profile: type[Profile], claims: Sequence[Claim], scratch: Path
    ) -> list[BuildResult]:
        """Build image variants, all from one decode: the one of the validation, if it was kept."""
        if profile.processor is not None:
            return [await self.build(source, asset, profile, claim, scratch, lambda percent: None) for claim in claims]
        orders = [
            RenderOrder(name=claim.name, recipe=spec, dest=scratch / f"{claim.name}{spec.extension}")
            for claim in claims
            if isinstance(spec := profile.variants[claim.name], ImageVariant)
        ]
        max_pixels = min(profile.max_pixels or PIXEL_CEILING, PIXEL_CEILING)
        made = {}
        if orders:
            kept = self._decode_cache.path(asset)
            try:
                done = await self._pool.render(
                    source, asset.content_type or "", orders, max_pixels=max_pixels, kept=kept
                )
            finally:
                self._decode_cache.discard(asset)
            made = {result.name: result for result in done}
        results = []
        for claim in claims:
            result = made.get(claim.name)
            if result is None:
                results.append(BuildResult(claim, error=_not_an_image(claim, profile)))
            else:
                facts = {name: getattr(result, name) for name in ("byte_size", "content_type", "width", "height")}
                results.append(BuildResult(claim, result.path, facts, result.error))
        return results

    async def build(
        self,
        source: Path,
        asset: MediaAsset,
        profile: type[Profile],
        claim: Claim,
        scratch: Path,
        progress: ReportProgress,
    ) -> BuildResult:
        """Build one variant with the profile's own processor or, without one, the bundled audio and video engine.

        Raises:
            CancelledError: the build was stopped; its processes are gone.
            PluginUnavailable: the processor is not called now; retryable.
        """
        spec = profile.variants[claim.name]
        dest = scratch / f"{claim.name}{spec.extension}"
        with _transcoding(asset, profile, claim, spec) as events:
            try:
                if profile.processor is not None:
                    return BuildResult(
                        claim, dest, await self._process(profile.processor, source, spec, dest, progress)
                    )
                built = await self._av.build(source, spec, dest, progress=progress)
            except RindleError as error:
                events.error = error
                if isinstance(error, PluginUnavailable):  # says nothing about the file
                    raise
                return BuildResult(claim, error=error)
        names = ("byte_size", "content_type", "width", "height", "duration_ms")
        facts = {name: getattr(built, name) for name in names}
        return BuildResult(claim, built.path, facts, source_duration_ms=built.source_duration_ms)

    async def _process(
        self, processor: Processor, source: Path, spec: VariantSpec, dest: Path, progress: ReportProgress
    ) -> dict[str, Any]:
        """Build one variant with the profile's own processor; returns the column values of the output."""
        await plugins.process(processor, source, spec, dest, progress=progress)
        size = await in_thread(lambda: dest.stat().st_size if dest.is_file() else 0)
        if size == 0:
            raise OutputMissing("the processor left no output")
        return {"byte_size": size, "content_type": spec.content_type, **await self._probe_output(dest, spec)}

    async def _probe_output(self, made: Path, spec: VariantSpec) -> dict[str, Any]:
        """Return size and duration of such an output, if one of the bundled probes can read it."""
        probe = next((probe for probe in self._probes if probe.accepts(spec.content_type)), None)
        if probe is None:
            return {}
        try:
            facts = await plugins.probe(probe, made, timeout_seconds=None)
        except RindleError:
            return {}
        return {"width": facts.width, "height": facts.height, "duration_ms": facts.duration_ms}


def _transcoding(asset: MediaAsset, profile: type[Profile], claim: Claim, spec: VariantSpec) -> EventFamily:
    """Return the events around one audio or video build; images have none."""
    facts = {
        "profile": profile.name,
        "asset_id": asset.id,
        "variant_id": claim.variant_id,
        "variant_name": claim.name,
        "preset": getattr(spec, "preset", ""),
        "output_kind": spec.output_kind.value,
    }
    return EventFamily("rindle.media.transcode", facts, is_silent=not is_av_work(spec))


def _not_an_image(claim: Claim, profile: type[Profile]) -> ProcessorCapabilityMissing:
    return ProcessorCapabilityMissing(
        f"variant {claim.name!r} of profile {profile.name!r} cannot be made from an image",
        detail={"variant": claim.name, "profile": profile.name},
    )
