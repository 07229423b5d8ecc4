"""Checks of what the application declares: profiles, and whether their storages and processors can do it.

Whether this machine has the programs for it is the business of ``host``; whether a storage answers, of ``storage``.
"""

from __future__ import annotations

from rindle.capabilities import PROCESSOR_CAPABILITIES, capabilities_of
from rindle.operations.checks.report import Planned, Result, Subject


def planned(subject: Subject) -> list[Planned]:
    """Return the checks of the declarations."""
    return [
        Planned("profiles.load", "profiles", _profiles_load),
        Planned("profiles.capability_mismatch", "profiles", _profiles_capabilities),
        Planned("delivery.support", "delivery", _delivery_support),
    ]


async def _profiles_load(subject: Subject) -> Result:
    names = subject.services.profiles.names
    if subject.unknown_profiles:
        return Result(
            "error",
            f"no profile is called {', '.join(subject.unknown_profiles)}",
            f"registered here: {', '.join(names) or 'none'}",
            {"unknown": list(subject.unknown_profiles), "registered": names},
        )
    if not names:
        return Result("warn", "no profile is registered", "pass your Profile classes as Rindle(profiles=[...])")
    return Result("ok", f"{len(subject.profiles)} loaded: {', '.join(sorted(one.name for one in subject.profiles))}")


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
        if "presigned_put" not in offered:
            unused.append(f"{profile.name}: its storage takes no direct uploads")
        # The bundled engines, for profiles without a processor of their own, build every kind of variant.
        declared = profile.processor.capabilities if profile.processor is not None else PROCESSOR_CAPABILITIES
        for name, spec in profile.variants.items():
            lacking = sorted(spec.required_capabilities - declared)
            if lacking:
                problems.append(f"{profile.name}.{name}: no processor offers {', '.join(lacking)}")
    if problems:
        return Result(
            "error",
            "; ".join(problems),
            "give the profile another storage or a processor that can build the variant",
            {"problems": problems},
        )
    if unused:
        return Result(
            "warn",
            "; ".join(unused),
            "give a LocalStorage its base_url and secrets, or upload through the server only",
            {"profiles": unused},
        )
    return Result("ok", "storages and processors can do what the profiles declare")


async def _delivery_support(subject: Subject) -> Result:
    problems = []
    for profile in subject.profiles:
        need = "public_url" if profile.delivery_policy().public else "signed_url"
        if need not in capabilities_of(subject.services.storage(profile)):
            way = "public" if need == "public_url" else "private"
            problems.append(f"{profile.name} is {way} and its storage does not offer {need!r}")
    if problems:
        return Result(
            "error",
            "; ".join(problems),
            "use another storage, give it a delivery address and secret, or declare delivery={'public': ...}",
            {"problems": problems},
        )
    return Result("ok", "every profile can be delivered")
