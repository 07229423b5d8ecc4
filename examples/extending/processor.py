"""A processor: builds the variants of a profile instead of the bundled one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from rindle import ImageVariant
from rindle.errors import ProcessorCapabilityMissing, RenderFailed, VariantProcessingCancelled
from rindle.profile import VariantSpec

#: Quality when the recipe leaves it to the format.
QUALITY = 80


class GrayscaleProcessor:
    """Makes black-and-white pictures with Pillow, in the modes ``fit`` and ``crop``."""

    #: What it can do; a variant that needs more fails with ``processor_capability_missing`` and is not tried again.
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
        """Write the variant to ``dest``; running it twice writes the same again.

        Raises:
            ProcessorCapabilityMissing: the recipe asks for another mode.
            RenderFailed: Pillow cannot read the original; final, since it could not read it tomorrow either.
            VariantProcessingCancelled: nobody wants the variant any more.
        """
        if not isinstance(spec, ImageVariant) or spec.mode not in ("fit", "crop"):
            raise ProcessorCapabilityMissing("this processor builds pictures in the modes fit and crop")
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
        made.info.clear()  # comments and colour profiles would travel along: variants carry no metadata
        made.save(dest, spec.format.upper(), quality=spec.quality or QUALITY)
        return dest
