"""The image engine: one decode, an ordered list of small steps, several outputs.

This module runs in the child processes of :mod:`rindle.media.render_pool` only and is never imported by the worker
itself: importing it loads libvips. An image goes through these steps::

    count its parts -> open by sniffed type -> read the header -> check pixels -> decode (shrink on load)
    -> upright, sRGB, scaled -> 8 bit -> crop or pad by gravity -> flatten
    -> drop metadata -> save under a temporary name -> open again -> rename

Only six fuzzed loaders of libvips are open (JPEG, PNG, WebP, GIF, AVIF, TIFF) and each is called by name for the type
that was sniffed, so the bytes never choose their own decoder. HEIC is decoded by pi-heif and handed over as pixels.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# libvips reads these when it is loaded: loaders that are not fuzzed stay shut whatever the process was started with,
# one thread per child because there is one child per core, and no GLib warnings that would print paths.
os.environ["VIPS_BLOCK_UNTRUSTED"] = "1"
os.environ["VIPS_CONCURRENCY"] = "1"
os.environ["VIPS_WARNING"] = "0"

# In this order: a libvips of the system brings its own libheif, which must not stand in for the one of pi-heif.
import pi_heif
import pyvips

from rindle.errors import (
    ContentRejected,
    Misconfigured,
    OutputMissing,
    ProbeFailed,
    ProcessorCapabilityMissing,
    RenderFailed,
    RindleError,
)
from rindle.media import decode_cache
from rindle.media.completeness import ITEM_TYPES
from rindle.media.gif_canvas import canvas_of
from rindle.media.image_formats import (
    LIBVIPS_FLOOR,
    MAX_FRAMES,
    READABLE_TYPES,
    ImageFeatures,
)
from rindle.media.image_geometry import Frame, decoder_shrink, frame_of
from rindle.media.image_source import (
    bare,
    end_of_jpeg_added,
    open_heic,
    reason_of,
    rejected,
    rejecting_damage,
    whole_content,
)
from rindle.media.image_structure import check_structure
from rindle.media.render_pool import RenderOrder, RenderResult
from rindle.protocols import ProbeResult
from rindle.recipes import ImageVariant
from rindle.security.mime import sniff
from rindle.states import MediaKind

log = logging.getLogger(__name__)

_HEIC_TYPES = ITEM_TYPES - {"image/avif"}
_ANIMATED_TYPES = frozenset({"image/gif", "image/webp"})
_LOADERS = {
    "image/jpeg": "jpegload_source",
    "image/png": "pngload_source",
    "image/webp": "webpload_source",
    "image/gif": "gifload_source",
    "image/avif": "heifload_source",
    "image/tiff": "tiffload_source",
}
_LOADER_CLASSES = ("Jpeg", "Png", "Webp", "Nsgif", "Heif", "Tiff")
_SAVERS = {"jpeg": "jpegsave", "png": "pngsave", "webp": "webpsave", "avif": "heifsave"}

#: Longer side of the image to which a probe decodes, in pixels.
PROBE_SIDE = 64
#: Longest placeholder data URI, in characters.
MAX_PLACEHOLDER_CHARS = 700
#: Longer side in pixels and WebP quality of the placeholder: the first that fits is taken.
_PLACEHOLDER_TRIES = ((32, 45), (32, 20), (24, 20), (16, 20), (8, 10))
#: Largest scaled image, in pixels, that a probe keeps for the render after it: 12 MB without alpha.
MAX_KEPT_PIXELS = 4_000_000
#: A decoded image of at most this many bytes is held in memory for all outputs; a larger one is streamed to each.
MEMORY_DECODE_BYTES = 512 << 20
_BYTES_PER_BAND = {"uchar": 1, "char": 1, "ushort": 2, "short": 2, "uint": 4, "int": 4, "float": 4}
#: Quality where the recipe names none (the original's 80; AVIF's scale is another one).
_DEFAULT_QUALITY = {"jpeg": 80, "webp": 80, "avif": 50}
#: Fields of a libvips image that describe its pixels; everything else is metadata and never reaches an output.
_PIXEL_FIELDS = frozenset({"page-height", "delay", "loop"})
_RGB = frozenset({"srgb", "rgb", "rgb16"})
#: ISO/IEC 23091-2 colour primaries code of Display P3.
_P3_PRIMARIES = 12

pi_heif.options.DECODE_THREADS = 1
pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
pyvips.cache_set_max(0)
if pyvips.at_least_libvips(*LIBVIPS_FLOOR):
    pyvips.operation_block_set("VipsForeignLoad", True)
    for _name in _LOADER_CLASSES:
        pyvips.operation_block_set(f"VipsForeignLoad{_name}", False)


# --- what the pool calls -----------------------------------------------------------------------------------------


def require_safe_libvips() -> None:
    """Refuse to work with a libvips whose untrusted loaders cannot be shut.

    Raises:
        Misconfigured: libvips is older than 8.13.
    """
    if not pyvips.at_least_libvips(*LIBVIPS_FLOOR):
        floor = ".".join(map(str, LIBVIPS_FLOOR))
        raise Misconfigured(
            f"libvips {_libvips_version()} cannot block untrusted loaders; install {floor} or newer",
            detail={"found": _libvips_version(), "required": floor},
        )


def features() -> ImageFeatures:
    """Return the features of the image libraries; encoders and the block are tried, not looked up."""
    heif = pi_heif.libheif_info()
    readable = {mime for mime, loader in _LOADERS.items() if pyvips.type_find("VipsOperation", loader)}
    if heif["HEIF"] or heif["decoders"]:
        readable |= _HEIC_TYPES
    return ImageFeatures(
        libvips=_libvips_version(),
        pyvips=pyvips.__version__,
        pi_heif=pi_heif.__version__,
        libheif=heif["libheif"],
        readable=frozenset(readable),
        writable=frozenset(name for name in _SAVERS if _can_write(name)),
        untrusted_blocked=_untrusted_is_blocked(),
    )


def probe_image(
    path: Path,
    mime: str | None,
    max_pixels: int,
    *,
    placeholder: bool = True,
    recipes: Sequence[ImageVariant] = (),
    keep: Path | None = None,
) -> ProbeResult:
    """Read the facts of the image at ``path`` from its header, then decode all of it once into 64 pixels.

    ``mime`` is the sniffed type; ``None`` sniffs here. Width and height are pixels after orientation. The metadata
    holds ``format``, ``has_alpha``, ``orientation`` (the EXIF number found, 1 to 8), ``has_icc_profile`` and, for
    animations, ``pages`` and ``page_height``; never metadata of the camera. With ``keep`` the image is decoded
    for the largest of ``recipes``, scaled, and written into that file for :func:`render_images`.

    Raises:
        ContentRejected: ``no_probe_for_mime``, ``max_pixels_exceeded`` (width times height of one frame),
            ``content_too_complex`` (see :mod:`rindle.media.image_structure`) or ``decode_failed`` (damaged, incomplete,
            or not of its declared type).
        ProbeFailed: the file cannot be read or memory ran out; retryable, since the content is not the cause.
    """
    require_safe_libvips()
    with rejecting_damage(
        path, mime
    ):  # opens the file first: what cannot be read must not look like a file without a type
        mime = mime or sniff(path)
        image_file = ImageFile(path, mime)
        image_file.check_pixels(max_pixels)
        decoded = keep is not None and _keep(image_file, recipes, keep)
        shown = None
        if placeholder or not decoded:
            side = ImageVariant(mode="fit", width=PROBE_SIDE, height=PROBE_SIDE)
            thumbnail = image_file.scaled(frame_of(side, image_file.width, image_file.height))
            shown = _placeholder(thumbnail) if placeholder else None
    animation = {"pages": image_file.pages, "page_height": image_file.height} if image_file.pages > 1 else {}
    return ProbeResult(
        kind=MediaKind.IMAGE,
        width=image_file.width,
        height=image_file.height,
        metadata={
            "format": mime.removeprefix("image/"),
            "has_alpha": image_file.has_alpha,
            "has_icc_profile": image_file.has_icc_profile,
            "orientation": image_file.orientation,
            **animation,
        },
        placeholder=shown,
    )


def render_images(
    source: Path, mime: str, orders: list[RenderOrder], max_pixels: int, kept: Path | None = None
) -> list[RenderResult]:
    """Build every order from the image at ``source``; an order that cannot be built fails alone.

    The file is decoded once, for the largest output. A smaller one is made from the smallest whole output image that
    is at least twice as large and shows the same frames and colours, else from the decoded pixels. If the probe has
    ``kept`` exactly the largest whole image, it is read instead of decoded; the outputs are the same bytes.

    Returns:
        one result per order, in the order given; ``error`` is set where nothing was written to ``dest``.
    """
    require_safe_libvips()
    try:
        with rejecting_damage(source, mime):
            image_file = ImageFile(source, mime)
            image_file.check_pixels(max_pixels)
    except ProbeFailed as error:
        return [failed(order, RenderFailed(error.message, detail=error.detail)) for order in orders]
    except RindleError as error:
        return [failed(order, error) for order in orders]
    results: dict[str, RenderResult] = {}
    wholes: list[_Whole] = []
    # Largest first, so that the later ones find something to be made from.
    by_size = sorted(orders, key=lambda order: _area(order.recipe, image_file), reverse=True)
    if kept is not None and _can_be_kept(image_file, [order.recipe for order in by_size]):
        image_file.use_cached(kept, frame_of(by_size[0].recipe, image_file.width, image_file.height))
    for order in by_size:
        try:
            results[order.name] = _render(image_file, order, wholes, max_pixels)
        except RindleError as error:
            results[order.name] = failed(order, error)
        except Exception as error:  # whatever a library raises, the other orders are still built
            reason = reason_of(error, source, order.dest)
            log.warning("variant cannot be rendered", extra={"variant": order.name, "reason": reason})
            results[order.name] = failed(
                order,
                RenderFailed(
                    f"variant {order.name!r} cannot be rendered",
                    detail={"reason": reason},
                    retryable=isinstance(error, pyvips.Error | OSError | MemoryError),
                ),
            )
    return [results[order.name] for order in orders]


def failed(order: RenderOrder, error: RindleError) -> RenderResult:
    """Return the result of an order that wrote nothing."""
    return RenderResult(order.name, None, None, None, None, order.recipe.content_type, error)


# --- the source --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pixels:
    image: pyvips.Image
    shrink: int
    frames: int


class ImageFile:
    """A source whose header has been read; its pixels are decoded on first use.

    Attributes:
        width: pixels after orientation, of one frame.
        height: pixels after orientation, of one frame.
        pages: frames of an animation, 1 otherwise.
        orientation: EXIF orientation, 1 to 8; 1 where the container has turned the pixels itself.
        has_alpha, has_icc_profile, has_rgb_profile: the header's facts about the pixels.
    """

    def __init__(self, path: Path, mime: str) -> None:
        if mime not in READABLE_TYPES:
            raise ContentRejected(
                f"files of type {mime} are not read as images", code="no_probe_for_mime", detail={"mime": mime}
            )
        check_structure(path, mime)
        self._content = whole_content(path, mime)
        self._path = path
        self._mime = mime
        self._pixels: _Pixels | None = None
        self._kept: tuple[Frame, pyvips.Image] | None = None
        self._has_end = False
        self._canvas = canvas_of(path) if mime == "image/gif" else None
        if mime in _HEIC_TYPES:
            # libheif applies the container's own rotation; EXIF orientation is informative only (ISO/IEC 23008-12).
            heic = open_heic(path, mime, self._content)
            self.width, self.height = heic.size
            self.pages = self.orientation = 1
            self.has_alpha = bool(heic.has_alpha)
            self.has_icc_profile = self.has_rgb_profile = "icc_profile" in heic.info
            return
        if self._canvas is not None:
            self._content = self._canvas.content
        header = self._load(access="sequential")
        self.pages = _number(header, "n-pages", 1) if mime in _ANIMATED_TYPES else 1
        # An animation is one tall strip of frames, which cannot be turned as a whole.
        self.orientation = _number(header, "orientation", 1) if self.pages == 1 else 1
        sideways = 5 <= self.orientation <= 8
        self.width, self.height = (header.height, header.width) if sideways else (header.width, header.height)
        self.has_alpha = bool(header.hasalpha())
        self.has_icc_profile = header.get_typeof("icc-profile-data") != 0
        self.has_rgb_profile = self.has_icc_profile and header.interpretation in _RGB

    def frames_within(self, max_pixels: int, frame: Frame) -> int:
        """Return how many frames an animated variant takes: those that fit, decoded and scaled, and at least one."""
        most: int = max(self.width * self.height, frame.scaled_width * frame.scaled_height)
        return max(1, min(self.pages, MAX_FRAMES, max_pixels // most))

    def check_pixels(self, max_pixels: int) -> None:
        """Refuse an image of which one frame would be too large to decode.

        Raises:
            ContentRejected: ``max_pixels_exceeded``.
        """
        found = self.width * self.height
        if found > max_pixels:
            raise ContentRejected(
                f"the image has {self.width} x {self.height} pixels, more than the {max_pixels} allowed",
                code="max_pixels_exceeded",
                detail={"limit": max_pixels, "found": found, "width": self.width, "height": self.height},
            )

    def scaled(self, frame: Frame, *, frames: int = 1, own_colours: bool = False) -> pyvips.Image:
        """Return the whole image in memory: upright, 8 bit RGB, of the frame's scaled size.

        The pixels are sRGB, or with ``own_colours`` those of the embedded RGB profile, which stays attached.
        """
        if self._kept is not None and _shows_whole(self._kept[0], frame):
            return self._kept[1]
        image = self._decoded(decoder_shrink(self.width, self.height, frame), frames)
        # Without a profile the pixels are sRGB already; telling libvips the target anyway costs a trip through Lab.
        convert = not own_colours and image.get_typeof("icc-profile-data") != 0
        return _scaled(image, frame, convert=convert, no_rotate=self.pages > 1)

    def use_cached(self, path: Path, frame: Frame) -> None:
        """Read the whole image of ``frame`` from the file of a probe, if the file exists and has that size."""
        image = decode_cache.read(path)
        if image is not None and (image.width, image.height) == (frame.scaled_width, frame.scaled_height):
            self._kept = (frame, image)

    def _decoded(self, shrink: int, frames: int) -> pyvips.Image:
        """Decode, once for all outputs that want no more pixels than the first one did."""
        if self._kept is not None:  # as if the kept image had been decoded here, and this one from the same pixels
            shrink = min(shrink, decoder_shrink(self.width, self.height, self._kept[0]))
        if self._pixels is not None and self._pixels.frames == frames and self._pixels.shrink <= shrink:
            return self._pixels.image
        if self._mime in _HEIC_TYPES:
            image, shrink = _heic_image(open_heic(self._path, self._mime, self._content)), 1
        else:
            options: dict[str, Any] = {"access": "sequential", "fail_on": "error"}
            if self._mime == "image/jpeg":
                options["shrink"] = shrink
                self._add_end()
            elif self._mime == "image/webp" and self.pages == 1:
                options["scale"] = 1 / shrink
            else:
                shrink = 1
                if self._mime in _ANIMATED_TYPES:
                    options["n"] = frames
            image = self._load(**options)
            if image.width * image.height * image.bands * _BYTES_PER_BAND.get(image.format, 8) > MEMORY_DECODE_BYTES:
                return image  # streamed through the resampler, and decoded again for the next output
            # Decoding as a whole and resampling from memory takes a third of the time of libvips' strip by strip.
            image = image.copy_memory()
        self._pixels = _Pixels(image, shrink, frames)
        return image

    def _add_end(self) -> None:
        """Complete a JPEG that lacks only its end marker; once, and not before its pixels were checked."""
        if not self._has_end:
            self._content, self._has_end = end_of_jpeg_added(self._path), True

    def _load(self, **options: Any) -> pyvips.Image:
        # A source is opened as a plain file: a name that ends in "[...]" is no option string here.
        if self._content is None:
            source = pyvips.Source.new_from_file(str(self._path))
        else:
            source = pyvips.Source.new_from_memory(self._content)
        image = pyvips.Operation.call(_LOADERS[self._mime], source, **options)
        return image if self._canvas is None else self._canvas.applied(image)


def _heic_image(heic: pi_heif.HeifFile) -> pyvips.Image:
    """Decode a HEIC file into a libvips image with its colour profile; libheif has already turned it upright."""
    width, height = heic.size
    bands = 4 if heic.has_alpha else 3
    try:
        pixels = heic.data
    except (ValueError, RuntimeError, EOFError, SyntaxError) as error:
        raise rejected("image/heic", reason_of(error)) from error
    # Rows may be padded: read them as bytes, cut the padding off, then group the bytes into bands.
    rows = pyvips.Image.new_from_memory(pixels, heic.stride, height, 1, "uchar")
    image = rows.crop(0, 0, width * bands, height).bandfold(factor=bands).copy(interpretation="srgb")
    if heic.premultiplied_alpha:
        image = image.unpremultiply().cast("uchar")
    profile = heic.info.get("icc_profile")
    if profile is None and heic.info.get("nclx_profile", {}).get("color_primaries") == _P3_PRIMARIES:
        profile = pyvips.Operation.call("profile_load", "p3")
    # The pixels belong to ``heic`` and are freed with it, so they are copied while it is alive.
    image = image.copy_memory()
    if profile:
        image = image.copy()  # fields are set in place
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return image


# --- steps -------------------------------------------------------------------------------------------------------


def _render(image_file: ImageFile, order: RenderOrder, wholes: list[_Whole], max_pixels: int) -> RenderResult:
    recipe = order.recipe
    if not _can_write(recipe.format):
        raise ProcessorCapabilityMissing(
            f"this libvips has no encoder for {recipe.format}", detail={"format": recipe.format}
        )
    image_file.check_pixels(max_pixels)
    frame = frame_of(recipe, image_file.width, image_file.height)
    frames = image_file.frames_within(max_pixels, frame) if recipe.animated else 1
    if frame.scaled_width * frame.scaled_height * frames > max_pixels:
        raise RenderFailed(
            f"variant {order.name!r} would need more than {max_pixels} pixels on the way",
            detail={"limit": max_pixels, "width": frame.scaled_width, "height": frame.scaled_height},
            retryable=False,
        )
    image = _whole(image_file, recipe, frame, frames, wholes)
    for step in (_place, _flatten, _without_metadata):
        image = step(image, recipe, frame)
    return _saved(image, order, frame)


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole image in memory from which a smaller output may be made, if it shows the same."""

    image: pyvips.Image
    shows: tuple[int, bool]


