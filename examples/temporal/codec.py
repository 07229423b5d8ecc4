"""Encrypts everything that the application sends through Temporal (AES-256-GCM); needs ``pip install cryptography``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

_ENCODING = b"binary/encrypted"
_NONCE_BYTES = 12


class EncryptionCodec(PayloadCodec):
    """Encrypts with the first key and decrypts with each of them, so that keys can be replaced.

    Args:
        keys: keys of 32 bytes by id; ids are stored in clear beside what they encrypt.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._newest = next(iter(keys))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Encrypt payloads together with their metadata."""
        return [self._encrypted(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Decrypt payloads; what was sent before encryption was switched on passes unchanged."""
        return [self._decrypted(one) if one.metadata.get("encoding") == _ENCODING else one for one in payloads]

    def _encrypted(self, payload: Payload) -> Payload:
        nonce, key_id = os.urandom(_NONCE_BYTES), self._newest.encode()
        data = self._ciphers[self._newest].encrypt(nonce, payload.SerializeToString(), key_id)
        return Payload(metadata={"encoding": _ENCODING, "encryption-key-id": key_id}, data=nonce + data)

    def _decrypted(self, payload: Payload) -> Payload:
        key_id = payload.metadata["encryption-key-id"]
        cipher = self._ciphers[key_id.decode()]
        data = cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], key_id)
        return Payload.FromString(data)


def encrypting(keys: Mapping[str, bytes]) -> DataConverter:
    """Return the data converter of every client of the application."""
    return replace(
        pydantic_data_converter,
        payload_codec=EncryptionCodec(keys),
        # Without it, messages and stack traces of failures stay in clear.
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
