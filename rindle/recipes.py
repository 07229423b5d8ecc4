"""Recipes of variants, which are validated when they are created, and their digests.

Stored rows and storage keys depend on the digest: the normal form of a recipe must never change for existing options.
Profiles declare which variants there are (:mod:`rindle.profile`); processors build them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from rindle.declarations import declaration_error, is_whole, not_flags, not_one_of, not_positive
from rindle.errors import ProfileError
from rindle.states import OutputKind

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_IMAGE_MODES = ("fit", "fill", "crop", "pad", "stretch")
_IMAGE_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
_GRAVITIES = ("centre", "north", "south", "east", "west", "attention", "entropy")
_FRAME_CAPABILITIES = {
    "video_poster_scene": "video_frame_extract",
    "video_thumbnail_strip": "video_thumbnail_strip",
}
_VIDEO_BOXES = {"web_720p": (1280, 720), "web_480p": (854, 480)}
_VIDEO_FRAMES = ("fit", "pad")
# By kind; a video adds the pixels of its box.
_EFFORTS = {"image": 1, "waveform": 2, "audio": 3, "video": 4}
# container, codec
_AUDIO_ENCODINGS = {"m4a_128k": ("m4a", "aac"), "mp3_128k": ("mp3", "mp3")}
_AUDIO_TYPES = {"m4a": "audio/mp4", "mp3": "audio/mpeg"}
_CRF: Final = 23
_AUDIO_BITRATE_KBPS: Final = 128


class _Recipe(ABC):
    """Base of all recipes. The constructor validates them and raises ``ProfileError``."""

    __slots__ = ()

    #: Increased when the library builds other bytes from the same recipe; part of the digest from 2 on.
    recipe_revision: ClassVar[int] = 1
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise declaration_error(type(self).__name__, problems)

    @abstractmethod
    def _problems(self) -> list[str]:
        """Return the problems of the options, each as ``option: problem``."""

    @abstractmethod
    def normal_form(self) -> dict[str, Any]:
        """Return the options from which the digest is computed, with presets expanded."""

    @property
    def effort(self) -> int:
        """Relative amount of work of a build; builds of one asset start in this order."""
        return _EFFORTS[self.kind]

    @property
    def output_kind(self) -> OutputKind:
        """Kind of the variant, as its row holds it."""
        return OutputKind(self.kind)


@dataclass(frozen=True, slots=True)
class ImageVariant(_Recipe):
    """An image built from an image.

    Attributes:
        mode: ``fit`` (inside the box, aspect kept), ``fill`` and ``crop`` (exactly the box, scaled to cover and cut),
            ``pad`` (fit, then centred on the background), ``stretch`` (exactly the box, distorts).
        width: pixels. ``crop``, ``pad`` and ``stretch`` need both sides, ``fit`` and ``fill`` at least one.
        height: pixels.
        format: ``jpeg``, ``png``, ``webp`` or ``avif``.
        quality: 1 to 100; ``None`` takes the format's default (80, AVIF 50); PNG ignores it.
        upscale: let ``fit`` and ``pad`` enlarge a smaller original.
        gravity: which part ``fill`` and ``crop`` keep: centre, north, south, east, west, attention or entropy.
        background: ``#rrggbb`` behind padding and flattened transparency; ``None`` pads transparently where the
            format can.
        animated: keep all frames; WebP only.
        keep_icc: keep the colour profile instead of converting to plain sRGB.
        lossless: compress without loss; not for JPEG.
    """

    kind: ClassVar[str] = "image"

    mode: str
    width: int | None = None
    height: int | None = None
    format: str = "jpeg"
    quality: int | None = None
    upscale: bool = False
    gravity: str = "centre"
    background: str | None = "#ffffff"
    animated: bool = False
    keep_icc: bool = False
    lossless: bool = False

    @property
    def content_type(self) -> str:
        """MIME type of the output."""
        return _IMAGE_TYPES[self.format]

    @property
    def extension(self) -> str:
        """Extension of the output, with its dot."""
        return ".jpg" if self.format == "jpeg" else f".{self.format}"

    @property
    def required_capabilities(self) -> frozenset[str]:
        """Capabilities that a processor must declare to build it."""
        return frozenset({"image_resize"})

    def normal_form(self) -> dict[str, Any]:
        """Return mode, format and the given sides, without ``kind``; newer options only when not default."""
        colour = self.background and self.background.lower()
        newer = {
            "upscale": self.upscale or None,
            "gravity": self.gravity if self.gravity != "centre" else None,
            "animated": self.animated or None,
            "keep_icc": self.keep_icc or None,
            "lossless": self.lossless or None,
        }
        sides = {"width": self.width, "height": self.height, "quality": self.quality}
        form: dict[str, Any] = {"mode": self.mode, "format": self.format}
        form |= {name: value for name, value in (sides | newer).items() if value is not None}
        # Here None has a meaning: transparent.
        return form if colour == "#ffffff" else {**form, "background": colour}

    def _problems(self) -> list[str]:
        problems = [
            *not_one_of("mode", self.mode, _IMAGE_MODES),
            *not_positive("width", self.width),
            *not_positive("height", self.height),
            *not_one_of("format", self.format, _IMAGE_TYPES),
            *not_one_of("gravity", self.gravity, _GRAVITIES),
            *not_flags(self, "upscale", "animated", "keep_icc", "lossless"),
        ]
        if self.quality is not None and not (is_whole(self.quality) and 1 <= self.quality <= 100):
            problems.append(f"quality: must be a whole number from 1 to 100, not {self.quality!r}")
        if self.background is not None and not (
            isinstance(self.background, str) and _COLOUR.fullmatch(self.background)
        ):
            problems.append(f"background: must be a colour such as '#ffffff', not {self.background!r}")
        sides = [side for side in (self.width, self.height) if side is not None]
        if self.mode in ("crop", "pad", "stretch") and len(sides) < 2:
            problems.append(f"mode: {self.mode} needs both width and height")
        elif self.mode in ("fit", "fill") and not sides:
            problems.append(f"mode: {self.mode} needs width, height or both")
        if self.animated is True and self.format != "webp":
            problems.append(f"animated: needs format webp, not {self.format}")
        if self.lossless is True and self.format == "jpeg":
            problems.append("lossless: JPEG has no lossless compression; use png, webp or avif")
        return problems


@dataclass(frozen=True, slots=True)
class FrameVariant(_Recipe):
    """An image taken from a video.

    Attributes:
        preset: ``video_poster_scene`` (one representative frame in the video's size) or ``video_thumbnail_strip``
            (4 frames of 160 × 90 pixels side by side).
    """

    kind: ClassVar[str] = "image"

    preset: str

    @property
    def content_type(self) -> str:
        """MIME type of the output."""
        return "image/jpeg"

    @property
    def extension(self) -> str:
        """Extension of the output, with its dot."""
        return ".jpg"

    @property
    def required_capabilities(self) -> frozenset[str]:
        """Capabilities that a processor must declare to build it."""
        return frozenset({_FRAME_CAPABILITIES[self.preset]})

    def normal_form(self) -> dict[str, Any]:
        """Return the preset alone: these two were never expanded, and digests must not change."""
        return {"preset": self.preset}

    def _problems(self) -> list[str]:
        return not_one_of("preset", self.preset, _FRAME_CAPABILITIES)


@dataclass(frozen=True, slots=True)
class VideoVariant(_Recipe):
    """An MP4 (H.264, AAC) built from a video.

    Attributes:
        preset: ``web_720p`` (1280 × 720) or ``web_480p`` (854 × 480).
        faststart: index at the front, so playback starts before the download ends.
        frame: ``fit`` (inside the box, turned for portrait) or ``pad`` (exactly the box, black bars).
    """

    kind: ClassVar[str] = "video"

    preset: str
    faststart: bool = True
    frame: str = "fit"

    @property
    def content_type(self) -> str:
        """MIME type of the output."""
        return "video/mp4"

    @property
    def extension(self) -> str:
        """Extension of the output, with its dot."""
        return ".mp4"

    @property
    def required_capabilities(self) -> frozenset[str]:
        """Capabilities that a processor must declare to build it."""
        return frozenset({"video_transcode"})

    @property
    def effort(self) -> int:
        """Relative amount of work; transcodes are ordered by the pixels of a frame."""
        width, height = _VIDEO_BOXES[self.preset]
        return _EFFORTS[self.kind] + width * height

    def normal_form(self) -> dict[str, Any]:
        """Return the expanded preset; ``frame`` appears when it is not ``fit``."""
        width, height = _VIDEO_BOXES[self.preset]
        form: dict[str, Any] = {
            "kind": "video",
            "output_kind": "video",
            "preset": self.preset,
            "container": "mp4",
            "video_codec": "h264",
            "audio_codec": "aac",
            "width": width,
            "height": height,
            "crf": _CRF,
            "audio_bitrate_kbps": _AUDIO_BITRATE_KBPS,
            "faststart": self.faststart,
        }
        return form if self.frame == "fit" else {**form, "frame": self.frame}

    def _problems(self) -> list[str]:
        return [
            *not_one_of("preset", self.preset, _VIDEO_BOXES),
            *not_flags(self, "faststart"),
            *not_one_of("frame", self.frame, _VIDEO_FRAMES),
        ]


@dataclass(frozen=True, slots=True)
class AudioVariant(_Recipe):
    """Audio, built from an audio file or from a video's audio track.

    Attributes:
        preset: ``m4a_128k`` (AAC) or ``mp3_128k``, both 128 kbit/s.
        channels: 1, 2, or ``None`` for the number of the original.
        normalize: bring loudness to -16 LUFS.
        two_pass: measure first, then normalize exactly; needs ``normalize``.
    """

    kind: ClassVar[str] = "audio"

    preset: str
    channels: int | None = None
    normalize: bool = False
    two_pass: bool = False

    @property
    def content_type(self) -> str:
        """MIME type of the output."""
        return _AUDIO_TYPES[_AUDIO_ENCODINGS[self.preset][0]]

    @property
    def extension(self) -> str:
        """Extension of the output, with its dot."""
        return f".{_AUDIO_ENCODINGS[self.preset][0]}"

    @property
    def required_capabilities(self) -> frozenset[str]:
        """Capabilities that a processor must declare to build it."""
        return frozenset({"audio_transcode", *(["audio_normalize"] if self.normalize else [])})

    def normal_form(self) -> dict[str, Any]:
        """Return the expanded preset; ``channels`` appears when it is given."""
        container, codec = _AUDIO_ENCODINGS[self.preset]
        form: dict[str, Any] = {
            "kind": "audio",
            "output_kind": "audio",
            "preset": self.preset,
            "container": container,
            "audio_codec": codec,
            "audio_bitrate_kbps": _AUDIO_BITRATE_KBPS,
            "normalize": self.normalize,
            "two_pass": self.two_pass,
        }
        return form if self.channels is None else {**form, "channels": self.channels}

    def _problems(self) -> list[str]:
        problems = [
            *not_one_of("preset", self.preset, _AUDIO_ENCODINGS),
            *not_flags(self, "normalize", "two_pass"),
        ]
        if self.channels is not None and not (is_whole(self.channels) and self.channels in {1, 2}):
            problems.append(f"channels: must be 1, 2 or None, not {self.channels!r}")
        if self.two_pass is True and self.normalize is False:
            problems.append("two_pass: needs normalize=True, since only normalization measures first")
        return problems


@dataclass(frozen=True, slots=True)
class WaveformVariant(_Recipe):
    """The waveform of an audio track as JSON: 1000 pairs of lowest and highest sample, each from -1 to 1.

    Attributes:
        preset: ``overview``.
    """

    kind: ClassVar[str] = "waveform"

    preset: str = "overview"

    @property
    def content_type(self) -> str:
        """MIME type of the output."""
        return "application/json"

    @property
    def extension(self) -> str:
        """Extension of the output, with its dot."""
        return ".json"

    @property
    def required_capabilities(self) -> frozenset[str]:
        """Capabilities that a processor must declare to build it."""
        return frozenset({"audio_waveform"})

    def normal_form(self) -> dict[str, Any]:
        """Return the expanded preset."""
        return {
            "kind": "waveform",
            "output_kind": "waveform",
            "preset": self.preset,
            "format": "json",
            "length": 1000,
            "analysis_sample_rate": 8000,
        }

    def _problems(self) -> list[str]:
        return not_one_of("preset", self.preset, ("overview",))


#: Any declared recipe.
VariantSpec: TypeAlias = ImageVariant | FrameVariant | VideoVariant | AudioVariant | WaveformVariant
_SPEC_TYPES = (ImageVariant, FrameVariant, VideoVariant, AudioVariant, WaveformVariant)
_SPEC_BY_KIND: Mapping[str, type[VariantSpec]] = {
    "image": ImageVariant,
    "video": VideoVariant,
    "audio": AudioVariant,
    "waveform": WaveformVariant,
}


def parse_variant(declared: VariantSpec | Mapping[str, Any]) -> VariantSpec:
    """Return a declared variant as its typed recipe.

    ``None`` equals leaving an option out, except for ``background``, where it means transparent.

    Raises:
        ProfileError: an option is unknown, missing or out of range; all problems of this variant at once, in
            ``detail["problems"]`` as ``option: problem``.
    """
    if isinstance(declared, _SPEC_TYPES):
        return declared
    if not isinstance(declared, Mapping):
        raise declaration_error("variant", [f"must be a mapping or a variant object, not {type(declared).__name__}"])
    options = {str(key): value for key, value in declared.items() if value is not None or key == "background"}
    kind = options.pop("kind", "image")
    if not isinstance(kind, str) or kind not in _SPEC_BY_KIND:
        raise declaration_error("variant", not_one_of("kind", kind, _SPEC_BY_KIND))
    cls: type[VariantSpec] = FrameVariant if kind == "image" and "preset" in options else _SPEC_BY_KIND[kind]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    problems = [_unknown_option(name, cls) for name in sorted(options.keys() - fields.keys())]
    # A missing required option is passed as None, so that the recipe itself reports the allowed values.
    required = {name: None for name, field in fields.items() if field.default is dataclasses.MISSING}
    spec: VariantSpec | None = None
    try:
        spec = cls(**required | {name: value for name, value in options.items() if name in fields})
    except ProfileError as error:
        problems += error.detail["problems"]
    if spec is None or problems:
        raise declaration_error("variant", problems)
    return spec


def recipe_digest(spec: VariantSpec) -> str:
    """Return the digest of a recipe: 64 lower-case hexadecimal digits.

    SHA-256 of the compact UTF-8 JSON of the recipe's normal form, in which every mapping is a list of ``[key, value]``
    pairs sorted by key. The variant's name and its profile are not part of it, so equal recipes are equal everywhere.
    """
    form = spec.normal_form()
    if spec.recipe_revision > 1:
        form["recipe_revision"] = spec.recipe_revision
    return digest_of(form)


def digest_of(form: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a mapping in the form that :func:`recipe_digest` describes."""
    text = json.dumps(_as_pairs(form), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_av_work(spec: VariantSpec) -> bool:
    """Whether a build needs ffmpeg: video, audio, waveforms, and images taken from a video."""
    return not isinstance(spec, ImageVariant)


def _unknown_option(name: str, cls: type[VariantSpec]) -> str:
    if name == "from_variant":
        return "from_variant: unknown option; variants are built from the original only"
    known = ["kind", *(field.name for field in dataclasses.fields(cls))]
    return f"{name}: unknown option; {_TITLES[cls]} takes {', '.join(known)}"


_TITLES: Mapping[type[Any], str] = {
    ImageVariant: "an image",
    FrameVariant: "an image taken from a video",
    VideoVariant: "a video",
    AudioVariant: "an audio variant",
    WaveformVariant: "a waveform",
}


def _as_pairs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _as_pairs(value[key])] for key in sorted(value)]
    return value
