"""URLs of originals and variants: the state is checked, the actor authorized, then the URL signed.

Rows decide what may be delivered and the store only signs: no object is read. The decision is made when a URL is made,
not when it is used: access ends when the URL expires, so use short lifetimes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from rindle import telemetry
from rindle.arguments import text_flaw
from rindle.capabilities import capabilities_of, require_delivery
from rindle.db.delivery import is_deliverable_key, is_gone
from rindle.db.ids import AssetOrId
from rindle.db.models import MediaAsset, MediaVariant, is_id, utc_now
from rindle.db.providers import is_only_at_provider
from rindle.delivery.disposition import content_disposition
from rindle.delivery.loading import LoadedAsset, check_profile, load
from rindle.errors import (
    AssetNotDeliverable,
    CapabilityUnsupported,
    InvalidArgument,
    InvalidKey,
    InvalidStorageResponse,
    VariantNotReady,
)
from rindle.plugins import authorize
from rindle.profile import Profile
from rindle.protocols import MAX_URL_SECONDS, DeliverySubject, OwnerRef, Storage
from rindle.security import asset_id_of, is_active_content, mime_of_extension, validate_key
from rindle.services import Services, adapter_name
from rindle.states import DELIVERABLE, UNVALIDATED, WITH_OBJECT, AssetState, VariantState

#: Choices of ``variant_url`` for a variant of an outdated recipe.
STALE_MODES = ("fallback_original", "serve_stale")
#: Choices of ``variant_url`` when the variant has no object.
FALLBACKS = ("original", "none")

#: Length of the text of a UUID. Other forms, such as 32 hexadecimal digits, may be the key of an object.
_ID_CHARS = 36
#: Longest name of an actor that a store is given, in characters; longer names are hashed.
_MAX_SUBJECT_CHARS = 255


@dataclass(frozen=True, slots=True)
class IssuedUrl:
    """A URL with its expiry. Signed URLs are bearer credentials, so ``repr`` does not show them.

    Attributes:
        url: absolute URL.
        expires_at: aware UTC time at which it expires; ``None`` for a public one.
    """

    url: str = field(repr=False)
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class UrlOptions:
    """A caller's options for a URL; see :func:`url`.

    Raises:
        InvalidArgument: ``expires_in`` is not a whole number from 1 to 604800.
    """

    actor: Any = None
    expires_in: int | None = None
    disposition: str | None = None
    filename: str | None = None

    def __post_init__(self) -> None:
        seconds = self.expires_in
        if seconds is None:
            return
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MAX_URL_SECONDS:
            raise InvalidArgument(
                f"expires_in of a URL must be a whole number of seconds from 1 to {MAX_URL_SECONDS}",
                detail={"option": "expires_in", "min": 1, "max": MAX_URL_SECONDS},
            )


@dataclass(frozen=True, slots=True)
class _Target:
    """One object that may be delivered, if the authorizer allows it."""

    key: str
    content_type: str | None
    filename: str
    asset_id: str | None = None
    variant: str | None = None
    uploaded_by: str | None = None
    owners: tuple[OwnerRef, ...] = ()


async def url(
    services: Services,
    profile: str | type[Profile],
    asset_or_key: AssetOrId,
    *,
    actor: Any = None,
    expires_in: int | None = None,
    disposition: str | None = None,
    filename: str | None = None,
    allow_unvalidated: bool = False,
) -> str:
    """Return a URL of an original: signed, or plain when the profile is public.

    A denial or refusal emits no event. A private URL is always signed.

    Args:
        profile: the asset's own.
        asset_or_key: an asset, its id, or a storage key, of which only the syntax is checked. A string of 36
            characters that is a UUID is an id.
        actor: passed to the profile's authorizer; a local URL contains a keyed digest of its
            name as audit data.
        expires_in: lifetime in seconds, 1 to 604800; the profile's ``signed_url_ttl_seconds`` when left out, else the
            setting of that name (900). Public URLs do not expire.
        disposition: ``"attachment"`` makes browsers save the file, ``"inline"`` shows it. Content that is not safe to
            show (SVG, HTML and everything outside common media) is always an attachment.
        filename: name of the saved file; by default an attachment has the asset's name, or the last part of the key.
        allow_unvalidated: also sign an asset that is not validated yet; for review tools, never for public pages.

    Raises:
        NotFound: no asset has this id.
        Unauthorized: the authorizer denied access (with its own code, ``unauthorized`` by default).
        AssetNotDeliverable: not validated yet, quarantined or deleted (``.state``).
        ProfileMismatch: the asset belongs to another profile.
        InvalidKey: the key is invalid: it has a ``..`` or a leading ``/``, for example.
        CapabilityUnsupported: ``delivery_unsupported``: the store cannot sign, has no public address, or cannot bind
            the requested headers.
        InvalidArgument: ``expires_in`` is out of range.
        UnknownProfile: the profile is not registered.
    """
    options = UrlOptions(actor, expires_in, disposition, filename)
    return (await issue_url(services, profile, asset_or_key, options, allow_unvalidated=allow_unvalidated)).url


async def issue_url(
    services: Services,
    profile: str | type[Profile],
    asset_or_key: LoadedAsset | AssetOrId,
    options: UrlOptions,
    *,
    allow_unvalidated: bool = False,
    kind: Literal["object", "progressive"] = "object",
) -> IssuedUrl:
    """Return the URL of an original with its expiry; see :func:`url`.

    Args:
        kind: the kind of the subject of the authorizer: ``progressive`` where the original stands for a stream.
    """
    chosen = services.profile(profile)
    if isinstance(asset_or_key, str) and not (len(asset_or_key) == _ID_CHARS and is_id(asset_or_key)):
        key = validate_key(asset_or_key)
        return await _issue(services, chosen, _Target(key, _type_of_key(key), _basename(key)), options, kind)
    asset = await _loaded(services, chosen, asset_or_key, unvalidated=allow_unvalidated)
    check_deliverable(chosen, asset.row, allow_unvalidated=allow_unvalidated)
    return await _issue(services, chosen, _original(asset), options, kind)


async def variant_url(
    services: Services,
    profile: str | type[Profile],
    asset: AssetOrId,
    variant: MediaVariant | str,
    *,
    actor: Any = None,
    stale_mode: str = "fallback_original",
    fallback: str = "original",
    expires_in: int | None = None,
    disposition: str | None = None,
    filename: str | None = None,
) -> str:
    """Return a URL of a variant, or of the original while the variant has no object.

    Only the object of the returned URL is authorized and signed. What is not loaded (the asset of an id, its variants,
    its owners for an authorizer) is read in one query.

    Args:
        asset: the asset or its id.
        variant: its name or its row.
        stale_mode: effect of a variant that an outdated recipe built, also while its rebuild is queued or running:
            ``"serve_stale"`` delivers the old object until the new one replaces it; with ``"fallback_original"``
            (default) the variant counts as not ready.
        fallback: ``"original"`` (default), or ``"none"`` to raise instead.
        actor: see :func:`url`, also for ``expires_in``, ``disposition`` and ``filename``. The default name of an
            attachment is the asset's name with the variant's extension.

    Raises:
        UnknownVariant: the profile declares no variant of that name; the original is not used instead.
        VariantNotReady: the variant has no object to deliver and ``fallback`` is ``"none"``.
        NotFound: no asset has this id.
        InvalidArgument: an option has an unknown value, or ``variant`` is a row of another asset.
        Unauthorized: and the other errors of :func:`url`; none of them uses the fallback.
    """
    options = UrlOptions(actor, expires_in, disposition, filename)
    issued = await issue_variant_url(
        services, profile, asset, variant, options, stale_mode=stale_mode, fallback=fallback
    )
    return issued.url


async def issue_variant_url(
    services: Services,
    profile: str | type[Profile],
    asset: LoadedAsset | AssetOrId,
    variant: MediaVariant | str,
    options: UrlOptions,
    *,
    stale_mode: str = "fallback_original",
    fallback: str = "original",
) -> IssuedUrl:
    """Return the URL of a variant, or of its fallback, with its expiry; see :func:`variant_url`."""
    check_choice("stale_mode", stale_mode, STALE_MODES)
    check_choice("fallback", fallback, FALLBACKS)
    chosen = services.profile(profile)
    if isinstance(variant, str):
        chosen.spec(variant)
    loaded = await _loaded(services, chosen, asset, variants=isinstance(variant, str))
    check_deliverable(chosen, loaded.row)
    found = _find(loaded, variant)
    if found is not None and is_servable(chosen, found, stale_mode):
        return await _issue(services, chosen, _variant(loaded, found), options)
    if fallback == "none":
        name = variant if isinstance(variant, str) else variant.name
        raise VariantNotReady(
            f"variant {name[:63]!r} of the asset has no object to deliver",
            detail={"variant": name[:63], "state": None if found is None else state_of_variant(chosen, found)},
        )
    return await _issue(services, chosen, _original(loaded), options)


async def _loaded(
    services: Services,
    profile: type[Profile],
    asset: LoadedAsset | AssetOrId,
    *,
    variants: bool = False,
    unvalidated: bool = False,
) -> LoadedAsset:
    if isinstance(asset, LoadedAsset):
        return asset
    return await load(services, profile, asset, variants=variants, unvalidated=unvalidated)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among ``choices``.

    Raises:
        InvalidArgument: with the option and its choices.
    """
    if value not in choices:
        raise InvalidArgument(
            f"{option} must be one of {', '.join(choices)}", detail={"option": option, "choices": list(choices)}
        )


