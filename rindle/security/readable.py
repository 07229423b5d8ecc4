"""Which types of content the bundled probes read; everything else needs a probe of the profile.

Those of audio and video are the containers that ffmpeg may open (:data:`rindle.media.ffmpeg.FORMAT_WHITELIST`).
"""

from __future__ import annotations

from typing import Final

#: Image types that are read. Of a HEIC or AVIF sequence the primary still image is taken.
READABLE_IMAGES: Final = frozenset(
    {
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/gif",
        "image/avif",
        "image/tiff",
        "image/heic",
        "image/heif",
        "image/heic-sequence",
        "image/heif-sequence",
    }
)
#: Types of audio and video that are read. Windows Media, Flash, MPEG program streams, AIFF, CAF, AU, W64 and AMR are
#: not (``docs/decisions/containers.md``).
READABLE_AV: Final = frozenset(
    {
        "application/ogg",
        "audio/3gpp",
        "audio/3gpp2",
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "audio/x-matroska",
        "video/3gpp",
        "video/3gpp2",
        "video/mp2t",
        "video/mp4",
        "video/ogg",
        "video/quicktime",
        "video/webm",
        "video/x-matroska",
        "video/x-msvideo",
    }
)


def is_readable(mime: str) -> bool:
    """Whether a bundled probe reads files of the sniffed type ``mime``."""
    return mime in READABLE_IMAGES or mime in READABLE_AV
