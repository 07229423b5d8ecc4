"""Colours of a video: what its numbers mean, and the filters that convert them to what an output needs.

The meaning of a track's numbers (matrix, range, primaries, transfer) is decided once, by :func:`colour_of`, and every
output of the track uses that decision. ffmpeg's own filters and encoders guess it each on their own otherwise.

Source: ITU-T H.273 (code points), ITU-R BT.709, BT.2020, BT.2100 (PQ, HLG) and BT.2408 (reference white of 203 cd/m²);
FFmpeg "scale", "zscale", "tonemap", "setparams".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

#: Filters without which HDR and wide gamut are not converted.
CONVERSION_FILTERS: Final = frozenset({"zscale", "tonemap"})

_HDR_TRANSFERS: Final = frozenset({"smpte2084", "arib-std-b67"})
#: Primaries whose colours are more saturated than those of BT.709. The two of standard definition are nearly BT.709's,
#: and players show their values unconverted.
_WIDE_PRIMARIES: Final = frozenset({"bt2020", "smpte428", "smpte431", "smpte432"})
#: Matrices that YUV may have, with the name that "scale" uses. Others are decided by the primaries or the size.
_MATRICES: Final = {
    "bt709": "bt709",
    "fcc": "fcc",
    "bt470bg": "smpte170m",
    "smpte170m": "smpte170m",
    "smpte240m": "smpte240m",
    "bt2020nc": "bt2020",
    "bt2020c": "bt2020",
}
#: Matrices that only "zscale" converts.
_ZSCALE_MATRICES: Final = frozenset({"ycgco", "ictcp"})
_MATRIX_OF_PRIMARIES: Final = {
    "bt709": "bt709",
    "bt470bg": "bt470bg",
    "smpte170m": "smpte170m",
    "smpte240m": "smpte240m",
    "bt2020": "bt2020nc",
    "smpte432": "bt709",
}
#: From these pixels on an untagged video is high definition, BT.709; players use the same rule.
_HD_WIDTH, _HD_HEIGHT = 1280, 577
#: Codecs whose grey has no other range than the full one.
_FULL_GREY_CODECS: Final = frozenset({"png", "gif", "bmp", "rawvideo", "qtrle", "ffv1"})

_RGB_FORMAT: Final = re.compile(r"(?:a?rgb|a?bgr|0rgb|0bgr|gbr|x2rgb|x2bgr|pal8)")
_GREY_FORMAT: Final = re.compile(r"(?:gray|ya\d|mono[bw])")
_DEEP_FORMAT: Final = re.compile(r"(?:9|1\d|32|48|64)(?:le|be)$")

#: Without exact rounding an image that is made much smaller gets five levels darker; it costs nothing measurable.
_FLAGS: Final = "bicubic+accurate_rnd"
#: Reference white of an HDR video in cd/m²: it becomes the white of the output.
_WHITE: Final = 203
#: Brightest light that is not cut, in cd/m²: the peak of nearly all HDR videos, and that of HLG by definition.
_PEAK: Final = 1000
#: Linear light, as a share of the output's white, up to which nothing changes; what is brighter is compressed.
_KNEE: Final = 0.7
#: Level of PQ, 0 to 255, that light has which is nearly black in the output.
_DARK_PQ: Final = 24


@dataclass(frozen=True, slots=True)
class Colour:
    """What the numbers of a video track mean, by the names of ffmpeg.

    Attributes:
        layout: ``yuv``, ``rgb`` or ``grey``.
        is_deep: whether a sample has more than eight bits.
        matrix: of YUV; what RGB and grey are converted to first.
        full_range: whether black is 0 and not 16.
        primaries: ``bt709`` unless they are wider.
        transfer: ``bt709`` stands for all curves of standard dynamic range.
    """

    layout: str = "yuv"
    is_deep: bool = False
    matrix: str = "bt709"
    full_range: bool = False
    primaries: str = "bt709"
    transfer: str = "bt709"

    @property
    def is_hdr(self) -> bool:
        """Whether the light has to be tone mapped."""
        return self.transfer in _HDR_TRANSFERS

    @property
    def needs_conversion(self) -> bool:
        """Whether a change of matrix and range is not enough: HDR, wide gamut, unusual matrix."""
        return self.is_hdr or self.primaries != "bt709" or self.matrix in _ZSCALE_MATRICES

    @property
    def range(self) -> str:
        """The range by ffmpeg's name."""
        return "pc" if self.full_range else "tv"

    def level_of(self, dark: int) -> int:
        """Return the level in this track, 0 to 255 in full range, of what has the level ``dark`` in an output."""
        return max(dark, _DARK_PQ) if self.transfer == "smpte2084" else dark


@dataclass(frozen=True, slots=True)
class Target:
    """Colours and pixel format of an output."""

    matrix: str
    range: str
    pixels: str


#: MP4: BT.709, limited range.
VIDEO: Final = Target("bt709", "tv", "yuv420p")
#: JPEG: BT.601, full range, as JFIF defines it.
JPEG: Final = Target("smpte170m", "pc", "yuvj420p")


