"""Bearer tokens of our own: claims in JSON with an HMAC, one key label per purpose.

Every holder of the token can read the claims; they are only protected against change. The caller checks their
meaning and expiry, because the answers differ (403 for a local URL, 401 for tus).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import SecretStr

from rindle.errors import Misconfigured, Unauthorized

#: Shortest signing secret in bytes: the output size of SHA-256 (RFC 2104 section 3 advises no less).
MIN_SECRET_BYTES: Final = 32
#: Longest token looked at; ours stay under 2 KiB even with a 1024-byte key in their claims.
MAX_TOKEN_CHARS: Final = 8192


class BadToken(Unauthorized):
    """The token was not signed by us for this purpose, or was changed since; code ``unauthorized``, HTTP 403.

    One message for every cause, so that a guess reveals nothing.
    """

    def __init__(self) -> None:
        super().__init__("the token is not valid")


def sign_token(claims: Mapping[str, Any], secret: SecretStr | str, label: str) -> str:
    """Return ``b64url(claims as compact JSON) "." b64url(HMAC-SHA256)``, without padding.

    Equal claims give equal tokens.

    Args:
        claims: JSON-compatible mapping with text keys.
        secret: at least 32 bytes of UTF-8.
        label: purpose such as ``rindle:local:url``; a token of one label is worthless under another.

    Raises:
        Misconfigured: the secret is too short.
        ValueError: a claim is not JSON-compatible (NaN and infinities are not). ``TypeError`` likewise.

    Source: RFC 2104 (HMAC), RFC 4648 section 5 (base64url).
    """
    body = json.dumps(claims, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    payload = _encode(body.encode())
    return f"{payload}.{_mac(payload, secret, label)}"


def verify_token(token: str, secrets: Sequence[SecretStr | str], label: str) -> dict[str, Any]:
    """Return the claims of ``token``, whose MAC was made with any of ``secrets`` for ``label``.

    The MAC is compared in constant time and before anything is parsed. Signing always uses the first secret, verifying
    accepts all of them, which is how secrets are rotated.

    Raises:
        BadToken: malformed, changed, or signed with another secret or label.
        Misconfigured: there is no secret, or one is too short.
    """
    check_secrets(secrets)
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS or not token.isascii():
        raise BadToken
    payload, dot, mac = token.partition(".")
    if not dot:
        raise BadToken
    # The written form is compared, not the decoded bytes: base64 has several spellings of one value.
    matches = [hmac.compare_digest(_mac(payload, secret, label), mac) for secret in secrets]
    if not any(matches):
        raise BadToken
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error):
        raise BadToken from None
    if not isinstance(claims, dict):
        raise BadToken
    return claims


def check_secrets(secrets: Sequence[SecretStr | str]) -> None:
    """Refuse an empty list of signing secrets and any that is shorter than 32 bytes.

    Raises:
        Misconfigured: with the position of the first bad one (from 1), never with its text.
    """
    if isinstance(secrets, str | SecretStr) or not secrets:
        raise Misconfigured("signing needs a list of at least one secret; the first one signs, all of them verify")
    for position, secret in enumerate(secrets, start=1):
        if len(_plain(secret)) < MIN_SECRET_BYTES:
            raise Misconfigured(
                f"signing secret {position} is shorter than {MIN_SECRET_BYTES} bytes; "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'",
                detail={"position": position, "minimum_bytes": MIN_SECRET_BYTES},
            )


def derive_key(secret: SecretStr | str, label: str) -> bytes:
    """Return the 32-byte key of one purpose: HMAC-SHA256 of ``label`` under ``secret``.

    Raises:
        Misconfigured: the secret is shorter than 32 bytes.
    """
    check_secrets([secret])
    return hmac.digest(_plain(secret), label.encode(), hashlib.sha256)


def _plain(secret: SecretStr | str) -> bytes:
    return (secret.get_secret_value() if isinstance(secret, SecretStr) else secret).encode()


def _mac(payload: str, secret: SecretStr | str, label: str) -> str:
    return _encode(hmac.digest(derive_key(secret, label), payload.encode(), hashlib.sha256))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
