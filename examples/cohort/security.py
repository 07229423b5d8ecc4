"""Who is looking, and whether a form was really ours.

Signing in is a choice from a list: the example is about photos. The choice and the form token live in one signed
cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from fastapi import Request
from pydantic import SecretStr

from rindle.http.forms import is_form
from rindle.protocols import AssetSubject, UploadSubject

#: Field of a form, and header of a script's request, that carry the token.
TOKEN_FIELD = "form_token"  # noqa: S105 - a name
TOKEN_HEADER = "X-Form-Token"  # noqa: S105 - a name


def cookie_secret(signing_secrets: Sequence[SecretStr]) -> str:
    """Derive the cookie's key from Rindle's first secret, so that neither can be used as the other."""
    return hmac.new(signing_secrets[0].get_secret_value().encode(), b"cohort:session", hashlib.sha256).hexdigest()


def actor_of(request: Request) -> str | None:
    """Return the handle of the signed-in member; ``create_router`` calls it for the actor."""
    actor: str | None = request.session.get("actor")
    return actor


class OwnUploads:
    """Members have full access to their own uploads; for others these do not exist."""

    def authorize(self, actor: str | None, action: str, subject: UploadSubject | AssetSubject) -> bool:
        """Answer Rindle's routes; see ``rindle.protocols.Authorizer``."""
        owner = subject.uploaded_by if isinstance(subject, AssetSubject) else subject.token_actor
        return actor is not None and (action in ("upload.create", "tus.create", "direct.create") or owner == actor)


def sign_in(request: Request, handle: str) -> None:
    """Go on as ``handle``, with a new form token."""
    request.session.clear()
    request.session["actor"] = handle


def form_token(request: Request) -> str:
    """Return this browser's form token, created on first use."""
    token: str = request.session.setdefault("token", secrets.token_urlsafe(24))
    return token


async def form_is_ours(request: Request) -> bool:
    """Say whether a request carries the form token of its own session; the ``csrf`` callable of ``create_router``.

    Other sites can make a browser send our cookie, but cannot read the token that belongs to it.
    """
    field = None
    if TOKEN_HEADER not in request.headers and is_form(request):
        field = (await request.form()).get(TOKEN_FIELD)
    return has_our_token(request, field if isinstance(field, str) else None)


def has_our_token(request: Request, field: str | None) -> bool:
    """Say whether the header of a request, or this field of its form, is the form token of its own session."""
    expected: str | None = request.session.get("token")
    given = request.headers.get(TOKEN_HEADER, field)
    return expected is not None and given is not None and hmac.compare_digest(expected.encode(), given.encode())
