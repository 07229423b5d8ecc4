"""Tokens of signed playback: RS256 JWTs that Mux verifies with the public half of the signing key.

Source: Mux guide "Secure video playback".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rindle.errors import MissingConfig
from rindle.streaming.mux.config import MuxConfig

#: Audiences of Mux's tokens: what a token may be used for.
AUDIENCES = {"video": "v", "thumbnail": "t", "gif": "g", "storyboard": "s"}
#: Size of the smallest RSA key that counts as safe.
MIN_KEY_BITS = 2_048
_KEY = "RINDLE_MUX_SIGNING_PRIVATE_KEY"


def playback_token(config: MuxConfig, playback_id: str, *, expires_at: datetime, audience: str = "video") -> str:
    """Return a token for one playback id until ``expires_at``.

    Raises:
        MissingConfig: the signing key is missing or cannot be read.
    """
    key_id = config.require("signing_key_id")
    claims = {
        "sub": playback_id,
        "aud": AUDIENCES[audience],
        "exp": int(expires_at.timestamp()),
        "kid": key_id,
    }
    headers = {"kid": key_id, "typ": "JWT"}
    return jwt.encode(claims, _private_key(config.require("signing_private_key")), algorithm="RS256", headers=headers)


def signing_key_problem(config: MuxConfig) -> str | None:
    """Return why playback tokens cannot be signed, or ``None``: a probe token is signed and verified.

    Raises:
        MissingConfig: the signing key is missing or cannot be read.
    """
    key = _private_key(config.require("signing_private_key"))
    if key.key_size < MIN_KEY_BITS:
        return f"{_KEY} has {key.key_size} bits; it needs {MIN_KEY_BITS} or more"
    token = playback_token(config, "probe", expires_at=datetime.now(UTC) + timedelta(minutes=1))
    try:
        jwt.decode(token, key.public_key(), algorithms=["RS256"], audience=AUDIENCES["video"])
    except jwt.InvalidTokenError as error:
        return f"a token that {_KEY} signed cannot be verified ({type(error).__name__})"
    return None


class _KeyText:
    """The text of a key, equal to others of its digest: a cache of parsed keys holds the digest and not the text."""

    __slots__ = ("_digest", "text")

    def __init__(self, text: str) -> None:
        self.text: str | None = text
        self._digest = hashlib.sha256(text.encode()).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _KeyText) and self._digest == other._digest


def _private_key(text: str) -> RSAPrivateKey:
    held = _KeyText(text)
    try:
        return _parsed(held)
    finally:
        held.text = None


@lru_cache(maxsize=4)
def _parsed(held: _KeyText) -> RSAPrivateKey:
    """Parse a private key; parsing takes longer than signing."""
    try:
        found = load_pem_private_key(_pem(held.text or ""), password=None)
    except Exception as error:  # the classes of OpenSSL's errors differ; none of their messages may leave
        raise _unreadable(type(error).__name__) from None
    if not isinstance(found, RSAPrivateKey):
        raise _unreadable(type(found).__name__)
    return found


def _unreadable(cause: str) -> MissingConfig:
    return MissingConfig(
        f"{_KEY} is not an RSA private key ({cause}); it must be PEM, PEM with literal \\n, or base64 of PEM",
        detail={"key": _KEY, "cause": cause},
    )


def _pem(text: str) -> bytes:
    text = text.strip().replace("\\n", "\n")
    if text.startswith("-----BEGIN"):
        return text.encode()
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
