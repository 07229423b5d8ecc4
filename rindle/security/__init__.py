"""Pure checks on untrusted input: names, keys, content types, upload policies, tokens, and what may reach a log."""

from __future__ import annotations

from rindle.security.actor import actor_digest, is_digest_of
from rindle.security.filename import clean_extension, display_name, normalize_extension, sanitize_filename
from rindle.security.mime import (
    INLINE_SAFE,
    canonical_mime,
    extension_matches,
    extension_of_mime,
    is_active_content,
    is_inline_safe,
    mime_allowed,
    mime_of_extension,
    sniff,
)
from rindle.security.policy import (
    UploadPolicy,
    check_declared,
    corrected_names,
    granted_type,
    type_of_content,
    validate_upload,
)
from rindle.security.redaction import RedactingFilter, install_redaction, redact_id, scrub
from rindle.security.signing import BadToken, check_secrets, derive_key, sign_token, verify_token
from rindle.security.storage_key import asset_id_of, asset_prefix, key_segment, original_key, validate_key, variant_key
from rindle.security.ticket import read_ticket, sign_ticket

__all__ = [
    "INLINE_SAFE",
    "BadToken",
    "RedactingFilter",
    "UploadPolicy",
    "actor_digest",
    "asset_id_of",
    "asset_prefix",
    "canonical_mime",
    "check_declared",
    "check_secrets",
    "clean_extension",
    "corrected_names",
    "derive_key",
    "display_name",
    "extension_matches",
    "extension_of_mime",
    "granted_type",
    "install_redaction",
    "is_active_content",
    "is_digest_of",
    "is_inline_safe",
    "key_segment",
    "mime_allowed",
    "mime_of_extension",
    "normalize_extension",
    "original_key",
    "read_ticket",
    "redact_id",
    "sanitize_filename",
    "scrub",
    "sign_ticket",
    "sign_token",
    "sniff",
    "type_of_content",
    "validate_key",
    "validate_upload",
    "variant_key",
    "verify_token",
]
