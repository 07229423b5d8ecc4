"""HTML of media: ``picture_tag``, ``video_tag``, ``audio_tag``. Template engines are integrated in ``rindle.contrib``.

Reads rows and signs URLs; never writes and never accesses a store. Every string is escaped exactly once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from rindle.db.ids import AssetOrId, id_of_asset
from rindle.db.models import MediaAsset, MediaVariant
from rindle.db.providers import is_only_at_provider
from rindle.delivery.attributes import attributes_of
from rindle.delivery.loading import LoadedAsset, load
from rindle.delivery.playback import HLS_MIME, stream_of
from rindle.delivery.urls import (
    FALLBACKS,
    STALE_MODES,
    UrlOptions,
    check_choice,
    is_servable,
    issue_url,
    issue_variant_url,
)
from rindle.errors import (
    InvalidArgument,
    NotFound,
    ProfileMismatch,
    ProviderAssetNotReady,
    RindleError,
    Unauthorized,
)
from rindle.profile import Profile
from rindle.services import Services
from rindle.states import DELIVERABLE

log = logging.getLogger(__name__)

_SOURCE_KEYS = frozenset({"name", "media", "sizes", "type"})
_TRACK_KEYS = frozenset({"src", "kind", "srclang", "label", "default"})
_ON_DENIED = ("raise", "empty")
#: Choices for an asset that cannot be rendered because of an error.
_ON_ERROR = ("placeholder", "omit", "raise")


class _NoMarkup(Exception):
    """The tag renders nothing."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One requested ``<source>``; several names are candidates of different widths."""

    names: tuple[str, ...]
    has_widths: bool
    media: str | None = None
    sizes: str | None = None
    type: str | None = None


@dataclass(frozen=True, slots=True)
class _Choices:
    """What a caller chose for objects that cannot be delivered."""

    stale_mode: str
    fallback: str
    on_denied: str
    on_error: str

    def __post_init__(self) -> None:
        check_choice("stale_mode", self.stale_mode, STALE_MODES)
        check_choice("fallback", self.fallback, FALLBACKS)
        check_choice("on_denied", self.on_denied, _ON_DENIED)
        check_choice("on_error", self.on_error, _ON_ERROR)


@dataclass(frozen=True, slots=True)
class _View:
    """One asset with the options of one caller.

    Attributes:
        known: the asset, for its size; ``None`` when there is none, or it belongs to another profile.
        loaded: the same with its variants and owners; ``None`` while it may not be delivered.
        denied: names of the variants that the authorizer denied so far.
    """

    services: Services
    profile: type[Profile]
    known: MediaAsset | None
    loaded: LoadedAsset | None
    options: UrlOptions
    choices: _Choices
    denied: list[str] = field(default_factory=list)

    @property
    def asset(self) -> MediaAsset | None:
        """The asset; ``None`` while it may not be delivered."""
        return None if self.loaded is None else self.loaded.row

    def servable(self) -> dict[str, MediaVariant]:
        """Return the variants with an object to deliver, by name."""
        present = {} if self.loaded is None else self.loaded.variants
        stale_mode = self.choices.stale_mode
        return {name: row for name, row in present.items() if is_servable(self.profile, row, stale_mode)}

    async def variant(self, row: MediaVariant, options: UrlOptions | None = None) -> str | None:
        """Return the URL of a servable variant, or ``None`` when it cannot be delivered."""
        assert self.loaded is not None  # noqa: S101 - it has a variant
        try:
            issued = await issue_variant_url(
                self.services,
                self.profile,
                self.loaded,
                row,
                options or self.options,
                stale_mode=self.choices.stale_mode,
                fallback="none",
            )
        except Unauthorized as error:
            log.info("a denied variant was left out", extra=_facts(error, self.loaded.row, row.name))
            self.denied.append(row.name)
            return None
        except RindleError as error:
            _failed(error, self.loaded.row, self.choices.on_error, row.name)
            return None
        return issued.url

    async def original(self) -> str | None:
        """Return the URL of the original, or ``None`` when it cannot be delivered or ``fallback`` is ``none``.

        Raises:
            Unauthorized: the authorizer denies access.
        """
        if self.loaded is None or self.choices.fallback == "none" or is_only_at_provider(self.loaded.row):
            return None
        try:
            return (await issue_url(self.services, self.profile, self.loaded, self.options)).url
        except Unauthorized as error:
            if self.choices.on_denied == "raise":
                raise
            raise _NoMarkup from error
        except RindleError as error:
            _failed(error, self.loaded.row, self.choices.on_error)
            return None

    async def stream(self, *, strict: bool) -> str | None:
        """Return the URL of the playlist at the profile's streaming provider, or ``None`` while it has none to play.

        Raises:
            Unauthorized: the authorizer denies access.
            RindleError: ``strict``, and the provider has none to play.
        """
        streaming = self.profile.delivery_policy().streaming
        if self.loaded is None or streaming is None:
            return None
        try:
            found = await stream_of(self.services, self.profile, streaming, self.loaded, self.options, strict=strict)
        except Unauthorized as error:
            if self.choices.on_denied == "raise":
                raise
            raise _NoMarkup from error
        except RindleError as error:
            if strict:
                raise
            level = logging.DEBUG if isinstance(error, ProviderAssetNotReady) else logging.WARNING
            log.log(level, "a stream cannot be rendered", extra=_facts(error, self.loaded.row))
            return None
        return None if found is None else found.url

    def require(self, sources: Sequence[Markup], src: str | None) -> None:
        """Return when the tag has an object to show, or nothing was denied.

        Raises:
            _NoMarkup: all that could be shown was denied, and the caller chose an empty result for that.
        """
        if self.denied and not sources and src is None and self.choices.on_denied == "empty":
            raise _NoMarkup


