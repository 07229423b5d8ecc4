"""A scanner: judges a file before anything opens it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rindle import MediaAsset, Quarantine

#: Bytes read at a time: a file may be larger than the memory.
PIECE_BYTES = 1 << 20

#: What is looked for. EICAR's test file stands for real malware; in two halves, so that no scanner condemns this one.
SIGNATURES: Mapping[str, bytes] = {
    "EICAR test file": rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*",
    "PHP in a picture": b"<?php",
}


class EicarScanner:
    """Condemns files that contain one of :data:`SIGNATURES` anywhere, also behind a flawless picture."""

    def scan(self, path: Path, *, asset: MediaAsset | None) -> None:
        """Return for clean, raise for condemned; a plain function runs in a thread of the worker.

        Any other exception means that there is no verdict: it is asked again, and the file is not let in meanwhile.

        Args:
            path: the whole upload; read it, leave it alone.
            asset: its row; ``None`` for a server-side upload, which is judged before any row exists.

        Raises:
            Quarantine: the file contains a signature.
        """
        longest = max(map(len, SIGNATURES.values()))
        seen = b""
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                seen = seen[-longest:] + piece  # a signature may lie across two pieces
                for name, signature in SIGNATURES.items():
                    if signature in seen:
                        raise Quarantine(f"contains: {name}")
