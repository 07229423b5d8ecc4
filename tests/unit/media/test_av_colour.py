"""What the numbers of a video mean, decided once from tags, pixel format and size."""

from __future__ import annotations

import pytest

from rindle.media.av_colour import Colour, colour_of


def decided(width: int = 640, height: int = 360, **stream: str) -> Colour:
    return colour_of({"pix_fmt": "yuv420p", **stream}, width=width, height=height)


@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [
        (640, 360, "smpte170m"),
        (720, 576, "smpte170m"),
        (1280, 720, "bt709"),
        (720, 1280, "bt709"),
        (1920, 800, "bt709"),
        (4000, 4, "bt709"),
    ],
)
def test_the_size_decides_where_nothing_is_stated(width: int, height: int, matrix: str) -> None:
    for stated in ({}, {"color_space": "unknown"}, {"color_space": "reserved"}, {"color_space": "gbr"}):
        assert decided(width, height, **stated).matrix == matrix


@pytest.mark.parametrize(
    ("stated", "matrix"),
    [
        ({"color_space": "smpte170m"}, "smpte170m"),
        ({"color_space": "bt470bg", "color_primaries": "bt709"}, "bt470bg"),
        ({"color_primaries": "bt709"}, "bt709"),
        ({"color_space": "gbr", "color_primaries": "bt709"}, "bt709"),
        ({"color_primaries": "bt2020"}, "bt2020nc"),
        ({"color_transfer": "smpte2084"}, "bt2020nc"),
        ({"color_space": "ictcp", "color_transfer": "smpte2084"}, "ictcp"),
        ({"color_space": "ictcp", "color_primaries": "bt2020"}, "bt2020nc"),
    ],
)
def test_tags_come_first_and_contradictions_count_as_missing(stated: dict[str, str], matrix: str) -> None:
    assert decided(1920 if matrix == "smpte170m" else 640, 360, **stated).matrix == matrix


@pytest.mark.parametrize(
    ("stated", "is_full"),
    [
        ({}, False),
        ({"color_range": "pc"}, True),
        ({"pix_fmt": "yuvj420p"}, True),
        ({"pix_fmt": "yuvj420p", "color_range": "tv"}, False),
        ({"pix_fmt": "gbrp"}, True),
        ({"pix_fmt": "gray", "codec_name": "h264"}, False),
        ({"pix_fmt": "gray", "codec_name": "png"}, True),
        ({"pix_fmt": "gray10le", "codec_name": "png", "color_range": "tv"}, False),
    ],
)
def test_the_range(stated: dict[str, str], is_full: bool) -> None:
    assert decided(**stated).full_range is is_full


@pytest.mark.parametrize(
    ("stated", "needs", "is_hdr"),
    [
        ({}, False, False),
        ({"color_primaries": "smpte170m", "color_transfer": "iec61966-2-1"}, False, False),
        ({"color_primaries": "bt470bg"}, False, False),
        ({"color_primaries": "bt2020", "color_transfer": "bt2020-10"}, True, False),
        ({"color_primaries": "smpte432"}, True, False),
        ({"color_transfer": "smpte2084"}, True, True),
        ({"color_primaries": "bt2020", "color_transfer": "arib-std-b67"}, True, True),
        ({"color_space": "ycgco"}, True, False),
        ({"pix_fmt": "gray10le", "color_primaries": "bt2020"}, False, False),
    ],
)
def test_what_has_to_be_converted(stated: dict[str, str], needs: bool, is_hdr: bool) -> None:
    found = decided(**stated)

    assert (found.needs_conversion, found.is_hdr) == (needs, is_hdr)


@pytest.mark.parametrize(
    ("pixels", "layout", "is_deep"),
    [
        ("yuv420p", "yuv", False),
        ("yuvj422p", "yuv", False),
        ("yuv420p10le", "yuv", True),
        ("nv12", "yuv", False),
        ("rgb24", "rgb", False),
        ("bgr0", "rgb", False),
        ("pal8", "rgb", False),
        ("rgb565le", "rgb", False),
        ("gbrp10le", "rgb", True),
        ("rgba64be", "rgb", True),
        ("x2rgb10le", "rgb", True),
        ("gray", "grey", False),
        ("gray16le", "grey", True),
        ("ya8", "grey", False),
        ("monob", "grey", False),
    ],
)
def test_pixel_formats(pixels: str, layout: str, is_deep: bool) -> None:
    found = decided(pix_fmt=pixels)

    assert (found.layout, found.is_deep) == (layout, is_deep)