def _whole(
    image_file: ImageFile, recipe: ImageVariant, frame: Frame, frames: int, wholes: list[_Whole]
) -> pyvips.Image:
    """Return the whole image at its scaled size, from a larger one in memory or from the file."""
    own_colours = recipe.keep_icc and image_file.has_rgb_profile
    shows = (frames, own_colours)
    fitting = [
        whole.image
        for whole in wholes
        if whole.shows == shows
        and whole.image.width >= 2 * frame.scaled_width
        and whole.image.get_page_height() >= 2 * frame.scaled_height
    ]
    if fitting:
        nearest = min(fitting, key=lambda image: image.width)
        image = _scaled(nearest, frame, convert=False, no_rotate=True)
    else:
        image = image_file.scaled(frame, frames=frames, own_colours=own_colours)
    if recipe.mode != "stretch":  # distorted: nothing else may be made from it
        wholes.append(_Whole(image, shows))
    return image


def _keep(image_file: ImageFile, recipes: Sequence[ImageVariant], path: Path) -> bool:
    """Write the whole image of the largest recipe into a file, if a render can then skip its decoding.

    Returns:
        whether the image has been decoded for it.
    """
    if not _can_be_kept(image_file, recipes):
        return False
    largest = max(recipes, key=lambda recipe: _area(recipe, image_file))
    if _area(largest, image_file) > MAX_KEPT_PIXELS:
        return False
    decode_cache.write(image_file.scaled(frame_of(largest, image_file.width, image_file.height)), path)
    return True


