"""The two messages of a rejection: one for the person who uploads, one for the operator.

The first is made here from the code and its parameters (``detail``): what is wrong with this file, and what to send
instead. It names no profile, option or library. Applications translate it by the same code and parameters. The second
is written where the rejection is found, with the decoder's own reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, TypeVar

from rindle.errors import ContentRejected, UploadRejected

_Rejected = TypeVar("_Rejected", UploadRejected, ContentRejected)
_Facts = Mapping[str, Any]

#: What people call a type of content; for any other type the media type itself stands in a sentence.
TYPE_NAMES: Final[Mapping[str, str]] = {
    "image/avif": "AVIF image",
    "image/bmp": "BMP image",
    "image/gif": "GIF image",
    "image/heic": "HEIC image",
    "image/heic-sequence": "HEIC image",
    "image/heif": "HEIF image",
    "image/heif-sequence": "HEIF image",
    "image/jp2": "JPEG 2000 image",
    "image/jpeg": "JPEG image",
    "image/jxl": "JPEG XL image",
    "image/png": "PNG image",
    "image/svg+xml": "SVG drawing",
    "image/tiff": "TIFF image",
    "image/vnd.adobe.photoshop": "Photoshop document",
    "image/webp": "WebP image",
    "image/x-canon-cr3": "camera raw image",
    "image/x-icon": "icon",
    "application/ogg": "Ogg file",
    "application/pdf": "PDF document",
    "application/zip": "ZIP archive",
    "audio/aac": "AAC audio file",
    "audio/3gpp": "3GP audio file",
    "audio/3gpp2": "3GP audio file",
    "audio/aiff": "AIFF audio file",
    "audio/amr": "AMR audio file",
    "audio/basic": "AU audio file",
    "audio/flac": "FLAC audio file",
    "audio/mp4": "M4A audio file",
    "audio/mpeg": "MP3 audio file",
    "audio/ogg": "Ogg audio file",
    "audio/wav": "WAV audio file",
    "audio/webm": "WebM audio file",
    "audio/x-ape": "Monkey's Audio file (APE)",
    "audio/x-caf": "Core Audio file (CAF)",
    "audio/x-matroska": "Matroska audio file",
    "audio/x-mp4a-latm": "AAC file in LATM form",
    "audio/x-ms-wma": "Windows Media audio file (WMA)",
    "audio/x-w64": "Wave64 audio file (W64)",
    "audio/x-wavpack": "WavPack audio file",
    "text/html": "web page",
    "text/plain": "text file",
    "video/3gpp": "3GP video",
    "video/3gpp2": "3GP video",
    "video/mp2t": "MPEG transport stream",
    "video/mp4": "MP4 video",
    "video/mpeg": "MPEG program stream (MPG, VOB)",
    "video/ogg": "Ogg video",
    "video/quicktime": "QuickTime video",
    "video/webm": "WebM video",
    "video/x-dv": "DV video",
    "video/x-flv": "Flash video (FLV)",
    "video/x-matroska": "Matroska video",
    "video/x-ms-asf": "Windows Media file (WMV)",
    "video/x-msvideo": "AVI video",
}
_FAMILIES: Final = {"image": "images", "video": "videos", "audio": "audio files", "text": "text files"}
#: What every profile that accepts the family can read.
_COMMON: Final = {
    "image": "JPEG or PNG",
    "video": "MP4 with H.264 and AAC",
    "audio": "MP3 or M4A",
}


def sentence(code: str, facts: _Facts) -> str | None:
    """Return the sentence for the uploader of content rejected with ``code``; ``None`` for a code without one.

    Args:
        facts: the parameters: the ``detail`` of the error, as rows keep it; facts that are missing are left out.
    """
    made = SENTENCES.get(code)
    return None if made is None else made(facts)


def rejected(kind: type[_Rejected], code: str, operator: str, /, **facts: Any) -> _Rejected:
    """Return an error whose message is the sentence of ``code``; ``operator`` is the message for the operator."""
    return kind(sentence(code, facts) or operator, code=code, detail=facts, operator=operator)


def explained(error: _Rejected, mime: str) -> _Rejected:
    """Return ``error`` of a bundled probe with the sentence of its code; its own message is then for the operator.

    Args:
        mime: the type of the file, which becomes the parameter ``format``.
    """
    if error.operator is not None or error.code not in SENTENCES:
        return error
    reason = error.detail.get("reason")
    operator = f"{error.message} ({reason})" if reason else error.message
    facts = {"format": mime, **{name: value for name, value in error.detail.items() if name != "reason"}}
    return type(error)(SENTENCES[error.code](facts), code=error.code, detail=facts, operator=operator)


def type_of(error: UploadRejected | ContentRejected) -> str | None:
    """Return the type that was detected from the bytes, if the parameters of the rejection contain it."""
    where = {"extension_mime_mismatch": "limit", "mime_not_allowed": "found"}.get(error.code, "mime")
    found = error.detail.get(where)
    return found if isinstance(found, str) and "/" in found else None


def name_of_type(mime: str) -> str:
    """Return what people call files of the type ``mime``, or ``mime`` itself when it has no such name."""
    return TYPE_NAMES.get(mime, mime)


# --- sentences ---------------------------------------------------------------------------------------------------


def _named(facts: _Facts, key: str) -> str:
    """Return "This JPEG image", or "This file" when the type is not known."""
    return f"This {name_of_type(str(facts[key]))}" if facts.get(key) in TYPE_NAMES else "This file"


def _instead(mime: Any) -> str:
    """Return what to send in place of a file of this type."""
    return f"Save it as {_COMMON.get(str(mime).partition('/')[0], 'a common format')} and send that file."


def _listed(names: Collection[str]) -> str:
    *first, last = dict.fromkeys(names)
    return f"{', '.join(first)} and {last}" if first else last


def _plural(mime: str) -> str:
    family, _, subtype = mime.partition("/")
    if subtype == "*":
        return _FAMILIES.get(family, mime)
    return re.sub(r"( in .*| \(.*\))?$", r"s\1", name_of_type(mime), count=1) if mime in TYPE_NAMES else mime


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _size(count: Any) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count} bytes"


def _time(milliseconds: Any) -> str:
    seconds = milliseconds / 1000
    for unit, factor in (("hours", 3600), ("minutes", 60)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def _mime_not_allowed(facts: _Facts) -> str:
    found = str(facts.get("found") or "")
    what = f"{_plural(found)} are" if found in TYPE_NAMES else "Files of this type are"
    limit = facts.get("limit") or ()
    accepted = f"Send one of these: {_listed([_plural(str(mime)) for mime in limit])}." if limit else _instead(found)
    return f"{_capital(what)} not accepted here. {accepted}"


def _extension_not_allowed(facts: _Facts) -> str:
    accepted = _listed([str(one) for one in facts.get("limit") or ("a usual one",)])
    found = facts.get("found") or "this"
    return f"Files with names that end in {found} are not accepted. The name must end in {accepted}."


def _missing_extension(facts: _Facts) -> str:
    accepted = _listed([str(one) for one in facts.get("limit") or ("a usual one",)])
    return f"The name of this file has no ending. It must end in {accepted}."


def _extension_mismatch(facts: _Facts) -> str:
    found = str(facts.get("limit") or "")
    ending = f" in {facts['found']}" if facts.get("found") else " otherwise"
    what = f" ({TYPE_NAMES[found]})" if found in TYPE_NAMES else ""
    return f"The name of this file ends{ending}, but its content is of another type{what}. Save it again and send it."


def _max_bytes(facts: _Facts) -> str:
    found = f" and this one has {_size(facts['found'])}" if facts.get("found") else ""
    limit = f"at most {_size(facts['limit'])}" if facts.get("limit") else "a smaller size"
    return f"This file is too large: files of {limit} are accepted{found}. Send a smaller one."


def _max_pixels(facts: _Facts) -> str:
    size = (
        f"This image has {facts['width']} × {facts['height']} pixels"
        if facts.get("width")
        else "This image is too large"
    )
    if facts.get("kind") == "video":
        size = size.replace("image", "video")
    frames = f" in {facts['frames']} frames" if (facts.get("frames") or 1) > 1 else ""
    limit = f", more than the {facts['limit'] / 1e6:.4g} megapixels accepted" if facts.get("limit") else ""
    return f"{size}{frames}{limit}. Make it smaller and send it again."


def _too_long(facts: _Facts) -> str:
    limit = f"At most {_time(facts['limit'])} are accepted" if facts.get("limit") else "Shorter files are accepted"
    found = f" and this file lasts {_time(facts['found'])}" if facts.get("found") else ""
    return f"{limit}{found}. Cut it and send a shorter one."


def _no_probe(facts: _Facts) -> str:
    mime = str(facts.get("mime") or facts.get("found") or "")
    what = _plural(mime) if mime in TYPE_NAMES else "files of this type"
    return f"{_capital(what)} cannot be processed here. {_instead(mime)}"


def _damaged(facts: _Facts) -> str:
    return f"{_named(facts, 'format')} is damaged or incomplete and cannot be opened. Save it again and send it."


def _unsupported(facts: _Facts) -> str:
    instead = _instead(facts.get("format") or "image/")
    return f"{_named(facts, 'format')} is saved in a way that cannot be read here. {instead}"


def _decoder_failed(facts: _Facts) -> str:
    return f"{_named(facts, 'format')} cannot be opened here. {_instead(facts.get('format') or 'image/')}"


def _size_mismatch(facts: _Facts) -> str:
    both = "found" in facts and "expected" in facts
    sizes = f": it has {facts['found']} bytes, and {facts['expected']} were declared" if both else ""
    return f"This file did not arrive as a whole{sizes}. Send it again."


def _codec(facts: _Facts) -> str:
    codec = f" ({facts['codec']})" if facts.get("codec") else ""
    return f"A track of this file is coded in a way that is not accepted{codec}. {_instead('video/')}"


def _fixed(text: str) -> Callable[[_Facts], str]:
    return lambda _facts: text


#: The sentence of every code with which content can be rejected, made from the parameters.
SENTENCES: Final[Mapping[str, Callable[[_Facts], str]]] = {
    "camera_raw": _fixed("This is the raw file of a camera. Export the photo as JPEG and send that file."),
    "codec_not_allowed": _codec,
    "content_too_complex": _fixed(
        "This file is built in a way that takes too long to read. Export it again with usual settings and send it."
    ),
    "decode_failed": _damaged,
    "decoder_failed": _decoder_failed,
    "digest_mismatch": _fixed("This file did not arrive as it was sent. Send it again."),
    "empty_upload": _fixed("This file has no content. Choose a file with content and send it again."),
    "extension_mime_mismatch": _extension_mismatch,
    "extension_not_allowed": _extension_not_allowed,
    "max_bytes_exceeded": _max_bytes,
    "max_pixels_exceeded": _max_pixels,
    "media_too_long": _too_long,
    "mime_not_allowed": _mime_not_allowed,
    "missing_extension": _missing_extension,
    "no_probe_for_mime": _no_probe,
    "object_changed_after_verify": _fixed("The file changed while it was being checked. Send it again."),
    "scanner_rejected": _fixed("This file was rejected by the security scan. Send another file."),
    "size_mismatch": _size_mismatch,
    "strip_unsupported": _fixed(
        "Personal data cannot be removed from files of this type. Save it as JPEG or PNG and send that file."
    ),
    "unknown_mime": _fixed("The type of this file is not recognised. Save it in a common format and send that file."),
    "unsupported_variant_of_format": _unsupported,
}
