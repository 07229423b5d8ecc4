"""``OPTIONS``: what the server offers. Source: tus 1.0.0, OPTIONS."""

from __future__ import annotations

from fastapi import Response

from rindle.http.tus.call import TusCall, done
from rindle.http.tus.headers import CHECKSUM_ALGORITHMS, VERSION

#: Extensions that every storage with ``tus_upload`` has.
EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "termination",
    "checksum",
)


async def options(call: TusCall) -> Response:
    """Return the version, the extensions and the limits."""
    offered = [*EXTENSIONS, *(["concatenation"] if call.uploads.can_concatenate else [])]
    return done(
        {
            "Tus-Version": VERSION,
            "Tus-Extension": ",".join(offered),
            "Tus-Max-Size": str(call.uploads.max_size),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUM_ALGORITHMS),
        }
    )
