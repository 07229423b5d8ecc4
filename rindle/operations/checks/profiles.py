"""Checks of the declared profiles, and of the capabilities of their storages and processors.

The programs on this machine are checked in ``host``; whether a storage answers, in ``storage``.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.orm import Session

from rindle.capabilities import PROCESSOR_CAPABILITIES, capabilities_of
from rindle.operations.checks.report import DATABASE_FIX, Planned, Result, Subject
from rindle.operations.findings import unregistered_profiles
from rindle.profile import DIRECT_CREATOR_UPLOAD, Profile
from rindle.providers import fetched_by


def planned(subject: Subject) -> list[Planned]:
    """Return the checks of the declarations."""
    return [
        Planned("profiles.load", "profiles", _profiles_load),
        Planned("profiles.capability_mismatch", "profiles", _profiles_capabilities),
        Planned("profiles.unregistered", "profiles", _profiles_unregistered, leaves_process=True, fix=DATABASE_FIX),
        Planned("delivery.support", "delivery", _delivery_support),
    ]


async def _profiles_load(subject: Subject) -> Result:
    names = subject.services.profiles.names
    if subject.unknown_profiles:
        return Result(
            "error",
            f"unknown profile {', '.join(subject.unknown_profiles)}",
            f"choose from the registered ones: {', '.join(names) or 'none'}",
            {"unknown": list(subject.unknown_profiles), "registered": names},
        )
    if not names:
        return Result("warn", "no profile is registered", "pass your Profile classes as Rindle(profiles=[...])")
    return Result("ok", f"{len(subject.profiles)} loaded: {', '.join(sorted(one.name for one in subject.profiles))}")


async def _profiles_unregistered(subject: Subject) -> Result:
    known = subject.services.profiles.names

    def check(session: Session) -> Result:
        found = unregistered_profiles(session, known)
        if not found:
            return Result("ok", "every asset has a registered profile")
        counts = ", ".join(f"{one.profile} ({one.assets} assets)" for one in found)
        return Result(
            "warn",
            f"assets have profiles that are not registered: {counts}",
            "add the class to Rindle(profiles=[...]); without it nothing is built, delivered or deleted",
            {"profiles": {one.profile: one.assets for one in found}},
        )

    return await subject.read(check)


async def _profiles_capabilities(subject: Subject) -> Result:
    problems: list[str] = []
    unused: list[str] = []
    for profile in subject.profiles:
        offered = capabilities_of(subject.services.storage(profile))
        problems += [
            f"{profile.name}: its storage does not offer {need!r}"
            for need in ("head", "read_range")
            if need not in offered
        ]
        problems += _streaming_problems(subject, profile, offered)
        if "presigned_put" not in offered:
            unused.append(f"{profile.name}: its storage does not accept direct uploads")
        # For profiles without their own processor the bundled engines build every kind of variant.
        declared = profile.processor.capabilities if profile.processor is not None else PROCESSOR_CAPABILITIES
        for name, spec in profile.variants.items():
            lacking = sorted(spec.required_capabilities - declared)
            if lacking:
                problems.append(f"{profile.name}.{name}: no processor offers {', '.join(lacking)}")
    if problems:
        return Result(
            "error",
            "; ".join(problems),
            "use another storage, or a processor that can build the variant",
            {"problems": problems},
        )
    if unused:
        return Result(
            "warn",
            "; ".join(unused),
            "pass base_url and secrets to LocalStorage, or use server-side uploads only",
            {"profiles": unused},
        )
    return Result("ok", "storages and processors support the declared profiles")


def _streaming_problems(subject: Subject, profile: type[Profile], offered: Collection[str]) -> list[str]:
    """Return what a profile requires of its streaming provider, and the provider or the storage lacks."""
    policy = profile.delivery_policy().streaming
    if policy is None:
        return []
    ingest = policy.ingest_mode if policy.ingest_mode == DIRECT_CREATOR_UPLOAD else f"{policy.ingest_mode}_ingest"
    capabilities = subject.services.provider(policy.provider).capabilities()
    problems = [
        f"{profile.name}: the streaming provider {policy.provider!r} does not offer {need!r}"
        for need in (f"{policy.playback_policy}_playback", ingest)
        if need not in capabilities
    ]
    if (
        policy.ingest_mode != DIRECT_CREATOR_UPLOAD
        and fetched_by(offered, is_public=profile.delivery_policy().public) is None
    ):
        problems.append(f"{profile.name}: its storage has no address from which {policy.provider!r} can fetch")
    return problems


async def _delivery_support(subject: Subject) -> Result:
    problems = []
    for profile in subject.profiles:
        need = "public_url" if profile.delivery_policy().public else "signed_url"
        if need not in capabilities_of(subject.services.storage(profile)):
            way = "public" if need == "public_url" else "private"
            problems.append(f"{profile.name} is {way}, but its storage does not offer {need!r}")
    if problems:
        return Result(
            "error",
            "; ".join(problems),
            "use another storage, pass base_url and secrets to it, or declare delivery={'public': ...}",
            {"problems": problems},
        )
    return Result("ok", "every profile can be delivered")
