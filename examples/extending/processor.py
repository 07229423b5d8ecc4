"""A processor: builds the variants of a profile instead of the bundled processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from rindle import ImageVariant
from rindle.errors import ProcessorCapabilityMissing, RenderFailed, VariantProcessingCancelled
from rindle.profile import VariantSpec

#: Quality when the recipe has none.
QUALITY = 80


class GrayscaleProcessor:
    """Builds black-and-white images with Pillow, in the modes ``fit`` and ``crop``."""

    #: A variant that needs another capability fails with ``processor_capability_missing`` and is not retried.
    capabilities = frozenset({"image_resize"})

    def process(
        self,
        source: Path,
        spec: VariantSpec,
        dest: Path,
        *,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Path:
        """Write the variant to ``dest``; a second run writes the same file.

        Raises:
            ProcessorCapabilityMissing: the recipe has another mode.
            RenderFailed: Pillow cannot read the original; final, because a retry would fail in the same way.
            VariantProcessingCancelled: the build was cancelled.
        """
        if not isinstance(spec, ImageVariant) or spec.mode not in ("fit", "crop"):
            raise ProcessorCapabilityMissing("this processor builds images in the modes fit and crop")
        box = (spec.width or Image.MAX_IMAGE_PIXELS or 0, spec.height or Image.MAX_IMAGE_PIXELS or 0)
        try:
            with Image.open(source) as original:
                upright = ImageOps.exif_transpose(original)
                gray = upright.convert("L")
        except (OSError, Image.DecompressionBombError) as error:
            raise RenderFailed(f"Pillow cannot read the original ({type(error).__name__})", retryable=False) from error
        progress(50)
        if cancelled():
            raise VariantProcessingCancelled("cancelled while the variant was being built")
        if spec.mode == "crop":
            made = ImageOps.fit(gray, box)
        else:
            gray.thumbnail(box)
            made = gray
        made.info.clear()  # removes comments and colour profiles: variants carry no metadata
        made.save(dest, spec.format.upper(), quality=spec.quality or QUALITY)
        return dest
