"""Digests of actors, for tokens that others can read.

The name of an actor is often an e-mail address, and the claims of a token are readable by its holder, in a proxy's log
and in a browser's history. A keyed digest identifies the actor only to those who have the secret and know the name.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr

from rindle.security.signing import check_secrets, derive_key

# 128 bits: enough that no two actors share a digest, and short in a URL.
_DIGEST_BYTES = 16


def actor_digest(secrets: Sequence[SecretStr | str], actor: str, purpose: str) -> str:
    """Return the digest of an actor's name under the first secret: 22 characters of base64url.

    Args:
        secrets: signing secrets, newest first.
        actor: the name; the same name has the same digest for one purpose and one secret.
        purpose: label such as ``rindle:local:url``; digests of two purposes cannot be compared.

    Raises:
        Misconfigured: there is no secret, or one is too short.

    Source: RFC 2104 section 5 (HMAC with truncated output).
    """
    check_secrets(secrets)
    return _digest(secrets[0], actor, purpose)


def is_digest_of(digest: str, actor: str, secrets: Sequence[SecretStr | str], purpose: str) -> bool:
    """Whether ``digest`` was made for ``actor`` under any of ``secrets``; the comparison takes constant time.

    Raises:
        Misconfigured: there is no secret, or one is too short.
    """
    check_secrets(secrets)
    given = digest.encode()
    matches = [hmac.compare_digest(_digest(secret, actor, purpose).encode(), given) for secret in secrets]
    return any(matches)


def _digest(secret: SecretStr | str, actor: str, purpose: str) -> str:
    # The label of the key differs from the token's own, so that no digest is a signature.
    key = derive_key(secret, f"{purpose}:actor")
    mac = hmac.digest(key, actor.encode(errors="surrogatepass"), hashlib.sha256)
    return base64.urlsafe_b64encode(mac[:_DIGEST_BYTES]).rstrip(b"=").decode()