def check_deliverable(profile: type[Profile], asset: MediaAsset, *, allow_unvalidated: bool = False) -> None:
    """Refuse an asset of another profile, and an asset whose state forbids delivery.

    Raises:
        ProfileMismatch: see :func:`check_profile`.
        AssetNotDeliverable: see :data:`rindle.states.DELIVERABLE`.
    """
    check_profile(profile, asset)
    state = AssetState(asset.state)
    if state not in DELIVERABLE and not (allow_unvalidated and state in UNVALIDATED):
        raise AssetNotDeliverable(f"the asset is {state.value} and cannot be delivered", state=state.value)


def is_servable(profile: type[Profile], variant: MediaVariant, stale_mode: str = "fallback_original") -> bool:
    """Whether a variant has an object that may be delivered: the rule of all URLs, tags and routes.

    A build replaces the object of a variant only when the new one is stored, so the old object can be delivered while
    the row is ``stale``, ``queued`` or ``processing``.
    """
    if not variant.storage_key:
        return False
    state = state_of_variant(profile, variant)
    return state == VariantState.READY or (stale_mode == "serve_stale" and state in WITH_OBJECT)


def state_of_variant(profile: type[Profile], variant: MediaVariant) -> str:
    """Return the state of a variant for readers: ``stale`` when the row is ``ready`` and the recipe has changed since.

    The row itself becomes ``stale`` when ``regenerate_variants`` finds it. A variant that the profile no longer
    declares is ``stale`` too. The recipes of dynamic transforms are not declared.
    """
    if variant.state != VariantState.READY or variant.dynamic:
        return variant.state
    is_current = variant.name in profile.variants and variant.recipe_digest == profile.recipe_digest(variant.name)
    return variant.state if is_current else VariantState.STALE.value


