"""The real type of a file, detected from its first bytes; and which extensions belong to which type.

Nothing here uses what a client declares, and nothing reads the host's MIME database, which differs per machine.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rindle.errors import Misconfigured, UploadRejected
from rindle.rejections import rejected
from rindle.security import av_containers
from rindle.security.av_containers import Read
from rindle.security.filename import normalize_extension

#: How many bytes from the start decide the type.
SNIFF_BYTES: Final = 8192

#: Types a browser may show in place when we serve them; everything else is an attachment.
INLINE_SAFE: Final = frozenset(
    {
        "application/pdf",
        "audio/*",
        "image/avif",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/plain",
        "video/*",
    }
)

# Names one type goes by; on the right the only form that the rest of Rindle sees.
_ALIASES: Mapping[str, str] = {
    "application/ecmascript": "text/javascript",
    "application/javascript": "text/javascript",
    "application/mpegurl": "application/vnd.apple.mpegurl",
    "application/x-gzip": "application/gzip",
    "application/x-javascript": "text/javascript",
    "application/x-matroska": "video/x-matroska",
    "application/x-mpegurl": "application/vnd.apple.mpegurl",
    "application/x-pdf": "application/pdf",
    "application/x-zip-compressed": "application/zip",
    "application/xml": "text/xml",
    "audio/aacp": "audio/aac",
    "audio/m4a": "audio/mp4",
    "audio/mp3": "audio/mpeg",
    "audio/mpegurl": "application/vnd.apple.mpegurl",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-aac": "audio/aac",
    "audio/x-aiff": "audio/aiff",
    "audio/x-flac": "audio/flac",
    "audio/x-hx-aac-adts": "audio/aac",
    "audio/x-m4a": "audio/mp4",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-mpegurl": "application/vnd.apple.mpegurl",
    "audio/x-wav": "audio/wav",
    "image/apng": "image/png",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/svg": "image/svg+xml",
    "image/vnd.microsoft.icon": "image/x-icon",
    "image/vnd.mozilla.apng": "image/png",
    "image/x-ms-bmp": "image/bmp",
    "image/x-png": "image/png",
    "image/x-tiff": "image/tiff",
    "text/ecmascript": "text/javascript",
    "text/x-javascript": "text/javascript",
    "video/avi": "video/x-msvideo",
    "video/matroska": "video/x-matroska",
    "video/msvideo": "video/x-msvideo",
    "video/x-m4v": "video/mp4",
}

# Phones and recorders use these names for each other's brands, with video and without.
_ISO = ("video/mp4", "video/quicktime", "audio/mp4", "video/3gpp", "video/3gpp2", "audio/3gpp", "audio/3gpp2")
_ASF = ("video/x-ms-asf", "video/x-ms-wmv", "audio/x-ms-wma")
_HEIF = ("image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence")
_MATROSKA = ("video/x-matroska", "video/webm", "audio/webm", "audio/x-matroska")
_OGG = ("audio/ogg", "video/ogg", "application/ogg")
_TEXT = ("text/plain", "text/*")

# Types a file of this extension may really have, its own type first. An extension that is missing here never
# mismatches. Names that servers execute are listed so that an image cannot have such a name.
_EXTENSION_MIMES: dict[str, tuple[str, ...]] = {
    ".jpg": ("image/jpeg",),
    ".jpeg": ("image/jpeg",),
    ".jfif": ("image/jpeg",),
    ".jpe": ("image/jpeg",),
    ".png": ("image/png",),
    ".apng": ("image/png",),
    ".gif": ("image/gif",),
    ".webp": ("image/webp",),
    ".avif": ("image/avif",),
    ".heic": _HEIF,
    ".heif": ("image/heif", *_HEIF),
    ".hif": ("image/heif", *_HEIF),
    ".heics": ("image/heic-sequence", *_HEIF),
    ".heifs": ("image/heif-sequence", *_HEIF),
    ".avifs": ("image/avif",),
    ".tif": ("image/tiff",),
    ".tiff": ("image/tiff",),
    ".bmp": ("image/bmp",),
    ".ico": ("image/x-icon",),
    ".jxl": ("image/jxl",),
    ".jp2": ("image/jp2",),
    ".psd": ("image/vnd.adobe.photoshop",),
    ".svg": ("image/svg+xml",),
    ".svgz": ("application/gzip",),
    ".mp4": _ISO,
    ".m4v": _ISO,
    ".f4v": _ISO,
    ".mov": ("video/quicktime", *_ISO),
    ".qt": ("video/quicktime", *_ISO),
    ".3gp": ("video/3gpp", *_ISO),
    ".3g2": ("video/3gpp2", *_ISO),
    ".3ga": ("audio/3gpp", *_ISO),
    ".webm": ("video/webm", *_MATROSKA),
    ".weba": ("audio/webm", *_MATROSKA),
    ".mkv": _MATROSKA,
    ".mka": ("audio/x-matroska", *_MATROSKA),
    ".avi": ("video/x-msvideo",),
    ".mpg": ("video/mpeg", "video/mp2t"),
    ".mpeg": ("video/mpeg", "video/mp2t"),
    ".vob": ("video/mpeg",),
    ".ts": ("video/mp2t",),
    ".m2ts": ("video/mp2t",),
    ".mts": ("video/mp2t",),
    ".flv": ("video/x-flv",),
    ".wmv": _ASF,
    ".asf": _ASF,
    ".wma": ("audio/x-ms-wma", *_ASF),
    ".mp3": ("audio/mpeg",),
    ".mp2": ("audio/mpeg",),
    ".m4a": ("audio/mp4", *_ISO),
    ".m4b": ("audio/mp4", *_ISO),
    ".aac": ("audio/aac", *_ISO),
    ".wav": ("audio/wav",),
    ".flac": ("audio/flac",),
    ".aif": ("audio/aiff",),
    ".aiff": ("audio/aiff",),
    ".aifc": ("audio/aiff",),
    ".caf": ("audio/x-caf",),
    ".w64": ("audio/x-w64",),
    ".au": ("audio/basic",),
    ".ogg": _OGG,
    ".oga": _OGG,
    ".opus": _OGG,
    ".spx": _OGG,
    ".ogv": ("video/ogg", *_OGG),
    ".amr": ("audio/amr",),
    ".pdf": ("application/pdf",),
    ".txt": _TEXT,
    ".csv": ("text/csv", *_TEXT),
    ".json": ("application/json",),
    ".html": ("text/html",),
    ".htm": ("text/html",),
    ".xhtml": ("application/xhtml+xml", "text/html", "text/xml"),
    ".xml": ("text/xml",),
    ".js": ("text/javascript", *_TEXT),
    ".mjs": ("text/javascript", *_TEXT),
    ".m3u8": ("application/vnd.apple.mpegurl",),
    ".mpd": ("application/dash+xml", "text/xml"),
    ".zip": ("application/zip",),
    ".gz": ("application/gzip",),
    ".php": ("text/x-php",),
    ".phtml": ("text/x-php",),
    ".phar": ("text/x-php", "application/zip"),
    ".asp": ("text/asp", "text/html"),
    ".aspx": ("text/asp", "text/html"),
    ".jsp": ("text/jsp", "text/html"),
    ".jar": ("application/java-archive", "application/zip"),
    ".exe": ("application/vnd.microsoft.portable-executable", "application/x-dosexec"),
    ".dll": ("application/vnd.microsoft.portable-executable", "application/x-dosexec"),
    ".bat": ("text/x-msdos-batch", "text/plain"),
    ".sh": ("text/x-shellscript", "text/plain"),
}
_MIME_EXTENSIONS: Mapping[str, str] = {mimes[0]: extension for extension, mimes in reversed(_EXTENSION_MIMES.items())}

# Types that run code in a browser or on a server when they are opened from there.
_ACTIVE = frozenset(
    {
        "application/x-httpd-php",
        "application/x-sh",
        "application/x-shockwave-flash",
        "application/xslt",
        "image/svg+xml",
        "text/asp",
        "text/html",
        "text/javascript",
        "text/jsp",
        "text/vbscript",
        "text/xml",
        "text/xsl",
    }
)
_ACTIVE_TEXT = re.compile(r"text/x-(?:\w+-)?(?:awk|batch|lua|perl|php|python|ruby|script\.\w+|shellscript|tcl)\Z")

# ISO base media brands (registered at mp4ra.org) and the type each stands for.
_BRANDS: Mapping[bytes, str] = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"heim": "image/heic",
    b"heis": "image/heic",
    b"hevc": "image/heic-sequence",
    b"hevx": "image/heic-sequence",
    b"hevm": "image/heic-sequence",
    b"hevs": "image/heic-sequence",
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4P ": "audio/mp4",
    b"qt  ": "video/quicktime",
    b"mqt ": "video/quicktime",
    b"jp2 ": "image/jp2",
    b"jxl ": "image/jxl",
    b"crx ": "image/x-canon-cr3",
}
# Brands that mean only "some image of the HEIF family"; a compatible brand may be more specific.
_HEIF_BRANDS: Mapping[bytes, str] = {
    b"mif1": "image/heif",
    b"mif2": "image/heif",
    b"miaf": "image/heif",
    b"msf1": "image/heif-sequence",
}
# Other brands (Panasonic, Canon, Dolby, MPEG-7, Smooth Streaming, ..) are recognised by the boxes that follow.
_MP4_BRAND = re.compile(rb"(?:iso[0-9a-m]|mp4[12]|avc1|av01|hvc1|dash|msdh|cmf.|MSNV|mmp4|M4V.|F4V |f4v |XAVC|NDS.)")

_3GPP_BRAND = re.compile(rb"3g[prsegh]")

_LEADING_MARKUP = re.compile(r"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*)*", re.DOTALL)
_ROOT = re.compile(r"<(?:!doctype\s+)?(?:[\w.-]+:)?([a-z][\w.-]*)", re.IGNORECASE)
_MARKUP_ROOTS: Mapping[str, str] = {
    "svg": "image/svg+xml",
    "html": "text/html",
    "head": "text/html",
    "body": "text/html",
    "script": "text/html",
    "iframe": "text/html",
    "mpd": "application/dash+xml",
}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def sniff(source: Path | str | bytes) -> str:
    """Return the canonical MIME type of a file from its first 8192 bytes, or those behind a tag or an empty box.

    Our own signatures come first, because image, ISO media, Matroska and Ogg containers and markup need a closer look
    than libmagic takes; libmagic answers for the rest. The first bytes decide: what a polyglot holds further on does
    not matter, since we serve it under this type with ``nosniff``.

    Args:
        source: path of a file, or its first bytes (more are ignored).

    Raises:
        UploadRejected: ``unknown_mime``: the file is empty, missing, unreadable or of no known type.
        Misconfigured: libmagic is not installed on this machine.
        OSError: the disk failed while reading; the file is neither accepted nor rejected.

    Source: WHATWG MIME Sniffing (image, audio, video signatures), ISO/IEC 14496-12 (``ftyp`` box), RFC 8794 (EBML),
    RFC 3533 and RFC 5334 (Ogg).
    """
    with _reader(source) as read:
        head = read(0, SNIFF_BYTES)
        found = _signature(head, read) or _libmagic(head) if head else None
    if found is None:
        raise rejected(UploadRejected, "unknown_mime", "the type of the file cannot be detected from its content")
    return found


def canonical_mime(mime: str) -> str:
    """Return ``mime`` in lower case, without parameters, under the one name that Rindle uses for it."""
    plain = mime.partition(";")[0].strip().lower()
    return _ALIASES.get(plain, plain)


def mime_allowed(mime: str, patterns: Collection[str]) -> bool:
    """Whether ``mime`` is named by one of ``patterns``: a type, or a family such as ``image/*``.

    A family never covers active content: SVG, HTML, XML and scripts count only when they are named themselves. A HEIC
    type covers its sequences, of which the still image is taken.
    """
    name = canonical_mime(mime)
    if any(canonical_mime(pattern) in (name, name.removesuffix("-sequence")) for pattern in patterns):
        return True
    return not is_active_content(name) and f"{name.partition('/')[0]}/*" in patterns


def is_active_content(mime: str) -> bool:
    """Whether files of this type can run code where they are opened: SVG, HTML, XML of any kind, scripts."""
    name = canonical_mime(mime)
    return name in _ACTIVE or name.endswith("+xml") or _ACTIVE_TEXT.match(name) is not None


def is_inline_safe(mime: str) -> bool:
    """Whether a browser may show this type in place (:data:`INLINE_SAFE`) instead of saving it."""
    return mime_allowed(mime, INLINE_SAFE)


def extension_matches(extension: str, mime: str) -> bool:
    """Whether a file of the sniffed type ``mime`` may carry ``extension`` (any case, with or without its dot).

    Extensions of one family go together (``.mp4``, ``.m4v``, ``.mov``). An extension we do not know never mismatches.
    """
    mimes = _EXTENSION_MIMES.get(normalize_extension(extension))
    return mimes is None or mime_allowed(mime, mimes)


def mime_of_extension(extension: str) -> str | None:
    """Return the type of ``extension``, or ``None`` when it is unknown. It is a guess, never a validation."""
    mimes = _EXTENSION_MIMES.get(normalize_extension(extension))
    return mimes[0] if mimes else None


def types_of_extension(extension: str) -> tuple[str, ...]:
    """Return the types that a file with ``extension`` may have, its own type first; empty when it is unknown."""
    mimes = _EXTENSION_MIMES.get(normalize_extension(extension), ())
    return tuple(dict.fromkeys(mime for mime in mimes if not mime.endswith("/*")))


def extension_of_mime(mime: str) -> str | None:
    """Return the usual extension of ``mime`` with its dot, or ``None`` when we do not know one."""
    return _MIME_EXTENSIONS.get(canonical_mime(mime))


@contextmanager
def _reader(source: Path | str | bytes) -> Iterator[Read]:
    if isinstance(source, bytes | bytearray | memoryview):
        head = bytes(source[:SNIFF_BYTES])
        yield lambda at, count: head[at : at + count]
        return
    try:
        file = open(source, "rb")  # noqa: SIM115 - the caller's errors must not be caught here
    except (FileNotFoundError, IsADirectoryError, PermissionError, NotADirectoryError):
        yield lambda at, count: b""
        return

    def read(at: int, count: int) -> bytes:
        file.seek(at)
        return file.read(count)

    with file:
        yield read


def _signature(head: bytes, read: Read) -> str | None:
    if head.startswith(b"ID3"):
        return av_containers.tagged_audio(read, _framed_audio)
    for prefix, mime in _PREFIXES:
        if head.startswith(prefix):
            return mime(head) if callable(mime) else mime
    if head[4:8] == b"ftyp":
        return _iso_media(head) or ("video/mp4" if av_containers.is_movie(read) else None)
    stream = av_containers.quicktime(read, _iso_media) or av_containers.transport_stream(head)
    # Some encoders write zeros before the first frame.
    return stream or _markup(head) or _framed_audio(av_containers.padded(read))


def _riff(head: bytes) -> str | None:
    return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}.get(head[8:12])


def _long_wave(head: bytes) -> str | None:
    return "audio/wav" if head[8:12] == b"WAVE" else None


def _aiff(head: bytes) -> str | None:
    return "audio/aiff" if head[8:12] in {b"AIFF", b"AIFC"} else None


def _matroska(head: bytes) -> str | None:
    # The DocType element (id 0x4282) of the EBML header: its one-byte size has the top bit set.
    at = head.find(b"\x42\x82", 0, 128)
    if at < 0 or at + 3 > len(head):
        return None
    doctype = head[at + 3 : at + 3 + (head[at + 2] & 0x7F)]
    return {b"webm": "video/webm", b"matroska": "video/x-matroska"}.get(doctype.rstrip(b"\x00"))


def _ogg(head: bytes) -> str:
    if any(mark in head for mark in (b"\x80theora", b"BBCD\x00", b"\x01video\x00")):
        return "video/ogg"
    if any(mark in head for mark in (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")):
        return "audio/ogg"
    return "application/ogg"


def _iso_media(head: bytes) -> str | None:
    size = int.from_bytes(head[:4], "big")
    box = head[8 : min(size, len(head))] if size >= 16 else head[8:12]
    major, compatible = box[:4], [box[at : at + 4] for at in range(8, len(box) - 3, 4)]
    if major in _HEIF_BRANDS:
        named = (_BRANDS[brand] for brand in compatible if brand in _BRANDS)
        return next((mime for mime in named if mime.startswith("image/")), _HEIF_BRANDS[major])
    for brand in (major, *compatible):
        known = _BRANDS.get(brand) or _HEIF_BRANDS.get(brand)
        if known:
            return known
        if brand.startswith(b"3g2"):
            return "video/3gpp2"
        if _3GPP_BRAND.match(brand):
            return "video/3gpp"
        if _MP4_BRAND.match(brand):
            return "video/mp4"
    return None


def _markup(head: bytes) -> str | None:
    """Distinguish SVG, HTML, XML and playlists from other text, whatever comments, prologue or encoding come first."""
    encoding = next((name for bom, name in _BOMS if head.startswith(bom)), "utf-8")
    text = head.decode(encoding, errors="replace").lstrip("\ufeff")
    if text.startswith("#EXTM3U"):
        return "application/vnd.apple.mpegurl"
    prologue = _LEADING_MARKUP.match(text)
    root = _ROOT.match(text, prologue.end() if prologue else 0)
    known = _MARKUP_ROOTS.get(root[1].lower()) if root else None
    if known:
        return known
    return "text/xml" if text.lstrip().lower().startswith("<?xml") else None


def _framed_audio(head: bytes) -> str | None:
    """Recognise MP3 and ADTS AAC without an ID3 tag by two frame headers in a row, so that no text passes for them."""
    for mime, length in (("audio/aac", _adts_length(head)), ("audio/mpeg", _layer3_length(head))):
        if length and head[length : length + 1] == b"\xff" and head[length + 1 : length + 2] == head[1:2]:
            return mime
    return None


def _adts_length(head: bytes) -> int:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or (head[2] >> 2) & 0x0F > 12:
        return 0
    length = (head[3] & 0x03) << 11 | head[4] << 3 | head[5] >> 5
    return length if length >= 7 else 0  # the header alone has seven bytes


def _layer3_length(head: bytes) -> int:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate_index, rate_index = (head[1] >> 3) & 3, head[2] >> 4, (head[2] >> 2) & 3
    if version == 1 or bitrate_index in {0, 15} or rate_index == 3:
        return 0
    newest = version == 3  # MPEG-1; 2 is MPEG-2 and 0 is MPEG-2.5, with half and quarter sample rates
    kbps = (_KBPS_MPEG1 if newest else _KBPS_MPEG2)[bitrate_index]
    rate_hz = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    return (144 if newest else 72) * kbps * 1000 // rate_hz + (head[2] >> 1 & 1)


_KBPS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)

# In the order they are tried; a function looks further where the first bytes are only a container's.
_PREFIXES: tuple[tuple[bytes, str | Callable[[bytes], str | None]], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"RIFF", _riff),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"\xff\x0a", "image/jxl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"%PDF-", "application/pdf"),
    (b"\x1aE\xdf\xa3", _matroska),
    (b"OggS", _ogg),
    (b"fLaC", "audio/flac"),
    (b"RF64", _long_wave),
    (b"BW64", _long_wave),
    (b"riff\x2e\x91\xcf\x11", "audio/x-w64"),
    (b"caff", "audio/x-caf"),
    (b".snd", "audio/basic"),
    (b"wvpk", "audio/x-wavpack"),
    (b"MAC ", "audio/x-ape"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", av_containers.asf),
    (b"FORM", _aiff),
    (b"#!AMR", "audio/amr"),
    (b"FLV\x01", "video/x-flv"),
    (b"\x00\x00\x01\xba", "video/mpeg"),
)


def _libmagic(head: bytes) -> str | None:
    try:
        import magic  # imported late: it loads a shared library, and most uploads never need it
    except ImportError as error:
        raise Misconfigured("libmagic is missing; install the system package (libmagic1 on Debian)") from error
    try:
        found = canonical_mime(magic.from_buffer(head, mime=True))
    except magic.MagicException:
        return None
    return None if found in {"application/octet-stream", "application/x-empty", "inode/x-empty", ""} else found
