"""Actors outside the application's database: a keyed digest, since the name of an actor is often an e-mail address."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr

from rindle.security.signing import derive_key

#: Characters of a digest: 128 bits, in hexadecimal.
DIGEST_CHARS = 32


def actor_digest(secrets: Sequence[SecretStr | str], actor: str, purpose: str) -> str:
    """Return 32 hexadecimal digits that stand for ``actor``: the same for the same purpose, and not reversible.

    Args:
        secrets: signing secrets; the first one makes the digest, so that a rotation changes all digests.
        actor: the application's name of the uploader or visitor.
        purpose: such as ``fairness``; digests of different purposes cannot be compared.

    Raises:
        Misconfigured: there is no secret, or the first is shorter than 32 bytes.
    """
    key = derive_key(secrets[0] if secrets else "", f"rindle:actor:{purpose}")
    return hmac.digest(key, actor.encode(), hashlib.sha256).hex()[:DIGEST_CHARS]