def _find(asset: LoadedAsset, variant: MediaVariant | str) -> MediaVariant | None:
    if isinstance(variant, str):
        return asset.variants.get(variant)
    if variant.asset_id != asset.row.id:
        # Otherwise the authorizer decides about one asset, and the URL delivers the object of another.
        raise InvalidArgument("the variant belongs to another asset", detail={"option": "variant"})
    return variant


def _original(asset: LoadedAsset) -> _Target:
    row, key = asset.row, asset.row.storage_key
    if is_only_at_provider(row):
        raise AssetNotDeliverable(
            "the bytes of this asset are at its streaming provider alone; use streaming_url", state=row.state
        )
    return _Target(
        key,
        row.content_type or _type_of_key(key),
        _name_of(row) or _basename(key),
        row.id,
        uploaded_by=row.uploaded_by,
        owners=asset.owners,
    )


def _name_of(asset: MediaAsset) -> str | None:
    """Return the uploader's own name of the file; assets of earlier releases have the sanitised one only."""
    return asset.display_name or asset.filename


def _variant(asset: LoadedAsset, variant: MediaVariant) -> _Target:
    key = variant.storage_key or ""
    name = _name_of(asset.row) or variant.name
    stem = name.rpartition(".")[0] or name
    return _Target(
        key,
        variant.content_type or _type_of_key(key),
        stem + _suffix(key),
        asset.row.id,
        variant.name,
        uploaded_by=asset.row.uploaded_by,
        owners=asset.owners,
    )


