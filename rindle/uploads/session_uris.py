"""How the session URIs of resumable uploads are kept: encrypted when the setting ``session_uri_key`` is given.

A session URI is a bearer credential: whoever has it may send the bytes of the upload. It is in one column and in the
answer to the client that uploads, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr

from rindle.errors import Misconfigured
from rindle.extras import requires
from rindle.settings import Settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

#: Begins a column that is encrypted; no URI begins with it.
_ENCRYPTED = "fernet:"


def sealed(settings: Settings, uri: SecretStr) -> str:
    """Return the column for a session URI."""
    text = uri.get_secret_value()
    keys = _keys(settings)
    return text if keys is None else _ENCRYPTED + keys.encrypt(text.encode()).decode("ascii")


def opened(settings: Settings, column: str) -> SecretStr:
    """Return the session URI of a column.

    Raises:
        Misconfigured: it is encrypted with a key that the setting ``session_uri_key`` does not have.
    """
    if not column.startswith(_ENCRYPTED):
        return SecretStr(column)
    keys = _keys(settings)
    with requires("gcs"):
        from cryptography.fernet import InvalidToken
    try:
        if keys is not None:
            return SecretStr(keys.decrypt(column.removeprefix(_ENCRYPTED).encode("ascii")).decode())
    except InvalidToken:
        pass
    raise Misconfigured(
        "a session URI is encrypted with another key; add that key to RINDLE_SESSION_URI_KEY, after the new one",
        detail={"option": "session_uri_key"},
    )


def _keys(settings: Settings) -> MultiFernet | None:
    if not settings.session_uri_key:
        return None
    with requires("gcs"):
        from cryptography.fernet import Fernet, MultiFernet
    return MultiFernet([Fernet(key.get_secret_value()) for key in settings.session_uri_key])
