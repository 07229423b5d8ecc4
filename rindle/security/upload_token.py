"""Tokens in the URLs of resumable uploads: a signed name of a session, which whoever has it may continue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from rindle.security.actor import actor_digest, is_digest_of
from rindle.security.signing import BadToken, check_secrets, sign_token, verify_token

#: Purpose of the signature.
LABEL: Final = "rindle:tus:url"
#: Version of the claims; a token of another one is not ours.
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class UploadClaims:
    """The claims of a token.

    Attributes:
        session_id: the upload session.
        profile: name of its profile.
        actor_digest: keyed digest of its actor; empty for an anonymous one.
        expires_at: seconds since the epoch, included.
    """

    session_id: str
    profile: str
    actor_digest: str
    expires_at: int

    @property
    def has_expired(self) -> bool:
        """Whether the time of the token is over."""
        return self.expires_at < int(time.time())

    def is_of(self, actor: str | None, secrets: Sequence[SecretStr | str]) -> bool:
        """Whether the token was made for ``actor``."""
        if actor is None:
            return self.actor_digest == ""
        return is_digest_of(self.actor_digest, actor, secrets, LABEL)


def sign_upload(
    session_id: str, profile: str, actor: str | None, *, expires_at: int, secrets: Sequence[SecretStr | str]
) -> str:
    """Return the token of an upload session, signed with the first secret.

    Whoever has it can read the claims, so the actor is a keyed digest.

    Raises:
        Misconfigured: there is no secret, or one is too short.
    """
    check_secrets(secrets)
    digest = "" if actor is None else actor_digest(secrets, actor, LABEL)
    claims = {"v": VERSION, "sid": session_id, "prf": profile, "act": digest, "exp": expires_at}
    return sign_token(claims, secrets[0], LABEL)


def read_upload(token: str, secrets: Sequence[SecretStr | str]) -> UploadClaims:
    """Return the claims of ``token``, expired or not. The signature is compared in constant time.

    Raises:
        BadToken: forged, changed, of another version or purpose.
        Misconfigured: there is no secret, or one is too short.
    """
    claims = verify_token(token, secrets, LABEL)
    named = [claims.get(name) for name in ("sid", "prf", "act")]
    expires_at = claims.get("exp")
    if claims.get("v") != VERSION or not all(isinstance(one, str) for one in named) or not isinstance(expires_at, int):
        raise BadToken
    return UploadClaims(str(named[0]), str(named[1]), str(named[2]), expires_at)
