"""File names from clients: made safe for storage and headers, never used as a path.

Three readings of one name: :func:`sanitize_filename` is plain ASCII and stored, :func:`display_name` keeps the
original's letters for the download header, :func:`clean_extension` is all that ever reaches a storage key.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

#: Longest stored file name in bytes (the limit of the usual file systems).
MAX_FILENAME_BYTES: Final = 255
#: Longest extension in characters, its dot included.
MAX_EXTENSION_CHARS: Final = 16
#: What a name becomes when nothing of it survives.
FALLBACK_FILENAME: Final = "upload"

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")
# Longest suffix still taken for an extension when a name must be shortened; longer ones are part of the sentence.
_MAX_KEPT_SUFFIX_CHARS = 32
# Names that Windows opens as devices, whatever follows the first dot (Win32, "Naming Files, Paths, and Namespaces").
_WINDOWS_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"com{digit}" for digit in range(10)), *(f"lpt{digit}" for digit in range(10))}
)
#: Marks that reorder text, so that "gpj.exe" reads as "exe.jpg" (Unicode TR 36, bidirectional spoofing).
BIDI_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def sanitize_filename(name: str) -> str:
    r"""Return ``name`` as a safe ASCII file name of 1 to 255 bytes from ``[A-Za-z0-9._-]``.

    The last segment of a Unix or Windows path is kept, control characters are dropped, runs of other characters become
    one ``_``, and ``_`` is trimmed. A name that keeps nothing is ``upload``, a stem that keeps nothing becomes
    ``upload`` before its extension. Leading dots are removed (no hidden files) and trailing ones too (Windows ignores
    them); Windows device names get a leading ``_``. Applying it twice changes nothing.

    Args:
        name: the name as the client sent it; any characters, any length.

    Returns:
        For example ``photo_name_.JPG`` for ``../weird/\x07photo name?.JPG``.
    """
    segment = _CONTROLS.sub("", _last_segment(name))
    stem, dot, suffix = segment.rpartition(".")
    cleaned = _UNSAFE.sub("_", segment)
    if dot and stem.strip(".") and not _UNSAFE.sub("_", stem).strip("._"):
        cleaned = f"{FALLBACK_FILENAME}.{_UNSAFE.sub('_', suffix)}"  # a stem without one ASCII letter, as in Cyrillic
    cleaned = cleaned.lstrip("._").rstrip("._")
    if not cleaned:
        return FALLBACK_FILENAME
    if cleaned.partition(".")[0].lower() in _WINDOWS_DEVICES:
        cleaned = f"_{cleaned}"
    return _shortened(cleaned, MAX_FILENAME_BYTES)


def display_name(name: str) -> str:
    """Return ``name`` as people wrote it, fit for ``filename*`` of a Content-Disposition header and nothing else.

    The last path segment in NFC, without control characters, line separators, unpaired surrogates and bidirectional
    marks, at most 255 bytes of UTF-8 (so at most 255 characters) with the extension kept; ``upload`` when nothing is
    left.

    Source: RFC 6266 section 4.3 (path parts must not be used), Unicode TR 36 (bidirectional spoofing).
    """
    visible = "".join(
        char
        for char in _last_segment(name)
        if char not in BIDI_MARKS and unicodedata.category(char) not in {"Cc", "Cs", "Zl", "Zp"}
    )
    written = unicodedata.normalize("NFC", visible).strip()
    if not written.strip("."):
        return FALLBACK_FILENAME
    return _shortened(written, MAX_FILENAME_BYTES).strip() or FALLBACK_FILENAME


def with_extension(name: str, extension: str) -> str:
    """Return the sanitised or display name ``name`` with ``extension`` (``.jpg``) in place of its own."""
    stem, dot, _ = name.rpartition(".")
    return _shortened((stem if dot else name) + extension, MAX_FILENAME_BYTES)


def clean_extension(name: str) -> str:
    """Return the extension of the file name ``name`` as a storage key carries it: ``.jpg``, or ``""`` for none.

    What follows the last dot of the last path segment, through :func:`normalize_extension`; a dot file such as
    ``.htaccess`` has none.
    """
    stem, _, suffix = _last_segment(name).rpartition(".")
    return normalize_extension(suffix) if stem.strip(".") else ""


def normalize_extension(extension: str) -> str:
    """Return a bare extension in its one form: lower case, ``[a-z0-9.]`` only, one leading dot, at most 16 characters.

    ``" PNG"`` and ``"..png"`` both give ``.png``; nothing left gives ``""``.
    """
    kept = re.sub(r"[^a-z0-9.]", "", extension.lower())
    single = re.sub(r"\.+", ".", kept).strip(".")
    return f".{single}"[:MAX_EXTENSION_CHARS].rstrip(".") if single else ""


def _last_segment(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _shortened(name: str, limit: int) -> str:
    """Cut ``name`` to ``limit`` bytes of UTF-8 on a character boundary, taking from the stem rather than the suffix."""
    if len(name.encode()) <= limit:
        return name
    stem, dot, suffix = name.rpartition(".")
    if not dot or not stem or len(suffix) > _MAX_KEPT_SUFFIX_CHARS:
        stem, tail = name, ""
    else:
        tail = f".{suffix}"
    room = limit - len(tail.encode())
    return (stem.encode()[:room].decode(errors="ignore").rstrip("._ ") or FALLBACK_FILENAME) + tail
