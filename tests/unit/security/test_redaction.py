"""Credentials stay out of logs."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.security import RedactingFilter, install_redaction, redact_id, scrub, sign_token

CANARY = "CANARYabcdefghijklmnopqrstuvwxyz0123456789"
TOKEN = sign_token({"v": 1, "sid": "s1"}, "k" * 32, "rindle:tus:url")


def _access(path: str) -> logging.LogRecord:
    """A record as uvicorn writes it; its formatter reads the five arguments one by one."""
    args = ("127.0.0.1:1", "GET", path, "1.1", 200)
    return logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)


@pytest.mark.parametrize("path", [f"/media/local/{TOKEN}", f"/media/events?scope=asset&ticket={TOKEN}&after=1"])
def test_a_record_of_an_access_log_keeps_its_arguments(path: str) -> None:
    record = _access(path)

    assert RedactingFilter().filter(record)

    payload, mac = TOKEN.split(".")
    assert isinstance(record.args, tuple) and record.args[:2] + record.args[3:] == ("127.0.0.1:1", "GET", "1.1", 200)
    assert payload not in record.getMessage() and mac not in record.getMessage()
    assert record.getMessage().startswith('127.0.0.1:1 - "GET /media/') and "[REDACTED]" in record.getMessage()


def test_a_secret_that_only_the_whole_message_shows_costs_the_arguments() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "password=%s of %s", (CANARY, "ada"), None)

    assert RedactingFilter().filter(record)

    assert (record.getMessage(), record.args) == ("password=[REDACTED] of ada", ())


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, None), ("abcdef1234", "...1234"), ("1234", "...1234"), ("123", "...redacted"), ("", "...redacted")],
)
def test_provider_ids_show_their_last_four_characters(value: str | None, shown: str | None) -> None:
    assert redact_id(value) == shown


@pytest.mark.parametrize(
    "text",
    [
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential={CANARY}&X-Amz-Date=1&X-Amz-Signature={CANARY}",
        f"https://b.s3.amazonaws.com/k?x-amz-security-token={CANARY}%2F%3D",
        f"https://storage.googleapis.com/b/k?X-Goog-Signature={CANARY}&X-Goog-Credential={CANARY}",
        f"https://storage.googleapis.com/upload?uploadType=resumable&upload_id={CANARY}",
        f"PUT /b/k?uploadId={CANARY}&partNumber=1",
        f"session_uri=https://storage.googleapis.com/{CANARY}",
        f"{{'session_uri': 'https://storage.googleapis.com/{CANARY}', 'state': 'signed'}}",
        f'{{"session_uri": "https://storage.googleapis.com/{CANARY}"}}',
        f"UploadSession(session_uri=SecretStr('{CANARY}'))",
        f"Authorization: Bearer {CANARY}",
        f"headers={{'Authorization': 'AWS4-HMAC-SHA256 Credential={CANARY}, Signature={CANARY}'}}",
        f"[(b'authorization', b'Basic {CANARY}')]",
        f"Cookie: session={CANARY}; other={CANARY}",
        f"sent bearer {CANARY} to the server",
        f"postgresql+psycopg://app:{CANARY}@db.example/rindle",
        f"postgresql://app:p@ss{CANARY}@db.example/rindle",
        f"host=db user=app password={CANARY} dbname=rindle",
        f"password='{CANARY} with spaces'",
        f"aws_secret_access_key = {CANARY}",
        f"RINDLE_SECRETS={CANARY}",
        f"https://stream.mux.com/x.m3u8?token={CANARY}",
        f'https://api.mux.com:443 "GET /video/v1/assets/{CANARY} HTTP/1.1" 200 None',
        f"PUT /video/v1/uploads/{CANARY}/cancel",
        f"/media/files/{CANARY}.{'m' * 43}",
        f"https://app.example/files/{CANARY}.{'m' * 43}?x=1",
    ],
)
def test_credentials_are_replaced_wherever_they_stand(text: str) -> None:
    clean = scrub(text)
    assert "CANARY" not in clean
    assert "[REDACTED]" in clean
    assert scrub(clean) == clean


@pytest.mark.parametrize("prefix", ["/uploads/tus/", "https://app.example/media/", "token ", "/t/v1."])
def test_our_own_tokens_are_replaced_under_every_mount(prefix: str) -> None:
    payload, mac = TOKEN.split(".")
    clean = scrub(f"PATCH {prefix}{TOKEN} 204")
    assert payload not in clean
    assert mac not in clean
    assert clean.endswith(" 204")


@pytest.mark.parametrize(
    "text",
    [
        "asset 0190c5a2-0000-7000-8000-000000000000 became ready after 0.4 s",
        "profile 'avatar' accepts files of at most 8388608 bytes",
        "avatar/0190c5a2/thumb-3a9ab2f60b2d26217471f22cc329252acba546c6341111a3ef89a8d9978d30a7.webp",
        "the token is not valid",
        "GET https://app.example:8443/media?page=2 200",
        "https://b.s3.amazonaws.com/k?X-Amz-Date=20260101T000000Z&X-Amz-Expires=900",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert scrub(text) == text


def test_the_rest_of_a_url_stays_readable() -> None:
    assert scrub("https://h/k?X-Amz-Signature=abc&X-Amz-Expires=900") == (
        "https://h/k?X-Amz-Signature=[REDACTED]&X-Amz-Expires=900"
    )
    assert scrub("postgresql://app:pw@db.example:5432/rindle") == "postgresql://[REDACTED]@db.example:5432/rindle"


@given(st.text(max_size=500))
def test_any_text_can_be_scrubbed_twice(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


@pytest.fixture
def logged() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A library logger and, above it, an application's handler that knows nothing of secrets."""
    parent = logging.getLogger("redactiontest")
    parent.propagate = False
    written = io.StringIO()
    install_redaction("redactiontest")
    install_redaction("redactiontest")
    application = logging.StreamHandler(written)
    application.setFormatter(logging.Formatter("%(message)s %(detail)s", defaults={"detail": "-"}))
    parent.addHandler(application)
    yield logging.getLogger("redactiontest.storage.s3"), written
    parent.handlers.clear()


