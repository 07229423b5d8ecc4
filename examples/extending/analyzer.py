"""An analyzer: computes further metadata of a validated original."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from rindle.protocols import ProbeResult

#: Number of colours to which the image is reduced before they are counted, and the box in pixels to which it is scaled.
COLOURS, BOX = 8, (96, 96)


class DominantColourAnalyzer:
    """Finds the most frequent colour of an image, for the box that a page shows while the image loads."""

    def analyze(self, path: Path, probe: ProbeResult) -> Mapping[str, str | float]:
        """Return ``{"dominant_colour": "#rrggbb", "share": 0..1}``; it is stored below ``metadata["analyzer"]``.

        An exception is logged and does not stop the promotion. The asset then has no colour.
        """
        with Image.open(path) as image:
            image.draft("RGB", BOX)  # JPEG: decode at an eighth of the size
            small = image.convert("RGB")
        small.thumbnail(BOX)
        reduced = small.quantize(COLOURS)
        counts = reduced.histogram()  # pixels per colour of the palette
        index = counts.index(max(counts))
        red, green, blue = (reduced.getpalette() or [])[3 * index : 3 * index + 3]
        share = round(counts[index] / (reduced.width * reduced.height), 3)
        return {"dominant_colour": f"#{red:02x}{green:02x}{blue:02x}", "share": share}
