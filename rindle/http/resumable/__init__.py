"""Resumable Uploads for HTTP (IETF draft, interop version 8).

``fields`` reads and writes the header fields, ``messages`` the requests and responses that are made of them. ``router``
chooses the verb and writes refusals. Bodies and access are those of all protocols (:mod:`rindle.http.streams`). What an
upload is, and where its bytes go, is in :mod:`rindle.uploads.ietf`.

Source: draft-ietf-httpbis-resumable-upload, RFC 9530 (digests), RFC 9651 (structured fields), RFC 9457 (problems).
"""

from __future__ import annotations

from rindle.http.resumable.messages import ALLOW_HEADERS, EXPOSE_HEADERS
from rindle.http.resumable.router import resumable_router
from rindle.http.streams.access import SameActor

__all__ = ["ALLOW_HEADERS", "EXPOSE_HEADERS", "SameActor", "resumable_router"]