async def picture_tag(
    services: Services,
    profile: str | type[Profile],
    asset: AssetOrId | None,
    variants: Sequence[Any] = (),
    placeholder: str | None = None,
    width: int | str | bool | None = None,
    height: int | str | bool | None = None,
    *,
    prefer_placeholder: bool = False,
    actor: Any = None,
    expires_in: int | None = None,
    disposition: str | None = None,
    filename: str | None = None,
    stale_mode: str = "fallback_original",
    fallback: str = "original",
    strict: bool = False,
    on_denied: str = "raise",
    on_error: str = "placeholder",
    attrs: Mapping[str, Any] | None = None,
    **more_attrs: Any,
) -> Markup:
    """Return ``<picture>`` with a ``<source>`` per ready variant and an ``<img>`` of the original.

    An object that cannot be delivered does not raise: a variant is left out, the original is replaced by the
    placeholder or by ``alt`` alone. An asset that is not validated yet, or was rejected, is never shown, and neither is
    an asset of another profile. Mistakes of the template itself (an unknown variant, attribute or option) always raise.
    At most one query, for what is not loaded: the asset of an id, its variants, and its owners if the profile has an
    authorizer.

    Args:
        asset: the asset or its id; ``None`` shows the placeholder.
        variants: in source order: ``"thumb"``, ``("thumb", "(max-width: 480px)")`` or ``{"name": "thumb", "media": ...,
            "sizes": ..., "type": ...}``. A list of names gives width candidates: ``srcset="u1 320w, u2 640w"``.
        placeholder: URL of a replacement; ``"auto"`` is the tiny preview of a profile with ``placeholder=True``.
        width: attribute of the ``<img>``; the original's width by default, ``False`` for none. Without ``height`` the
            height is set in proportion, and left out for ``False``.
        height: same for the height.
        prefer_placeholder: show the placeholder even if the original can be delivered.
        stale_mode: ``"serve_stale"`` also renders variants of an outdated recipe; see
            :func:`rindle.delivery.urls.variant_url`.
        fallback: ``"none"`` never delivers the original.
        strict: ignored; accepted so that all tags have the same options.
        on_denied: effect of a denied original: ``"raise"`` (default), or ``"empty"`` for no markup at all. A
            denied variant is left out; with ``"empty"`` there is also no markup when nothing is left to show.
        on_error: effect of an unknown id, of an asset of another profile, and of a store that cannot make a URL:
            ``"placeholder"`` (default) renders the tag without the object, ``"omit"`` renders nothing, both with a
            warning in the log; ``"raise"`` raises. So one bad row does not stop a page that lists many.
        attrs: attributes of the ``<img>``, as are all further keywords, which take precedence. Accepted are the names
            that HTML defines for the element, ``data_x`` (``data-x``) and ``aria_x`` (``aria-x``); ``class_`` is
            ``class``. ``None`` and ``False`` are left out, ``True`` is an attribute without a value. A missing ``alt``
            becomes ``alt=""``.
        actor: see :func:`rindle.delivery.urls.url`, also for ``expires_in``, ``disposition`` and ``filename``; none of
            them becomes an attribute.

    Raises:
        Unauthorized: the original was denied and ``on_denied`` is ``"raise"``.
        InvalidArgument: (a ``ValueError``) an option, a source or the name of an attribute is invalid; event handlers
            and the tag's own attributes are refused.
        UnknownVariant: the profile declares no variant of that name.
        UnknownProfile: the profile is not registered.
        ProfileMismatch: and other errors of the asset, such as ``NotFound``, only if ``on_error`` is ``"raise"``.

    Source: HTML Living Standard, 4.8.1 (``<picture>``), 4.8.4.2 (srcset).
    """
    choices = _Choices(stale_mode, fallback, on_denied, on_error)
    options = UrlOptions(actor, expires_in, disposition, filename)
    attributes = attributes_of("img", attrs, more_attrs)
    size = attributes.pop("width", width), attributes.pop("height", height)
    chosen = services.profile(profile)
    wanted = _sources(chosen, variants)
    try:
        view = await _view(services, chosen, asset, options, choices, variants=bool(wanted))
        attributes.update(_size(view.known, *size))
        return await _picture(view, wanted, attributes, placeholder, prefer_placeholder)
    except _NoMarkup:
        return Markup()