def test_records_of_children_are_scrubbed_before_the_application_writes_them(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = logged
    logger.warning("GET %s failed", f"https://h/k?X-Amz-Signature={CANARY}")
    logger.warning("failed", extra={"detail": {"session_uri": CANARY, "nested": [f"password={CANARY}"], "n": 3}})
    assert "CANARY" not in written.getvalue()
    assert "'n': 3" in written.getvalue()


def test_tracebacks_are_scrubbed(logged: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = logged
    try:
        raise ConnectionError(f"postgresql://app:{CANARY}@db/x refused")
    except ConnectionError:
        logger.exception("connecting failed")
    assert "CANARY" not in written.getvalue()
    assert "ConnectionError: postgresql://[REDACTED]@db/x refused" in written.getvalue()


def test_installing_twice_adds_one_handler(logged: tuple[logging.Logger, io.StringIO]) -> None:
    handlers = logging.getLogger("redactiontest").handlers
    assert sum(any(isinstance(own, RedactingFilter) for own in handler.filters) for handler in handlers) == 1


def test_a_record_without_secrets_keeps_its_arguments_and_exception() -> None:
    try:
        raise ValueError("plain")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("rindle", logging.INFO, __file__, 1, "asset %s", ("a1",), info)
    assert RedactingFilter().filter(record)
    assert (record.args, record.exc_info) == (("a1",), info)


def test_a_record_with_wrong_arguments_passes_scrubbed() -> None:
    record = logging.LogRecord("rindle", logging.INFO, __file__, 1, "%d and %d", (f"token={CANARY}",), None)
    assert RedactingFilter().filter(record)
    assert "CANARY" not in record.getMessage()
