"""A server that speaks as Mux does: its REST API, upload URLs, webhooks and playback, for the tests and the demo.

It knows nothing of the library, and the library does not know it from the real one: both meet in Mux's published
API. State is in memory and files in one directory; what is real costs real work, so a film is really fetched, cut into
HLS by ffmpeg and served. ``python -m tests.servers.mux`` runs it as a program.
"""

from __future__ import annotations

from tests.servers.mux.server import FakeMux, running_mux

__all__ = ["FakeMux", "running_mux"]
