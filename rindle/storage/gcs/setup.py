"""What ``rindle doctor`` checks of a bucket: signing key, clock, CORS rules and lifecycle rules.

Source: Cloud Storage documentation, JSON API, ``buckets.get``; its fields ``cors`` and ``lifecycle``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rindle.protocols import SetupFinding
from rindle.storage import setup
from rindle.storage.gcs.client import GCSClient, of_status
from rindle.storage.gcs.signing import Signatures

#: Headers of a signed PUT.
PUT_HEADERS = ("content-type", "x-goog-if-generation-match", "x-goog-content-length-range")
#: Conditions of a rule that concerns only replaced versions of objects.
_OF_OLD_VERSIONS = ("numNewerVersions", "daysSinceNoncurrentTime", "noncurrentTimeBefore")


def check(client: GCSClient, signatures: Signatures, prefix: str) -> list[SetupFinding]:
    """Return the findings of the bucket of ``client``, whose keys begin with ``prefix``.

    Raises:
        StorageError: the credentials or the bucket cannot be used.
    """
    answer = client.attempt(
        lambda: client.send(
            "GET",
            f"{client.endpoint}/storage/v1/b/{quote(client.bucket, safe='')}?fields=cors,lifecycle",
            accept=lambda status: status in (200, 403),
        )
    )
    found = [
        setup.signing(
            lambda: signatures.sign(f"{prefix}rindle-doctor", "GET", 60, {}),
            "pass signing_credentials, or signing_email and the role iam.serviceAccountTokenCreator",
        ),
        setup.clock(answer.headers.get("date")),
    ]
    if answer.status_code == 403:
        hidden = "CORS and lifecycle rules were not checked: the credentials may not read the bucket"
        return [*found, SetupFinding("skipped", f"{hidden} (storage.buckets.get)")]
    if client.is_emulator:  # it answers every page
        return found
    try:
        bucket: Mapping[str, Any] = answer.json()
        return [*found, _cors(bucket.get("cors") or ()), _lifecycle(_rules(bucket), prefix)]
    except (ValueError, TypeError, AttributeError):
        raise of_status(502, "", {}, None) from None


def _cors(rules: Iterable[Mapping[str, Any]]) -> SetupFinding:
    put = [rule for rule in rules if {"PUT", "*"} & {str(one).upper() for one in rule.get("method") or ()}]
    if not put:
        return SetupFinding(
            "warn", "no CORS rule allows PUT, so browsers cannot upload", "set the CORS rules of docs/gcs.md"
        )
    missing = min((_missing_headers(rule) for rule in put), key=len)
    if missing:
        return SetupFinding(
            "warn",
            f"the CORS rule for PUT lacks the headers {', '.join(missing)}, so browsers cannot upload",
            "add them to its responseHeader, as in docs/gcs.md",
        )
    return SetupFinding("ok", "CORS allows PUT")


def _missing_headers(rule: Mapping[str, Any]) -> list[str]:
    allowed = {str(name).lower() for name in rule.get("responseHeader") or ()}
    prefixes = tuple(name.removesuffix("*") for name in allowed if name.endswith("*"))
    return [name for name in PUT_HEADERS if name not in allowed and not (prefixes and name.startswith(prefixes))]


def _rules(bucket: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return (bucket.get("lifecycle") or {}).get("rule") or ()


def _lifecycle(rules: Iterable[Mapping[str, Any]], prefix: str) -> SetupFinding:
    if any(_deletes_media(rule, prefix) for rule in rules):
        return setup.DELETES_MEDIA
    return SetupFinding("ok", "no lifecycle rule deletes media")


def _deletes_media(rule: Mapping[str, Any], prefix: str) -> bool:
    condition = rule.get("condition") or {}
    if (rule.get("action") or {}).get("type") != "Delete" or condition.get("isLive") is False:
        return False
    if any(condition.get(name) is not None for name in _OF_OLD_VERSIONS):
        return False
    return any(setup.concerns_media(named, prefix) for named in condition.get("matchesPrefix") or [""])
