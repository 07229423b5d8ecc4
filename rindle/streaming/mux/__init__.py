"""Mux: videos are pushed to it or uploaded directly, and streamed with signed tokens.

**Credentials** (environment, read at each call): ``RINDLE_MUX_TOKEN_ID`` and ``RINDLE_MUX_TOKEN_SECRET``, an access
token with the permissions *Mux Video* read and write; ``RINDLE_MUX_SIGNING_KEY_ID`` and
``RINDLE_MUX_SIGNING_PRIVATE_KEY``, a signing key for playback (PEM, PEM with literal ``\\n``, or the base64 that Mux
hands out); ``RINDLE_MUX_WEBHOOK_SECRETS``, separated by commas, newest first.

**What is created.** One asset per pushed variant, with a random passthrough, a playback id of the profile's policy and
``max_resolution_tier`` 1080p. The asset is deleted when its media asset is purged.

``provider`` has the calls, ``config`` the credentials, ``tokens`` the playback tokens, ``webhooks`` the webhooks.
"""

from __future__ import annotations

from rindle.extras import requires

with requires("mux"):
    from rindle.streaming.mux.config import MuxConfig
    from rindle.streaming.mux.provider import MuxProvider

__all__ = ["MuxConfig", "MuxProvider"]