async def _picture(
    view: _View,
    wanted: Sequence[_Source],
    attributes: dict[str, Any],
    placeholder: str | None,
    prefer_placeholder: bool,
) -> Markup:
    """Return ``<picture>`` with its sources."""
    if attributes.get("alt") is None:
        attributes["alt"] = ""
    sources: list[Markup] = []
    if wanted:
        servable = view.servable()
        for source in wanted:
            sources += await _image_source(view, source, servable)
    src = _placeholder(view.asset, placeholder)
    if src is None or not prefer_placeholder:
        src = await view.original() or src
    view.require(sources, src)
    image = _tag("img", {**attributes, "src": src})
    return Markup("<picture>") + Markup().join(sources) + image + Markup("</picture>")


async def video_tag(
    services: Services,
    profile: str | type[Profile],
    asset: AssetOrId | None,
    variants: Sequence[Any] = (),
    poster: str | None = None,
    tracks: Sequence[Mapping[str, Any]] = (),
    placeholder: str | None = None,
    width: int | str | bool | None = None,
    height: int | str | bool | None = None,
    *,
    prefer_placeholder: bool = False,
    actor: Any = None,
    expires_in: int | None = None,
    disposition: str | None = None,
    filename: str | None = None,
    stale_mode: str = "fallback_original",
    fallback: str = "original",
    strict: bool = False,
    on_denied: str = "raise",
    on_error: str = "placeholder",
    attrs: Mapping[str, Any] | None = None,
    **more_attrs: Any,
) -> Markup:
    """Return ``<video>`` with a ``<source>`` per ready variant and the original as the last one.

    A profile with a streaming provider has one ``<source>`` instead, the playlist, as soon as the provider can play it.
    Browsers that play no HLS themselves need a player such as hls.js. Until then, and when the provider has failed, it
    is what other profiles have.

    As with :func:`picture_tag`, an object that cannot be delivered is left out and does not raise; at most one query,
    and one more of a profile with a streaming provider. With at least one source the element has no ``src``, since
    browsers would then ignore every ``<source>``. Without ready variants ``src`` is the original, or missing while
    there is nothing to play.

    Args:
        asset: the asset or its id; ``None`` gives an element with its attributes only.
        variants: in source order: ``"web_720p"``, ``("web_720p", "(max-width: 480px)")`` or ``{"name": "web_720p",
            "media": ..., "type": ...}``.
        poster: image shown before the video plays: the name of a variant, left out while that is not ready, or a URL
            (it contains ``/`` or ``:``).
        tracks: text tracks such as subtitles, each ``{"src": ..., "kind": ..., "srclang": ..., "label": ...,
            "default": ...}``; only ``src`` is required.
        placeholder: URL of a video that replaces an original that cannot be delivered; ``"auto"`` is ignored.
        width: attribute of the element, as ``height``; see :func:`picture_tag`.
        strict: raise when the profile has a streaming provider that cannot play the asset.
        attrs: attributes of the element, as are all further keywords; ``preload`` is ``"metadata"`` unless given.
        actor: see :func:`picture_tag`, also for all options not listed here. ``disposition`` and ``filename`` do not
            apply to the poster.

    Raises:
        Unauthorized: the original was denied and ``on_denied`` is ``"raise"``.
        InvalidArgument: (a ``ValueError``) as for :func:`picture_tag`; also for widths and sizes, which only images
            have, and for a track without ``src`` or with unknown keys.
        UnknownProfile: the profile is not registered.
        ProviderAssetNotReady: and ``ProviderSyncFailed``, with ``strict``.

    Source: HTML Living Standard, 4.8.8 (video), 4.8.2 (source), 4.8.11 (track).
    """
    choices = _Choices(stale_mode, fallback, on_denied, on_error)
    options = UrlOptions(actor, expires_in, disposition, filename)
    attributes = {"preload": "metadata", **attributes_of("video", attrs, more_attrs)}
    size = attributes.pop("width", width), attributes.pop("height", height)
    chosen = services.profile(profile)
    inside = _Inside.of(chosen, variants, tracks, poster)
    try:
        view = await _view(services, chosen, asset, options, choices, variants=inside.has_variants)
        attributes.update(_size(view.known, *size))
        return await _player("video", view, inside, attributes, placeholder, prefer_placeholder, strict=strict)
    except _NoMarkup:
        return Markup()


