"""The digest of a whole file: what its client gave or wants, and what the object has.

The row keeps it in ``upload_metadata``. The workflow computes it when the object is made
(:mod:`rindle.uploads.assembly`).

Source: the draft, Representation Digests; RFC 9530 for the names of algorithms.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rindle.db.models import MediaUploadSession
from rindle.db.streams import IETF

#: Size in bytes of the digests that are computed, by their names in RFC 9530; the strongest first.
DIGEST_BYTES: Final = {"sha-512": 64, "sha-256": 32}


@dataclass(frozen=True, slots=True)
class WholeDigest:
    """The digest of a whole file.

    Attributes:
        algorithm: one of :data:`DIGEST_BYTES`.
        expected: what the client gave; ``None`` when it only wants one.
        found: what the object has; ``None`` before it is made.
    """

    algorithm: str
    expected: bytes | None = None
    found: bytes | None = None

    @classmethod
    def of(cls, upload: MediaUploadSession) -> WholeDigest | None:
        """Return the digest of an upload; ``None`` when its client neither gave nor wants one."""
        if upload.resumable_protocol != IETF or upload.upload_metadata is None:
            return None
        facts: dict[str, Any] = json.loads(upload.upload_metadata)
        return cls(facts["algorithm"], _bytes(facts["expected"]), _bytes(facts["found"]))

    @property
    def is_pending(self) -> bool:
        """Whether the workflow has still to compute it."""
        return self.found is None

    @property
    def column(self) -> str:
        """The digest as ``upload_metadata``."""
        return json.dumps(
            {"algorithm": self.algorithm, "expected": _text(self.expected), "found": _text(self.found)}, sort_keys=True
        )


def hash_name(algorithm: str) -> str:
    """Return how ``hashlib`` names an algorithm of RFC 9530."""
    return algorithm.replace("-", "")


def digest_of_file(path: Path, algorithm: str) -> bytes:
    """Return the digest of a file; it is read as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, hash_name(algorithm)).digest()


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else base64.b64decode(value)
