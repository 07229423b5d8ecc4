"""Resumable sessions on the wire: begin, probe and cancel one. Clients and this process send to them alike.

Source: Cloud Storage documentation, Performing resumable uploads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from rindle.errors import InvalidArgument, SessionUriExpired, SessionUriUnknown, StoragePermanent
from rindle.storage.gcs.client import DEFAULT_ENDPOINT, GCSClient

#: Headers in which the store may say where it keeps a session.
_REGIONS = ("x-goog-upload-region", "x-guploader-upload-region", "x-goog-region")
_RANGE = re.compile(r"bytes[= ]0-(\d{1,19})")
#: Statuses of a session URI: 499 is a cancelled session.
_UNKNOWN, _EXPIRED, _CANCELLED, _INCOMPLETE = 404, 410, 499, 308


@dataclass(frozen=True, slots=True)
class Begun:
    """A session, and where the store keeps it if it says so."""

    uri: SecretStr
    upload_id: str
    region: str | None


@dataclass(frozen=True, slots=True)
class Probe:
    """What the store has of a session; ``resource`` is the object when it has all."""

    committed: int
    resource: Mapping[str, Any] | None
    region: str | None


def begin(
    client: GCSClient,
    key: str,
    resource: Mapping[str, Any],
    *,
    size: int | None,
    origin: str | None = None,
    generation: int | None = None,
) -> Begun:
    """Begin a session for the object that ``resource`` describes.

    Args:
        client: of the bucket.
        key: storage key, for errors.
        resource: name and headers of the object, as the JSON API has them.
        size: of the object in bytes; ``None`` while it is unknown.
        origin: of the browser that will send the bytes; without it the store refuses the browser's requests.
        generation: condition of the write: the generation there now, 0 for none; ``None`` for any.

    Raises:
        StoragePermanent: the store answered without a session.
    """
    query = {"uploadType": "resumable", "name": resource["name"]}
    if generation is not None:
        query["ifGenerationMatch"] = str(generation)
    headers = {"X-Upload-Content-Type": str(resource.get("contentType") or "application/octet-stream")}
    if size is not None:
        headers["X-Upload-Content-Length"] = str(size)
    if origin is not None:
        headers["Origin"] = origin
    url = f"{client.endpoint}/upload/storage/v1/b/{client.bucket}/o?{urlencode(query)}"
    answer = client.attempt(
        lambda: client.send(
            "POST", url, key=key, headers=headers, json=dict(resource), pinned=generation not in (None, 0)
        )
    )
    uri = answer.headers.get("location", "")
    if not uri:
        raise StoragePermanent("the store began no resumable session", key=key, adapter="gcs")
    upload_id = answer.headers.get("x-guploader-uploadid") or "".join(parse_qs(urlsplit(uri).query)["upload_id"][:1])
    return Begun(SecretStr(reachable(client, uri)), upload_id, _region(answer.headers))


def probe(client: GCSClient, key: str, uri: SecretStr) -> Probe:
    """Return how many bytes the store has.

    Raises:
        InvalidArgument: the URI is not one of this store.
        SessionUriUnknown: it does not know the session.
        SessionUriExpired: the session has expired.
    """
    url = checked_uri(client, uri)
    headers = {"Content-Range": "bytes */*", "Content-Length": "0"}
    return probe_of(
        client.attempt(
            lambda: client.send("PUT", url, key=key, authorized=False, accept=is_session_status, headers=headers)
        ),
        key,
    )


def probe_of(answer: Any, key: str) -> Probe:
    """Return what an answer of a session URI says; raises as :func:`probe`."""
    if answer.status_code in (_UNKNOWN, _CANCELLED):
        raise SessionUriUnknown("the store does not know this session; start a new upload", key=key, adapter="gcs")
    if answer.status_code == _EXPIRED:
        raise SessionUriExpired("the session has expired in the store; start a new upload", key=key, adapter="gcs")
    region = _region(answer.headers)
    if answer.status_code == _INCOMPLETE:
        found = _RANGE.fullmatch(answer.headers.get("range", "").strip())
        return Probe(0 if found is None else int(found[1]) + 1, None, region)
    try:
        resource = answer.json()
    except ValueError:
        resource = {}
    if not isinstance(resource, Mapping):
        resource = {}
    stored = resource.get("size", answer.headers.get("x-goog-stored-content-length", 0))
    return Probe(int(stored), resource, region)


def is_session_status(status: int) -> bool:
    """Whether a status of a session URI says something about the session."""
    return status in (200, 201, _INCOMPLETE, _UNKNOWN, _EXPIRED, _CANCELLED)


def cancel(client: GCSClient, key: str, uri: SecretStr) -> bool:
    """Give a session up; returns whether the store knew it.

    Raises:
        InvalidArgument: the URI is not one of this store.
    """
    url = checked_uri(client, uri)
    answer = client.attempt(
        lambda: client.send(
            "DELETE",
            url,
            key=key,
            authorized=False,
            accept=lambda status: status in (200, 204, _UNKNOWN, _EXPIRED, _CANCELLED),
            headers={"Content-Length": "0"},
        )
    )
    return answer.status_code not in (_UNKNOWN, _EXPIRED)


def checked_uri(client: GCSClient, uri: SecretStr) -> str:
    """Return a session URI for a request of this process: a row that was tampered with must not choose its target.

    Raises:
        InvalidArgument: its host is not that of the store.
    """
    parts = urlsplit(uri.get_secret_value())
    own = urlsplit(client.endpoint)
    allowed = {(own.scheme, own.netloc), tuple(urlsplit(DEFAULT_ENDPOINT)[:2])}
    if client.is_emulator and parts.scheme in ("http", "https"):
        parts = parts._replace(scheme=own.scheme, netloc=own.netloc)
    if (parts.scheme, parts.netloc) not in allowed or not parts.path.startswith("/upload/"):
        raise InvalidArgument("the session URI is not one of this store", detail={"option": "session_uri"})
    return urlunsplit(parts)


def reachable(client: GCSClient, uri: str) -> str:
    """Return a new session URI for clients: an emulator may have named the address that it listens on."""
    parts = urlsplit(uri)
    if not client.is_emulator:
        return uri
    public = urlsplit(client.public_endpoint)
    return urlunsplit(parts._replace(scheme=public.scheme, netloc=public.netloc))


def _region(headers: Mapping[str, str]) -> str | None:
    found = next((headers[name] for name in _REGIONS if headers.get(name)), None)
    return None if found is None else found[:64]
