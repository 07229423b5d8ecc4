"""Storage keys: how Rindle makes them, and which keys every adapter rejects.

A key never carries the user's file name; of it only the cleaned extension survives.
"""

from __future__ import annotations

import re
import unicodedata
import uuid
from typing import Final

from rindle.errors import InvalidKey
from rindle.security.filename import clean_extension, normalize_extension

#: Longest key in bytes of UTF-8 (S3 API limit, the smallest of the stores we serve).
MAX_KEY_BYTES: Final = 1024
#: First segment that only an adapter itself may use (temporary files, tus tails).
INTERNAL_SEGMENT: Final = ".rindle"

# Longest segment made here, in characters: the usual file systems' limit for one name.
_MAX_SEGMENT_CHARS = 255
# A proxy or store that decodes a key once more must not find a dot segment, a separator, a NUL or another escape in it.
_HIDDEN_ESCAPES = re.compile(r"%(?:2e|2f|5c|00|25)", re.IGNORECASE)
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:")


def original_key(profile_name: str, asset_id: str, filename: str | None, *, token: str | None = None) -> str:
    """Return the key of an original: ``<profile>/<asset id>/<token><extension>``, exactly three segments.

    Args:
        profile_name: the profile's stable name, so moving a class does not orphan objects.
        asset_id: id of the asset.
        filename: the client's file name, of which only the cleaned extension is used; ``None`` or none gives no
            extension.
        token: what makes the key unguessable and unique; a fresh random UUID by default.
    """
    name = key_segment(token, fallback="object") if token else str(uuid.uuid4())
    return f"{asset_prefix(profile_name, asset_id)}{name}{clean_extension(filename or '')}"


def variant_key(
    profile_name: str, asset_id: str, variant_name: str, digest: str, generation: int, extension: str
) -> str:
    """Return the key of one build of a variant: ``<profile>/<asset id>/<variant>-<digest>-<generation><extension>``.

    No two builds of a variant have the same key: every build has a generation of its own. So the deletion of an older
    build's object may be executed at any later time, and never removes the object of a newer build.

    Args:
        profile_name: the profile's stable name.
        asset_id: id of the asset.
        variant_name: name under which the profile declares the variant.
        digest: the recipe digest, 64 lower-case hexadecimal digits.
        generation: generation of the row that the build has claimed.
        extension: extension of the output, with or without its dot.
    """
    name = key_segment(variant_name, fallback="variant")
    recipe = key_segment(digest, fallback="recipe")
    return f"{asset_prefix(profile_name, asset_id)}{name}-{recipe}-{generation}{normalize_extension(extension)}"


def asset_prefix(profile_name: str, asset_id: str) -> str:
    """Return what the keys of an asset, and no others, begin with: ``<profile>/<asset id>/``."""
    return f"{key_segment(profile_name, fallback='profile')}/{key_segment(asset_id, fallback='asset')}/"


def asset_id_of(key: str) -> str | None:
    """Return the asset id in a key of an original or of a variant; ``None`` for keys that Rindle did not make."""
    segments = key.split("/")
    try:
        return str(uuid.UUID(segments[1])) if len(segments) == 3 else None
    except ValueError:
        return None


def key_segment(value: str, *, fallback: str) -> str:
    """Return ``value`` as one key segment of ``[a-z0-9_-]``, at most 255 characters.

    Lower case, every other character becomes ``-``, ``-`` is trimmed; ``fallback`` when nothing is left. So
    ``"asset/../1"`` becomes ``asset----1``.
    """
    return re.sub(r"[^a-z0-9_-]", "-", value.lower()).strip("-")[:_MAX_SEGMENT_CHARS].rstrip("-") or fallback


def validate_key(key: str) -> str:
    """Return ``key`` unchanged, or refuse it before it reaches a store.

    A key is 1 to 1024 bytes of UTF-8, relative, without control or formatting characters and backslashes, and without
    empty, ``.`` and ``..`` segments, neither as written nor in compatibility form (full-width dots and slashes) nor
    hidden in percent escapes. The prefix ``.rindle/`` belongs to the adapters.

    Raises:
        InvalidKey: the key breaks one of these rules; not worth a retry. The message does not repeat the key.
    """
    flaw = _flaw(key)
    if flaw is not None:
        raise InvalidKey(f"the storage key {flaw}", detail={"reason": flaw})
    return key


def _flaw(key: str) -> str | None:
    if not isinstance(key, str) or not key:
        return "is empty or no text"
    if any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for char in key):
        return "holds control, formatting or unpaired surrogate characters"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    for form in (key, unicodedata.normalize("NFKC", key)):
        if "\\" in form:
            return "holds a backslash"
        if form.startswith("/") or _WINDOWS_DRIVE.match(form):
            return "is not relative"
        segments = form.split("/")
        if any(segment in {"", ".", ".."} for segment in segments):
            return "has an empty, '.' or '..' segment"
        if segments[0].casefold() == INTERNAL_SEGMENT:  # file systems may ignore case
            return f"lies under the internal prefix {INTERNAL_SEGMENT}/"
    return "holds escaped separators or dots" if _HIDDEN_ESCAPES.search(key) else None
