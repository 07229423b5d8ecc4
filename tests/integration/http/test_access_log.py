"""Access logs: the lines of a real server contain the requests, and none of the tokens in their paths and queries."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from pathlib import Path

import httpx
import pytest

from rindle.http.access_log import ACCESS_LOGGERS, scrub_access_logs
from rindle.security import RedactingFilter, sign_ticket
from rindle.storage.grant import Grant
from rindle.storage.local import URL_LABEL
from tests.integration.http.site import CLOSED_PORT
from tests.patience import PATIENCE_SECONDS, until
from tests.servers import free_port

REPOSITORY = Path(__file__).resolve().parents[3]
SECRET = "cohort-secret-of-at-least-32-bytes"
ASSET = "0198c0de-0000-7000-8000-00000000000a"


@pytest.mark.parametrize("level", ["info", "trace"])
async def test_the_example_s_log_has_its_requests_and_no_token(tmp_path: Path, level: str) -> None:
    port, log = free_port(), tmp_path / "web.log"
    later = int(time.time()) + 3600
    get = Grant(method="GET", key=f"avatar/{ASSET}/x.jpg", expires_at=later).token(SECRET, URL_LABEL)
    put = Grant(method="PUT", key=f"avatar/{ASSET}/y.jpg", expires_at=later).token(SECRET, URL_LABEL)
    ticket = sign_ticket("asset", ASSET, expires_at=later, secrets=[SECRET])
    environment = {
        **os.environ,
        "RINDLE_HOME": str(tmp_path),
        "RINDLE_TMP_DIR": str(tmp_path / "tmp"),
        "RINDLE_SECRETS": SECRET,
        "TEMPORAL_ADDRESS": CLOSED_PORT,
    }
    serve = ("-m", "uvicorn", "examples.cohort.app:app", "--port", str(port), "--log-level", level)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *serve, cwd=REPOSITORY, env=environment, stdout=output, stderr=output
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as client:

            async def answers() -> bool:
                assert process.returncode is None, log.read_text()[-2000:]
                try:
                    return (await client.get("/media/livez")).status_code == 200
                except httpx.TransportError:
                    return False

            await until(answers, what="the web server")
            statuses = [
                (await client.get(f"/media/local/{get}")).status_code,
                (await client.put(f"/media/local/{put}", content=b"x")).status_code,
                (
                    await client.get("/media/events", params={"scope": "asset", "id": ASSET, "ticket": ticket})
                ).status_code,
                (await client.get(f"/nowhere/{get}?next=/media/local/{put}")).status_code,
            ]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()

    written = log.read_text()
    assert statuses == [404, 403, 403, 404]
    for line in ('"GET /media/local/[REDACTED] HTTP', '"PUT /media/local/[REDACTED] HTTP', "&ticket=[REDACTED] HTTP"):
        assert line in written
    for secret in (get, put, ticket):
        for part in (secret, *secret.split(".")):
            assert part not in written
    assert "Logging error" not in written


def test_repeating_it_adds_nothing() -> None:
    scrub_access_logs()
    scrub_access_logs()

    for name in ACCESS_LOGGERS:
        assert [type(one) for one in logging.getLogger(name).filters].count(RedactingFilter) == 1
