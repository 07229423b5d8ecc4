"""Files on their way up: small ones in one request, large ones to a resumable session, which continues after breaks."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import google_crc32c
from pydantic import SecretStr

from rindle.errors import SessionUriExpired, SessionUriUnknown, StorageError, StorageTransient
from rindle.protocols import StoredObject
from rindle.storage.files import PIECE_BYTES, Slice, open_source
from rindle.storage.gcs import sessions
from rindle.storage.gcs.client import GCSClient
from rindle.storage.threads import Stop

#: Largest file that goes up in one request, which holds it in memory.
SINGLE_REQUEST_BYTES = 1024 * 1024


def send_file(
    stop: Stop,
    client: GCSClient,
    key: str,
    source: Path,
    resource: Mapping[str, Any],
    generation: int | None,
) -> StoredObject:
    """Write the file at ``source`` to the object that ``resource`` describes.

    The file's CRC32C goes with it: the store keeps no object with other bytes.

    Args:
        stop: ends the transfer at its next piece.
        client: makes the requests.
        key: storage key, for errors.
        source: an existing file.
        resource: name and headers of the object, as the JSON API has them.
        generation: condition of the write: the generation there now, 0 for none; ``None`` for any.
    """
    with open_source(source) as file:
        size = os.fstat(file.fileno()).st_size
        described = {**resource, "crc32c": crc32c_of(Slice(file, 0, size, stop))}
        if size <= SINGLE_REQUEST_BYTES:
            body = Slice(file, 0, size, stop)
            made = client.attempt(lambda: _send_whole(client, key, body.again(), described, generation))
        else:
            made = _send_in_session(stop, client, key, file, size, described, generation)
    return stored(key, made)


def stored(key: str, resource: Mapping[str, Any]) -> StoredObject:
    """Return the result of a write from the object that the store describes."""
    return StoredObject(key, int(resource["size"]), str(resource["generation"]))


def crc32c_of(body: Slice) -> str:
    """Return the checksum of a file as the JSON API has it."""
    checksum = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
    while piece := body.read(PIECE_BYTES):
        checksum.update(piece)  # type: ignore[no-untyped-call]
    return base64.b64encode(checksum.digest()).decode("ascii")  # type: ignore[no-untyped-call]


def _send_whole(
    client: GCSClient, key: str, body: Slice, resource: Mapping[str, Any], generation: int | None
) -> Mapping[str, Any]:
    query = {"uploadType": "multipart", "name": resource["name"]}
    if generation is not None:
        query["ifGenerationMatch"] = str(generation)
    boundary = uuid.uuid4().hex
    content_type = resource.get("contentType") or "application/octet-stream"
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(dict(resource))}\r\n"
        f"--{boundary}\r\nContent-Type: {content_type}\r\n\r\n"
    )
    answer = client.send(
        "POST",
        f"{client.endpoint}/upload/storage/v1/b/{client.bucket}/o?{urlencode(query)}",
        key=key,
        pinned=generation not in (None, 0),
        headers={"Content-Type": f"multipart/related; boundary={boundary}"},
        data=b"".join([head.encode(), body.read(), f"\r\n--{boundary}--\r\n".encode()]),
    )
    return dict(answer.json())


def _send_in_session(
    stop: Stop,
    client: GCSClient,
    key: str,
    file: IO[bytes],
    size: int,
    resource: Mapping[str, Any],
    generation: int | None,
) -> Mapping[str, Any]:
    uri = sessions.begin(client, key, resource, size=size, generation=generation).uri
    failures, offset = 0, 0
    try:
        while True:
            broken = StorageTransient("the store took only a part of the file", key=key, adapter="gcs")
            try:
                sent = _send_rest(client, key, uri, Slice(file, offset, size - offset, stop), generation)
                if sent.resource is not None:
                    return sent.resource
            except StorageTransient as error:
                broken = error
            failures += 1
            if failures >= client.max_attempts:
                raise broken
            stop.check()
            client.pause(failures)
            there = sessions.probe(client, key, uri)
            if there.resource is not None:  # only the answer was lost
                return there.resource
            if there.committed > offset:
                failures = 0
            offset = there.committed
    except BaseException as error:
        with suppress(StorageError):  # the store forgets what cannot be given up now within a week
            sessions.cancel(client, key, uri)
        if isinstance(error, SessionUriUnknown | SessionUriExpired):
            raise StorageTransient("the store lost the session of a transfer", key=key, adapter="gcs") from error
        raise


def _send_rest(client: GCSClient, key: str, uri: SecretStr, rest: Slice, generation: int | None) -> sessions.Probe:
    total = rest.start + rest.size
    answer = client.send(
        "PUT",
        sessions.checked_uri(client, uri),
        key=key,
        authorized=False,
        pinned=generation not in (None, 0),
        accept=sessions.is_session_status,
        headers={"Content-Range": f"bytes {rest.start}-{total - 1}/{total}"},
        data=rest.again(),
    )
    return sessions.probe_of(answer, key)
