"""The image engine on a machine whose libvips is too old."""

from __future__ import annotations

from rindle.media import image
from rindle.media.image import features, probe_image, render_images, require_safe_libvips

image.LIBVIPS_FLOOR = (99, 0)

__all__ = ["features", "probe_image", "render_images", "require_safe_libvips"]
