"""The image engine on a machine whose libvips cannot write AVIF."""

from __future__ import annotations

from rindle.media import image
from rindle.media.image import features, probe_image, render_images, require_safe_libvips

# The operation exists in every libvips with libheif; without an AV1 encoder behind it, calling it fails like this.
image._SAVERS["avif"] = "operation_that_is_not_there"

__all__ = ["features", "probe_image", "render_images", "require_safe_libvips"]
