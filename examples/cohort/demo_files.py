"""The files the demo sends: photographs in the public domain that scikit-image ships, and files that mean harm."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tempfile
import zlib
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from skimage import data

#: Where the demo claims its photo was taken: 28° 36′ 30″ N, 80° 36′ 15″ W, the launch pad in the image.
PLACE: Final[dict[int, Any]] = {
    GPS.GPSLatitudeRef: "N",
    GPS.GPSLatitude: (28.0, 36.0, 30.0),
    GPS.GPSLongitudeRef: "W",
    GPS.GPSLongitude: (80.0, 36.0, 15.0),
}
#: Sides of the image that the bomb claims to be, in pixels.
BOMB_SIDE: Final = 25_000


def photograph(name: str, longest_side: int) -> bytes:
    """Return a photograph as a phone would send it: a large JPEG with a camera's name and a place in its EXIF.

    Args:
        name: ``rocket``, ``coffee``, ... of ``skimage.data``.
        longest_side: pixels; the bundled images are small, so they are enlarged to the size of a camera's.
    """
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    scale = longest_side / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[Base.Make], exif[Base.Model] = "Rindle", "Demo camera"
    exif.get_ifd(IFD.GPSInfo).update(PLACE)
    made = io.BytesIO()
    image.save(made, "JPEG", quality=88, exif=exif)
    return made.getvalue()


def video(seconds: int) -> bytes:
    """Return a video as an upright phone records it: 1080p on its side with a rotation flag, audio, a location.

    The camera wanders over the rocket; a little noise keeps the encoder as busy as a real camera's does.
    """
    wandering = (
        "scale=-2:2400,crop=1080:1920:x='(iw-ow)*(0.5+0.5*sin(t/3))':y='(ih-oh)*(0.5+0.5*cos(t/4))',"
        "noise=alls=6:allf=t,transpose=clock,format=yuv420p"  # the flag turns it back
    )
    with tempfile.TemporaryDirectory() as directory:
        image, lying, upright = (Path(directory, name) for name in ("image.jpg", "lying.mp4", "upright.mp4"))
        image.write_bytes(photograph("rocket", 1280))
        _ffmpeg(
            *("-loop", "1", "-framerate", "30", "-i", image, "-f", "lavfi", "-i", "sine=frequency=220:beep_factor=4"),
            *("-t", str(seconds), "-vf", wandering, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "26"),
            *("-c:a", "aac", "-b:a", "96k", lying),
        )
        turned = ("-metadata:s:v", "rotate=90") if _ffmpeg_major() < 6 else ()
        flag = ("-display_rotation:v:0", "90") if _ffmpeg_major() >= 6 else ()
        where = ("-metadata", "location=+28.6083-080.6042/", "-metadata", "title=<b>Launch</b>")
        _ffmpeg(*flag, "-i", lying, "-c", "copy", *turned, *where, upright)
        return upright.read_bytes()


def large_video(seconds: int, size: int) -> bytes:
    """Return a video of exactly ``size`` bytes: most of them are random, in a box that players skip.

    Source: ISO/IEC 14496-12, ``free``.
    """
    film = video(seconds)
    box = size - len(film)
    return film + struct.pack(">I4s", box, b"free") + os.urandom(box - 8)


def _ffmpeg(*arguments: str | Path) -> None:
    subprocess.run(["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)], check=True)


def _ffmpeg_major() -> int:
    first = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    return int("".join(takewhile(str.isdigit, first.lstrip("n"))) or 99)


def place_in(image: bytes) -> tuple[float, float] | None:
    """Return latitude and longitude from an image's EXIF in degrees, or ``None`` without a location."""
    with Image.open(io.BytesIO(image)) as opened:
        gps = opened.getexif().get_ifd(IFD.GPSInfo)
    if GPS.GPSLatitude not in gps or GPS.GPSLongitude not in gps:
        return None
    north = _degrees(gps[GPS.GPSLatitude]) * (-1 if gps.get(GPS.GPSLatitudeRef) == "S" else 1)
    east = _degrees(gps[GPS.GPSLongitude]) * (-1 if gps.get(GPS.GPSLongitudeRef) == "W" else 1)
    return north, east


def _degrees(parts: tuple[float, float, float]) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    return degrees + minutes / 60 + seconds / 3600


def size_of(image: bytes) -> tuple[int, int]:
    """Decode a whole image and return its width and height in pixels."""
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        return opened.size


def script_in_disguise() -> bytes:
    """Return an SVG that would run a script in the visitor's browser; the demo calls it ``portrait.jpg``."""
    return (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64">'
        b'<script>fetch("/session", {method: "POST"})</script><rect width="64" height="64"/></svg>'
    )


def half_a_photograph() -> bytes:
    """Return a JPEG whose second half never arrived."""
    whole = photograph("coffee", 1600)
    return whole[: len(whole) // 2]


def bomb() -> bytes:
    """Return a PNG of a few dozen kilobytes that claims 625 million pixels (PNG specification, chunk layout)."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)  # one bit per pixel, greyscale
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (BOMB_SIDE + 7) // 8)
    pixels = b"".join(squeeze.compress(row) for _ in range(BOMB_SIDE)) + squeeze.flush()
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
