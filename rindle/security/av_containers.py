"""Containers of audio and video, as far as their bytes distinguish them, and the types they have by their tracks.

Some containers look the same with and without video: an MP4 of a voice recorder and one of a camera. For these the
gate accepts either type, and the kind that the probe finds decides (:func:`type_of_kind`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from rindle.states import MediaKind

#: Returns so many bytes from an offset of the file; fewer at its end.
Read = Callable[[int, int], bytes]

#: Types of containers by the kind of what is in them.
_AUDIO_TYPES: Final[Mapping[str, str]] = {
    "video/mp4": "audio/mp4",
    "video/quicktime": "audio/mp4",
    "video/3gpp": "audio/3gpp",
    "video/3gpp2": "audio/3gpp2",
    "video/webm": "audio/webm",
    "video/x-matroska": "audio/x-matroska",
    "video/ogg": "audio/ogg",
}
_VIDEO_TYPES: Final[Mapping[str, str]] = {
    "audio/mp4": "video/mp4",
    "audio/3gpp": "video/3gpp",
    "audio/3gpp2": "video/3gpp2",
    "audio/webm": "video/webm",
    "audio/x-matroska": "video/x-matroska",
    "audio/ogg": "video/ogg",
}

#: Bytes that are examined behind a tag or padding.
_LOOK_BYTES: Final = 8192
#: Tags before the audio, and boxes before the first that means something.
_MAX_PARTS: Final = 16
#: Longest run of zeros before the first frame of an MP3.
_MAX_PADDING_BYTES: Final = 1 << 16
#: Bytes of a packet of a transport stream, and where its 0x47 stands: plain, with a time (AVCHD, Blu-ray), with parity.
_PACKETS: Final = ((188, 0), (192, 4), (204, 0))
_SYNC: Final = 0x47
_MIN_PACKETS: Final = 3
#: Boxes of QuickTime before its first useful one; ``PICT`` follows a preview (``pnot``).
_FILLERS: Final = frozenset({b"wide", b"free", b"skip", b"pnot", b"PICT"})
#: What follows the ``ftyp`` of video and audio, and of no image.
_MOVIE_BOXES: Final = _FILLERS | {b"moov", b"mdat", b"moof", b"sidx", b"styp", b"pdin", b"uuid", b"emsg", b"prft"}
_ASF_AUDIO: Final = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")
_ASF_VIDEO: Final = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")


def possible_types(mime: str) -> tuple[str, ...]:
    """Return the types that a file of the sniffed type ``mime`` may turn out to have, ``mime`` first."""
    return tuple(dict.fromkeys((mime, _AUDIO_TYPES.get(mime, mime), _VIDEO_TYPES.get(mime, mime))))


def type_of_kind(mime: str, kind: MediaKind) -> str:
    """Return the type of a file of the sniffed type ``mime`` in which a probe has found media of ``kind``."""
    types = {MediaKind.AUDIO: _AUDIO_TYPES, MediaKind.VIDEO: _VIDEO_TYPES}.get(kind, {})
    return types.get(mime, mime)


def transport_stream(head: bytes) -> str | None:
    """Recognise MPEG transport streams by the distance of their packets."""
    for size, at in _PACKETS:
        marks = head[at::size]
        if len(marks) >= _MIN_PACKETS and set(marks) == {_SYNC}:
            return "video/mp2t"
    return None


def asf(head: bytes) -> str:
    """Return the type of a Windows Media file by the types of its streams."""
    return "audio/x-ms-wma" if _ASF_AUDIO in head and _ASF_VIDEO not in head else "video/x-ms-asf"


def quicktime(read: Read, iso_media: Callable[[bytes], str | None]) -> str | None:
    """Recognise a file of boxes that does not begin with ``ftyp``: QuickTime is older than this box."""
    at = 0
    for _ in range(_MAX_PARTS):
        header = read(at, 16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if kind in (b"moov", b"mdat"):
            return "video/quicktime"
        if kind == b"ftyp":
            return iso_media(read(at, _LOOK_BYTES))
        if kind not in _FILLERS:
            return None
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return None
        at += size
    return None


def is_movie(read: Read) -> bool:
    """Whether a file that begins with ``ftyp`` goes on like video or audio, whatever its brand is."""
    size = int.from_bytes(read(0, 4), "big")
    return size >= 16 and read(size + 4, 4) in _MOVIE_BOXES


def tagged_audio(read: Read, framed_audio: Callable[[bytes], str | None]) -> str:
    """Return the type of audio that begins with ID3 tags: FLAC, AAC or, for all else, MP3.

    Source: ID3v2.4, sections 3.1 and 3.4 (size of a tag, footer).
    """
    at = 0
    for _ in range(_MAX_PARTS):
        header = read(at, 10)
        if len(header) < 10 or not header.startswith(b"ID3") or any(byte & 0x80 for byte in header[6:10]):
            break
        size = sum(byte << shift for byte, shift in zip(header[6:10], (21, 14, 7, 0), strict=True))
        at += 10 + size + (10 if header[5] & 0x10 else 0)
    audio = padded(read, at)
    return "audio/flac" if audio.startswith(b"fLaC") else framed_audio(audio) or "audio/mpeg"


def padded(read: Read, at: int = 0) -> bytes:
    """Return the bytes behind a run of zeros that begins at ``at``; empty when it does not end soon."""
    for start in range(at, at + _MAX_PADDING_BYTES, _LOOK_BYTES):
        found = read(start, _LOOK_BYTES)
        audio = found.lstrip(b"\x00")
        if audio or len(found) < _LOOK_BYTES:
            return read(start + len(found) - len(audio), _LOOK_BYTES) if audio else b""
    return b""
