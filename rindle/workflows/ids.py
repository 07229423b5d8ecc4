"""Workflow ids, search attributes, fairness keys and summaries: made here and nowhere else.

Temporal limits all of them in bytes and rejects the whole request when one is longer. Names of profiles are ASCII, but
rows of earlier releases and the inputs of operators may contain others.

Ids derive from the row that a workflow works on, so starting twice is harmless. The Temporal UI shows them in clear
text: they hold no owners, filenames or addresses.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from rindle.arguments import canonical_id
from rindle.text import bounded, bounded_key, storable

KIND = SearchAttributeKey.for_keyword("RindleKind")
PROFILE = SearchAttributeKey.for_keyword("RindleProfile")
ASSET_ID = SearchAttributeKey.for_keyword("RindleAssetId")
SESSION_ID = SearchAttributeKey.for_keyword("RindleSessionId")
STATE = SearchAttributeKey.for_keyword("RindleState")

#: Every search attribute, all of type Keyword.
SEARCH_ATTRIBUTES: tuple[SearchAttributeKey[str], ...] = (KIND, PROFILE, ASSET_ID, SESSION_ID, STATE)

DEFAULT_PREFIX = "rindle"
#: Kinds of workflows whose id names the row that they work on.
_OF_ROWS: Final = frozenset({"upload", "variants", "purge", "erasure", "provider-push", "provider-upload"})

#: Longest fairness key in bytes (server: ``common/priorities``).
FAIRNESS_KEY_BYTES: Final = 64
#: Longest value of a keyword in bytes: visibility on SQL stores 255 characters.
KEYWORD_BYTES: Final = 255
#: Longest summary in bytes of JSON, its quotes included (server: ``limit.userMetadataSummarySize``).
SUMMARY_BYTES: Final = 400


def upload_id(session_id: str | UUID, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that owns an upload session."""
    return f"{prefix}-upload:{_row(session_id)}"


def variants_id(asset_id: str | UUID, group: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that builds one variant group of an asset."""
    return f"{prefix}-variants:{_row(asset_id)}:{group}"


def purge_id(asset_id: str | UUID, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that purges an asset."""
    return f"{prefix}-purge:{_row(asset_id)}"


def provider_push_id(asset_id: str | UUID, provider: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that brings an asset to a streaming provider."""
    return f"{prefix}-provider-push:{_row(asset_id)}:{provider}"


def provider_upload_id(asset_id: str | UUID, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that follows an upload to a streaming provider."""
    return f"{prefix}-provider-upload:{_row(asset_id)}"


def provider_run_id(
    asset_id: str | UUID, provider: str, ingest_mode: str | None, *, prefix: str = DEFAULT_PREFIX
) -> str:
    """Return the id of the workflow that follows an asset at a streaming provider, whichever way it came there."""
    if ingest_mode == "direct_creator_upload":
        return provider_upload_id(asset_id, prefix=prefix)
    return provider_push_id(asset_id, provider, prefix=prefix)


def _row(row_id: str | UUID) -> str:
    return canonical_id(row_id) or str(row_id)


def erasure_id(operation_id: str | UUID, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that erases the media of an owner, whom it does not name."""
    return f"{prefix}-erasure:{_row(operation_id)}"


def maintenance_id(verb: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the workflow that runs a sweep by hand; a schedule appends the time of the run."""
    return f"{prefix}-maintenance:{verb}"


def schedule_id(verb: str, *, prefix: str = DEFAULT_PREFIX) -> str:
    """Return the id of the Temporal Schedule of a sweep; no workflow has it."""
    return f"{prefix}-{verb}"


def row_of(workflow_id: str, *, prefix: str = DEFAULT_PREFIX) -> str | None:
    """Return the id of the session, asset or erasure that a workflow works on; ``None`` for any other workflow."""
    kind, separator, rest = workflow_id.removeprefix(f"{prefix}-").partition(":")
    ours = separator and workflow_id.startswith(f"{prefix}-") and kind in _OF_ROWS
    return rest.partition(":")[0] if ours else None


def attributes(
    kind: str,
    *,
    profile: str | None = None,
    asset_id: str | None = None,
    session_id: str | None = None,
) -> TypedSearchAttributes:
    """Return the search attributes a run starts with; absent facts are left out. :data:`STATE` comes at the end."""
    facts = ((KIND, kind), (PROFILE, profile), (ASSET_ID, asset_id), (SESSION_ID, session_id))
    return TypedSearchAttributes(
        [SearchAttributePair(key, bounded_key(value, KEYWORD_BYTES)) for key, value in facts if value is not None]
    )


def fairness_key(profile: str | None) -> str | None:
    """Return the fairness key of a profile's work; ``None`` for work without a profile."""
    return bounded_key(profile, FAIRNESS_KEY_BYTES) if profile else None


def summary(text: str) -> str:
    """Return ``text`` as the Temporal UI shows it beside a run or a step: one line, cut to the limit of summaries."""
    line = "".join(char if char.isprintable() else " " for char in storable(text))
    return bounded(line, SUMMARY_BYTES // 2 - 1)  # in JSON a quote or backslash takes two bytes
