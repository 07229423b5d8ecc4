"""Checks of streaming providers: their configuration, a request to them, and what is left at them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from rindle.db.models import MediaAsset, MediaProviderAsset, utc_now
from rindle.db.providers import have_table
from rindle.errors import MissingConfig, ProviderQuotaExceeded, ProviderSyncFailed
from rindle.operations.checks.report import DATABASE_FIX, Planned, Result, Subject
from rindle.profile import Profile, StreamingPolicy
from rindle.protocols import ConfigurationChecks
from rindle.services import Services
from rindle.states import ProviderState

#: Age in seconds of a deletion at a provider that is still to be done.
ORPHAN_SECONDS = 3_600
#: Assets that are counted.
COUNTED = 10_000
#: The parts of a configuration, and what is said of one without flaws.
_PARTS: Mapping[str, str] = {
    "credentials": "all credentials are set",
    "signing_key": "playback tokens are signed and verified",
    "webhook_secrets": "webhooks can be verified",
}


def planned(subject: Subject, *, ping: bool) -> list[Planned]:
    """Return the checks of an application with streaming providers; none without.

    Args:
        ping: whether a request is sent to the providers.
    """
    if not subject.services.providers:
        return []
    return [
        *(Planned(f"streaming.{part}", "streaming", _configuration(part)) for part in _PARTS),
        Planned(
            "streaming.smoke_ping",
            "streaming",
            _ping if ping else _no_ping,
            leaves_process=True,
            fix="check that this machine reaches the provider",
        ),
        Planned("streaming.orphans", "streaming", _orphans, leaves_process=True, fix=DATABASE_FIX),
        Planned("delivery.playback_ttl", "delivery", _playback_ttl, leaves_process=True, fix=DATABASE_FIX),
    ]


def streams(profiles: Iterable[type[Profile]]) -> list[tuple[type[Profile], StreamingPolicy]]:
    """Return the profiles that stream, with how they do."""
    found = [(profile, profile.delivery_policy().streaming) for profile in profiles]
    return [(profile, policy) for profile, policy in found if policy is not None]


def _checked(services: Services) -> dict[str, ConfigurationChecks]:
    return {name: one for name, one in services.providers.items() if isinstance(one, ConfigurationChecks)}


def _configuration(part: str) -> Callable[[Subject], Awaitable[Result]]:
    async def check(subject: Subject) -> Result:
        checked = _checked(subject.services)
        if not checked:
            return Result("ok", "not applicable: no registered provider has a configuration of its own")
        tokens = {
            policy.provider for _, policy in streams(subject.services.profiles) if policy.playback_policy == "signed"
        }
        if part == "signing_key" and not tokens & checked.keys():
            return Result("ok", "not applicable: no profile plays with tokens")
        found = []
        for name, provider in checked.items():
            flaws = await subject.off_loop(partial(provider.configuration_flaws, signed=name in tokens))
            found += [(name, flaw) for flaw in flaws if flaw.check == part]
        if not found:
            return Result("ok", _PARTS[part])
        return Result(
            "error",
            "; ".join(f"{name}: {flaw.problem}" for name, flaw in found),
            "; ".join(dict.fromkeys(flaw.fix for _, flaw in found)),
            {"providers": [name for name, _ in found]},
        )

    return check


async def _no_ping(subject: Subject) -> Result:
    return Result("skipped", "no request was sent to the providers; send one with: rindle doctor --streaming")


async def _ping(subject: Subject) -> Result:
    checked = _checked(subject.services)
    for name, provider in checked.items():
        try:
            await provider.ping()
        except ProviderQuotaExceeded as error:
            return Result("error", f"{name} limits the rate of requests ({error.code})", "repeat the check later")
        except MissingConfig as error:
            return Result("error", f"{name}: {error.message}", "see streaming.credentials", {"code": error.code})
        except ProviderSyncFailed as error:
            return Result("error", f"{name}: {error.message}", _fix_of(error), {"code": error.code})
    names = ", ".join(checked)
    return Result("ok", f"{names} accepted a request" if names else "not applicable: no provider offers it")


def _fix_of(error: ProviderSyncFailed) -> str:
    if error.status in (401, 403):
        return "pass the credentials of an access token with read and write permission"
    if error.status is None:
        return "check the network, proxies and certificates between this machine and the provider"
    return "see the status page of the provider, and repeat the check"


async def _orphans(subject: Subject) -> Result:
    row = MediaProviderAsset

    def check(session: Session) -> Result:
        if not have_table(session):
            return Result("ok", "nothing is at a provider")
        before = utc_now() - timedelta(seconds=ORPHAN_SECONDS)
        left = session.scalar(
            select(func.count()).where(
                row.state == ProviderState.DELETED, row.cleanup_pending.is_(True), row.updated_at <= before
            )
        )
        if not left:
            return Result("ok", "every deletion at a provider is done")
        return Result(
            "warn",
            f"{left} deleted assets may still be at their provider, which bills them",
            "find out why it refuses, then: rindle provider-sync",
            {"count": left},
        )

    return await subject.read(check)


async def _playback_ttl(subject: Subject) -> Result:
    settings = subject.services.settings
    wanted = {
        profile.name: policy.playback_ttl_seconds
        or profile.delivery_policy().signed_url_ttl_seconds
        or settings.signed_url_ttl_seconds
        for profile, policy in streams(subject.profiles)
        if policy.playback_policy == "signed"
    }
    row = MediaProviderAsset

    def check(session: Session) -> Result:
        long: dict[str, int] = {}
        for name, seconds in wanted.items() if have_table(session) else ():
            some = (
                select(row.id)
                .join(MediaAsset, MediaAsset.id == row.asset_id)
                .where(row.state == ProviderState.READY, row.profile == name, MediaAsset.duration_ms > seconds * 1_000)
                .limit(COUNTED)
                .subquery()
            )
            if count := session.scalar(select(func.count()).select_from(some)):
                long[name] = count
        if not long:
            return Result("ok", "no playback outlives its token")
        counts = ", ".join(f"{name}: {count} assets longer than {wanted[name]} s" for name, count in long.items())
        return Result(
            "warn",
            f"playback stops when its token expires: {counts}",
            "raise playback_ttl_seconds in delivery.streaming of the profile",
            {"profiles": long},
        )

    return await subject.read(check)
