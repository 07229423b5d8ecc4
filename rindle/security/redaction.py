"""Keeping bearer credentials out of logs and strings.

Defence in depth: our own code does not log secrets to begin with; this catches those that arrive inside a provider's
answer, an exception of a driver or a URL in a traceback.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Mapping
from typing import Any, Final

#: Logger of the transport of several SDKs, which writes the path and query of each request at the level ``DEBUG``.
REQUEST_LOGGER: Final = "urllib3.connectionpool"
#: What stands where a secret stood.
REDACTED: Final = "[REDACTED]"

# Names whose value is a secret wherever they appear: query parameters, headers, keyword arguments, JSON, DSN words.
_SENSITIVE_NAMES = (
    r"x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|x-goog-credential|awsaccesskeyid"
    r"|signature|upload_?id|x-guploader-uploadid|session_?uri|(?:aws_)?secret_access_key|(?:aws_)?session_token"
    r"|access_token|refresh_token|client_secret|api_?key|password|passwd|secrets?|token|ticket|upload_url|mux_passthrough"
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@ of any URL or DSN; a password may hold "@", hence greedy up to the last one before the path
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,30}://)[^\s/?#\"'<>]+@", re.IGNORECASE), rf"\1{REDACTED}@"),
    # Authorization and cookie headers: all up to the end of the line or of the quoted value
    (
        re.compile(
            r"(\b(?:proxy-)?authorization|\b(?:set-)?cookie)([\"']?\s*[:=,]\s*)"
            r"(?!\[REDACTED\])(?:b?\"[^\"\n]*\"|b?'[^'\n]*'|[^\s\"'][^\n\"'}\]]*)",
            re.IGNORECASE,
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # name=value, name: value, "name": "value"; never the word alone, so sentences about a token stay readable
    (
        re.compile(
            rf"((?<![a-z0-9])(?:{_SENSITIVE_NAMES}))([\"']?\s*=\s*|[\"']\s*[:,]\s*|:\s*)"
            r"(?!\[REDACTED\])(?:(?:SecretStr\()?b?\"[^\"\n]*\"|(?:SecretStr\()?b?'[^'\n]*'|[^\s\"'&<>,;)}\]]+)",
            re.IGNORECASE,
        ),
        rf"\1\2{REDACTED}",
    ),
    # Ids of Mux in the paths of its API, which its client writes into the log of requests
    (re.compile(r"(/video/v1/(?:assets|uploads)/)(?!\[REDACTED\])[A-Za-z0-9._%-]+"), rf"\1{REDACTED}"),
    # Our own tokens (tus, local and transform URLs) and JWTs: base64url of "{"..." with one or two more parts
    (re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){1,2}"), REDACTED),
    # The same by shape, as the last part of a path: a SHA-256 MAC is 43 characters of base64url
    (re.compile(r"(?<=/)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{43}(?![A-Za-z0-9_.-])"), REDACTED),
)
_SECRET_ATTRIBUTE = re.compile(rf"(?:{_SENSITIVE_NAMES}|(?:proxy-)?authorization|(?:set-)?cookie)\Z", re.IGNORECASE)
# What the logging module itself puts on a record; everything else came in through ``extra``.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Nested ``extra`` values are followed this deep.
_MAX_DEPTH = 4


def redact_id(value: str | None) -> str | None:
    """Return a provider's id as logs and ``repr`` may show it.

    ``None`` stays ``None``, four characters or more become ``"..."`` and the last four, less becomes
    ``"...redacted"``.
    """
    if value is None:
        return None
    return f"...{value[-4:]}" if len(value) >= 4 else "...redacted"


def scrub(text: str) -> str:
    """Return ``text`` with every recognised credential replaced by ``[REDACTED]``.

    Recognised are signature, credential and token parameters of S3 and Google URLs, ``upload_id``, session URIs, ids in
    paths of Mux's API, tus, local and JWT tokens, ``Authorization`` and cookie headers, passwords by name, and
    ``user:password@`` in URLs and DSNs. Applying it twice changes nothing.
    """
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


class RedactingFilter(logging.Filter):
    """A logging filter that lets every record pass and takes the credentials out of it, in place.

    The message with its arguments, the attributes given by ``extra`` (nested up to four levels) and the text of the
    traceback are scrubbed. A record without secrets keeps its arguments and its ``exc_info`` untouched. Otherwise it
    keeps the number of its arguments if that is possible: formatters of access logs read them one by one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Scrub ``record`` and return ``True``."""
        message = _message_of(record)
        if message is None:
            message = f"{record.msg} {record.args}"
        clean = scrub(message)
        if clean != message:
            _replace_message(record, clean)
        for name in vars(record).keys() - _OWN_ATTRIBUTES:
            setattr(record, name, _scrubbed(name, getattr(record, name), _MAX_DEPTH))
        self._scrub_traceback(record)
        return True

    def _scrub_traceback(self, record: logging.LogRecord) -> None:
        if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            plain = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            clean = scrub(plain)
            if clean != plain:
                # Formatters print exc_text when it is there; without exc_info none can format the original again.
                record.exc_text, record.exc_info = clean, None
        elif record.exc_text:
            record.exc_text = scrub(record.exc_text)
        if record.stack_info:
            record.stack_info = scrub(record.stack_info)


class _RedactingHandler(logging.Handler):
    """Writes nothing; its filter cleans each record before the handlers of the ancestors see it."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RedactingFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """Do nothing: the filter has done the work."""


def install_redaction(logger_name: str = "rindle") -> None:
    """Scrub everything logged by ``logger_name`` and its children; repeating it is harmless.

    A filter on a logger is not called for its children's records, so it sits on a silent handler of that logger, which
    runs before those of the root. Applications that also want the records of other libraries cleaned add
    :class:`RedactingFilter` to their own handlers.
    """
    logger = logging.getLogger(logger_name)
    if not any(isinstance(handler, _RedactingHandler) for handler in logger.handlers):
        logger.addHandler(_RedactingHandler())


def scrub_requests() -> None:
    """Scrub what :data:`REQUEST_LOGGER` writes, whose level is the application's; repeating it is harmless."""
    logger = logging.getLogger(REQUEST_LOGGER)
    if not any(isinstance(present, RedactingFilter) for present in logger.filters):
        logger.addFilter(RedactingFilter())


def _message_of(record: logging.LogRecord) -> str | None:
    """Return the message, or ``None`` when its arguments are wrong."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return None


def _replace_message(record: logging.LogRecord, clean: str) -> None:
    """Scrub the arguments one by one, or, when a secret is only visible in the whole message, write that instead."""
    if isinstance(record.args, tuple):
        record.args = tuple(scrub(arg) if isinstance(arg, str) else arg for arg in record.args)
        message = _message_of(record)
        if message is not None and scrub(message) == message:
            return
    record.msg, record.args = clean, ()


def _scrubbed(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_ATTRIBUTE.match(name):
        return REDACTED
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, BaseException | bytes) or depth == 0:
        return scrub(repr(value))
    if isinstance(value, Mapping):
        return {key: _scrubbed(str(key), item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_scrubbed("", item, depth - 1) for item in value]
    plain = str(value)
    clean = scrub(plain)
    return value if clean == plain else clean
