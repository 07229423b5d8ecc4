"""A probe: reads the technical facts of a type that the bundled probe does not support."""

from __future__ import annotations

import wave
from pathlib import Path

from rindle import MediaKind
from rindle.errors import ContentRejected
from rindle.protocols import ProbeResult


class WavProbe:
    """Reads uncompressed WAV files with the standard library."""

    def accepts(self, mime: str) -> bool:
        """Accept WAV files; ``mime`` is the type detected from the bytes, in its canonical spelling."""
        return mime == "audio/wav"

    def probe(self, path: Path) -> ProbeResult:
        """Return duration and format; the profile's ``max_duration_seconds`` is then checked against it.

        Raises:
            ContentRejected: the file is damaged. The asset is quarantined; there is no retry.
        """
        try:
            with wave.open(str(path), "rb") as audio:
                rate, frames = audio.getframerate(), audio.getnframes()
                facts = {"channels": audio.getnchannels(), "sample_rate_hz": rate, "bits": 8 * audio.getsampwidth()}
        except (wave.Error, EOFError) as error:
            raise ContentRejected("the WAV file is damaged and cannot be read", code="decode_failed") from error
        if rate <= 0:
            raise ContentRejected("the WAV file has no sample rate", code="decode_failed")
        return ProbeResult(
            kind=MediaKind.AUDIO,
            duration_ms=round(1000 * frames / rate),
            has_audio_track=True,
            metadata=facts,
        )
