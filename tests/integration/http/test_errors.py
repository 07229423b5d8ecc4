"""Errors over HTTP: their status, their body, and what stays out of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from rindle.errors import StorageTransient, Unauthorized
from rindle.uploads import sessions
from tests.gallery import Gallery
from tests.integration.http.site import Site, error_of, site


async def test_what_nobody_foresaw_is_answered_without_its_text(
    web: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(services: Any, upload: Any) -> None:
        raise RuntimeError("password=the-secret X-Amz-Signature=the-secret")

    ticket = await web.ticket()
    monkeypatch.setattr(sessions, "verify", broken)

    with caplog.at_level(logging.ERROR, logger="rindle"):
        answer = await web.call("POST", f"/uploads/{ticket['session']['id']}/verify")

    assert error_of(answer) == (500, "unexpected")
    assert answer.json()["error"]["detail"] == {"error": "RuntimeError"}
    assert "the-secret" not in answer.text + caplog.text
    assert "in broken" in caplog.text  # the traceback is there


@pytest.mark.parametrize(
    ("raised", "expected", "retry_after"),
    [
        (StorageTransient("busy"), (503, "storage_transient"), "5"),
        (StorageTransient("busy", retry_after=11.2), (503, "storage_transient"), "12"),
        (OperationalError("SELECT the-secret", {}, Exception("gone")), (503, "inspection_failed"), "5"),
        (Unauthorized("no", code="forbidden"), (403, "forbidden"), None),
    ],
)
async def test_errors_carry_their_status_and_when_to_come_back(
    web: Site, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: tuple[int, str], retry_after: str | None
) -> None:
    async def broken(services: Any, upload: Any) -> None:
        raise raised

    ticket = await web.ticket()
    monkeypatch.setattr(sessions, "verify", broken)
    answer = await web.call("POST", f"/uploads/{ticket['session']['id']}/verify")

    assert error_of(answer) == expected
    assert answer.headers.get("retry-after") == retry_after
    assert "the-secret" not in answer.text


async def test_the_application_s_own_errors_stay_as_they_are(tmp_path: Path) -> None:
    def prepare(gallery: Gallery, app: FastAPI) -> None:
        @app.get("/own/{number}")
        async def own(number: int) -> int:
            return number

    async with site(tmp_path, prepare=prepare) as web:
        answer = await web.client.get("/own/x")

        assert answer.status_code == 422 and "detail" in answer.json()