async def audio_tag(
    services: Services,
    profile: str | type[Profile],
    asset: AssetOrId | None,
    variants: Sequence[Any] = (),
    tracks: Sequence[Mapping[str, Any]] = (),
    placeholder: str | None = None,
    *,
    prefer_placeholder: bool = False,
    actor: Any = None,
    expires_in: int | None = None,
    disposition: str | None = None,
    filename: str | None = None,
    stale_mode: str = "fallback_original",
    fallback: str = "original",
    strict: bool = False,
    on_denied: str = "raise",
    on_error: str = "placeholder",
    attrs: Mapping[str, Any] | None = None,
    **more_attrs: Any,
) -> Markup:
    """Return ``<audio>`` with a ``<source>`` per ready variant and the original as the last one.

    As :func:`video_tag`, without poster and size. ``controls`` is set unless ``controls=False``: without it the element
    shows nothing. A source of unknown type has the type ``audio/mpeg``.

    Raises:
        Unauthorized: and the other errors of :func:`video_tag`.
    """
    choices = _Choices(stale_mode, fallback, on_denied, on_error)
    options = UrlOptions(actor, expires_in, disposition, filename)
    attributes = {"controls": True, "preload": "metadata", **attributes_of("audio", attrs, more_attrs)}
    chosen = services.profile(profile)
    inside = _Inside.of(chosen, variants, tracks, None)
    try:
        view = await _view(services, chosen, asset, options, choices, variants=inside.has_variants)
        return await _player("audio", view, inside, attributes, placeholder, prefer_placeholder, strict=strict)
    except _NoMarkup:
        return Markup()


async def _view(
    services: Services,
    profile: type[Profile],
    asset: AssetOrId | None,
    options: UrlOptions,
    choices: _Choices,
    *,
    variants: bool,
) -> _View:
    """Return the view of an asset. One that is not validated yet, or was rejected, is never rendered.

    Args:
        variants: whether any variant is to be rendered.
    """
    loaded: LoadedAsset | None = None
    if asset is not None:
        try:
            loaded = await load(services, profile, asset, variants=variants)
        except (NotFound, ProfileMismatch) as error:
            _failed(error, asset, choices.on_error)
    known = None if loaded is None else loaded.row
    shown = loaded if known is not None and known.state in DELIVERABLE else None
    return _View(services, profile, known, shown, options, choices)


def _failed(error: RindleError, asset: AssetOrId, on_error: str, variant: str | None = None) -> None:
    """Log an error of one asset; return when the tag is to be rendered without the object.

    Raises:
        RindleError: ``on_error`` is ``"raise"``.
        _NoMarkup: it is ``"omit"``.
    """
    if on_error == "raise":
        raise error
    log.warning("media cannot be rendered", extra=_facts(error, asset, variant))
    if on_error == "omit":
        raise _NoMarkup from error


