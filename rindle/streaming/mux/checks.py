"""What is wrong with a configuration of Mux, found without a call; no text holds a part of a secret."""

from __future__ import annotations

from collections.abc import Iterator

from rindle.errors import MissingConfig
from rindle.protocols import ConfigurationFlaw
from rindle.streaming.mux.config import MuxConfig
from rindle.streaming.mux.tokens import signing_key_problem

#: Length of the shortest webhook secret that counts as safe, in characters.
MIN_SECRET_CHARS = 32

_DASHBOARD = "create it in Mux's dashboard (Settings)"


def flaws_of(config: MuxConfig, *, signed: bool) -> Iterator[ConfigurationFlaw]:
    """Yield what is wrong with ``config``; ``signed`` when playback tokens are needed."""
    missing = config.missing("token_id", "token_secret", "webhook_secrets")
    missing += config.missing("signing_key_id", "signing_private_key") if signed else []
    if missing:
        yield ConfigurationFlaw(
            "credentials", f"not set: {', '.join(missing)}", f"{_DASHBOARD}, and set {', '.join(missing)}"
        )
    if signed and config.signing_private_key and config.signing_key_id:
        try:
            problem = signing_key_problem(config)
        except MissingConfig as error:
            problem = error.message
        if problem is not None:
            yield ConfigurationFlaw("signing_key", problem, f"{_DASHBOARD} as a signing key, and pass it unchanged")
    short = [str(number) for number, one in enumerate(config.webhook_secrets, 1) if len(one) < MIN_SECRET_CHARS]
    if not config.webhook_secrets:
        yield ConfigurationFlaw(
            "webhook_secrets",
            "RINDLE_MUX_WEBHOOK_SECRETS is not set, so every webhook is refused",
            f"{_DASHBOARD} as a webhook, and set RINDLE_MUX_WEBHOOK_SECRETS to its signing secret",
        )
    elif short:
        yield ConfigurationFlaw(
            "webhook_secrets",
            f"RINDLE_MUX_WEBHOOK_SECRETS: number {', '.join(short)} has fewer than {MIN_SECRET_CHARS} characters",
            "use the signing secrets of Mux's webhooks as they are, separated by commas",
        )