def _can_be_kept(image_file: ImageFile, recipes: Sequence[ImageVariant]) -> bool:
    """Whether outputs need only the pixels of the image: no frames, no colour profile, at least one recipe."""
    return bool(recipes) and image_file.pages == 1 and not any(recipe.keep_icc for recipe in recipes)


def _shows_whole(kept: Frame, wanted: Frame) -> bool:
    return (kept.scaled_width, kept.scaled_height) == (wanted.scaled_width, wanted.scaled_height)


def _scaled(image: pyvips.Image, frame: Frame, *, convert: bool, no_rotate: bool) -> pyvips.Image:
    profile = {_OUTPUT_PROFILE: "srgb"} if convert else {}
    image = image.thumbnail_image(
        frame.scaled_width, height=frame.scaled_height, size="force", no_rotate=no_rotate, linear=False, **profile
    )
    return _to_rgb8(image).copy_memory()


def _to_rgb8(image: pyvips.Image) -> pyvips.Image:
    """Convert grey, CMYK, 16 bit and float images to 8 bit RGB with 3 bands, or 4 with alpha."""
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    if image.bands not in (3, 4):
        image = image.extract_band(0, n=3) if image.bands > 4 else image.colourspace("srgb")
    return image if image.format == "uchar" else image.cast("uchar")


