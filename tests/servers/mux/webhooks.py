"""Webhooks: signed, sent at once, repeated until the receiver answers 2xx; and made late, lost or forged for a test.

Source: Mux's guides on listening for webhooks and on verifying their signatures.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

#: Seconds before each repetition; Mux goes on for a day, with growing pauses.
PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
#: Seconds a receiver may take.
TIMEOUT_SECONDS = 30.0


def signature(body: bytes, secret: str, at: float) -> str:
    """Return the value of ``Mux-Signature`` of a body sent at a time in seconds since 1970."""
    sent = str(int(at))
    digest = hmac.new(secret.encode(), sent.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"t={sent},v1={digest}"


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        id: the same in every repetition.
        type: ``video.asset.ready`` and so on.
        about: the id of the asset or the upload.
        body: the JSON that is sent.
    """

    id: str
    type: str
    about: str
    body: bytes = field(repr=False)

    @property
    def payload(self) -> dict[str, Any]:
        """The body, read."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


@dataclass(frozen=True)
class Delivery:
    """One attempt; ``status`` is the receiver's answer, and 0 when there was none."""

    event_id: str
    type: str
    status: int


class Webhooks:
    """Endpoints of the account, and everything that was sent to them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._endpoints: dict[str, str] = {}
        self._lost: set[str] = set()
        self._is_held = False
        self._sending: set[asyncio.Task[None]] = set()
        #: All events, also those that nobody was told, in the order they happened.
        self.events: list[Event] = []
        self.deliveries: list[Delivery] = []

    def add_endpoint(self, url: str, secret: str | None = None) -> str:
        """Send events to ``url`` from now on, and return the secret they are signed with."""
        self._endpoints[url] = secret or secrets.token_hex(16)
        return self._endpoints[url]

    def hold(self) -> None:
        """Send nothing until somebody calls :meth:`deliver`: a test decides on the order."""
        self._is_held = True

    def lose(self, *types: str) -> None:
        """Never send events of these types."""
        self._lost.update(types)

    def lose_nothing(self) -> None:
        """Send events of all types again."""
        self._lost.clear()

    def announce(self, kind: str, about: str, shape: Callable[[str, str], dict[str, Any]]) -> None:
        """Note an event and send it; runs on the loop of the server.

        Args:
            kind: its type.
            about: the id of what it is about.
            shape: makes the body from the event's id and time.
        """
        event_id = str(uuid.uuid4())
        moment = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        event = Event(event_id, kind, about, json.dumps(shape(event_id, moment), separators=(",", ":")).encode())
        self.events.append(event)
        if self._is_held or kind in self._lost:
            return
        for url in self._endpoints:
            task = asyncio.get_running_loop().create_task(self._send(event, url))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, event: Event, url: str) -> None:
        for pause in (*PAUSES_SECONDS, None):
            if 200 <= await self.deliver_once(event, url, self._endpoints[url], at=self._now()) < 300:
                return
            if pause is not None:
                await asyncio.sleep(pause)

    async def deliver_once(self, event: Event, url: str, secret: str, *, at: float) -> int:
        """Send an event and return the status of the answer, 0 without one."""
        headers = {"Content-Type": "application/json", "Mux-Signature": signature(event.body, secret, at)}
        try:
            # Without the proxy of the shell: receivers are here.
            async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as client:
                status = (await client.post(url, content=event.body, headers=headers)).status_code
        except httpx.HTTPError:
            status = 0
        self.deliveries.append(Delivery(event.id, event.type, status))
        return status

    async def deliver(self, events: Iterable[Event], *, age_seconds: float, secret: str | None) -> list[int]:
        """Send events to all endpoints, in this order, once each; repetitions and lost ones too."""
        statuses = []
        for event in events:
            for url, own in self._endpoints.items():
                statuses.append(await self.deliver_once(event, url, secret or own, at=self._now() - age_seconds))
        return statuses

    async def stop(self) -> None:
        """Send nothing more."""
        for task in tuple(self._sending):
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