def _facts(error: RindleError, asset: AssetOrId, variant: str | None = None) -> dict[str, Any]:
    profile = asset.profile if isinstance(asset, MediaAsset) else None
    return {"asset_id": id_of_asset(asset), "profile": profile, "variant": variant, "code": error.code}


# --- players -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Inside:
    """What a player contains: its sources in order, its tracks, and its poster.

    Attributes:
        named_poster: the variant that is the poster.
        poster: URL of a poster that is no variant.
    """

    sources: Sequence[_Source]
    tracks: Sequence[Markup]
    named_poster: str | None
    poster: str | None

    @property
    def has_variants(self) -> bool:
        """Whether any variant is to be rendered."""
        return bool(self.sources) or self.named_poster is not None

    @classmethod
    def of(
        cls, profile: type[Profile], variants: Sequence[Any], tracks: Sequence[Mapping[str, Any]], poster: str | None
    ) -> _Inside:
        """Check a caller's arguments.

        Raises:
            UnknownVariant: the profile declares no variant of a name.
            InvalidArgument: a source or a track is invalid.
        """
        sources = _sources(profile, variants)
        if any(source.has_widths or source.sizes is not None for source in sources):
            raise InvalidArgument(
                "a source of a video or audio tag has one name and no sizes; use sizes with picture_tag only",
                detail={"option": "variants"},
            )
        rendered = [_track(item) for item in tracks]
        if poster is None or "/" in poster or ":" in poster:
            return cls(sources, rendered, None, poster)
        profile.spec(poster)
        return cls(sources, rendered, poster, None)


async def _player(
    element: str,
    view: _View,
    inside: _Inside,
    attributes: dict[str, Any],
    placeholder: str | None,
    prefer_placeholder: bool,
    *,
    strict: bool,
) -> Markup:
    """Return ``<video>`` or ``<audio>`` with its sources and tracks."""
    unknown_type = "audio/mpeg" if element == "audio" else None
    servable = view.servable()

    sources: list[Markup] = []
    stream = await view.stream(strict=strict)
    if stream is not None:
        sources.append(_tag("source", {"type": HLS_MIME, "src": stream}))
    for source in inside.sources if stream is None else ():
        row = servable.get(source.names[0])
        if row is not None and (url := await view.variant(row)) is not None:
            kind = source.type or row.content_type or unknown_type
            sources.append(_tag("source", {"media": source.media, "type": kind, "src": url}))
    src, kind = None if placeholder == "auto" else placeholder or None, None
    if stream is not None:
        src = src if prefer_placeholder else None
    elif src is None or not prefer_placeholder:
        original = await view.original()
        if original is not None and view.asset is not None:
            src, kind = original, view.asset.content_type or unknown_type
    view.require(sources, src)
    poster = inside.poster
    if inside.named_poster is not None and (row := servable.get(inside.named_poster)) is not None:
        # The disposition of the video does not apply to its poster image.
        poster = await view.variant(row, UrlOptions(view.options.actor, view.options.expires_in))
    if sources and src is not None:
        # With src on the element itself, browsers ignore the sources.
        sources.append(_tag("source", {"type": kind, "src": src}))
        src = None
    start = _tag(element, {**attributes, "poster": poster, "src": src})
    return start + Markup().join([*sources, *inside.tracks]) + Markup(f"</{element}>")  # noqa: S704 - a name of ours


def _track(item: Any) -> Markup:
    """Return the ``<track>`` of one entry of ``tracks``."""
    if not isinstance(item, Mapping) or not item.get("src") or item.keys() - _TRACK_KEYS:
        raise InvalidArgument(
            'a track is {"src": ..., "kind": ..., "srclang": ..., "label": ..., "default": ...}; only src is required',
            detail={"option": "tracks"},
        )
    return _tag("track", item)


# --- sources -----------------------------------------------------------------------------------------------------


