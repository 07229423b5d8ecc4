"""tus 1.0.0 over HTTP: one module per verb, and nothing of any storage.

``router`` chooses the verb and writes refusals, ``headers`` reads and writes the headers, ``body`` reads bytes,
``access`` decides who may. What an upload is, and where its bytes go, is in :mod:`rindle.uploads.tus`.
"""

from __future__ import annotations

from rindle.http.tus.access import SameActor
from rindle.http.tus.headers import TUS_ALLOW_HEADERS, TUS_EXPOSE_HEADERS
from rindle.http.tus.router import tus_router

__all__ = ["TUS_ALLOW_HEADERS", "TUS_EXPOSE_HEADERS", "SameActor", "tus_router"]
