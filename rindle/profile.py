"""Profiles: which uploads are accepted, which variants are built and how they are delivered.

A profile is a subclass of :class:`Profile` with class attributes. It is validated when the class is created, and never
instantiated::

    class AvatarProfile(Profile):
        name = "avatar"
        storage = "main"
        allow_mime = ["image/jpeg", "image/png"]
        variants = {"thumb": {"mode": "crop", "width": 128, "height": 128, "format": "webp"}}

Recipes of variants and their digests are in :mod:`rindle.recipes`; their public names can also be imported from here.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

from rindle.declarations import declaration_error, is_whole, name_flaw, not_flags, not_one_of, not_positive
from rindle.errors import ProfileError, UnknownProfile, UnknownVariant
from rindle.messages import IMAGES_GROUP
from rindle.protocols import MAX_URL_SECONDS, Analyzer, Authorizer, Probe, Processor, Scanner, Storage
from rindle.recipes import (
    AudioVariant,
    FrameVariant,
    ImageVariant,
    VariantSpec,
    VideoVariant,
    WaveformVariant,
    digest_of,
    is_av_work,
    parse_variant,
    recipe_digest,
)
from rindle.security.filename import normalize_extension
from rindle.security.mime import canonical_mime, is_active_content
from rindle.security.policy import UploadPolicy, validate_upload
from rindle.security.readable import is_readable
from rindle.states import MediaKind

#: Default of ``max_pixels`` (width × height × frames).
DEFAULT_MAX_PIXELS: Final = 100_000_000
#: Default of ``max_duration_seconds``.
DEFAULT_MAX_DURATION_SECONDS: Final = 7200

#: Names that a variant cannot have: they are path segments, selectors and group names.
RESERVED_VARIANT_NAMES: Final = frozenset({"original", "source", "all", IMAGES_GROUP})
#: Prefix of the names of dynamic transforms.
RESERVED_VARIANT_PREFIX: Final = "dyn_"

#: Values of ``fairness``.
FAIRNESS: Final = ("profile", "actor")

#: Values of ``delivery.streaming.playback_policy``.
PLAYBACK_POLICIES: Final = ("signed", "public")
#: Values of ``delivery.streaming.ingest_mode``.
SERVER_PUSH: Final = "server_push"
DIRECT_CREATOR_UPLOAD: Final = "direct_creator_upload"
INGEST_MODES: Final = (SERVER_PUSH, DIRECT_CREATOR_UPLOAD)

_PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VARIANT_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MIME = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/(?:\*|[a-z0-9][a-z0-9!#$&^_.+-]*)")
_EXTENSION = re.compile(r"\.[a-z0-9]{1,15}")
_MAX_NAME_CHARS = 255
# Above the effort of every recipe.
_MOST_EFFORT: Final = 1 << 31

__all__ = [
    "DEFAULT_MAX_DURATION_SECONDS",
    "DEFAULT_MAX_PIXELS",
    "RESERVED_VARIANT_NAMES",
    "RESERVED_VARIANT_PREFIX",
    "AudioVariant",
    "DeliveryPolicy",
    "FrameVariant",
    "ImageVariant",
    "Profile",
    "ProfileRegistry",
    "StreamingPolicy",
    "VariantSpec",
    "VideoVariant",
    "WaveformVariant",
    "parse_variant",
    "recipe_digest",
]


# --- delivery ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StreamingPolicy:
    """How a profile's videos are streamed by a provider. All options but the last are required.

    Attributes:
        provider: name of the provider, as the application registers it.
        playback_policy: ``signed`` (tokens that expire) or ``public``.
        ingest_mode: ``server_push`` (the provider fetches a variant) or ``direct_creator_upload`` (browsers upload to
            the provider itself).
        source_variant: name of the video variant that is pushed.
        playback_ttl_seconds: lifetime of a playback token, 1 to 604800 s; ``signed_url_ttl_seconds`` when left out.
            Players use the token for each segment, so it must outlive the playback.
    """

    provider: str
    playback_policy: str
    ingest_mode: str
    source_variant: str
    playback_ttl_seconds: int | None = None


def _parse_streaming(declared: Any, variants: Mapping[str, VariantSpec], problems: list[str]) -> StreamingPolicy | None:
    if declared is None:
        return None
    if isinstance(declared, StreamingPolicy):
        found = {one.name: getattr(declared, one.name) for one in dataclasses.fields(StreamingPolicy)}
    elif isinstance(declared, Mapping):
        found = dict(declared)
    else:
        problems.append(f"delivery.streaming: must be a mapping, not {type(declared).__name__}")
        return None
    before = len(problems)
    known = {one.name for one in dataclasses.fields(StreamingPolicy)}
    problems += [
        f"delivery.streaming.{name}: unknown option; known are {', '.join(sorted(known))}"
        for name in sorted(map(str, found.keys() - known))
    ]
    provider, source = found.get("provider"), found.get("source_variant")
    if not (isinstance(provider, str) and _PROVIDER_NAME.fullmatch(provider)):
        problems.append(
            "delivery.streaming.provider: must be the name of a provider, such as 'mux': 1 to 63 lower-case letters, "
            f"digits and underscores, not {provider!r}"
        )
    problems += not_one_of("delivery.streaming.playback_policy", found.get("playback_policy"), PLAYBACK_POLICIES)
    problems += not_one_of("delivery.streaming.ingest_mode", found.get("ingest_mode"), INGEST_MODES)
    spec = variants.get(source) if isinstance(source, str) else None
    if not isinstance(spec, VideoVariant):
        problems.append(f"delivery.streaming.source_variant: must be a declared video variant, not {source!r}")
    ttl = found.get("playback_ttl_seconds")
    if ttl is not None and not (is_whole(ttl) and 1 <= ttl <= MAX_URL_SECONDS):
        problems.append(
            f"delivery.streaming.playback_ttl_seconds: must be from 1 to {MAX_URL_SECONDS} seconds, not {ttl!r}"
        )
    return StreamingPolicy(**found) if len(problems) == before else None


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How a profile's media are delivered: to whom, and for how long.

    Attributes:
        public: unsigned, cacheable URLs; private and signed by default.
        signed_url_ttl_seconds: lifetime of a signed URL, 1 to 604800 s; ``None`` uses the setting of that name (900).
        authorizer: called before a URL is made; ``None`` allows every caller.
        allow_active_content: let a public profile accept SVG, HTML, XML or scripts. A browser can run them, because
            public delivery cannot force a download.
        streaming: a :class:`StreamingPolicy` or its options; ``None`` for no streaming provider.
    """

    public: bool = False
    signed_url_ttl_seconds: int | None = None
    authorizer: Authorizer | None = None
    allow_active_content: bool = False
    streaming: StreamingPolicy | None = None


