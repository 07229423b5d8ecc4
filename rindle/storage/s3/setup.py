"""What ``rindle doctor`` checks of a bucket: signing key, clock, permissions, CORS rules and lifecycle rules.

Source: Amazon S3 API, HeadBucket, ListMultipartUploads, GetBucketCors, GetBucketLifecycleConfiguration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rindle.errors import StorageError, StorageUnauthorized
from rindle.protocols import MAX_URL_SECONDS, SetupFinding
from rindle.storage import setup
from rindle.storage.s3.client import S3Client

#: Days for which a rule must leave unfinished uploads alone: sessions live for seven days at most.
LIVE_DAYS = MAX_URL_SECONDS // 86_400 + 1
#: Codes and statuses of stores that do not have a kind of rule, or do not show it.
_NOT_OFFERED = frozenset({"NotImplemented", "MethodNotAllowed"})
_NO_RULES = frozenset({"NoSuchCORSConfiguration", "NoSuchLifecycleConfiguration"})


def check(client: S3Client, bucket: str, prefix: str, put_headers: Sequence[str]) -> list[SetupFinding]:
    """Return the findings of a bucket.

    Args:
        prefix: with which the keys of the store begin, in the bucket.
        put_headers: headers of a signed PUT, in lower case.

    Raises:
        StorageError: the credentials or the bucket cannot be used.
    """
    answer = client.call(None, lambda s3: s3.head_bucket(Bucket=bucket))
    probe = {"Bucket": bucket, "Key": f"{prefix}rindle-doctor"}
    return [
        setup.signing(
            partial(client.sign, probe["Key"], "get_object", probe, 60),
            "pass access_key_id and secret_access_key, or let the boto3 chain find credentials",
        ),
        setup.clock(answer["ResponseMetadata"]["HTTPHeaders"].get("date")),
        _unfinished_uploads(client, bucket, prefix),
        _cors(client, bucket, put_headers),
        *_lifecycle(client, bucket, prefix),
    ]


def _unfinished_uploads(client: S3Client, bucket: str, prefix: str) -> SetupFinding:
    wanted = {"Bucket": bucket, "Prefix": f"{prefix}rindle-doctor", "MaxUploads": 1}
    try:
        client.call(None, lambda s3: s3.list_multipart_uploads(**wanted))
    except StorageUnauthorized:
        return SetupFinding(
            "error",
            "the credentials may not list unfinished uploads, so those that end otherwise cannot be removed",
            "allow s3:ListBucketMultipartUploads on the bucket, as in docs/storage.md",
        )
    return SetupFinding("ok", "unfinished uploads can be listed")


def _rules(client: S3Client, operation: str, field: str, bucket: str) -> Sequence[Mapping[str, Any]] | str:
    """Return the rules of a kind, or why they are not known.

    Raises:
        StorageError: the store did not answer.
    """
    try:
        answer = client.call(None, lambda s3: getattr(s3, operation)(Bucket=bucket))
    except StorageUnauthorized:
        return "the credentials may not read them"
    except StorageError as error:
        code = error.detail.get("provider_code")
        if code in _NO_RULES:
            return ()
        if code in _NOT_OFFERED:
            return "the store has none that can be read"
        raise
    rules: Sequence[Mapping[str, Any]] = answer.get(field) or ()
    return rules


# --- CORS --------------------------------------------------------------------------------------------------------


def _cors(client: S3Client, bucket: str, put_headers: Sequence[str]) -> SetupFinding:
    rules = _rules(client, "get_bucket_cors", "CORSRules", bucket)
    if isinstance(rules, str):
        return SetupFinding("skipped", f"CORS rules were not checked: {rules} (s3:GetBucketCORS)")
    put = [rule for rule in rules if "PUT" in rule.get("AllowedMethods", ())]
    if not put:
        return SetupFinding(
            "warn", "no CORS rule allows PUT, so browsers cannot upload", "set the CORS rules of docs/storage.md"
        )
    missing = min((_missing_headers(rule, put_headers) for rule in put), key=len)
    if missing:
        return SetupFinding(
            "warn",
            f"the CORS rule for PUT lacks the headers {', '.join(missing)}, so browsers cannot upload",
            "add them to its AllowedHeaders, as in docs/storage.md",
        )
    return SetupFinding("ok", "CORS allows PUT")


def _missing_headers(rule: Mapping[str, Any], put_headers: Iterable[str]) -> list[str]:
    allowed = [str(name).lower() for name in rule.get("AllowedHeaders", ())]
    return [name for name in put_headers if not any(_matches(one, name) for one in allowed)]


def _matches(allowed: str, name: str) -> bool:
    """Whether a header of a rule, which may have one ``*``, allows ``name``."""
    before, star, after = allowed.partition("*")
    if not star:
        return allowed == name
    return name.startswith(before) and name.endswith(after) and len(name) >= len(before) + len(after)


# --- lifecycle ---------------------------------------------------------------------------------------------------


def _lifecycle(client: S3Client, bucket: str, prefix: str) -> list[SetupFinding]:
    rules = _rules(client, "get_bucket_lifecycle_configuration", "Rules", bucket)
    if isinstance(rules, str):
        return [
            SetupFinding("skipped", f"lifecycle rules were not checked: {rules} (s3:GetLifecycleConfiguration)"),
        ]
    enabled = [rule for rule in rules if rule.get("Status") == "Enabled"]
    return [_aborts(enabled, prefix), _deletions(enabled, prefix)]


def _aborts(rules: Iterable[Mapping[str, Any]], prefix: str) -> SetupFinding:
    days = [
        int(rule["AbortIncompleteMultipartUpload"].get("DaysAfterInitiation", 0))
        for rule in rules
        if rule.get("AbortIncompleteMultipartUpload") and setup.concerns_media(_prefix_of(rule), prefix)
    ]
    if not days:
        return SetupFinding(
            "warn",
            "no lifecycle rule removes unfinished uploads, which a process that is killed leaves behind",
            "set the lifecycle rules of docs/storage.md",
        )
    if min(days) < LIVE_DAYS:
        return SetupFinding(
            "warn",
            f"a lifecycle rule removes unfinished uploads after {min(days)} days, and they may take {LIVE_DAYS - 1}",
            f"let its DaysAfterInitiation be {LIVE_DAYS}",
        )
    return SetupFinding("ok", "unfinished uploads are removed by a lifecycle rule")


def _deletions(rules: Iterable[Mapping[str, Any]], prefix: str) -> SetupFinding:
    if any(_deletes_media(rule, prefix) for rule in rules):
        return setup.DELETES_MEDIA
    return SetupFinding("ok", "no lifecycle rule deletes media")


def _deletes_media(rule: Mapping[str, Any], prefix: str) -> bool:
    expiration = rule.get("Expiration") or {}
    if not (expiration.get("Days") or expiration.get("Date")) or _is_tagged(rule):
        return False  # of old versions and their markers only, or of objects with tags, which media have not
    return setup.concerns_media(_prefix_of(rule), prefix)


def _conditions(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    chosen: Mapping[str, Any] = rule.get("Filter") or {}
    return chosen.get("And") or chosen


def _prefix_of(rule: Mapping[str, Any]) -> str:
    """Return the prefix of a rule; older ones have it beside their filter."""
    return str(_conditions(rule).get("Prefix") or rule.get("Prefix") or "")


def _is_tagged(rule: Mapping[str, Any]) -> bool:
    conditions = _conditions(rule)
    return bool(conditions.get("Tag") or conditions.get("Tags"))
