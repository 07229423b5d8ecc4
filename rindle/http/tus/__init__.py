"""tus 1.0.0 over HTTP: one module per verb, and nothing of any storage.

``router`` chooses the verb and writes refusals, ``headers`` reads and writes the headers. Bodies and access are those
of all protocols (:mod:`rindle.http.streams`). What an upload is, and where its bytes go, is in
:mod:`rindle.uploads.tus`.
"""

from __future__ import annotations

from rindle.http.streams.access import SameActor
from rindle.http.tus.headers import TUS_ALLOW_HEADERS, TUS_EXPOSE_HEADERS
from rindle.http.tus.router import tus_router

__all__ = ["TUS_ALLOW_HEADERS", "TUS_EXPOSE_HEADERS", "SameActor", "tus_router"]
