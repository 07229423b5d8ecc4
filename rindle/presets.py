"""Ready-made profiles: a subclass needs only a storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from rindle.profile import Profile

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


__all__ = ["Web"]
