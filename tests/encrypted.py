"""The test application with the encrypting codec of ``docs/temporal.md``: ``RINDLE_APP=tests.encrypted:make``."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from google.protobuf.message import Message
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter

from rindle import Rindle, TemporalConnection
from tests import application

#: The applications of tests have the first one.
KEYS = {"2026": b"k" * 32, "2027": b"n" * 32}


class _Cipher:
    """AES-GCM's interface and promises from the standard library: a keyed stream, authenticated with its context."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _stream(self, nonce: bytes, data: bytes) -> bytes:
        blocks = (hmac.digest(self._key, nonce + n.to_bytes(8, "big"), "sha256") for n in range(len(data) // 32 + 1))
        return bytes(a ^ b for a, b in zip(data, b"".join(blocks), strict=False))

    def _tag(self, nonce: bytes, data: bytes, context: bytes) -> bytes:
        parts = b"".join(len(part).to_bytes(8, "big") + part for part in (nonce, context, data))
        return hmac.digest(hashlib.sha256(self._key).digest(), parts, "sha256")

    def encrypt(self, nonce: bytes, data: bytes, context: bytes) -> bytes:
        """Encrypt and authenticate."""
        sealed = self._stream(nonce, data)
        return sealed + self._tag(nonce, sealed, context)

    def decrypt(self, nonce: bytes, data: bytes, context: bytes) -> bytes:
        """Check and decrypt."""
        sealed, tag = data[:-32], data[-32:]
        if not hmac.compare_digest(tag, self._tag(nonce, sealed, context)):
            raise ValueError("not encrypted with this key")
        return self._stream(nonce, sealed)


@contextmanager
def cipher() -> Iterator[None]:
    """Let the example import its cipher where ``cryptography`` is not installed; the project does not depend on it."""
    if find_spec("cryptography") is not None:
        yield
        return
    parts = ["cryptography", "hazmat", "primitives", "ciphers", "aead"]
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    sys.modules.update({name: ModuleType(name) for name in names})
    vars(sys.modules[names[-1]])["AESGCM"] = _Cipher
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def converter(key_id: str) -> DataConverter:
    """Return the data converter of the documentation, with one key."""
    with cipher():
        from examples.temporal.codec import encrypting

    return encrypting({key_id: KEYS[key_id]})


def connection(environment: Mapping[str, str], *, key_id: str = "2026") -> TemporalConnection:
    """Return a connection that encrypts."""
    return TemporalConnection(
        data_converter=converter(key_id), connect_seconds=application.CONNECT_SECONDS, environment=environment
    )


def make(environment: Mapping[str, str] = os.environ) -> Rindle:
    """Build the test application; everything it sends through Temporal is encrypted.

    With APP_CONNECT it connects by a function of its own.
    """
    rindle = application.make(environment)
    rindle.temporal = connection(environment)
    if environment.get("APP_CONNECT"):

        async def connect() -> Client:
            return await Client.connect(environment["TEMPORAL_ADDRESS"], data_converter=converter("2026"))

        rindle.temporal = TemporalConnection(connect=connect)
    return rindle


def encodable(history: WorkflowHistory) -> Iterator[HistoryEvent]:
    """Yield the events of a history, except the markers in which the SDK's core records the names of patches.

    The core writes those past every converter. A slow machine takes paths of workflows that have one.
    """
    for event in history.events:
        if event.marker_recorded_event_attributes.marker_name != "core_patch":
            yield event


def parts(message: Message) -> Iterator[Message]:
    """Yield a protobuf message and all messages inside it, without search attributes, which cannot be encrypted."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is None or field.name in ("search_attributes", "indexed_fields"):
            continue
        if field.message_type.GetOptions().map_entry:
            values = [one for one in value.values() if isinstance(one, Message)]
        else:
            values = list(value) if field.is_repeated else [value]
        for one in values:
            yield from parts(one)
