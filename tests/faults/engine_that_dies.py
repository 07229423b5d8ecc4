"""The image engine, but probing ends its process as often as the file ``deaths`` above the picture says.

A negative number is of probes that use up their CPU time instead.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from rindle.media import image
from rindle.media.image import features, render_images, require_safe_libvips
from rindle.protocols import ProbeResult

__all__ = ["features", "probe_image", "render_images", "require_safe_libvips"]


def probe_image(path: Path, *arguments: Any, **options: Any) -> ProbeResult:
    """Die as a process does that the kernel kills for its memory, else probe."""
    control = next(parent / "deaths" for parent in path.parents if (parent / "deaths").is_file())
    left = int(control.read_text())
    control.write_text(str(left - 1))
    while left < 0:
        pass
    if left > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return image.probe_image(path, *arguments, **options)