def _sources(profile: type[Profile], variants: Sequence[Any]) -> list[_Source]:
    """Read ``variants``. A mistake in it is one of the template, so it is raised whatever the asset is.

    Raises:
        UnknownVariant: the profile declares no variant of a name.
        InvalidArgument: an entry is not a source.
    """
    if isinstance(variants, str):
        raise InvalidArgument("variants must be a list of sources", detail={"option": "variants"})
    wanted = [_source(item) for item in variants]
    for source in wanted:
        for name in source.names:
            profile.spec(name)
    return wanted


def _source(item: Any) -> _Source:
    """Read one entry of ``variants``."""
    if isinstance(item, str):
        item = {"name": item}
    elif isinstance(item, tuple | list) and len(item) == 2:
        item = {"name": item[0], "media": item[1]}
    if not isinstance(item, Mapping) or "name" not in item or item.keys() - _SOURCE_KEYS:
        raise InvalidArgument(
            'a source is "name", ("name", "media query") or {"name": ..., "media": ..., "sizes": ..., "type": ...}',
            detail={"option": "variants"},
        )
    name = item["name"]
    has_widths = not isinstance(name, str)
    names = tuple(name) if isinstance(name, Iterable) and has_widths else (name,)
    if not names or not all(isinstance(one, str) for one in names):
        raise InvalidArgument("the name of a source is a string or a list of strings", detail={"option": "variants"})
    return _Source(names, has_widths, item.get("media"), item.get("sizes"), item.get("type"))


async def _image_source(view: _View, source: _Source, servable: Mapping[str, MediaVariant]) -> list[Markup]:
    """Return the ``<source>`` of an image, or nothing when none of its variants can be delivered."""
    candidates: list[str] = []
    types: set[str | None] = set()
    for row in (servable[name] for name in source.names if name in servable):
        if source.has_widths and not row.width:
            continue  # browsers treat a candidate without a width as the 1x image
        url = await view.variant(row)
        if url is None:
            continue
        # Spaces and commas separate candidates.
        address = url.replace(" ", "%20").replace(",", "%2C")
        candidates.append(f"{address} {row.width}w" if source.has_widths else address)
        types.add(row.content_type)
    if not candidates:
        return []
    facts = {
        "media": source.media,
        "sizes": source.sizes,
        "srcset": ", ".join(candidates),
        # Only a type that all candidates share: a browser skips the whole source by it.
        "type": source.type or (types.pop() if len(types) == 1 else None),
    }
    return [_tag("source", facts)]


def _placeholder(asset: MediaAsset | None, placeholder: str | None) -> str | None:
    """Return the URL of the placeholder. ``asset`` is one that may be delivered, or ``None``: a rejected original has
    no preview on a page, and before validation there is none."""
    if placeholder != "auto":
        return placeholder or None
    stored = None if asset is None else asset.media_metadata
    found = stored.get("placeholder") if isinstance(stored, Mapping) else None
    return found if isinstance(found, str) and found.startswith("data:image/") else None


# --- elements ----------------------------------------------------------------------------------------------------


def _size(asset: MediaAsset | None, width: Any, height: Any) -> dict[str, Any]:
    """Return the requested ``width`` and ``height``, completed in the proportions of the original."""
    known = (asset.width, asset.height) if asset is not None and asset.width and asset.height else None
    if width is None and height is None:
        return {} if known is None else {"width": known[0], "height": known[1]}
    if height is None:
        height = _in_proportion(width, known)
    elif width is None:
        width = _in_proportion(height, known and known[::-1])
    return {"width": width, "height": height}


def _in_proportion(side: Any, known: tuple[int, int] | None) -> int | None:
    if known is None or isinstance(side, bool) or not isinstance(side, int):
        return None
    return max(1, round(side * known[1] / known[0]))


def _tag(name: str, attributes: Mapping[str, Any]) -> Markup:
    """Return an empty element; attributes sorted by name, ``src`` last."""
    parts = [name]
    for key in sorted(attributes, key=lambda key: (key == "src", key)):
        value = attributes[key]
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{_escaped(value)}"')
    # Names were matched against a pattern, and values are escaped.
    return Markup(f"<{' '.join(parts)}>")  # noqa: S704


def _escaped(value: Any) -> str:
    """Return ``value`` for a quoted attribute, escaped exactly once.

    Markup is unescaped first: it may be escaped already, and it may contain quotes.
    """
    text = Markup(value).unescape() if hasattr(value, "__html__") else str(value)  # noqa: S704
    return str(escape(text))
