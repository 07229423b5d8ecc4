"""Mux's credentials, from the environment or from the application's own source of secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from rindle.errors import MissingConfig

#: Mux's API, and the address of its streams.
API_URL = "https://api.mux.com"
STREAM_URL = "https://stream.mux.com"


@dataclass(frozen=True, slots=True)
class MuxConfig:
    """What Mux needs; a value may be empty where its calls are not used.

    Attributes:
        token_id: id of the access token.
        token_secret: its secret.
        signing_key_id: id of the signing key of signed playback.
        signing_private_key: its private key: PEM, PEM with literal ``\\n``, or base64 of PEM.
        webhook_secrets: accepted secrets of webhooks, newest first.
        base_url: Mux's API.
        stream_url: where players load streams.
    """

    token_id: str = ""
    token_secret: str = field(default="", repr=False)
    signing_key_id: str = ""
    signing_private_key: str = field(default="", repr=False)
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    base_url: str = API_URL
    stream_url: str = STREAM_URL

    @classmethod
    def of_environment(cls, environ: Mapping[str, str] | None = None) -> MuxConfig:
        """Read the variables ``RINDLE_MUX_*``; those that are not set stay empty."""
        found = os.environ if environ is None else environ

        def read(name: str, default: str = "") -> str:
            return found.get(f"RINDLE_MUX_{name}", "").strip() or default

        secrets = tuple(part.strip() for part in read("WEBHOOK_SECRETS").split(",") if part.strip())
        return cls(
            token_id=read("TOKEN_ID"),
            token_secret=read("TOKEN_SECRET"),
            signing_key_id=read("SIGNING_KEY_ID"),
            signing_private_key=read("SIGNING_PRIVATE_KEY"),
            webhook_secrets=secrets,
            base_url=read("BASE_URL", API_URL),
            stream_url=read("STREAM_URL", STREAM_URL),
        )

    def missing(self, *options: str) -> list[str]:
        """Return the variables of those options that are empty."""
        return [_variable(option) for option in options if not getattr(self, option)]

    def require(self, option: str) -> str:
        """Return an option that must not be empty.

        Raises:
            MissingConfig: it is empty; the message names its variable.
        """
        value: str = getattr(self, option)
        if not value:
            key = _variable(option)
            raise MissingConfig(f"{key} is not set; the Mux provider needs it", detail={"key": key})
        return value


def _variable(option: str) -> str:
    return f"RINDLE_MUX_{option.upper()}"
