"""What a signed URL of our own stores allows: one method on one key until a moment, as claims of a token."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from rindle.errors import Unauthorized, UploadRejected
from rindle.security.actor import actor_digest
from rindle.security.signing import BadToken, sign_token, verify_token

#: Version of the claims; a token of another one is not ours.
VERSION = 1
#: ``sub`` of a grant without a named subject.
ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One permission, written into a token as ``{v, m, key, exp, mime, disp, max, len, once, sub}``.

    Attributes:
        method: ``GET`` (which covers HEAD) or ``PUT``.
        key: storage key.
        expires_at: seconds since the epoch; still valid in that second.
        mime: ``Content-Type`` to answer with, or the one a PUT must carry.
        disposition: ``Content-Disposition`` to answer with.
        max_bytes: largest body of a PUT.
        length: exact body size of a PUT, in bytes.
        once: whether the PUT may only create.
        subject: whom it was made for: audit data, not checked. The token contains a keyed digest of it (or
            ``anonymous``), and that is what a grant read from a token has.
    """

    method: str
    key: str
    expires_at: int
    mime: str | None = None
    disposition: str | None = None
    max_bytes: int | None = None
    length: int | None = None
    once: bool = False
    subject: str = ANONYMOUS

    @property
    def expires(self) -> datetime:
        """``expires_at`` as aware UTC time."""
        return datetime.fromtimestamp(self.expires_at, UTC)

    def token(self, secret: SecretStr | str, label: str) -> str:
        """Return the grant as a token signed for the purpose ``label``."""
        claims: dict[str, Any] = {"v": VERSION, "m": self.method, "key": self.key, "exp": self.expires_at}
        optional = {
            "mime": self.mime,
            "disp": self.disposition,
            "max": self.max_bytes,
            "len": self.length,
            "once": self.once or None,
            # Whoever has the URL can read the claims: a name is never among them.
            "sub": ANONYMOUS if self.subject == ANONYMOUS else actor_digest([secret], self.subject, label),
        }
        claims.update({name: value for name, value in optional.items() if value is not None})
        return sign_token(claims, secret, label)

    def check_body_size(self, received: int, *, complete: bool) -> None:
        """Refuse a PUT whose body, of which ``received`` bytes are known, cannot be the one that was granted.

        Raises:
            UploadRejected: ``max_bytes_exceeded`` or ``size_mismatch``.
        """
        if self.max_bytes is not None and received > self.max_bytes:
            raise UploadRejected(
                f"the body is larger than the {self.max_bytes} bytes allowed",
                code="max_bytes_exceeded",
                detail={"max_bytes": self.max_bytes},
            )
        if self.length is not None and (received > self.length or (complete and received != self.length)):
            raise UploadRejected(
                f"the body must have exactly {self.length} bytes", code="size_mismatch", detail={"length": self.length}
            )

    def check_expiry(self) -> None:
        """Refuse a request after ``expires_at``; a PUT must also end before it.

        Raises:
            Unauthorized: expired; ``detail['reason']`` is ``expired``.
        """
        if self.expires_at < int(time.time()):
            raise Unauthorized("the link has expired", detail={"reason": "expired"})

    def check_content_type(self, content_type: str | None) -> None:
        """Refuse a PUT with another type than the granted one; parameters such as ``charset`` do not count.

        Raises:
            Unauthorized: as S3 refuses a header that was signed differently.
        """
        if self.mime is not None and _essence(content_type or "") != _essence(self.mime):
            raise Unauthorized("the content type is not the granted one", detail={"reason": "content_type"})


def read_grant(token: str, secrets: Sequence[SecretStr | str], label: str, method: str) -> Grant:
    """Return what ``token`` allows, if it is ours, for ``method`` and not expired.

    The signature is checked before anything is parsed or looked up.

    Args:
        token: as it came in.
        secrets: all that may have signed it.
        label: purpose it was signed for.
        method: ``GET``, ``HEAD`` or ``PUT``.

    Raises:
        BadToken: tampered, malformed, of another version, or for another method.
        Unauthorized: expired; ``detail['reason']`` is ``expired``.
    """
    grant = _parse(verify_token(token, secrets, label))
    if grant.method != ("GET" if method == "HEAD" else method):
        raise BadToken
    grant.check_expiry()
    return grant


def _parse(claims: Mapping[str, Any]) -> Grant:
    if claims.get("v") != VERSION or not isinstance(claims.get("key"), str) or not isinstance(claims.get("exp"), int):
        raise BadToken
    return Grant(
        method=str(claims.get("m")),
        key=claims["key"],
        expires_at=claims["exp"],
        mime=claims.get("mime"),
        disposition=claims.get("disp"),
        max_bytes=claims.get("max"),
        length=claims.get("len"),
        once=claims.get("once") is True,
        subject=str(claims.get("sub", ANONYMOUS)),
    )


def _essence(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
