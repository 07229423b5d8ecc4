"""Workflow ids, task queues and search attributes: made here and nowhere else.

Ids derive from the row that a workflow works on, so starting twice is harmless. The Temporal UI shows them in clear
text: they hold no owners, filenames or addresses.
"""

from __future__ import annotations

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

KIND = SearchAttributeKey.for_keyword("RindleKind")
PROFILE = SearchAttributeKey.for_keyword("RindleProfile")
ASSET_ID = SearchAttributeKey.for_keyword("RindleAssetId")
SESSION_ID = SearchAttributeKey.for_keyword("RindleSessionId")
STATE = SearchAttributeKey.for_keyword("RindleState")

#: Every search attribute, all of type Keyword.
SEARCH_ATTRIBUTES: tuple[SearchAttributeKey[str], ...] = (KIND, PROFILE, ASSET_ID, SESSION_ID, STATE)

DEFAULT_PREFIX = "rindle"


def upload_id(session_id: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that owns an upload session."""
    return f"{prefix}-upload:{session_id}"


def variants_id(asset_id: str, group: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that builds one variant group of an asset."""
    return f"{prefix}-variants:{asset_id}:{group}"


def purge_id(asset_id: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that purges an asset."""
    return f"{prefix}-purge:{asset_id}"


def attributes(
    kind: str,
    *,
    profile: str | None = None,
    asset_id: str | None = None,
    session_id: str | None = None,
) -> TypedSearchAttributes:
    """Return the search attributes a run starts with; absent facts are left out. :data:`STATE` comes at the end."""
    facts = ((KIND, kind), (PROFILE, profile), (ASSET_ID, asset_id), (SESSION_ID, session_id))
    return TypedSearchAttributes([SearchAttributePair(key, value) for key, value in facts if value is not None])
