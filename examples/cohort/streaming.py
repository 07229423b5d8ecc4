"""Streaming through Mux. The site uses it when it has credentials; without them lessons play from its own store.

``RINDLE_MUX_TOKEN_ID`` and the other variables of Rindle's streaming guide come from the environment, or from the file
that ``COHORT_MUX_FILE`` names, one ``NAME=value`` a line. The file is read again at each use, as secrets are that a
machine rotates: a new access token, signing key or webhook secret needs no restart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from rindle.streaming.mux import MuxConfig, MuxProvider

_NPM = Path(__file__).resolve().parents[2] / "node_modules"
#: Directories of scripts by the path at which pages load them: hls.js plays streams, UpChunk sends talks. They come
#: from npm at the versions of ``package.json``; ``make setup`` installs them, and so does ``npm install``.
SCRIPTS = {"/hls": _NPM / "hls.js" / "dist", "/upchunk": _NPM / "@mux" / "upchunk" / "dist"}


def is_configured() -> bool:
    """Whether new lessons are pushed to Mux."""
    return bool(_variables().get("RINDLE_MUX_TOKEN_ID"))


def provider() -> MuxProvider:
    """Return Mux, with the credentials as they are at each call."""
    from rindle.streaming.mux import MuxProvider  # here, because most runs do without it

    return MuxProvider(_config)


def webhook_secrets() -> Sequence[str]:
    """Return the accepted secrets of webhooks, newest first; ``create_router`` calls it for each webhook."""
    return _config().webhook_secrets


def sources() -> str:
    """Return from where players load streams, for a Content-Security-Policy."""
    if stream := _variables().get("RINDLE_MUX_STREAM_URL"):
        at = urlsplit(stream)
        return f"{at.scheme}://{at.netloc}"
    return "https://*.mux.com"


def upload_targets() -> str:
    """Return where browsers send talks to, for a Content-Security-Policy: Mux's own addresses, and Google's for it."""
    if api := _variables().get("RINDLE_MUX_BASE_URL"):
        at = urlsplit(api)
        return f"{at.scheme}://{at.netloc}"
    return "https://*.mux.com https://storage.googleapis.com"


def _config() -> MuxConfig:
    from rindle.streaming.mux import MuxConfig

    return MuxConfig.of_environment(_variables())


def _variables() -> Mapping[str, str]:
    file = os.environ.get("COHORT_MUX_FILE")
    if not file:
        return os.environ
    lines = (line.partition("=") for line in Path(file).read_text().splitlines())
    return {**os.environ, **{name.strip(): value.strip() for name, equals, value in lines if equals}}
