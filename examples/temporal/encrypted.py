"""Encrypts payloads; the address comes from the environment."""

from __future__ import annotations

import base64
import os

from examples.temporal.codec import encrypting
from rindle import TemporalConnection


def encrypted() -> TemporalConnection:
    """Return what is passed as ``Rindle(temporal=...)``.

    ``MEDIA_KEYS`` holds the keys in base64, the newest first: ``2027:...,2026:...``.
    """
    pairs = (pair.split(":", 1) for pair in os.environ["MEDIA_KEYS"].split(","))
    return TemporalConnection(data_converter=encrypting({key_id: base64.b64decode(key) for key_id, key in pairs}))
