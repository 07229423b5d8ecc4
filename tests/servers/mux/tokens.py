"""Signing keys of an account, and the JSON Web Tokens (RS256) of playback that they sign.

Written on ``cryptography`` alone, so that a token is judged by other code than what made it.
Source: Mux's guide on secure video playback; RFC 7515 and 7519.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.servers.mux.refusals import Refusal

#: Audiences: what a token opens.
VIDEO: Final = "v"
THUMBNAIL: Final = "t"
GIF: Final = "g"
STORYBOARD: Final = "s"


@dataclass
class SigningKey:
    """A key pair of the account.

    Attributes:
        id: the ``kid`` of its tokens.
        created_at: seconds since 1970.
        private_key: base64 of the PEM, as Mux hands it out, once.
    """

    id: str
    created_at: int
    private_key: str = field(repr=False)
    public_key: rsa.RSAPublicKey = field(repr=False)

    @classmethod
    def new(cls, key_id: str, created_at: int) -> SigningKey:
        """Make a pair."""
        pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = pair.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        return cls(key_id, created_at, base64.b64encode(pem).decode(), pair.public_key())


def sign(private_key: str, claims: Mapping[str, object], **header: object) -> str:
    """Return the token of ``claims`` signed with a base64 key.

    Args:
        private_key: as :attr:`SigningKey.private_key`.
        claims: the payload, as it is.
        header: more of the header, or other values than its own.
    """
    pair = serialization.load_pem_private_key(base64.b64decode(private_key), None)
    assert isinstance(pair, rsa.RSAPrivateKey)
    signed = f"{_encoded({'alg': 'RS256', 'typ': 'JWT', **header})}.{_encoded(claims)}"
    signature = pair.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{_base64(signature)}"


def verify(
    token: str, keys: Mapping[str, SigningKey], *, playback_id: str, audience: str, now: float
) -> Mapping[str, Any]:
    """Return the claims of a token that opens ``playback_id`` for ``audience`` at ``now``.

    Raises:
        Refusal: 403; its message says which of the checks failed.
    """
    parts = token.split(".")
    if len(parts) != 3:
        raise _denied("The token is not a JSON Web Token.")
    try:
        header, claims = _decoded(parts[0]), _decoded(parts[1])
        signature = _bytes(parts[2])
    except ValueError:
        raise _denied("The token is not a JSON Web Token.") from None
    if header.get("alg") != "RS256":
        raise _denied("The token's algorithm must be RS256.")
    # Mux reads the key's id from the header, and from the claims of older clients.
    named = header.get("kid", claims.get("kid"))
    key = keys.get(named) if isinstance(named, str) else None
    if key is None:
        raise _denied("The token's kid is not a signing key of this environment.")
    try:
        key.public_key.verify(signature, f"{parts[0]}.{parts[1]}".encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise _denied("The token's signature is not that of its signing key.") from None
    expires = claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise _denied("The token has no exp.")
    if expires <= now:
        raise _denied("The token has expired.")
    not_before = claims.get("nbf", now)
    if not isinstance(not_before, int | float) or not_before > now:
        raise _denied("The token is not valid yet.")
    if claims.get("sub") != playback_id:
        raise _denied("The token's sub is another playback ID.")
    if claims.get("aud") != audience:
        raise _denied("The token's aud is not what is asked for.")
    return claims


def _denied(message: str) -> Refusal:
    return Refusal(403, "invalid_token", message)


def _encoded(part: Mapping[str, object]) -> str:
    return _base64(json.dumps(part, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error


def _decoded(part: str) -> Mapping[str, Any]:
    value = json.loads(_bytes(part))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
