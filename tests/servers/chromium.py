"""The system's Chromium, driven by Playwright through ``executable_path``; ``playwright install`` is never used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.servers import Unavailable

#: Environment variable that names the browser.
PROGRAM_VARIABLE = "RINDLE_CHROMIUM"
#: Where the browser is called what.
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
#: Arguments of every launch: it runs as root in containers, and must talk to nobody but the page under test.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def program() -> Path:
    """Return the browser."""
    asked = os.environ.get(PROGRAM_VARIABLE)
    for name in (asked,) if asked else NAMES:
        if found := shutil.which(name):
            return Path(found)
    raise Unavailable("no Chromium: install it (Debian: apt-get install chromium), or name it in RINDLE_CHROMIUM")
