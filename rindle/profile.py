"""Profiles: what one kind of media may be, what is made of it and who gets it; checked when the class is created.

A profile is a subclass of :class:`Profile` with class attributes and is never instantiated::

    class AvatarProfile(Profile):
        name = "avatar"
        storage = "main"
        allow_mime = ["image/jpeg", "image/png"]
        variants = {"thumb": {"mode": "crop", "width": 128, "height": 128, "format": "webp"}}

Here are also the recipes of variants and their digests, which the stored rows and keys depend on: what a recipe's
normal form holds may never change for options that already exist.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, TypeAlias

from rindle.errors import ProfileError, UnknownProfile, UnknownVariant
from rindle.messages import IMAGES_GROUP
from rindle.protocols import MAX_URL_SECONDS, Analyzer, Authorizer, Probe, Processor, Scanner, Storage
from rindle.security.filename import normalize_extension
from rindle.security.mime import canonical_mime, is_active_content
from rindle.security.policy import UploadPolicy, validate_upload
from rindle.states import MediaKind, OutputKind

#: Pixels an original may have when the profile does not say (width × height × frames).
DEFAULT_MAX_PIXELS: Final = 100_000_000
#: Seconds an original may last when the profile does not say.
DEFAULT_MAX_DURATION_SECONDS: Final = 7200

#: Names no variant may have: they are path segments, selectors and group names.
RESERVED_VARIANT_NAMES: Final = frozenset({"original", "source", "all", IMAGES_GROUP})
#: Names of the rows of dynamic transforms begin so.
RESERVED_VARIANT_PREFIX: Final = "dyn_"

_VARIANT_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_MIME = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/(?:\*|[a-z0-9][a-z0-9!#$&^_.+-]*)")
_EXTENSION = re.compile(r"\.[a-z0-9]{1,15}")
_MAX_NAME_CHARS = 255

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
_MOST_EFFORT: Final = 1 << 31
# container, codec
_AUDIO_ENCODINGS = {"m4a_128k": ("m4a", "aac"), "mp3_128k": ("mp3", "mp3")}
_AUDIO_TYPES = {"m4a": "audio/mp4", "mp3": "audio/mpeg"}
_CRF: Final = 23
_AUDIO_BITRATE_KBPS: Final = 128


# --- recipes -----------------------------------------------------------------------------------------------------


class _Recipe(ABC):
    """What all variant recipes share. A wrong one cannot be made: the constructor raises ``ProfileError``."""

    __slots__ = ()

    #: Raised when the library's code makes other bytes of the same recipe; it enters the digest from 2 on.
    recipe_revision: ClassVar[int] = 1
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise _invalid(type(self).__name__, problems)

    @abstractmethod
    def _problems(self) -> list[str]:
        """Return what is wrong with the options, each as ``option: what is wrong``."""

    @abstractmethod
    def normal_form(self) -> dict[str, Any]:
        """Return the options that the digest is computed of, presets expanded."""

    @property
    def effort(self) -> int:
        """How much work a build is beside others of the same asset; the quick ones are started first."""
        return _EFFORTS[self.kind]

    @property
    def output_kind(self) -> OutputKind:
        """What the variant is, as its row says."""
        return OutputKind(self.kind)


@dataclass(frozen=True, slots=True)
class ImageVariant(_Recipe):
    """A picture made of a picture.

    Attributes:
        mode: ``fit`` (inside the box, aspect kept), ``fill`` and ``crop`` (exactly the box, scaled to cover and cut),
            ``pad`` (fit, then centred on the background), ``stretch`` (exactly the box, distorts).
        width: pixels. ``crop``, ``pad`` and ``stretch`` need both sides, ``fit`` and ``fill`` at least one.
        height: pixels.
        format: ``jpeg``, ``png``, ``webp`` or ``avif``.
        quality: 1 to 100; ``None`` leaves it to the format (80, AVIF 50); PNG ignores it.
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
        """What a processor must declare to build it."""
        return frozenset({"image_resize"})

    def normal_form(self) -> dict[str, Any]:
        """Return mode, format and the sides given; ``kind`` is left out, newer options appear when not at default."""
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
        # Here None is a value of its own: transparent.
        return form if colour == "#ffffff" else {**form, "background": colour}

    def _problems(self) -> list[str]:
        problems = [
            *_not_one_of("mode", self.mode, _IMAGE_MODES),
            *_not_positive("width", self.width),
            *_not_positive("height", self.height),
            *_not_one_of("format", self.format, _IMAGE_TYPES),
            *_not_one_of("gravity", self.gravity, _GRAVITIES),
            *_not_flags(self, "upscale", "animated", "keep_icc", "lossless"),
        ]
        if self.quality is not None and not (_is_whole(self.quality) and 1 <= self.quality <= 100):
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
    """A picture taken from a video.

    Attributes:
        preset: ``video_poster_scene`` (one telling frame in the video's size) or ``video_thumbnail_strip`` (4 frames
            of 160 × 90 pixels side by side).
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
        """What a processor must declare to build it."""
        return frozenset({_FRAME_CAPABILITIES[self.preset]})

    def normal_form(self) -> dict[str, Any]:
        """Return the preset alone: these two were never expanded, and digests are for ever."""
        return {"preset": self.preset}

    def _problems(self) -> list[str]:
        return _not_one_of("preset", self.preset, _FRAME_CAPABILITIES)


@dataclass(frozen=True, slots=True)
class VideoVariant(_Recipe):
    """An MP4 (H.264, AAC) made of a video.

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
        """What a processor must declare to build it."""
        return frozenset({"video_transcode"})

    @property
    def effort(self) -> int:
        """The pixels of a frame decide between transcodes."""
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
            *_not_one_of("preset", self.preset, _VIDEO_BOXES),
            *_not_flags(self, "faststart"),
            *_not_one_of("frame", self.frame, _VIDEO_FRAMES),
        ]


