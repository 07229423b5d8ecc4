"""Webhooks of streaming providers: the route that a provider calls.

A webhook is answered when the database has it. What it reports is applied in the background, so that the answer needs
no Temporal; :mod:`rindle.webhooks` is the flow behind the route.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from rindle.app import Rindle
from rindle.errors import Misconfigured
from rindle.http.errors import RindleRoute, documented
from rindle.plugins import call_hook
from rindle.webhooks import NOT_STORED, ingest_webhook

log = logging.getLogger(__name__)

#: Accepted secrets, newest first: a list, the name of an environment variable with a list separated by commas, or a
#: function or coroutine function that returns the list. They are read at each request.
WebhookSecrets = Sequence[str] | str | Callable[[], Sequence[str] | Awaitable[Sequence[str]]]

#: Largest webhook in bytes, counted while it arrives.
MAX_WEBHOOK_BYTES = 1_048_576
#: ``Retry-After`` in seconds when the database did not store a webhook: its provider sends it again.
RETRY_SECONDS = 30

#: Names of environment variables. A secret that is passed by mistake has lower-case letters.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_OTHER_METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")


def provider_webhook_router(rindle: Rindle, provider: str, secrets: WebhookSecrets) -> APIRouter:
    """Return ``POST /webhooks/rindle/{provider}``, the address for the webhooks of one streaming provider.

    The signature over the body is the whole authorisation; there is no actor, authorizer or CSRF token. The response is
    202 when the webhook is stored, now or before, 200 for a type that nothing is done about, 400
    ``provider_webhook_invalid`` with one body for all causes, 413 above 1 MiB, and 503 with ``Retry-After: 30`` when
    the database did not store it: the provider then sends it again. Temporal may be unavailable.

    Args:
        provider: name of a provider that is registered with ``rindle``.
        secrets: accepted secrets, newest first: a list, the name of an environment variable with a list separated by
            commas, or a function or coroutine function that returns a list. They are read at each request, so they can
            be rotated without a restart. While there are none, every webhook is refused.

    Raises:
        Misconfigured: the provider is not registered or sends no webhooks, or ``secrets`` is none of these.
    """
    if "webhook_ingest" not in rindle.services.provider(provider).capabilities():
        raise Misconfigured(f"the streaming provider {provider!r} sends no webhooks")
    endpoint = _Webhooks(rindle, provider, _checked(provider, secrets))
    path = f"/webhooks/rindle/{provider}"
    router = APIRouter(route_class=_WebhookRoute, tags=["webhooks"])
    router.add_api_route(
        path,
        endpoint.receive,
        methods=["POST"],
        status_code=202,
        response_class=Response,
        operation_id=f"rindle_webhook_{provider}",
        summary=f"Receive a webhook of the streaming provider {provider}",
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}},
        responses={
            202: {"description": "The webhook is stored.", "content": {}},
            200: {"description": "Nothing is done about webhooks of this type.", "content": {}},
            **documented("provider_webhook_invalid", "max_bytes_exceeded", common=["unexpected"]),
            503: {"description": "The database did not store the webhook; send it again.", "content": {}},
        },
    )
    router.add_api_route(path, _not_allowed, methods=[*_OTHER_METHODS], include_in_schema=False)
    return router


class _WebhookRoute(RindleRoute):
    """Takes what providers report of an asset with all its tracks."""

    max_body_bytes = MAX_WEBHOOK_BYTES


class _Webhooks:
    def __init__(self, rindle: Rindle, provider: str, secrets: WebhookSecrets) -> None:
        self._services = rindle.services
        self._provider = provider
        self._secrets = secrets

    async def receive(self, request: Request) -> Response:
        """Verify the signature and store the webhook; its effect follows in the background."""
        body = await request.body()
        accepted = await self._accepted()
        try:
            is_stored = await ingest_webhook(self._services, self._provider, body, request.headers, accepted)
        except NOT_STORED as error:
            log.warning(
                "a webhook was not stored; its provider sends it again",
                extra={"action": "webhook_refused", "provider": self._provider, "error": type(error).__name__},
            )
            return Response(status_code=503, headers={"Retry-After": str(RETRY_SECONDS)})
        return Response(status_code=202 if is_stored else 200)

    async def _accepted(self) -> list[str]:
        """Return the secrets as they are now; without any no webhook is valid."""
        found: Any = self._secrets
        if callable(found):
            found = await call_hook(found)
        elif isinstance(found, str):
            found = os.environ.get(found, "").split(",")
        listed = [one.strip() for one in ([found] if isinstance(found, str) else found or ())]
        accepted = [one for one in listed if one]
        if not accepted:
            facts = {"action": "webhook_secrets_missing", "provider": self._provider}
            log.warning("a webhook is refused: there is no secret to verify it with", extra=facts)
        return accepted


async def _not_allowed() -> Response:
    return PlainTextResponse("method not allowed", 405, headers={"Allow": "POST"})


def _checked(provider: str, secrets: WebhookSecrets) -> WebhookSecrets:
    """Return ``secrets``, or refuse what can never be any; the message never has their text."""
    if callable(secrets):
        return secrets
    if isinstance(secrets, str):
        if _VARIABLE.fullmatch(secrets):
            return secrets
        problem = "a string must be the name of an environment variable; pass a secret itself in a list"
    elif not isinstance(secrets, Sequence) or isinstance(secrets, bytes):
        problem = f"must be a list, the name of an environment variable or a function, not {type(secrets).__name__}"
    elif not secrets or not all(isinstance(one, str) and one.strip() for one in secrets):
        problem = "must be a list of at least one secret, and no secret may be empty"
    else:
        return tuple(secrets)
    raise Misconfigured(f"secrets of the webhooks of {provider!r}: {problem}")


__all__ = ["MAX_WEBHOOK_BYTES", "WebhookSecrets", "provider_webhook_router"]
