"""Whether an upload is what its profile allows: first by what is declared, later by its bytes.

Nothing a client declares speaks for a file. A declaration can only be refused early, the bytes decide.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rindle.errors import InvalidArgument, UploadRejected
from rindle.rejections import rejected
from rindle.security.av_containers import possible_types, type_of_kind
from rindle.security.filename import normalize_extension, sanitize_filename, with_extension
from rindle.security.mime import (
    canonical_mime,
    extension_matches,
    extension_of_mime,
    is_active_content,
    mime_allowed,
    sniff,
    types_of_extension,
)
from rindle.states import MediaKind

#: ``Content-Type`` of bytes of an unknown type.
UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """What one profile lets in.

    Attributes:
        profile: name of the profile, for messages.
        allow_mime: sniffed types let in, families such as ``image/*`` included; empty lets in every type but active
            content (SVG, HTML, XML, scripts), which must always be named.
        allow_extensions: extensions let in, with their dot; empty lets in every extension and none.
        max_bytes: largest size, or ``None`` for no limit.
        strict_extension: refuse an image whose extension is that of another image format. Otherwise its content decides
            and its stored name gets the right extension.
        can_probe: whether files of a type can be probed; ``None`` lets in types without a probe as well.
    """

    profile: str
    allow_mime: tuple[str, ...] = ()
    allow_extensions: tuple[str, ...] = ()
    max_bytes: int | None = None
    strict_extension: bool = False
    can_probe: Callable[[str], bool] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow_mime", tuple(map(canonical_mime, self.allow_mime)))
        object.__setattr__(self, "allow_extensions", tuple(map(normalize_extension, self.allow_extensions)))


def check_declared(policy: UploadPolicy, filename: str | None, size: int | None) -> None:
    """Refuse an upload by its declared name and size, before any row exists or any URL is signed.

    Args:
        policy: the profile's policy.
        filename: name as the client sent it; ``None`` counts as a name without extension.
        size: declared size in bytes, or ``None`` when the client declares none.

    Raises:
        UploadRejected: ``missing_extension``, ``extension_not_allowed`` or ``max_bytes_exceeded``, in this order.
        InvalidArgument: the size is negative or no whole number.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
        raise InvalidArgument("size must be a whole number of bytes, 0 or more", detail={"option": "size"})
    _check_extension(policy, _extension(filename))
    if size is not None:
        _check_size(policy, size)


def granted_type(policy: UploadPolicy, filename: str | None) -> str:
    """Return the ``Content-Type`` that a client must send with an upload, before its bytes are known.

    It follows from the profile and the extension, never from what the client declares: until the promotion has
    detected the real type, a store may answer with this one.

    Returns:
        the first type of the extension that the policy accepts; without one, the only type that the policy accepts, or
        else ``application/octet-stream``.
    """
    types = types_of_extension(_extension(filename))
    if not types and len(policy.allow_mime) == 1 and not policy.allow_mime[0].endswith("/*"):
        types = policy.allow_mime
    return next((mime for mime in types if _accepts(policy, mime)), UNKNOWN_TYPE)


def validate_upload(path: Path | str, filename: str | None, policy: UploadPolicy) -> str:
    """Validate the bytes of the file at ``path`` and return its canonical MIME type.

    Pixels, frames and duration are not looked at here; promotion measures them. A container that holds audio or video
    is accepted where one of its types is (an MP4 by ``audio/*``); :func:`type_of_content` decides after the probe.

    Args:
        path: the whole upload on local disk.
        filename: name the client gave it, or ``None``.
        policy: the profile's policy.

    Raises:
        UploadRejected: the first that applies of ``empty_upload``, ``unknown_mime``, ``mime_not_allowed``,
            ``no_probe_for_mime``, ``missing_extension`` (only where the profile lists extensions),
            ``extension_not_allowed``, ``extension_mime_mismatch`` and ``max_bytes_exceeded``.
        Misconfigured: libmagic is not installed.
        OSError: the disk failed; the file is neither accepted nor rejected.
    """
    size = _size_of(path)
    if size == 0:
        raise _rejected(policy, "empty_upload", "the upload has no content; send the file again", found=0)
    mime = sniff(path)
    if not any(_accepts(policy, possible) for possible in possible_types(mime)):
        raise _not_allowed(policy, mime)
    # Active content is accepted only where a profile names it; that profile's own probe decides later.
    if policy.can_probe is not None and not is_active_content(mime) and not policy.can_probe(mime):
        raise _rejected(
            policy,
            "no_probe_for_mime",
            f"files of type {mime} cannot be probed for profile {policy.profile!r}; allow only types with a probe",
            mime=mime,
        )
    extension = _extension(filename)
    _check_extension(policy, extension)
    if extension and not extension_matches(extension, mime) and _right_extension(policy, extension, mime) is None:
        raise _rejected(
            policy,
            "extension_mime_mismatch",
            f"profile {policy.profile!r} refuses a file named {extension} whose content is {mime}; "
            "give it the extension of its content",
            limit=mime,
            found=extension,
        )
    if size is not None:
        _check_size(policy, size)
    return mime


def type_of_content(policy: UploadPolicy, mime: str, kind: MediaKind) -> str:
    """Return the type of a file that passed the gate as ``mime``, now that a probe has found media of ``kind``.

    An MP4, WebM, Matroska, QuickTime, 3GPP or Ogg file without a video track is audio, and one with a video track is
    video, whatever its brand is. A container of video without a video track stays accepted where it was.

    Raises:
        UploadRejected: ``mime_not_allowed``.
    """
    found = type_of_kind(mime, kind)
    if len(possible_types(mime)) == 1 or _accepts(policy, found):
        return found
    if kind is MediaKind.AUDIO and _accepts(policy, mime):
        return mime
    raise _not_allowed(policy, found)


def corrected_names(policy: UploadPolicy, mime: str, *names: str | None) -> tuple[str | None, ...]:
    """Return the names of a validated file of the type ``mime``, with the extension of its content.

    A name changes only where it has the extension of another image format; see ``UploadPolicy.strict_extension``.
    """
    return tuple(name if name is None else _corrected(policy, mime, name) for name in names)


def _corrected(policy: UploadPolicy, mime: str, name: str) -> str:
    extension = _extension(name)
    right = None if not extension or extension_matches(extension, mime) else _right_extension(policy, extension, mime)
    if right is None:
        return name
    return with_extension(name, right)


def _right_extension(policy: UploadPolicy, extension: str, mime: str) -> str | None:
    """Return the extension that an image named ``extension`` gets instead; ``None`` where the mismatch is refused."""
    if policy.strict_extension or not _is_raster(mime) or not any(map(_is_raster, types_of_extension(extension))):
        return None
    if policy.allow_extensions:
        return next((one for one in policy.allow_extensions if mime in types_of_extension(one)), None)
    return extension_of_mime(mime)


def _is_raster(mime: str) -> bool:
    return mime.startswith("image/") and not is_active_content(mime)


def _extension(filename: str | None) -> str:
    """Return the extension of the sanitised name as written, lower case with its dot; ``""`` for none."""
    _, dot, suffix = sanitize_filename(filename or "").rpartition(".")
    return f".{suffix.lower()}" if dot else ""


def _size_of(path: Path | str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # sniff calls it unknown_mime


def _family(mime: str) -> str:
    return f"{mime.partition('/')[0]}/*"


def _accepts(policy: UploadPolicy, mime: str) -> bool:
    return mime_allowed(mime, policy.allow_mime or (_family(mime),))


def _not_allowed(policy: UploadPolicy, mime: str) -> UploadRejected:
    allowed = ", ".join(policy.allow_mime) or "any type but active content"
    return _rejected(
        policy,
        "mime_not_allowed",
        f"profile {policy.profile!r} does not accept files of type {mime}; it accepts: {allowed}",
        limit=list(policy.allow_mime),
        found=mime,
    )


def _check_extension(policy: UploadPolicy, extension: str) -> None:
    allowed = policy.allow_extensions
    if not allowed or extension in allowed:
        return
    listed = ", ".join(allowed)
    if not extension:
        raise _rejected(
            policy,
            "missing_extension",
            f"profile {policy.profile!r} needs a file name that ends in one of: {listed}",
            limit=list(allowed),
            found="",
        )
    raise _rejected(
        policy,
        "extension_not_allowed",
        f"profile {policy.profile!r} does not accept files named {extension[:32]}; it accepts: {listed}",
        limit=list(allowed),
        found=extension[:32],
    )


def _check_size(policy: UploadPolicy, size: int) -> None:
    if policy.max_bytes is not None and size > policy.max_bytes:
        raise _rejected(
            policy,
            "max_bytes_exceeded",
            f"profile {policy.profile!r} accepts files of at most {policy.max_bytes} bytes and this one has {size}; "
            "send a smaller one",
            limit=policy.max_bytes,
            found=size,
        )


def _rejected(policy: UploadPolicy, code: str, operator: str, **facts: Any) -> UploadRejected:
    return rejected(UploadRejected, code, operator, profile=policy.profile, **facts)
