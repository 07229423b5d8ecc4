"""Rebuild variants after a change of recipes, of declarations, or after objects were lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Unpack

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from rindle import outbox
from rindle.db import variants as rows
from rindle.db.direct_uploads import is_stored
from rindle.db.models import MediaAsset, MediaVariant
from rindle.db.transitions import lock_asset, recompute
from rindle.errors import RindleError, UnknownFilters, UnknownVariant
from rindle.operations.keywords import NoOthers
from rindle.operations.maintenance.sweep import (
    PAGE,
    Page,
    ProfileOptions,
    Sweep,
    SweepFailure,
    SweepReport,
    SweepRun,
    run_here,
)
from rindle.profile import Profile
from rindle.services import Services
from rindle.states import DELIVERABLE, AssetState, VariantState

#: States that are rebuilt; failed and cancelled variants belong to ``requeue``.
_REPAIRABLE = (VariantState.STALE, VariantState.MISSING)


class RegenerateOptions(ProfileOptions):
    """Options of the sweep, beside the profile.

    Attributes:
        variant_name: only variants of this name; all when ``None``.
        detect: first mark ready variants whose recipe changed as ``stale``.
    """

    variant_name: str | None = None
    detect: bool = True


class RegenerateReport(SweepReport):
    """Outcome of ``regenerate_variants``: variants queued, assets with nothing to rebuild, assets that failed."""

    enqueued: int = 0
    skipped: int = 0
    errors: int = 0


#: An asset: id, profile, state, kind, tracks, digest of its recipes.
_AssetRow = Row[str, str, str, str, bool | None, bool | None, str | None]
#: A variant: asset, name, state, digest.
_VariantRow = Row[str, str, str, str]


class RegenerateVariants(Sweep[RegenerateOptions, RegenerateReport]):
    """Queues stale and missing variants, and newly declared ones, of assets that can be delivered.

    Ready variants whose recipe changed become ``stale`` first. A page reads its rows in two queries; only an asset with
    something to do is locked, in a transaction of its own.
    """

    name = "regenerate-variants"
    title = "Regenerate variants"
    options, report = RegenerateOptions, RegenerateReport

    def check(self, services: Services, options: RegenerateOptions) -> None:
        """Refuse an unknown profile, and a variant that no examined profile declares."""
        _check_names(services, options.profile, options.variant_name)

    async def page(self, run: SweepRun[RegenerateOptions], cursor: str) -> Page[RegenerateReport]:
        """Do the assets of the next ids."""
        services, options = run.services, run.options
        assets, variants = await services.database.read(_read_page, cursor, options.profile)
        of_asset: Mapping[str, list[_VariantRow]] = defaultdict(list)
        for variant in variants:
            of_asset[variant[0]].append(variant)
        enqueued = skipped = 0
        failures = []
        for asset in assets:
            if asset[1] not in services.profiles:
                continue
            if not _is_due(asset, of_asset[asset[0]], services.profile(asset[1]), options):
                skipped += 1
                continue
            try:
                due = await services.database.write(_regenerate, services, asset[0], options)
            except RindleError as error:
                failures.append(SweepFailure(item=asset[0], code=error.code))
                continue
            enqueued += due
            skipped += due == 0
        return Page(
            RegenerateReport(enqueued=enqueued, skipped=skipped, errors=len(failures)),
            next_cursor=assets[-1][0] if len(assets) == PAGE else None,
            failures=tuple(failures),
        )


async def regenerate_variants(
    services: Services,
    *,
    profile: str | None = None,
    variant_name: str | None = None,
    detect: bool = True,
    **others: Unpack[NoOthers],
) -> RegenerateReport:
    """Detect drift, plan missing declarations, queue stale and missing variants; see ``Rindle.regenerate_variants``."""
    if others:
        raise UnknownFilters(
            f"regenerate_variants has no filter {', '.join(sorted(others))}", detail={"filters": sorted(others)}
        )
    _check_names(services, profile, variant_name)
    options = RegenerateOptions(profile=profile, variant_name=variant_name, detect=detect)
    return (await run_here(services, RegenerateVariants(), options)).report


def _check_names(services: Services, profile: str | None, variant_name: str | None) -> None:
    """Refuse an unknown profile, and a variant that no examined profile declares: a typing error.

    Raises:
        UnknownProfile, UnknownVariant: there is none of that name.
    """
    examined = list(services.profiles) if profile is None else [services.profile(profile)]
    if variant_name is None or any(variant_name in one.variants for one in examined):
        return
    known = sorted({name for one in examined for name in one.variants})
    where = "no profile declares" if profile is None else f"profile {profile!r} does not declare"
    raise UnknownVariant(
        f"{where} a variant {variant_name[:64]!r}; there are: {', '.join(known) or 'none'}",
        detail={"variant": variant_name[:64]},
    )


def _read_page(session: Session, after: str, profile: str | None) -> tuple[Sequence[_AssetRow], Sequence[_VariantRow]]:
    """Return the next assets by id, and their variants."""
    asset, variant = MediaAsset, MediaVariant
    statement = select(
        asset.id, asset.profile, asset.state, asset.kind, asset.has_video_track, asset.has_audio_track,
        asset.recipe_digest,
    ).where(is_stored())  # fmt: skip
    if profile is not None:
        statement = statement.where(asset.profile == profile)
    if after:
        statement = statement.where(asset.id > after)
    assets = session.execute(statement.order_by(asset.id).limit(PAGE)).all()
    variants = session.execute(
        select(variant.asset_id, variant.name, variant.state, variant.recipe_digest).where(
            variant.asset_id.in_([row[0] for row in assets]), variant.dynamic.is_(False)
        )
    ).all()
    return assets, variants


def _is_due(
    asset: _AssetRow, variants: Collection[_VariantRow], profile: type[Profile], options: RegenerateOptions
) -> bool:
    """Whether an asset may need something; it is decided again under its lock."""
    _, _, state, kind, has_video, has_audio, digest = asset
    if AssetState(state) not in DELIVERABLE:
        return False
    if digest != profile.profile_digest():
        return True
    applicable, _ = profile.applicable(kind, has_video, has_audio)
    if not set(_named(applicable, options)) <= {name for _, name, _, _ in variants}:
        return True
    for _, name, variant_state, recipe_digest in variants:
        if name not in profile.variants:
            continue
        if variant_state in _REPAIRABLE and options.variant_name in (None, name):
            return True
        if options.detect and rows.is_outdated(profile, name, variant_state, recipe_digest):
            return True
    return False


def _named(names: Iterable[str], options: RegenerateOptions) -> list[str]:
    return [name for name in names if options.variant_name in (None, name)]


def _regenerate(session: Session, services: Services, asset_id: str, options: RegenerateOptions) -> int:
    """Queue what one asset needs; returns how many variants."""
    asset = lock_asset(session, asset_id)
    if asset is None or AssetState(asset.state) not in DELIVERABLE:
        return 0
    profile = services.profile(asset.profile)
    if options.detect:
        rows.detect_drift(session, asset, profile)
    planned = rows.plan_variants(session, asset, profile, only=options.variant_name)
    wanted = [
        row
        for row in rows.variants_of(session, asset_id)
        if row.state in _REPAIRABLE and row.name in profile.variants and options.variant_name in (None, row.name)
    ]
    rows.requeue_rows(session, asset, wanted, profile)
    recompute(session, asset_id)
    due = [*planned, *wanted]
    for group in sorted({rows.group_of(asset.kind, row) for row in due}):
        outbox.wake_group(session, services.settings, asset, group)
    return len(due)
