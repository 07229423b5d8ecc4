"""Clips of eight patches of known colour, in many encodings of the same colours, and the patches read back.

HDR is computed here from the formulas of BT.2100 and not by the filters that Rindle uses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.media.clips import ffmpeg

Pixels = npt.NDArray[np.float64]

#: What a viewer shall see, in sRGB; two rows of four.
COLOURS = (
    (190, 40, 35), (40, 150, 60), (45, 60, 180), (195, 180, 50),
    (120, 120, 120), (205, 160, 130), (215, 215, 215), (45, 45, 45),
)  # fmt: skip
WIDTH, HEIGHT = 320, 180
_TO_2020 = np.array([[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]])
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])
#: Candelas per square metre of the white that is white on an ordinary screen (BT.2408).
_WHITE = 203


def sheet(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return the eight patches as a picture."""
    picture = Image.new("RGB", (width, height))
    for number, colour in enumerate(COLOURS):
        column, row = number % 4, number // 4
        box = (column * width // 4, row * height // 2, (column + 1) * width // 4, (row + 1) * height // 2)
        picture.paste(colour, box)
    return picture


def still(directory: Path, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Return a PNG of the patches."""
    path = directory / f"patches-{width}x{height}.png"
    if not path.exists():
        sheet(width, height).save(path)
    return path


def clip(path: Path, *options: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """Return a clip of a second that shows the patches, encoded with these options."""
    picture = still(path.parent, *size)
    ffmpeg("-loop", "1", "-r", "10", "-t", "1", "-i", picture, *options, path)
    return path


def wide_clip(path: Path, transfer: str) -> Path:
    """Return a clip in BT.2020 of 10 bits: ``smpte2084`` (PQ), ``arib-std-b67`` (HLG) or ``bt2020-10`` (no HDR)."""
    light = (np.asarray(sheet(), dtype=np.float64) / 255) ** 2.4 @ _TO_2020.T
    signal = {"smpte2084": _pq, "arib-std-b67": _hlg}.get(transfer, lambda values: values ** (1 / 2.4))(light)
    luma = signal @ _LUMA_2020
    blue, red = (signal[..., 2] - luma) / 1.8814, (signal[..., 0] - luma) / 1.4746
    planes = [np.round(64 + 876 * luma), np.round(512 + 896 * blue), np.round(512 + 896 * red)]
    raw = path.with_suffix(".yuv")
    raw.write_bytes(np.stack(planes).astype("<u2").tobytes() * 10)
    tags = ("-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", transfer, "-color_range", "tv")
    given = ("-f", "rawvideo", "-pix_fmt", "yuv444p10le", "-s", f"{WIDTH}x{HEIGHT}", "-r", "10", *tags, "-i", raw)
    named = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    ffmpeg(
        *given, "-vf", f"format=yuv420p10le,{named}", *tags, "-c:v", "libx264", "-preset", "veryfast", "-qp", "8", path
    )
    return path


def seen(picture: Image.Image, box: tuple[int, int, int, int] | None = None) -> list[tuple[int, int, int]]:
    """Return the colours in the middle of the patches of a picture, or of a part of it."""
    shown = np.asarray(picture.convert("RGB").crop(box) if box else picture.convert("RGB"), dtype=float)
    height, width = shown.shape[:2]
    found = []
    for number in range(8):
        x, y = int((number % 4 + 0.5) * width / 4), int((number // 4 + 0.5) * height / 2)
        middle = shown[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3).mean(axis=0)
        found.append((round(middle[0]), round(middle[1]), round(middle[2])))
    return found


def _pq(light: Pixels) -> Pixels:
    """Return PQ of light relative to reference white (BT.2100, table 4)."""
    powered = np.power(np.clip(light * _WHITE / 10_000, 0, 1), 2610 / 16384)
    above, below = 3424 / 4096 + 2413 / 4096 * 32 * powered, 1 + 2392 / 4096 * 32 * powered
    signal: Pixels = np.power(above / below, 2523 / 4096 * 128)
    return signal


def _hlg(light: Pixels) -> Pixels:
    """Return HLG of light relative to reference white on a screen of 1000 cd/m² (BT.2100, table 5).

    The system gamma is applied to each channel, as "zscale" and the tools of most authors do, and not to the luminance.
    Greys are equal in both.
    """
    scene = np.power(np.clip(light * _WHITE / 1000, 1e-9, 1), 1 / 1.2)
    a, b = 0.17883277, 0.28466892
    c = 0.5 - a * np.log(4 * a)
    signal: Pixels = np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)
    return signal
