"""``python -m tests.servers.mux``: run the server until Ctrl-C, and say what to set to use it."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.servers.mux import running_mux


def main(arguments: list[str]) -> int:
    """Run it and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers.mux", description="A server that stands for Mux.")
    parser.add_argument("--home", type=Path, help="empty directory for the films; default: a temporary one")
    parser.add_argument("--port", type=int, default=0, help="on loopback; default: a free one")
    parser.add_argument("--webhook", metavar="URL", help="where events are sent")
    parser.add_argument("--webhook-secret", metavar="SECRET", help="signs them; default: a new one")
    given = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with (
        tempfile.TemporaryDirectory(prefix="mux-") as temporary,
        running_mux(given.home or Path(temporary), port=given.port) as mux,
    ):
        secret = mux.add_webhook(given.webhook, given.webhook_secret) if given.webhook else None
        token_id, token_secret = mux.token
        settings = {
            "BASE_URL": mux.base_url,
            "STREAM_URL": mux.base_url,
            "TOKEN_ID": token_id,
            "TOKEN_SECRET": token_secret,
            "SIGNING_KEY_ID": mux.signing_key.id,
            "SIGNING_PRIVATE_KEY": mux.signing_key.private_key,
            **({"WEBHOOK_SECRETS": secret} if secret else {}),
        }
        for name, value in settings.items():
            print(f"RINDLE_MUX_{name}={value}")
        print("ready", flush=True)
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
