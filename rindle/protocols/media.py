"""Plug-ins that read originals and build variants: scanners, probes, analyzers, processors.

All get local paths and run outside database transactions. Plain functions run in a thread; coroutine functions are
awaited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rindle.errors import UploadRejected
from rindle.recipes import VariantSpec
from rindle.states import MediaKind

if TYPE_CHECKING:  # the protocols must not load SQLAlchemy
    from rindle.db.models import MediaAsset


class Quarantine(UploadRejected):
    """Raised by a :class:`Scanner` to reject a file: ``raise Quarantine("contains EICAR")``."""

    def __init__(self, reason: str = "the scanner rejected the file") -> None:
        super().__init__(reason, code="scanner_rejected", detail={"reason": "scanner_rejected"})


@runtime_checkable
class Scanner(Protocol):
    """Scans a file before any decoder opens it."""

    def scan(self, path: Path, *, asset: MediaAsset | None) -> Awaitable[None] | None:
        """Return ``None`` for a clean file, or raise :class:`Quarantine`.

        ``asset`` is ``None`` for a server-side upload, which is scanned before any row exists. Any other exception
        means that the scan failed: it is retried, and the file does not count as clean.
        """


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Technical facts of an original.

    ``width`` and ``height`` are pixels after orientation is applied; ``metadata`` is JSON-compatible.
    ``placeholder`` is a data URI of a tiny preview, if the probe made one.
    """

    kind: MediaKind
    width: int | None = None
    height: int | None = None
    duration_ms: int | None = None
    has_video_track: bool | None = None
    has_audio_track: bool | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    placeholder: str | None = None


@runtime_checkable
class Probe(Protocol):
    """Reads technical facts of the types it accepts."""

    def accepts(self, mime: str) -> bool:
        """Whether this probe reads files of the sniffed type ``mime``."""

    def probe(self, path: Path) -> Awaitable[ProbeResult] | ProbeResult:
        """Return the facts, or raise :class:`rindle.errors.ContentRejected` to reject the file."""


@runtime_checkable
class Analyzer(Protocol):
    """Computes further metadata, merged under the key ``analyzer``."""

    def analyze(self, path: Path, probe: ProbeResult) -> Awaitable[Mapping[str, Any]] | Mapping[str, Any]:
        """Return a JSON-compatible mapping; a failure is logged and does not stop promotion."""


@runtime_checkable
class Processor(Protocol):
    """Builds a variant from an original."""

    capabilities: frozenset[str]

    def process(
        self,
        source: Path,
        spec: VariantSpec,
        dest: Path,
        *,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Awaitable[Path] | Path:
        """Write the variant to ``dest`` and return it; raise a RindleError when it cannot be built.

        Call ``progress`` with 0 to 99; ``cancelled`` returns true when the work was cancelled.
        """
