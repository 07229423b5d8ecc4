"""Activities of ``ProviderPushWorkflow``: what is done at a streaming provider, and what the rows remember of it.

Ids of providers, source URLs and tokens never leave this process: results hold states and reasons.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from temporalio import activity

from rindle import messages, telemetry
from rindle.activities.event_family import EventFamily
from rindle.activities.steps import attempt_facts
from rindle.capabilities import capabilities_of
from rindle.crash_points import crash_point
from rindle.db import providers as rows
from rindle.db.models import MediaProviderAsset
from rindle.errors import (
    RindleError,
    SourceNotPublic,
    StreamingNotConfigured,
    UnknownProfile,
)
from rindle.messages import ProviderEvents, ProviderFailure, ProviderPushInput, ProviderStatus
from rindle.profile import Profile, StreamingPolicy
from rindle.protocols import StreamingProvider
from rindle.providers import CLOCK_SKEW, fetched_by, give_up_if_stuck, poll, remove_from_provider
from rindle.services import Services
from rindle.states import OPEN_PROVIDER_STATES, ProviderState

log = logging.getLogger(__name__)


class StreamingActivities:
    """Activities of ``ProviderPushWorkflow``."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._database = services.database

    def steps(self) -> list[Callable[..., Any]]:
        """Return the SQL activities, for the workflows' queue."""
        return [self.ensure_provider_row, self.fail_provider_asset]

    def calls(self) -> list[Callable[..., Any]]:
        """Return the activities that call providers, for their queue."""
        return [self.create_provider_asset, self.poll_provider_asset, self.apply_provider_events]

    @activity.defn(name=messages.ENSURE_PROVIDER_ROW)
    async def ensure_provider_row(self, order: ProviderPushInput) -> ProviderStatus:
        """Insert the row of the asset at its provider, or read it."""
        try:
            profile, policy = self._declared(order)
        except (StreamingNotConfigured, UnknownProfile) as error:
            return ProviderStatus(asset_id=order.asset_id, outcome="skipped", reason=error.code)
        if policy.ingest_mode == "server_push":
            row = await self._database.write(rows.ensure, order.asset_id, profile, policy)
        else:
            row = await self._read(order)
        return self._status(order, row)

    @activity.defn(name=messages.CREATE_PROVIDER_ASSET)
    async def create_provider_asset(self, order: ProviderPushInput) -> ProviderStatus:
        """Create the asset at the provider, unless an earlier attempt has.

        The row is ``uploading`` before the call, so that an attempt after a lost answer or a crash searches the
        provider for the row's passthrough first: one asset is created, never two.

        Raises:
            SourceNotPublic: the provider cannot fetch the source.
            ProviderSyncFailed, ProviderQuotaExceeded: the provider did not create it; retried if that can help.
        """
        profile, policy = self._declared(order)
        provider = self._services.provider(policy.provider)
        source = await self._database.read(rows.push_source, order.asset_id, profile, policy.source_variant)
        if isinstance(source, str):
            return self._stale(order, source)
        url = await self._source_url(profile, source.key)
        found = await self._database.write(rows.begin_create, order.asset_id, profile.name, policy.provider)
        if found is None:
            return self._status(order, await self._read(order))
        row, may_exist = found
        crash_point("provider.uploading")
        passthrough = row.mux_passthrough or ""
        facts = {"profile": profile.name, "provider": policy.provider, "asset_id": order.asset_id}
        with EventFamily("rindle.provider.ingest", facts):
            made = None
            if may_exist:
                made = await provider.find_by_passthrough(passthrough, since=row.updated_at - CLOCK_SKEW)
            if made is None:
                made = await provider.create_asset(url, policy=policy.playback_policy, passthrough=passthrough)
                crash_point("provider.created")
        drift = await self._database.write(rows.created, order.asset_id, profile, policy, source, made, passthrough)
        if drift is not None:
            await _discard(provider, made.id)
            if drift != rows.CREATED_BEFORE:
                return self._stale(order, drift)
        return self._status(order, await self._read(order))

    @activity.defn(name=messages.POLL_PROVIDER_ASSET)
    async def poll_provider_asset(self, order: ProviderPushInput) -> ProviderStatus:
        """Read the state of the asset at the provider; an asset that does not change any more is given up.

        A failed call is recorded on the row and repeated by the next poll.

        Raises:
            ProviderQuotaExceeded: retried after the pause that the provider requests.
        """
        row = await self._read(order)
        status = self._status(order, row)
        if row is None or status.outcome or row.provider_asset_id is None:
            return status
        await poll(self._services, row)
        row = await self._read(order)
        if row is not None and await give_up_if_stuck(self._services, row):
            row = await self._read(order)
        return self._status(order, row)

    @activity.defn(name=messages.APPLY_PROVIDER_EVENTS)
    async def apply_provider_events(self, order: ProviderEvents) -> None:
        """Apply webhooks, each in a transaction of its own and exactly once.

        An asset that the provider made although its row is ``deleted`` is deleted there.
        """
        for outbox_id in order.outbox_ids:
            applied = await self._database.write(rows.apply_event, outbox_id)
            crash_point("provider.event_applied")
            if applied is None:
                continue
            event, outcome, _ = applied
            facts = {"provider": event["provider"], "kind": event["kind"], "outcome": outcome}
            step = "exception" if outcome == "errored" else "processed"
            telemetry.emit(f"rindle.provider.webhook.{step}", facts)
        row = await self._read(order.push)
        if row is not None and row.cleanup_pending:
            await remove_from_provider(self._services, row)

    @activity.defn(name=messages.FAIL_PROVIDER_ASSET)
    async def fail_provider_asset(self, order: ProviderFailure) -> ProviderStatus:
        """Record on the row why the push ended; once only: a repetition must not undo a retry in between."""
        push, failure = order.push, order.failure
        named = (push.asset_id, push.profile, push.provider)
        await self._database.write(rows.give_up_once, *named, failure, attempt_facts())
        status = self._status(push, await self._read(push))
        return status if status.outcome else status.model_copy(update={"outcome": "errored", "reason": failure.code})

    def _declared(self, order: ProviderPushInput) -> tuple[type[Profile], StreamingPolicy]:
        profile = self._services.profile(order.profile)
        policy = profile.delivery_policy().streaming
        if policy is None or policy.provider != order.provider:
            raise StreamingNotConfigured(
                f"profile {profile.name!r} does not stream through {order.provider!r}",
                detail={"profile": profile.name, "requested_kind": "server_push"},
            )
        return profile, policy

    async def _read(self, order: ProviderPushInput) -> MediaProviderAsset | None:
        return await self._database.read(rows.find, order.asset_id, order.profile, order.provider)

    def _status(self, order: ProviderPushInput, row: MediaProviderAsset | None) -> ProviderStatus:
        poll_seconds = self._services.settings.provider_poll_seconds
        if row is None:
            return ProviderStatus(asset_id=order.asset_id, outcome="skipped", reason="not_found")
        is_open = ProviderState(row.state) in OPEN_PROVIDER_STATES
        is_push = row.ingest_mode in (None, "server_push")
        return ProviderStatus(
            asset_id=order.asset_id,
            state=row.state,
            outcome="" if is_open else row.state,
            needs_create=is_open and is_push and row.provider_asset_id is None,
            poll_seconds=poll_seconds,
        )

    def _stale(self, order: ProviderPushInput, reason: str) -> ProviderStatus:
        log.info("the source of a push has changed", extra={"asset_id": order.asset_id, "reason": reason})
        return ProviderStatus(asset_id=order.asset_id, outcome="stale_source", reason=reason)

    async def _source_url(self, profile: type[Profile], key: str) -> str:
        """Return a URL from which the provider can fetch the source.

        Raises:
            SourceNotPublic: the storage makes none, or one that leads to this machine.
        """
        storage, settings = self._services.storage(profile), self._services.settings
        way = fetched_by(capabilities_of(storage), is_public=profile.delivery_policy().public)
        url = ""
        if way == "signed_url":
            url = await storage.url(key, expires_in=settings.provider_source_seconds)
        elif way == "public_url":
            url = await storage.url(key, public=True)
        if not urlsplit(url).scheme:
            raise SourceNotPublic(
                f"the streaming provider cannot fetch the source: the storage of profile {profile.name!r} has no "
                "public address; use an object store, or give the local storage a public_base_url",
                detail={"profile": profile.name},
            )
        return url


async def _discard(provider: StreamingProvider, asset_id: str) -> None:
    """Delete an asset whose source has changed, if the provider answers."""
    try:
        await provider.delete_asset(asset_id)
    except RindleError as error:
        log.warning(
            "an outdated asset stays at its streaming provider",
            extra={"action": "provider_leftover", "provider": provider.name, "code": error.code},
        )
