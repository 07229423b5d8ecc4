"""A scanner: checks a file before a decoder opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rindle import MediaAsset, Quarantine

#: Bytes read at a time: a file may be larger than memory.
PIECE_BYTES = 1 << 20

#: The signatures to find. EICAR's test file represents real malware; it is split, so that no scanner rejects this file.
SIGNATURES: Mapping[str, bytes] = {
    "EICAR test file": rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*",
    "PHP in an image": b"<?php",
}


class EicarScanner:
    """Rejects files that contain one of :data:`SIGNATURES` anywhere, also after a valid image."""

    def scan(self, path: Path, *, asset: MediaAsset | None) -> None:
        """Return to accept the file, raise to reject it; a plain function runs in a thread of the worker.

        Any other exception means that there is no result: the scan is retried, and the file waits.

        Args:
            path: the whole upload; read it and do not change it.
            asset: its row; ``None`` for a server-side upload, which is scanned before any row exists.

        Raises:
            Quarantine: the file contains a signature.
        """
        longest = max(map(len, SIGNATURES.values()))
        seen = b""
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                seen = seen[-longest:] + piece  # a signature may span two pieces
                for name, signature in SIGNATURES.items():
                    if signature in seen:
                        raise Quarantine(f"contains: {name}")