def colour_of(stream: Mapping[str, Any], *, width: int, height: int) -> Colour:
    """Decide what the numbers of a track mean.

    Tags of the stream count first. RGB needs none. Without a tag the primaries decide, else the size does. A tag that
    contradicts the pixel format (the matrix of RGB on YUV) counts as missing.

    Args:
        stream: as ffprobe describes it.
        width: stored pixels.
        height: likewise.
    """
    pixels = str(stream.get("pix_fmt", ""))
    transfer, primaries = str(stream.get("color_transfer", "")), str(stream.get("color_primaries", ""))
    matrix = str(stream.get("color_space", ""))
    is_hdr = transfer in _HDR_TRANSFERS
    if is_hdr and primaries in ("", "unknown", "reserved"):
        primaries = "bt2020"
    is_wide = primaries in _WIDE_PRIMARIES
    layout = "rgb" if _RGB_FORMAT.match(pixels) else "grey" if _GREY_FORMAT.match(pixels) else "yuv"
    decided = _matrix(matrix, primaries, is_hdr, _is_hd(width, height))
    if layout != "yuv":
        decided = "bt2020nc" if primaries == "bt2020" else "bt709"
    if layout == "grey":
        is_wide = False
    return Colour(
        layout=layout,
        is_deep=_DEEP_FORMAT.search(pixels) is not None,
        matrix=decided,
        full_range=layout == "rgb" or _is_full(stream, pixels, layout),
        primaries=primaries if is_wide else "bt709",
        transfer=transfer if is_hdr else "bt709",
    )


def as_yuv(video: Any, colour: Colour) -> tuple[Any, Colour]:
    """Return the video as planar YUV whose frames contain the decision of :func:`colour_of`, and its colour then."""
    planar = replace(colour, layout="yuv", full_range=colour.layout == "yuv" and colour.full_range)
    if colour.layout != "yuv":
        sampling = "yuv444p" if colour.layout == "rgb" else "yuv420p"
        matrix = {"out_color_matrix": _MATRICES[colour.matrix]}
        meaning = matrix if colour.layout == "rgb" else {**matrix, "in_range": colour.range}
        video = video.filter("scale", **meaning, out_range="tv", flags=_FLAGS)
        video = video.filter("format", f"{sampling}10le" if colour.is_deep else sampling)
    return _marked(video, planar), planar


def converted(video: Any, colour: Colour, target: Target, size: tuple[str, str], *, tone_map: bool) -> Any:
    """Return the video with another size and the colours of an output.

    The size changes first, so that the costly conversion of HDR has fewer pixels to work on.

    Args:
        video: what :func:`as_yuv` returned.
        colour: likewise.
        target: colours of the output.
        size: expressions of "scale" for width and height.
        tone_map: whether this ffmpeg has :data:`CONVERSION_FILTERS`. Without them only matrix and range change.
    """
    box = {"w": size[0], "h": size[1]}
    if colour.needs_conversion and tone_map:
        # Chroma of full size, because "zscale" refuses odd sizes otherwise.
        video = video.filter("scale", **box, in_range=colour.range, out_range=colour.range, flags=_FLAGS)
        video = _through_zscale(video.filter("format", "yuv444p10le"), colour)
        box, colour = {}, Colour()
    video = video.filter(
        "scale",
        **box,
        in_color_matrix=_MATRICES.get(colour.matrix, "bt709"),
        in_range=colour.range,
        out_color_matrix=target.matrix,
        out_range=target.range,
        flags=_FLAGS,
    )
    return video.filter("format", target.pixels)


def tagged(video: Any, target: Target) -> Any:
    """Return the video with the tags of its colours, which encoders and containers take from the frames."""
    return video.filter(
        "setparams",
        range=target.range,
        colorspace=target.matrix,
        color_primaries="bt709",
        color_trc="bt709",
    )


def _through_zscale(video: Any, colour: Colour) -> Any:
    standard = {"p": "bt709", "t": "bt709", "m": "bt709", "r": "tv"}
    if not colour.is_hdr:
        return video.filter("zscale", **standard).filter("format", "yuv444p")
    video = video.filter("zscale", t="linear", npl=_WHITE).filter("format", "gbrpf32le").filter("zscale", p="bt709")
    # The peak is fixed: one that is measured by frame makes the brightness pulsate.
    video = video.filter("tonemap", "mobius", param=_KNEE, peak=f"{_PEAK / _WHITE:.3f}", desat=0)
    video = video.filter("zscale", **standard).filter("format", "yuv444p")
    # Mastering display and light level describe an HDR video.
    return video.filter("sidedata", "delete")


def _marked(video: Any, colour: Colour) -> Any:
    return video.filter(
        "setparams",
        range=colour.range,
        colorspace=colour.matrix,
        color_primaries=colour.primaries,
        color_trc=colour.transfer,
    )


def _matrix(tag: str, primaries: str, is_hdr: bool, is_hd: bool) -> str:
    if tag == "ictcp" and not is_hdr:  # defined for PQ and HLG only
        tag = ""
    if tag in _MATRICES or tag in _ZSCALE_MATRICES:
        return tag
    if primaries in _MATRIX_OF_PRIMARIES:
        return _MATRIX_OF_PRIMARIES[primaries]
    return "bt709" if is_hd else "smpte170m"


def _is_hd(width: int, height: int) -> bool:
    return width >= _HD_WIDTH or height >= _HD_HEIGHT


def _is_full(stream: Mapping[str, Any], pixels: str, layout: str) -> bool:
    tag = str(stream.get("color_range", ""))
    if tag in ("tv", "pc"):
        return bool(tag == "pc")
    if layout == "grey":
        return pixels.startswith("mono") or str(stream.get("codec_name")) in _FULL_GREY_CODECS
    return pixels.startswith("yuvj")
