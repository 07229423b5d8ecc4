"""Subscription tickets: signed permission to follow one subject until a moment, for pages that know its id already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from rindle.errors import Unauthorized
from rindle.security.signing import BadToken, check_secrets, sign_token, verify_token

#: Purpose of the signature.
LABEL: Final = "rindle:subscription:ticket"
#: Version of the claims; a ticket of another one is not ours.
VERSION: Final = 1


def sign_ticket(scope: str, subject_id: str, *, expires_at: int, secrets: Sequence[SecretStr | str]) -> str:
    """Return a ticket to follow ``subject_id`` of ``scope`` until ``expires_at`` (seconds since the epoch, included).

    Raises:
        Misconfigured: there is no secret, or one is too short.
    """
    check_secrets(secrets)
    return sign_token({"v": VERSION, "scope": scope, "id": subject_id, "exp": expires_at}, secrets[0], LABEL)


def read_ticket(ticket: str, secrets: Sequence[SecretStr | str]) -> tuple[str, str]:
    """Return the scope and id that ``ticket`` is good for. The signature is compared in constant time.

    Raises:
        BadToken: forged, changed, of another version or purpose.
        Unauthorized: its time is over.
        Misconfigured: there is no secret, or one is too short.
    """
    claims = verify_token(ticket, secrets, LABEL)
    scope, subject_id, expires_at = claims.get("scope"), claims.get("id"), claims.get("exp")
    known = claims.get("v") == VERSION and isinstance(scope, str) and isinstance(subject_id, str)
    if not known or not isinstance(expires_at, int):
        raise BadToken
    if expires_at < int(time.time()):
        raise Unauthorized("the ticket has expired", detail={"reason": "expired"})
    return str(scope), str(subject_id)
