"""Ready-made profiles: a subclass needs only a storage."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from rindle.profile import DeliveryPolicy, Profile

_WEB_VARIANTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "web_720p": {"kind": "video", "preset": "web_720p"},
    "poster": {"kind": "image", "preset": "video_poster_scene"},
}
_SCRUB_STRIP: Final[Mapping[str, Any]] = {"kind": "image", "preset": "video_thumbnail_strip"}


class Web(Profile, abstract=True):
    """Video for the web: ``web_720p`` to play, and ``poster`` to show before it plays.

    All options of :class:`rindle.profile.Profile` are available except ``variants``, which the preset defines; setting
    it is an error::

        class Lesson(Web):
            storage = "main"
            allow_mime = ["video/*"]
            scrub_strip = True

    Attributes:
        scrub_strip: add the variant ``scrub_strip``, four small frames side by side for the seek bar.
        extra_variants: variants in addition to the preset's; a name that the preset uses is an error.
    """

    scrub_strip: ClassVar[bool | None] = False
    extra_variants: ClassVar[Mapping[str, Any] | None] = None

    _extra_options = frozenset({"scrub_strip", "extra_variants"})

    @classmethod
    def _variants_declared(cls, declared: Mapping[str, Any], problems: list[str]) -> Any:
        if "variants" in declared:
            problems.append("variants: the preset defines them; add your own as extra_variants")
        variants: dict[str, Any] = dict(_WEB_VARIANTS)
        strip: Any = cls.scrub_strip
        if strip is True:
            variants["scrub_strip"] = _SCRUB_STRIP
        elif strip is not None and strip is not False:
            problems.append(f"scrub_strip: must be True or False, not {strip!r}")
        extra: Any = {} if cls.extra_variants is None else cls.extra_variants
        if not isinstance(extra, Mapping):
            problems.append(f"extra_variants: must be a mapping of names to recipes, not {type(extra).__name__}")
            return variants
        problems += [
            f"extra_variants.{name}: the preset already has a variant of this name"
            for name in sorted(map(str, extra.keys() & variants.keys()))
        ]
        return {**extra, **variants}


class _MuxWeb(Web, abstract=True):
    """A :class:`Web` whose ``web_720p`` Mux streams."""

    _ingest_mode: ClassVar[str]

    @classmethod
    def _delivery_declared(cls, declared: Mapping[str, Any], problems: list[str]) -> Any:
        delivery: Any = {} if cls.delivery is None else cls.delivery
        if isinstance(delivery, DeliveryPolicy):
            delivery = {one.name: getattr(delivery, one.name) for one in dataclasses.fields(DeliveryPolicy)}
        if not isinstance(delivery, Mapping):
            return delivery
        if "delivery" in declared and delivery.get("streaming") is not None:
            problems.append("delivery.streaming: the preset defines it; other options of delivery are yours")
        streaming = {
            "provider": "mux",
            "playback_policy": "signed",
            "ingest_mode": cls._ingest_mode,
            "source_variant": "web_720p",
        }
        return {**delivery, "streaming": streaming}


class MuxWeb(_MuxWeb, abstract=True):
    """A :class:`Web` whose ``web_720p`` is pushed to Mux, which streams it with signed tokens.

    Register the provider as ``Rindle(providers=[MuxProvider()])``. The options of ``delivery`` are available except
    ``streaming``, which the preset defines; setting it is an error.
    """

    _ingest_mode = "server_push"


class MuxDirectUploadWeb(_MuxWeb, abstract=True):
    """As :class:`MuxWeb`, but browsers upload to Mux itself; no original reaches the application's storage."""

    _ingest_mode = "direct_creator_upload"


__all__ = ["MuxDirectUploadWeb", "MuxWeb", "Web"]