def _place(image: pyvips.Image, recipe: ImageVariant, frame: Frame) -> pyvips.Image:
    """Cut the image to the box, or put it into the middle of a larger one."""
    if recipe.mode == "pad":
        return _padded(image, recipe, frame)
    if (frame.width, frame.height) == (frame.scaled_width, frame.scaled_height):
        return image
    left, top = _offset(image, recipe.gravity, frame)
    return _each_page(image, lambda page: page.crop(left, top, frame.width, frame.height))


def _offset(image: pyvips.Image, gravity: str, frame: Frame) -> tuple[int, int]:
    free_x, free_y = frame.scaled_width - frame.width, frame.scaled_height - frame.height
    if gravity in ("attention", "entropy"):
        # One window for all frames, chosen on the first: a window per frame would jump.
        first = image.crop(0, 0, frame.scaled_width, frame.scaled_height)
        window = first.smartcrop(frame.width, frame.height, interesting=gravity)
        return -window.xoffset, -window.yoffset
    left = {"west": 0, "east": free_x}.get(gravity, free_x // 2)
    top = {"north": 0, "south": free_y}.get(gravity, free_y // 2)
    return left, top


def _padded(image: pyvips.Image, recipe: ImageVariant, frame: Frame) -> pyvips.Image:
    if recipe.background is None and recipe.format != "jpeg":
        image = image if image.hasalpha() else image.addalpha()
        colour = [0, 0, 0, 0]
    else:
        image, colour = _flatten(image, recipe, frame, always=True), _rgb(recipe.background)
    return _each_page(
        image,
        lambda page: page.gravity("centre", frame.width, frame.height, extend="background", background=colour),
    )


def _flatten(image: pyvips.Image, recipe: ImageVariant, frame: Frame, *, always: bool = False) -> pyvips.Image:
    """Put the image on the background colour, since JPEG has no alpha."""
    if image.hasalpha() and (always or recipe.format == "jpeg"):
        return image.flatten(background=_rgb(recipe.background))
    return image


def _without_metadata(image: pyvips.Image, recipe: ImageVariant, frame: Frame) -> pyvips.Image:
    """Drop EXIF, GPS, XMP, IPTC, thumbnails and comments; with ``keep_icc`` the profile of the pixels stays."""
    return bare(image, _PIXEL_FIELDS | {"icc-profile-data"} if recipe.keep_icc else _PIXEL_FIELDS)


def _saved(image: pyvips.Image, order: RenderOrder, frame: Frame) -> RenderResult:
    """Write under a temporary name, open the result again, then rename it to ``order.dest``."""
    draft = order.dest.with_name(f".{order.dest.name}.{os.getpid()}.part")
    try:
        pyvips.Operation.call(_SAVERS[order.recipe.format], image, str(draft), **_save_options(order.recipe))
        if not draft.exists() or draft.stat().st_size == 0:
            raise OutputMissing(f"variant {order.name!r} was saved without content")
        written = ImageFile(draft, order.recipe.content_type)
        if (written.width, written.height) != (frame.width, frame.height):
            raise RenderFailed(
                f"variant {order.name!r} has {written.width} x {written.height} pixels "
                f"instead of {frame.width} x {frame.height}",
                retryable=False,
            )
        byte_size = draft.stat().st_size
        draft.replace(order.dest)
    finally:
        draft.unlink(missing_ok=True)
    return RenderResult(order.name, order.dest, frame.width, frame.height, byte_size, order.recipe.content_type, None)


def _save_options(recipe: ImageVariant) -> dict[str, Any]:
    quality = recipe.quality or _DEFAULT_QUALITY.get(recipe.format)
    by_format: dict[str, dict[str, Any]] = {
        "jpeg": {"Q": quality, "optimize_coding": True, "interlace": True, "subsample_mode": "on"},
        "png": {"compression": 6},
        "webp": {"Q": quality, "effort": 4, "lossless": recipe.lossless},
        "avif": {"Q": quality, "effort": 4, "compression": "av1", "lossless": recipe.lossless},
    }
    return {**by_format[recipe.format], **_keep_options(icc=recipe.keep_icc)}


def _keep_options(*, icc: bool) -> dict[str, Any]:
    """Return the saver's options for what may stay (``keep`` since libvips 8.15, ``strip`` before)."""
    if pyvips.at_least_libvips(8, 15):
        return {"keep": "icc" if icc else "none"}
    return {"strip": not icc}  # with icc the fields were removed one by one, only the profile is left


# --- small parts -------------------------------------------------------------------------------------------------

#: The option of ``thumbnail_image`` that names the profile of the result (renamed in libvips 8.15).
_OUTPUT_PROFILE = "output_profile" if pyvips.at_least_libvips(8, 15) else "export_profile"


def _each_page(image: pyvips.Image, step: Callable[[pyvips.Image], pyvips.Image]) -> pyvips.Image:
    if _frames(image) == 1:
        return step(image)
    pages = [step(page) for page in image.pagesplit()]
    joined = pyvips.Image.arrayjoin(pages, across=1).copy()
    joined.set_type(pyvips.GValue.gint_type, "page-height", pages[0].height)
    return joined


def _frames(image: pyvips.Image) -> int:
    # Not ``get_n_pages``, which counts what the file has rather than what was loaded.
    return int(image.height // image.get_page_height())


def _placeholder(thumbnail: pyvips.Image) -> str | None:
    """Return a WebP data URI of at most 700 characters that a page can show before the image has arrived."""
    thumbnail = bare(thumbnail)
    for side, quality in _PLACEHOLDER_TRIES:
        small = thumbnail.thumbnail_image(side, height=side, size="down", no_rotate=True)
        data = small.webpsave_buffer(Q=quality, effort=4, **_keep_options(icc=False))
        uri = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
        if len(uri) <= MAX_PLACEHOLDER_CHARS:
            return uri
    return None


def _area(recipe: ImageVariant, image_file: ImageFile) -> int:
    frame = frame_of(recipe, image_file.width, image_file.height)
    return frame.scaled_width * frame.scaled_height


def _rgb(colour: str | None) -> list[int]:
    return list(bytes.fromhex((colour or "#ffffff").removeprefix("#")))


def _number(image: pyvips.Image, field: str, default: int) -> int:
    return int(image.get(field)) if image.get_typeof(field) else default


def _libvips_version() -> str:
    return ".".join(str(pyvips.version(part)) for part in range(3))


#: Formats that were written once. A failure is not kept: memory may have been short.
_written: set[str] = set()


def _can_write(image_format: str) -> bool:
    """Whether the encoder really works: the operation may exist without the codec behind it (AVIF)."""
    if image_format in _written:
        return True
    try:
        sample = pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb")
        options = _save_options(ImageVariant(mode="fit", width=16, format=image_format))
        if pyvips.Operation.call(f"{_SAVERS[image_format]}_buffer", sample, **options):
            _written.add(image_format)
    except pyvips.Error:
        return False
    return image_format in _written


def _untrusted_is_blocked() -> bool:
    try:
        pyvips.Operation.call("svgload_buffer", b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    except pyvips.Error:
        return True  # shut, or not even there
    return False