def _parse_delivery(declared: Any, variants: Mapping[str, VariantSpec], problems: list[str]) -> DeliveryPolicy:
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
    if ttl is not None and not (is_whole(ttl) and 1 <= ttl <= MAX_URL_SECONDS):
        problems.append(f"delivery.signed_url_ttl_seconds: must be from 1 to {MAX_URL_SECONDS} seconds, not {ttl!r}")
    problems += [f"delivery.{problem}" for problem in not_flags(policy, "public", "allow_active_content")]
    problems += [f"delivery.{problem}" for problem in _not_instance("authorizer", policy.authorizer, Authorizer)]
    return dataclasses.replace(policy, streaming=_parse_streaming(policy.streaming, variants, problems))


# --- profiles ----------------------------------------------------------------------------------------------------


class Profile:
    """Base of all profiles; subclass it and set class attributes.

    Creating the class validates all attributes at once and replaces each one by its normalized form. ``None`` equals
    leaving an attribute out. Unknown public attributes are rejected; methods and names with a leading underscore are
    allowed. A subclass of a profile inherits everything but the name. The class keyword ``abstract=True`` makes a base
    class that is not validated itself.

    Attributes:
        name: stable name in rows and keys, 1 to 255 printable ASCII characters; ``module.QualName`` by default. Set
            it, so that the class can be renamed.
        storage: a storage, a storage class, or the name under which the application registers one. Required.
        variants: name to recipe, a mapping or a variant object. Required, may be empty. After validation: variant
            objects, sorted by name, read-only.
        allow_mime: accepted types of the content or families such as ``image/*``; empty accepts all that can be probed.
            For MP4, WebM, Matroska, QuickTime, 3GPP and Ogg, the tracks decide between audio and video.
        allow_extensions: accepted extensions; empty accepts all.
        max_bytes: largest original in bytes, ``None`` for no limit.
        max_pixels: largest number of pixels of an original, from the file's header; 100 000 000 by default.
        max_duration_seconds: longest original; 7200 by default.
        delivery: a :class:`DeliveryPolicy` or its options. After validation: a ``DeliveryPolicy``.
        scanner: scans each file before it is decoded; ``None`` for none.
        analyzer: computes further metadata; ``None`` for none.
        processor: builds variants; ``None`` for the bundled one.
        probe: reads technical facts; ``None`` for the bundled ones.
        strict_extension: refuse an image whose file name has the extension of another image format, such as a HEIC
            named ``.jpg``. By default the content decides, and the stored name gets its extension.
        fairness: whose uploads share one queue position in Temporal, if its fairness is on: ``profile`` (default), or
            ``actor``, so that costly uploads of one actor do not delay those of others. It needs a signing secret.
        placeholder: make a tiny preview (a WebP data URI of at most 700 bytes) of each image.

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
    strict_extension: ClassVar[bool | None] = False
    fairness: ClassVar[str | None] = "profile"
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
        problems += not_positive("max_bytes", cls.max_bytes)
        cls.max_pixels = DEFAULT_MAX_PIXELS if cls.max_pixels is None else cls.max_pixels
        problems += not_positive("max_pixels", cls.max_pixels)
        if cls.max_duration_seconds is None:
            cls.max_duration_seconds = DEFAULT_MAX_DURATION_SECONDS
        problems += not_positive("max_duration_seconds", cls.max_duration_seconds)
        cls._delivery_policy = cls.delivery = _parse_delivery(
            cls._delivery_declared(declared, problems), cls.variants, problems
        )
        for option, protocol in _PLUGGABLE.items():
            problems += _not_instance(option, getattr(cls, option), protocol)
        cls.fairness = "profile" if cls.fairness is None else cls.fairness
        if cls.fairness not in FAIRNESS:
            problems.append(f"fairness: must be one of {', '.join(FAIRNESS)}, not {cls.fairness!r}")
        cls.placeholder = False if cls.placeholder is None else cls.placeholder
        cls.strict_extension = False if cls.strict_extension is None else cls.strict_extension
        problems += not_flags(cls, "placeholder", "strict_extension")
        problems += _active_in_public(cls.allow_mime, cls._delivery_policy)
        if problems:
            raise declaration_error(cls.name, problems)
        cls._digests = MappingProxyType({name: recipe_digest(spec) for name, spec in cls.variants.items()})
        cls._upload_policy = UploadPolicy(
            cls.name,
            cls.allow_mime,
            cls.allow_extensions,
            cls.max_bytes,
            strict_extension=cls.strict_extension,
            can_probe=cls._can_probe,
        )

    @classmethod
    def _variants_declared(cls, declared: Mapping[str, Any], problems: list[str]) -> Any:
        """Return the variants as the class declares them; presets add their own."""
        return getattr(cls, "variants", None)

    @classmethod
    def _delivery_declared(cls, declared: Mapping[str, Any], problems: list[str]) -> Any:
        """Return the delivery as the class declares it; presets add their streaming provider."""
        return cls.delivery

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
        """Return which uploads the profile accepts."""
        return cls._upload_policy

    @classmethod
    def _can_probe(cls, mime: str) -> bool:
        return is_readable(mime) or (cls.probe is not None and cls.probe.accepts(mime))

    @classmethod
    def delivery_policy(cls) -> DeliveryPolicy:
        """Return how the profile's media are delivered."""
        return cls._delivery_policy

    @classmethod
    def validate_upload(cls, path: Path | str, filename: str | None) -> str:
        """Validate a file against the upload policy and return its sniffed type; see ``security.validate_upload``."""
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
        """Return one digest over the names and digests of all variants; it changes whenever one of them does."""
        return digest_of(cls._digests)

    @classmethod
    def group_of(cls, variant_name: str) -> str:
        """Return the group the variant is built in: ``images`` for image variants of an image, else the variant's name.

        Raises:
            UnknownVariant: the profile declares no variant of that name.
        """
        return variant_name if is_av_work(cls.spec(variant_name)) else IMAGES_GROUP

    @classmethod
    def build_order(cls, groups: Iterable[str]) -> list[str]:
        """Return build groups in the order in which they start: quick ones first, so that a poster need not wait for a
        long transcode. Groups that are no longer declared come last."""

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
        """Return which declared variants an original of this kind can have.

        Args:
            kind: kind of the original.
            has_video: whether it has a video track; ``None`` (not probed, or not applicable) derives it from the kind.
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
    """The profiles of one application, by name. Rows name profiles; nothing is imported by that name.

    Raises:
        ProfileError: two classes have one name, or an entry is not a concrete profile; all problems at once.
    """

    def __init__(self, profiles: Iterable[type[Profile]]) -> None:
        self._by_name: dict[str, type[Profile]] = {}
        problems: list[str] = []
        for profile in profiles:
            if not (isinstance(profile, type) and issubclass(profile, Profile)) or profile._abstract:
                problems.append(f"{profile!r} is not a concrete subclass of Profile")
            elif profile.name in self._by_name:
                first = self._by_name[profile.name]
                problems.append(f"{_where(first)} and {_where(profile)} both have the name {profile.name!r}")
            else:
                self._by_name[profile.name] = profile
        if problems:
            raise declaration_error("registry", problems)

    def get(self, profile: str | type[Profile]) -> type[Profile]:
        """Return the registered profile of a name, or the class itself when it is registered.

        Raises:
            UnknownProfile: the profile is not registered.
        """
        name = profile if isinstance(profile, str) else getattr(profile, "name", type(profile).__name__)
        found = self._by_name.get(name)
        if found is None or not (isinstance(profile, str) or found is profile):
            raise UnknownProfile(
                f"the profile {name[:_MAX_NAME_CHARS]!r} is not registered; "
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


def _where(profile: type[Profile]) -> str:
    return f"{profile.__module__}.{profile.__qualname__}"


def _declared(cls: type[Profile]) -> dict[str, Any]:
    """Return the attributes of this class and its mixins; those of parent profiles are validated already."""
    own: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is cls or not (base is object or issubclass(base, Profile)):
            own |= vars(base)
    return own


def _unknown_attributes(declared: Mapping[str, Any], known: frozenset[str]) -> list[str]:
    unknown = [
        name
        for name, value in declared.items()
        if not name.startswith("_")
        and name not in known
        and not (inspect.isroutine(value) or isinstance(value, classmethod | staticmethod | property))
    ]
    # The list of the known options once, so that the message has room for the other problems.
    listed = f"; known are {', '.join(sorted(known))}"
    return [f"{name}: unknown option" + (listed if name == unknown[-1] else "") for name in unknown]


def _checked_name(name: Any, default: str, problems: list[str]) -> str:
    flaw = name_flaw(default if name is None else name)
    if flaw is not None:
        problems.append(f"name: {flaw}" + ("; the default, module.QualName, is not: set it" if name is None else ""))
    return default if name is None or flaw is not None else str(name)


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


def _checked_list(option: str, declared: Any, problems: list[str]) -> list[str]:
    if declared is None:
        return []
    if not isinstance(declared, list | tuple | set | frozenset):
        problems.append(f"{option}: must be a list of strings, not {type(declared).__name__}")
        return []
    problems += [f"{option}: {entry!r} is not a string" for entry in declared if not isinstance(entry, str)]
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
        f"allow_extensions: {entry!r} is not a single extension such as '.jpg'"
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


def _not_instance(option: str, value: Any, protocol: type) -> list[str]:
    if value is None or (isinstance(value, protocol) and not isinstance(value, type)):
        return []
    return [f"{option}: must be a {protocol.__name__} object or None, not {_kind_of(value)}"]


def _kind_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
