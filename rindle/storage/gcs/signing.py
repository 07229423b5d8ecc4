"""Signatures of URLs: with a private key, or by Google's own ``signBlob`` where this machine has no key.

Source: Cloud Storage documentation, V4 signing process; IAM Service Account Credentials API,
``projects.serviceAccounts.signBlob``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from google.auth import credentials as google_credentials
from google.auth import crypt
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from pydantic import SecretStr

from rindle.errors import StorageMisconfigured, StorageTransient
from rindle.storage.gcs.client import GCSClient

#: Address of the API that signs in the name of a service account.
IAM_ENDPOINT = "https://iamcredentials.googleapis.com"
#: Name in the URLs that are signed for an emulator, which checks no signature.
EMULATOR_ACCOUNT = "emulator@localhost"


class Signer(google_credentials.Signing):
    """Signs as one account; the SDK calls it."""

    def __init__(self, email: str) -> None:
        self._email = email

    @property
    def signer_email(self) -> str:
        """Account whose permissions a signed URL has."""
        return self._email

    @property
    def signer(self) -> Signer:
        """The object that signs."""
        return self

    def sign_bytes(self, message: bytes) -> bytes:
        """Return the signature of ``message``. An emulator, for which this class signs, accepts any."""
        return b"\0" * 256


class KeySigner(Signer):
    """Signs with the private key of a service account, without a request."""

    def __init__(self, email: str, signer: Any) -> None:
        super().__init__(email)
        self._signer = signer

    def sign_bytes(self, message: bytes) -> bytes:
        return bytes(self._signer.sign(message))


class IamSigner(Signer):
    """Signs by a request to IAM; the credentials need ``roles/iam.serviceAccountTokenCreator`` on the account."""

    def __init__(self, email: str, client: GCSClient, endpoint: str) -> None:
        super().__init__(email)
        self._client = client
        self._url = f"{endpoint}/v1/projects/-/serviceAccounts/{quote(email, safe='@')}:signBlob"

    def sign_bytes(self, message: bytes) -> bytes:
        payload = {"payload": base64.b64encode(message).decode("ascii")}
        answer = self._client.attempt(lambda: self._client.send("POST", self._url, json=payload))
        try:
            return base64.b64decode(answer.json()["signedBlob"], validate=True)
        except (ValueError, KeyError, TypeError):
            raise StorageTransient("IAM answered without a signature", adapter="gcs") from None


class Signatures:
    """Signs the URLs of one bucket.

    Args:
        client: of the bucket; its credentials sign when nothing else is given.
        endpoint: scheme, host and port of the URLs.
        key: a service-account file as a mapping or as JSON, or a private key in PEM form; ``None`` for no key.
        email: account of a PEM key; without a key, the account in whose name IAM signs.
        iam_endpoint: address of IAM.

    Raises:
        StorageMisconfigured: ``gcs_signing_key_invalid``: no key can be made of ``key``.
    """

    def __init__(
        self,
        client: GCSClient,
        endpoint: str,
        *,
        key: Mapping[str, Any] | SecretStr | str | None,
        email: str | None,
        iam_endpoint: str = IAM_ENDPOINT,
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._email = email
        self._iam_endpoint = iam_endpoint
        self._signer: Signer | None = None if key is None else _signer_of_key(key, email)
        self._blobs = Client(
            project=None,
            credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]
            client_options={"api_endpoint": endpoint},
        ).bucket(client.bucket)

    def sign(self, name: str, method: str, seconds: int, headers: Mapping[str, str]) -> str:
        """Return a V4 URL for the object ``name``, which a client requests with exactly ``headers``.

        Raises:
            StorageMisconfigured: ``gcs_signing_key_invalid``: the credentials cannot sign, and no account is named.
            StorageError: IAM refused or did not answer.
        """
        signed: str = self._blobs.blob(name).generate_signed_url(
            version="v4",
            expiration=timedelta(seconds=seconds),
            method=method,
            headers=dict(headers),
            credentials=self._chosen(),
            api_access_endpoint=self._endpoint,
        )
        return signed

    def _chosen(self) -> Signer:
        if self._signer is None:
            self._signer = self._of_credentials()
        return self._signer

    def _of_credentials(self) -> Signer:
        if self._email is not None:
            return IamSigner(self._email, self._client, self._iam_endpoint)
        if self._client.is_emulator:
            return Signer(EMULATOR_ACCOUNT)
        found = self._client.credentials
        signer, email = getattr(found, "signer", None), getattr(found, "signer_email", None)
        if isinstance(signer, crypt.RSASigner) and email is not None:
            return KeySigner(str(email), signer)
        # The credentials of a machine or workload have an account, but no key; a user's own have neither.
        email = self._client.account()
        if email is None:
            raise StorageMisconfigured(
                "these credentials cannot sign URLs; pass signing_email, the service account in whose name IAM signs",
                code="gcs_signing_key_invalid",
                adapter="gcs",
            )
        return IamSigner(email, self._client, self._iam_endpoint)


def _signer_of_key(key: Mapping[str, Any] | SecretStr | str, email: str | None) -> KeySigner:
    text: Any = key.get_secret_value() if isinstance(key, SecretStr) else key
    if isinstance(text, str) and not text.lstrip().startswith("-----BEGIN "):
        try:
            text = json.loads(text)
        except ValueError:
            text = {}
    if isinstance(text, Mapping):
        email, text = text.get("client_email"), text.get("private_key")
    if isinstance(email, str) and "@" in email and isinstance(text, str):
        try:
            return KeySigner(email, crypt.RSASigner.from_string(text))  # type: ignore[no-untyped-call]
        except Exception:  # noqa: S110 - of several libraries, and their messages may quote the key
            pass
    raise StorageMisconfigured(
        "no signing key: pass the content of a service-account file as a mapping or as JSON, or a private key in PEM "
        "form with signing_email",
        code="gcs_signing_key_invalid",
        adapter="gcs",
    )
