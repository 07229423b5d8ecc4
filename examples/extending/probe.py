"""A probe: reads the technical facts of a type that the bundled one does not know."""

from __future__ import annotations

import wave
from pathlib import Path

from rindle import MediaKind
from rindle.errors import ContentRejected
from rindle.protocols import ProbeResult


class WavProbe:
    """Reads uncompressed WAV files with the standard library."""

    def accepts(self, mime: str) -> bool:
        """Take WAV files; ``mime`` is what the bytes say, in its canonical spelling."""
        return mime == "audio/wav"

    def probe(self, path: Path) -> ProbeResult:
        """Return duration and format; the profile's ``max_duration_seconds`` is then checked against it.

        Raises:
            ContentRejected: the file is damaged. That is a verdict: the asset is quarantined, not tried again.
        """
        try:
            with wave.open(str(path), "rb") as sound:
                rate, frames = sound.getframerate(), sound.getnframes()
                facts = {"channels": sound.getnchannels(), "sample_rate_hz": rate, "bits": 8 * sound.getsampwidth()}
        except (wave.Error, EOFError) as error:
            raise ContentRejected("the WAV file is damaged and cannot be read", code="decode_failed") from error
        if rate <= 0:
            raise ContentRejected("the WAV file names no sample rate", code="decode_failed")
        return ProbeResult(
            kind=MediaKind.AUDIO,
            duration_ms=round(1000 * frames / rate),
            has_audio_track=True,
            metadata=facts,
        )
