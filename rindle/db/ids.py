"""Ids as callers give them: as text, as ``UUID``, or by the row itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import inspect

from rindle.arguments import canonical_id
from rindle.db.models import Base, MediaAsset, MediaUploadSession, MediaVariant
from rindle.errors import InvalidArgument

#: An asset or its id.
AssetOrId = MediaAsset | str | UUID
#: An upload session or its id.
SessionOrId = MediaUploadSession | str | UUID
#: The subject of a subscription or its id.
SubjectOrId = MediaAsset | MediaVariant | MediaUploadSession | str | UUID


def id_of_asset(asset: AssetOrId) -> str:
    """Return the id of an asset; see :func:`id_of`."""
    return id_of("asset", asset, MediaAsset)


def id_of_session(session: SessionOrId) -> str:
    """Return the id of an upload session; see :func:`id_of`."""
    return id_of("session_id", session, MediaUploadSession)


def id_of(option: str, value: Any, *models: type[Base]) -> str:
    """Return the canonical text of an id. Text that is not a UUID is returned unchanged: no row has it.

    Args:
        option: name of the argument.
        value: an id as text or ``UUID``, or a row. Nothing is loaded: the row may be expired or detached.
        models: the classes of which the argument may be a row.

    Raises:
        InvalidArgument: it is something else, or a row without an id.
    """
    if isinstance(value, models):
        identity = inspect(value).identity
        value = value.__dict__.get("id") if identity is None else identity[0]
    elif isinstance(value, Base):
        value = None
    found = canonical_id(value)
    if found is not None:
        return found
    if isinstance(value, str):
        return value
    rows = "".join(f" or {'an' if model.__name__ == 'MediaAsset' else 'a'} {model.__name__}" for model in models)
    raise InvalidArgument(
        f"{option} must be an id, as a string or UUID{',' if rows else ''}{rows}", detail={"option": option}
    )