async def _issue(
    services: Services,
    profile: type[Profile],
    target: _Target,
    options: UrlOptions,
    kind: Literal["object", "progressive"] = "object",
) -> IssuedUrl:
    policy, storage = profile.delivery_policy(), services.storage(profile)
    mode: Literal["public", "private"] = "public" if policy.public else "private"
    header = content_disposition(
        options.disposition,
        options.filename,
        default_filename=target.filename,
        content_type=target.content_type,
    )
    subject = DeliverySubject(
        profile.name,
        mode,
        target.key,
        target.asset_id,
        target.variant,
        kind=kind,
        uploaded_by=target.uploaded_by,
        owners=target.owners,
    )
    await authorize(policy.authorizer, options.actor, "deliver", subject)
    if policy.public:
        issued = IssuedUrl(await _public(storage, target, options), None)
    else:
        seconds = options.expires_in or policy.signed_url_ttl_seconds or services.settings.signed_url_ttl_seconds
        # Taken before the store signs, so that the URL never expires before this time.
        expires_at = utc_now().replace(microsecond=0) + timedelta(seconds=seconds)
        issued = IssuedUrl(await _signed(storage, target, options, header, seconds), expires_at)
    facts = {"profile": profile.name, "adapter": adapter_name(storage), "mode": mode}
    telemetry.emit("rindle.delivery.signed", facts)
    return issued


async def _public(storage: Storage, target: _Target, options: UrlOptions) -> str:
    if options.disposition is not None or options.filename is not None:
        raise _cannot_bind_headers(storage, "an unsigned URL cannot carry a disposition or filename")
    return await _make_url(storage, target.key, public=True)


async def _signed(storage: Storage, target: _Target, options: UrlOptions, header: str | None, seconds: int) -> str:
    require_delivery(storage, "signed_url")
    wanted: dict[str, Any] = {"expires_in": seconds, "subject": _subject_name(options.actor)}
    if "response_headers" in capabilities_of(storage):
        # The detected type, not the type that the client declared for the object.
        wanted.update(content_disposition=header, content_type=target.content_type)
    elif options.disposition is not None or options.filename is not None:
        raise _cannot_bind_headers(storage, "this store's URLs cannot carry a disposition or filename")
    elif target.content_type is not None and is_active_content(target.content_type):
        raise _cannot_bind_headers(storage, "this store's URLs cannot force a download, as this file type requires")
    return await _make_url(storage, target.key, **wanted)


def _cannot_bind_headers(storage: Storage, why: str) -> CapabilityUnsupported:
    return CapabilityUnsupported(
        f"{why}; leave the option out, or use private delivery from a store that supports it",
        capability="response_headers",
        code="delivery_unsupported",
        adapter=adapter_name(storage),
    )


async def _make_url(storage: Storage, key: str, **wanted: Any) -> str:
    """Call the adapter and check that it keeps its contract."""
    facts = {"adapter": adapter_name(storage), "operation": "url"}
    address = await storage.url(key, **wanted)
    if not isinstance(address, str) or not address:
        raise InvalidStorageResponse(
            f"the storage adapter {facts['adapter']!r} did not return a URL", adapter=facts["adapter"], detail=facts
        )
    return address


def _subject_name(actor: Any) -> str | None:
    """Return the name of an actor for the store: the string itself, ``.id`` or a digest, no serialised object."""
    if actor is None:
        return None
    name = actor if isinstance(actor, str) else getattr(actor, "id", None)
    if name is not None and text_flaw(str(name), max_chars=_MAX_SUBJECT_CHARS) is None:
        return str(name)
    return hashlib.sha256(repr(actor).encode(errors="surrogatepass")).hexdigest()


def _basename(key: str) -> str:
    return key.rpartition("/")[2]


def _suffix(key: str) -> str:
    _, dot, extension = _basename(key).rpartition(".")
    return dot + extension if dot else ""


def _type_of_key(key: str) -> str | None:
    return mime_of_extension(_suffix(key))


async def may_be_served(services: Services, key: str) -> bool:
    """Whether ``key`` belongs to an asset that was validated and not rejected; public delivery checks this first."""
    try:
        validate_key(key)
    except InvalidKey:
        return False
    return await services.database.read(is_deliverable_key, key)


async def outlives_its_asset(services: Services, key: str) -> bool:
    """Whether ``key`` belongs to an asset that was deleted: URLs and tickets that were signed before end with it."""
    asset_id = asset_id_of(key)
    return asset_id is not None and await services.database.read(is_gone, asset_id)