@dataclass(frozen=True, slots=True)
class AudioVariant(_Recipe):
    """Sound, from an audio file or from a video's sound track.

    Attributes:
        preset: ``m4a_128k`` (AAC) or ``mp3_128k``, both 128 kbit/s.
        channels: 1, 2, or ``None`` for as many as the original has.
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
        """What a processor must declare to build it."""
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
            *_not_one_of("preset", self.preset, _AUDIO_ENCODINGS),
            *_not_flags(self, "normalize", "two_pass"),
        ]
        if self.channels is not None and not (_is_whole(self.channels) and self.channels in {1, 2}):
            problems.append(f"channels: must be 1, 2 or None, not {self.channels!r}")
        if self.two_pass is True and self.normalize is False:
            problems.append("two_pass: needs normalize=True, there is nothing to measure for otherwise")
        return problems


@dataclass(frozen=True, slots=True)
class WaveformVariant(_Recipe):
    """The outline of a sound as JSON: 1000 pairs of lowest and highest sample, each from -1 to 1.

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
        """What a processor must declare to build it."""
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
        return _not_one_of("preset", self.preset, ("overview",))


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

    ``None`` equals leaving an option out, but for ``background``, where it means transparent.

    Raises:
        ProfileError: an option is unknown, missing or out of range; all problems of this variant at once, in
            ``detail["problems"]`` as ``option: what is wrong``.
    """
    if isinstance(declared, _SPEC_TYPES):
        return declared
    if not isinstance(declared, Mapping):
        raise _invalid("variant", [f"must be a mapping or a variant object, not {type(declared).__name__}"])
    options = {str(key): value for key, value in declared.items() if value is not None or key == "background"}
    kind = options.pop("kind", "image")
    if not isinstance(kind, str) or kind not in _SPEC_BY_KIND:
        raise _invalid("variant", _not_one_of("kind", kind, _SPEC_BY_KIND))
    cls: type[VariantSpec] = FrameVariant if kind == "image" and "preset" in options else _SPEC_BY_KIND[kind]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    problems = [_unknown_option(name, cls) for name in sorted(options.keys() - fields.keys())]
    # A required option that is missing goes in as None, and the recipe itself says what it could be.
    required = {name: None for name, field in fields.items() if field.default is dataclasses.MISSING}
    spec: VariantSpec | None = None
    try:
        spec = cls(**required | {name: value for name, value in options.items() if name in fields})
    except ProfileError as error:
        problems += error.detail["problems"]
    if spec is None or problems:
        raise _invalid("variant", problems)
    return spec


def recipe_digest(spec: VariantSpec) -> str:
    """Return the digest of a recipe: 64 lower-case hexadecimal digits.

    SHA-256 of the compact UTF-8 JSON of the recipe's normal form, in which every mapping is a list of ``[key, value]``
    pairs sorted by key. The variant's name and its profile are not part of it, so equal recipes are equal everywhere.
    """
    form = spec.normal_form()
    if spec.recipe_revision > 1:
        form["recipe_revision"] = spec.recipe_revision
    return _digest(form)


def is_av_work(spec: VariantSpec) -> bool:
    """Whether building needs ffmpeg: video, audio, waveforms, and pictures taken from a video."""
    return not isinstance(spec, ImageVariant)


# --- delivery ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """Who gets a profile's media, and for how long.

    Attributes:
        public: unsigned, cacheable URLs; private and signed by default.
        signed_url_ttl_seconds: life of a signed URL, 1 to 604800 s; ``None`` takes the setting of that name (900).
        authorizer: asked before any URL is made; ``None`` lets everybody who may call, call.
        allow_active_content: let a public profile accept SVG, HTML, XML or scripts although nothing can force a
            browser to save them there instead of running them.
    """

    public: bool = False
    signed_url_ttl_seconds: int | None = None
    authorizer: Authorizer | None = None
    allow_active_content: bool = False


def _parse_delivery(declared: Any, problems: list[str]) -> DeliveryPolicy:
    if declared is None:
        return DeliveryPolicy()
    if isinstance(declared, DeliveryPolicy):
        policy = declared
    elif isinstance(declared, Mapping):
        known = {field.name for field in dataclasses.fields(DeliveryPolicy)}
        problems += [
            f"delivery.{name}: unknown option; known are {', '.join(sorted(known))}"
            for name in sorted(map(str, declared.keys() - known))
        ]
        policy = DeliveryPolicy(
            **{name: value for name, value in declared.items() if name in known and value is not None}
        )
    else:
        problems.append(f"delivery: must be a mapping, not {type(declared).__name__}")
        return DeliveryPolicy()
    ttl = policy.signed_url_ttl_seconds
    if ttl is not None and not (_is_whole(ttl) and 1 <= ttl <= MAX_URL_SECONDS):
        problems.append(f"delivery.signed_url_ttl_seconds: must be from 1 to {MAX_URL_SECONDS} seconds, not {ttl!r}")
    problems += [f"delivery.{problem}" for problem in _not_flags(policy, "public", "allow_active_content")]
    problems += [f"delivery.{problem}" for problem in _not_instance("authorizer", policy.authorizer, Authorizer)]
    return policy


# --- profiles ----------------------------------------------------------------------------------------------------


class Profile:
    """Base of all profiles; subclass it and set class attributes.

    Creating the class checks everything at once and replaces each attribute by its checked form; ``None`` equals
    leaving it out, and unknown public attributes are refused (methods and names with a leading underscore are free). A
    subclass of a profile inherits everything but the name. ``abstract=True`` as a class keyword makes a base for
    others that is not checked itself.

    Attributes:
        name: stable name that rows and keys carry, at most 255 characters; ``module.QualName`` by default, so set it
            to be able to rename the class.
        storage: a storage, a storage class, or the name under which the application registers one. Required.
        variants: name to recipe, a mapping or a variant object. Required, may be empty. After checking: sorted by
            name, all of them variant objects, read-only.
        allow_mime: sniffed types let in, families such as ``image/*`` included; empty for any that can be probed.
        allow_extensions: extensions let in; empty for any.
        max_bytes: largest original in bytes, ``None`` for no limit.
        max_pixels: most pixels of an original, measured in the file's header; 100 000 000 by default.
        max_duration_seconds: longest original; 7200 by default.
        delivery: options of :class:`DeliveryPolicy`, or one. After checking: a ``DeliveryPolicy``.
        scanner: judges each file before it is decoded; ``None`` for none.
        analyzer: computes further metadata; ``None`` for none.
        processor: builds variants; ``None`` for the bundled one.
        probe: reads technical facts; ``None`` for the bundled ones.
        placeholder: make a tiny preview (a WebP data URI of at most 700 bytes) of each picture.

    Raises:
        ProfileError: when the class is created; the message names the profile and lists every problem, and
            ``detail["problems"]`` holds them one by one as ``option: what is wrong``.
    """

    name: ClassVar[str]
    storage: ClassVar[Storage | type[Storage] | str]
    variants: ClassVar[Mapping[str, Any]]
    allow_mime: ClassVar[Iterable[str] | None] = ()
    allow_extensions: ClassVar[Iterable[str] | None] = ()
    max_bytes: ClassVar[int | None] = None
    max_pixels: ClassVar[int | None] = DEFAULT_MAX_PIXELS
    max_duration_seconds: ClassVar[int | None] = DEFAULT_MAX_DURATION_SECONDS
    delivery: ClassVar[Mapping[str, Any] | DeliveryPolicy | None] = DeliveryPolicy()
    scanner: ClassVar[Scanner | None] = None
    analyzer: ClassVar[Analyzer | None] = None
    processor: ClassVar[Processor | None] = None
    probe: ClassVar[Probe | None] = None
    placeholder: ClassVar[bool | None] = False

    _abstract: ClassVar[bool] = True
    #: Options beside the annotations above that a base class adds.
    _extra_options: ClassVar[frozenset[str]] = frozenset()
    _upload_policy: ClassVar[UploadPolicy]
    _delivery_policy: ClassVar[DeliveryPolicy]
    _digests: ClassVar[Mapping[str, str]]

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._abstract = abstract
        if abstract:
            return
        declared = _declared(cls)
        problems = _unknown_attributes(declared, frozenset(_OPTIONS) | cls._extra_options)
        cls.name = _checked_name(declared.get("name"), f"{cls.__module__}.{cls.__qualname__}", problems)
        _check_storage(getattr(cls, "storage", None), problems)
        cls.variants = _parse_variants(cls._variants_declared(declared, problems), problems)
        cls.allow_mime = _checked_mimes(cls.allow_mime, problems)
        cls.allow_extensions = _checked_extensions(cls.allow_extensions, problems)
        problems += _not_positive("max_bytes", cls.max_bytes)
        cls.max_pixels = DEFAULT_MAX_PIXELS if cls.max_pixels is None else cls.max_pixels
        problems += _not_positive("max_pixels", cls.max_pixels)
        if cls.max_duration_seconds is None:
            cls.max_duration_seconds = DEFAULT_MAX_DURATION_SECONDS
        problems += _not_positive("max_duration_seconds", cls.max_duration_seconds)
        cls._delivery_policy = cls.delivery = _parse_delivery(cls.delivery, problems)
        for option, protocol in _PLUGGABLE.items():
            problems += _not_instance(option, getattr(cls, option), protocol)
        cls.placeholder = False if cls.placeholder is None else cls.placeholder
        problems += _not_flags(cls, "placeholder")
        problems += _active_in_public(cls.allow_mime, cls._delivery_policy)
        if problems:
            raise _invalid(cls.name, problems)
        cls._digests = MappingProxyType({name: recipe_digest(spec) for name, spec in cls.variants.items()})
        cls._upload_policy = UploadPolicy(cls.name, cls.allow_mime, cls.allow_extensions, cls.max_bytes)

    @classmethod
    def _variants_declared(cls, declared: Mapping[str, Any], problems: list[str]) -> Any:
        """Return the variants as the class states them; presets put their own there."""
        return getattr(cls, "variants", None)

    @classmethod
    def spec(cls, variant_name: str) -> VariantSpec:
        """Return the recipe of one variant.

        Raises:
            UnknownVariant: the profile declares no variant of that name.
        """
        found: VariantSpec | None = cls.variants.get(variant_name)
        if found is None:
            raise UnknownVariant(
                f"profile {cls.name!r} declares no variant {variant_name!r}; it has: {', '.join(cls.variants)}",
                detail={"profile": cls.name, "variant": variant_name},
            )
        return found

    @classmethod
    def upload_policy(cls) -> UploadPolicy:
        """Return what the profile lets in."""
        return cls._upload_policy

    @classmethod
    def delivery_policy(cls) -> DeliveryPolicy:
        """Return who gets the profile's media."""
        return cls._delivery_policy

    @classmethod
    def validate_upload(cls, path: Path | str, filename: str | None) -> str:
        """Judge a file against the upload policy and return its sniffed type; see ``security.validate_upload``."""
        return validate_upload(path, filename, cls._upload_policy)

    @classmethod
    def recipe_digest(cls, variant_name: str) -> str:
        """Return the digest of the variant's recipe; see :func:`recipe_digest`.

        Raises:
            UnknownVariant: the profile declares no variant of that name.
        """
        cls.spec(variant_name)
        return cls._digests[variant_name]

    @classmethod
    def profile_digest(cls) -> str:
        """Return one digest over the names and digests of all variants: a cheap test for drift of the whole profile."""
        return _digest(cls._digests)

    @classmethod
    def group_of(cls, variant_name: str) -> str:
        """Return the group the variant is built in: ``images`` for pictures of a picture, else the variant's name.

        Raises:
            UnknownVariant: the profile declares no variant of that name.
        """
        return variant_name if is_av_work(cls.spec(variant_name)) else IMAGES_GROUP

    @classmethod
    def build_order(cls, groups: Iterable[str]) -> list[str]:
        """Return build groups in the order they are to be started: what is quick first, so that a long transcode does
        not keep a poster waiting. Groups that are no longer declared come last."""

        def effort(group: str) -> tuple[int, str]:
            if group == IMAGES_GROUP:
                return 0, group
            spec = cls.variants.get(group)
            return (_MOST_EFFORT if spec is None else spec.effort), group

        return sorted(groups, key=effort)

    @classmethod
    def applicable(
        cls, kind: MediaKind | str, has_video: bool | None, has_audio: bool | None
    ) -> tuple[list[str], dict[str, str]]:
        """Sort the declared variants by whether an original of this kind can have them.

        Args:
            kind: kind of the original.
            has_video: whether it has a video track; ``None`` (not probed, or not applicable) goes by the kind.
            has_audio: whether it has an audio track; likewise.

        Returns:
            The names that apply, and the others with the reason (``needs_image``, ``needs_video_track`` or
            ``needs_audio_track``); both ordered by name.
        """
        media = MediaKind(kind)
        video = media is MediaKind.VIDEO if has_video is None else has_video
        audio = media is MediaKind.AUDIO if has_audio is None else has_audio
        names: list[str] = []
        skipped: dict[str, str] = {}
        for name, spec in cls.variants.items():
            if isinstance(spec, ImageVariant):
                fits, reason = media is MediaKind.IMAGE, "needs_image"
            elif isinstance(spec, FrameVariant | VideoVariant):
                fits, reason = video, "needs_video_track"
            else:
                fits, reason = audio, "needs_audio_track"
            if fits:
                names.append(name)
            else:
                skipped[name] = reason
        return names, skipped


class ProfileRegistry:
    """The profiles one application works with, by name. Rows name profiles; nothing is ever imported by that name.

    Raises:
        ProfileError: two classes have one name, or an entry is no concrete profile; all problems at once.
    """

    def __init__(self, profiles: Iterable[type[Profile]]) -> None:
        self._by_name: dict[str, type[Profile]] = {}
        problems: list[str] = []
        for profile in profiles:
            if not (isinstance(profile, type) and issubclass(profile, Profile)) or profile._abstract:
                problems.append(f"{profile!r} is no concrete subclass of Profile")
            elif profile.name in self._by_name:
                first = self._by_name[profile.name]
                problems.append(f"{_where(first)} and {_where(profile)} both have the name {profile.name!r}")
            else:
                self._by_name[profile.name] = profile
        if problems:
            raise _invalid("registry", problems)

    def get(self, profile: str | type[Profile]) -> type[Profile]:
        """Return the registered profile of a name, or the class itself when it is registered.

        Raises:
            UnknownProfile: not registered here.
        """
        name = profile if isinstance(profile, str) else getattr(profile, "name", type(profile).__name__)
        found = self._by_name.get(name)
        if found is None or not (isinstance(profile, str) or found is profile):
            raise UnknownProfile(
                f"no profile {name[:_MAX_NAME_CHARS]!r} is registered here; "
                "add its class to the profiles of your Rindle object",
                detail={"profile": name[:_MAX_NAME_CHARS]},
            )
        return found

    @property
    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._by_name)

    def __iter__(self) -> Iterator[type[Profile]]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name


_PLUGGABLE: Mapping[str, type] = {
    "scanner": Scanner,
    "analyzer": Analyzer,
    "processor": Processor,
    "probe": Probe,
}
_OPTIONS: Final = tuple(name for name in inspect.get_annotations(Profile) if not name.startswith("_"))


# --- checks ------------------------------------------------------------------------------------------------------


def _invalid(subject: str, problems: list[str]) -> ProfileError:
    listed = "".join(f"\n- {problem}" for problem in problems)
    return ProfileError(f"{subject} is not valid:{listed}", detail={"subject": subject, "problems": problems})


def _digest(form: Mapping[str, Any]) -> str:
    text = json.dumps(_as_pairs(form), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _as_pairs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return [[key, _as_pairs(value[key])] for key in sorted(value)]
    return value


def _where(profile: type[Profile]) -> str:
    return f"{profile.__module__}.{profile.__qualname__}"


def _declared(cls: type[Profile]) -> dict[str, Any]:
    """Return what this class states itself or through mixins; parent profiles have been checked already."""
    own: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is cls or not (base is object or issubclass(base, Profile)):
            own |= vars(base)
    return own


def _unknown_attributes(declared: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    return [
        f"{name}: unknown option; known are {', '.join(sorted(known))}"
        for name, value in declared.items()
        if not name.startswith("_")
        and name not in known
        and not (inspect.isroutine(value) or isinstance(value, classmethod | staticmethod | property))
    ]


def _checked_name(name: Any, default: str, problems: list[str]) -> str:
    if name is None:
        return default
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME_CHARS or not name.isprintable() or not name.strip():
        problems.append(f"name: must be 1 to {_MAX_NAME_CHARS} printable characters")
        return default
    return name


def _check_storage(storage: Any, problems: list[str]) -> None:
    if storage is None:
        problems.append("storage: is required: a Storage, a Storage class or a registered name")
    elif isinstance(storage, str):
        if not storage.strip():
            problems.append("storage: the registered name must not be empty")
    elif not isinstance(storage, Storage) and not (isinstance(storage, type) and issubclass(storage, Storage)):
        problems.append(f"storage: must be a Storage, a Storage class or a registered name, not {_kind_of(storage)}")


def _parse_variants(declared: Any, problems: list[str]) -> Mapping[str, VariantSpec]:
    if declared is None:
        problems.append("variants: is required; {} for none")
        return {}
    if not isinstance(declared, Mapping):
        problems.append(f"variants: must be a mapping of names to recipes, not {type(declared).__name__}")
        return {}
    specs: dict[str, VariantSpec] = {}
    for name, recipe in declared.items():
        flaw = _name_flaw(name)
        if flaw:
            problems.append(f"variants.{name}: {flaw}")
        try:
            specs[str(name)] = parse_variant(recipe)
        except ProfileError as error:
            problems += [f"variants.{name}.{problem}" for problem in error.detail["problems"]]
    return MappingProxyType(dict(sorted(specs.items())))


def _name_flaw(name: Any) -> str | None:
    if not isinstance(name, str) or not _VARIANT_NAME.fullmatch(name):
        return "a variant's name begins with a-z and has at most 63 characters from a-z, 0-9 and _"
    if name in RESERVED_VARIANT_NAMES or name.startswith(RESERVED_VARIANT_PREFIX):
        return "this name is reserved"
    return None


def _unknown_option(name: str, cls: type[VariantSpec]) -> str:
    if name == "from_variant":
        return "from_variant: unknown option; variants are made from the original only"
    known = ["kind", *(field.name for field in dataclasses.fields(cls))]
    return f"{name}: unknown option; {_TITLES[cls]} takes {', '.join(known)}"


_TITLES: Mapping[type[Any], str] = {
    ImageVariant: "an image",
    FrameVariant: "an image taken from a video",
    VideoVariant: "a video",
    AudioVariant: "an audio variant",
    WaveformVariant: "a waveform",
}


def _checked_list(option: str, declared: Any, problems: list[str]) -> list[str]:
    if declared is None:
        return []
    if not isinstance(declared, list | tuple | set | frozenset):
        problems.append(f"{option}: must be a list of texts, not {type(declared).__name__}")
        return []
    problems += [f"{option}: {entry!r} is no text" for entry in declared if not isinstance(entry, str)]
    texts = [entry for entry in declared if isinstance(entry, str)]
    return sorted(texts) if isinstance(declared, set | frozenset) else texts


def _checked_mimes(declared: Any, problems: list[str]) -> tuple[str, ...]:
    mimes = [canonical_mime(entry) for entry in _checked_list("allow_mime", declared, problems)]
    problems += [
        f"allow_mime: {mime!r} is neither a type such as image/png nor a family such as image/*"
        for mime in mimes
        if not _MIME.fullmatch(mime)
    ]
    return tuple(dict.fromkeys(mimes))


def _checked_extensions(declared: Any, problems: list[str]) -> tuple[str, ...]:
    raw = _checked_list("allow_extensions", declared, problems)
    extensions = [entry.strip().lower() for entry in raw]
    extensions = [entry if entry.startswith(".") else f".{entry}" for entry in extensions]
    problems += [
        f"allow_extensions: {entry!r} is no single extension such as '.jpg'"
        for entry, extension in zip(raw, extensions, strict=True)
        if not _EXTENSION.fullmatch(extension) or normalize_extension(extension) != extension
    ]
    return tuple(dict.fromkeys(extensions))


def _active_in_public(allow_mime: Iterable[str], delivery: DeliveryPolicy) -> list[str]:
    if delivery.public is not True or delivery.allow_active_content is True:
        return []
    return [
        f"allow_mime: {mime} can run code in the visitor's browser and public delivery cannot prevent it; "
        "deliver privately or set delivery allow_active_content=True"
        for mime in allow_mime
        if is_active_content(mime)
    ]


def _not_one_of(option: str, value: Any, choices: Iterable[str]) -> list[str]:
    listed = list(choices)
    if value is None:
        return [f"{option}: is required, one of {', '.join(listed)}"]
    if isinstance(value, str) and value in listed:
        return []
    return [f"{option}: must be one of {', '.join(listed)}, not {value!r}"]


def _not_positive(option: str, value: Any) -> list[str]:
    if value is None or (_is_whole(value) and value > 0):
        return []
    return [f"{option}: must be a whole number above 0, not {value!r}"]


def _not_flags(subject: Any, *options: str) -> list[str]:
    return [
        f"{option}: must be True or False, not {value!r}"
        for option in options
        if not isinstance(value := getattr(subject, option), bool)
    ]


def _not_instance(option: str, value: Any, protocol: type) -> list[str]:
    if value is None or (isinstance(value, protocol) and not isinstance(value, type)):
        return []
    return [f"{option}: must be a {protocol.__name__} object or None, not {_kind_of(value)}"]


def _kind_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
