"""An analyzer: computes further metadata of an original that has been judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from rindle.protocols import ProbeResult

#: Colours a picture is reduced to before they are counted, and the box in pixels it is shrunk to.
COLOURS, BOX = 8, (96, 96)


class DominantColourAnalyzer:
    """Finds the colour that covers most of a picture, for the box a page shows while the picture loads."""

    def analyze(self, path: Path, probe: ProbeResult) -> Mapping[str, str | float]:
        """Return ``{"dominant_colour": "#rrggbb", "share": 0..1}``; it is stored below ``metadata["analyzer"]``.

        What is raised here is logged and stops nothing: the asset then simply has no colour.
        """
        with Image.open(path) as picture:
            picture.draft("RGB", BOX)  # JPEG: decode at an eighth of the size
            small = picture.convert("RGB")
        small.thumbnail(BOX)
        reduced = small.quantize(COLOURS)
        counts = reduced.histogram()  # pixels per colour of the palette
        index = counts.index(max(counts))
        red, green, blue = (reduced.getpalette() or [])[3 * index : 3 * index + 3]
        share = round(counts[index] / (reduced.width * reduced.height), 3)
        return {"dominant_colour": f"#{red:02x}{green:02x}{blue:02x}", "share": share}
