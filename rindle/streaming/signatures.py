"""Signatures of webhooks: a time and HMAC-SHA256 digests in one header, over the time and the body as it was received.

Source: Mux guide "Verify webhook signatures". Stripe and others sign in the same way.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rindle.errors import ProviderWebhookInvalid

#: One message for all causes, so that an unknown sender learns nothing from it.
_MESSAGE = "the webhook is not valid; check the webhook secret and the clock of this machine"


def invalid() -> ProviderWebhookInvalid:
    """Return the error of every webhook that is refused."""
    return ProviderWebhookInvalid(_MESSAGE)


def sign(body: bytes, secret: str, *, now: datetime) -> str:
    """Return the header that :func:`verify` accepts."""
    seconds = int(now.timestamp())
    return f"t={seconds},v1={_digest(secret, str(seconds), body)}"


def verify(body: bytes, header: str | None, secrets: Sequence[str], *, now: datetime, tolerance_seconds: int) -> int:
    """Return which secret, from 0, has signed ``body``.

    The header may have several digests ``v1``, spaces, and parts of other schemes, which are ignored.

    Raises:
        ProviderWebhookInvalid: none has, the header is missing, or its time is too far from ``now``.
    """
    times: list[str] = []
    digests: list[str] = []
    for part in (header or "").split(","):
        name, _, value = part.partition("=")
        if name.strip() == "t":
            times.append(value.strip())
        elif name.strip() == "v1":
            digests.append(value.strip().lower())
    if len(times) != 1 or not (times[0].isascii() and times[0].isdigit() and len(times[0]) <= 12):
        raise invalid()
    if abs(now.timestamp() - int(times[0])) > tolerance_seconds:
        raise invalid()
    found = [
        index
        for index, secret in enumerate(secrets)
        if secret and any(_is_equal(_digest(secret, times[0], body), digest) for digest in digests)
    ]
    if not found:
        raise invalid()
    return found[0]


def document_of(body: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a verified body.

    Raises:
        ProviderWebhookInvalid: it is not a JSON object.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid() from error
    if not isinstance(document, dict):
        raise invalid()
    return document


def instant_of(value: Any) -> datetime | None:
    """Return a time that a provider writes as ISO 8601 or as Unix seconds; ``None`` for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return datetime.fromtimestamp(int(value), UTC)
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


def playback_ids_of(value: Any) -> tuple[str, ...]:
    """Return playback ids of a list of strings or of objects with an ``id``; none for ``null`` and anything else."""
    if not isinstance(value, list):
        return ()
    found = [one.get("id") if isinstance(one, dict) else one for one in value]
    return tuple(one for one in found if isinstance(one, str) and one)


def _digest(secret: str, seconds: str, body: bytes) -> str:
    return hmac.new(secret.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()


def _is_equal(expected: str, found: str) -> bool:
    return hmac.compare_digest(expected.encode(), found.encode())
