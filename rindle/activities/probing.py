"""Reading the technical facts of an original: which probe reads it, how often it may be tried, how long it lasts.

Promotion and ``reprobe`` read them here. What promotion requires of the facts is in ``promotion``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rindle import plugins
from rindle.activities.attempts import FailureCounts
from rindle.activities.decode_cache import DecodeCache
from rindle.db.models import MediaAsset
from rindle.errors import ContentRejected, MediaError, ProcessTimeout, RenderFailed
from rindle.profile import Profile
from rindle.protocols import Probe, ProbeResult
from rindle.recipes import ImageVariant
from rindle.rejections import explained, rejected
from rindle.settings import PIXEL_CEILING, Settings
from rindle.states import MediaKind

log = logging.getLogger(__name__)

#: Attempts that may lose the process which reads the file, or time out, before the file is rejected. More than one,
#: because the kernel also kills other processes when memory is short.
_LOST_PROBES, _SLOW_PROBES = 5, 2
#: Facts in the detail of an error that come from a process that died.
_DEATHS = frozenset({"signal", "exit_code", "memory"})
#: Kind of failure that counts the lost processes.
_LOST = "lost_probes"


class MeasuringProbe(Probe, Protocol):
    """The bundled probe of audio and video, which can also measure what a header states."""

    async def measure_ms(self, path: Path, *, at_most_seconds: int) -> int | None:
        """Return how long the file really lasts; ``None`` when reading it reports an error."""


class MakeProbe(Protocol):
    """Makes the bundled probe of images."""

    def __call__(
        self, max_pixels: int, *, placeholder: bool, recipes: Sequence[ImageVariant], keep: Path | None
    ) -> Probe:
        """Return a probe with a pixel limit, which leaves pixels in the file ``keep`` for a render of ``recipes``."""


class Prober:
    """Reads the technical facts of originals with the probes of profiles and the bundled ones.

    Args:
        settings: the application's settings.
        bundled_probe: makes the bundled probe of images; a profile's own probe is called first.
        av_probe: the bundled probe of audio and video.
    """

    def __init__(self, settings: Settings, *, bundled_probe: MakeProbe, av_probe: MeasuringProbe) -> None:
        self._settings = settings
        self._bundled_probe = bundled_probe
        self._decode_cache = DecodeCache(settings.scratch)
        self._av_probe = av_probe

    def place_for_pixels(self, asset: MediaAsset, profile: type[Profile]) -> Path | None:
        """Return where the pixels of an image may be left for the render that follows; ``None`` for nowhere."""
        # Only where the render is likely to run on this host, in the bundled engine.
        if not _image_recipes(profile) or profile.processor is not None or self._settings.image_task_queue is not None:
            return None
        return self._decode_cache.place(asset)

    async def read(
        self,
        path: Path,
        mime: str,
        profile: type[Profile],
        *,
        counts: FailureCounts | None = None,
        keep: Path | None = None,
        corrects: MediaAsset | None = None,
    ) -> ProbeResult:
        """Return the technical facts of the file at ``path``.

        Args:
            mime: its sniffed type.
            counts: counts lost readers across the attempts of an activity, and rejects a file that repeatedly costs its
                reader; without it the loss is raised.
            keep: file in which pixels are left for the render.
            corrects: the row that is read again. Where the file states another duration than the row, or none, the
                duration is measured: a build may have measured that of the row.

        Raises:
            ContentRejected: the file cannot be read as what it should be.
            RindleError: the content is not the cause.
        """
        probe = self._probe_for(mime, profile, keep)
        limit = plugins.FILE_SECONDS if probe is profile.probe else None
        try:
            result = await _probed(probe, path, counts, timeout_seconds=limit)
        except ContentRejected as rejection:
            raise rejection if probe is profile.probe else explained(rejection, mime) from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            if probe is profile.probe:
                raise
            # A file that a bundled probe was not written for: the same bytes raise the same exception again.
            log.exception("a bundled probe failed", extra={"error": type(error).__name__})
            raise rejected(
                ContentRejected, "decoder_failed", f"reading the file failed ({type(error).__name__})", format=mime
            ) from error
        if probe is not self._av_probe:
            return result
        longest = profile.max_duration_seconds
        if longest is not None and is_too_long(result, longest):
            return await self._measured(path, result, longest)
        if corrects is not None and (result.duration_ms is None or _differs(result, corrects)):
            return await self._measured(path, result, longest or self._settings.av_max_duration_seconds)
        return result

    async def _measured(self, path: Path, result: ProbeResult, longest_seconds: int) -> ProbeResult:
        """Replace a stated duration by a measured one: a header may be wrong, and some containers have none."""
        measured_ms = await self._av_probe.measure_ms(path, at_most_seconds=longest_seconds)
        if measured_ms is None or measured_ms > longest_seconds * 1000:
            return result
        log.info("duration corrected", extra={"stated_ms": result.duration_ms, "measured_ms": measured_ms})
        return replace(result, duration_ms=measured_ms)

    def _probe_for(self, mime: str, profile: type[Profile], keep: Path | None) -> Probe:
        """Return the first probe that accepts ``mime``: the profile's own, then the bundled ones.

        Raises:
            ContentRejected: ``no_probe_for_mime``.
        """
        bundled = self._bundled_probe(
            max_pixels_of(profile), placeholder=bool(profile.placeholder), recipes=_image_recipes(profile), keep=keep
        )
        probe = next((p for p in (profile.probe, bundled, self._av_probe) if p is not None and p.accepts(mime)), None)
        if probe is None:
            raise rejected(
                ContentRejected,
                "no_probe_for_mime",
                f"files of type {mime} cannot be probed for profile {profile.name!r}; allow only types with a probe",
                mime=mime,
            )
        return probe


def columns_of(result: ProbeResult, mime: str) -> dict[str, Any]:
    """Return the columns of an asset with these facts; those that do not apply to its kind are cleared."""
    is_image, is_audio = result.kind is MediaKind.IMAGE, result.kind is MediaKind.AUDIO
    return {
        "content_type": mime or None,
        "kind": result.kind.value,
        "width": None if is_audio else result.width,
        "height": None if is_audio else result.height,
        "duration_ms": None if is_image else result.duration_ms,
        "has_video_track": None if is_image or is_audio else result.has_video_track,
        "has_audio_track": None if is_image else result.has_audio_track,
    }


def max_pixels_of(profile: type[Profile]) -> int:
    """Return how many pixels an image of the profile may have."""
    return min(profile.max_pixels or PIXEL_CEILING, PIXEL_CEILING)


def is_too_long(result: ProbeResult, longest_seconds: int) -> bool:
    """Whether the media lasts longer than ``longest_seconds``."""
    return result.duration_ms is not None and result.duration_ms > longest_seconds * 1000


def _differs(result: ProbeResult, asset: MediaAsset) -> bool:
    return asset.duration_ms is not None and asset.duration_ms != result.duration_ms


def _image_recipes(profile: type[Profile]) -> list[ImageVariant]:
    return [spec for spec in profile.variants.values() if isinstance(spec, ImageVariant)]


async def _probed(
    probe: Probe, path: Path, counts: FailureCounts | None, *, timeout_seconds: float | None
) -> ProbeResult:
    """Read the facts of the file; one that repeatedly costs its reader's life is rejected, not tried for a day.

    Raises:
        ContentRejected: ``decode_failed``, when this was the last reader the file gets; ``content_too_complex``, when
            the reader used up its CPU time.
        RindleError: what the probe raised.
    """
    try:
        return await plugins.probe(probe, path, timeout_seconds=timeout_seconds)
    except MediaError as error:
        if not (isinstance(error, ProcessTimeout | RenderFailed) or _DEATHS & error.detail.keys()):
            raise
        if isinstance(error, ProcessTimeout) and not error.retryable:  # the file costs it in every attempt
            raise ContentRejected(error.message, code="content_too_complex", detail=error.detail) from error
        if counts is None:
            raise
        lost = counts.add(_LOST)
        if lost >= (_SLOW_PROBES if isinstance(error, ProcessTimeout) else _LOST_PROBES):
            raise ContentRejected(
                f"the file cannot be decoded: reading it failed {lost} times in a row, the last time because: "
                f"{error.message}",
                detail=error.detail,
            ) from error
        raise
