"""Objects made from others in the bucket, without a transfer.

Source: Cloud Storage documentation, JSON API, ``objects.compose`` (at most 32 sources for one request).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress

from google.cloud.storage import Bucket

from rindle.errors import StorageError
from rindle.protocols import StoredObject
from rindle.storage.gcs.client import GCSClient
from rindle.storage.gcs.sending import stored
from rindle.storage.threads import Stop

#: Most sources of one request.
MAX_SOURCES = 32


def compose(stop: Stop, client: GCSClient, key: str, final: str, sources: Sequence[str], scratch: str) -> StoredObject:
    """Make the object ``final`` from the objects ``sources``, in this order.

    More than 32 go through intermediate objects, which are deleted in the end, also after a failure.

    Args:
        stop: ends the work between two requests.
        client: of the bucket.
        key: storage key of the result.
        final: its name in the bucket.
        sources: names in the bucket; one may appear repeatedly.
        scratch: beginning of the names of intermediate objects.

    Raises:
        StorageNotFound: a source is missing.
    """
    made: list[str] = []
    left, running = list(sources), list[str]()
    try:
        while True:
            stop.check()
            room = MAX_SOURCES - len(running)
            batch, left = running + left[:room], left[room:]
            if not left:
                return stored(key, _request(client, key, final, batch))
            made.append(f"{scratch}{uuid.uuid4().hex}")
            _request(client, key, made[-1], batch)
            running = [made[-1]]
    finally:
        for name in made:
            with suppress(StorageError):
                _delete(client, key, name)


def _delete(client: GCSClient, key: str, name: str) -> None:
    client.call(key, lambda bucket: bucket.blob(name).delete(**client.options))


def _request(client: GCSClient, key: str, name: str, sources: Sequence[str]) -> dict[str, str]:
    def request(bucket: Bucket) -> dict[str, str]:
        blob = bucket.blob(name)
        blob.compose([bucket.blob(source) for source in sources], **client.options)
        return {"size": str(blob.size), "generation": str(blob.generation)}

    return client.call(key, request)
