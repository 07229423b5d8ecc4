"""Command lines for outputs of a video track: transcodes, posters, thumbnail strips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rindle.media.av_probe import Media, VideoTrack
from rindle.media.ffmpeg import AvLimits, opened, written
from rindle.media.time_line import GAPS_FILLED
from rindle.recipes import VideoVariant

#: Highest bit rate and the buffer it is measured over, in kbit, by preset: a noisy video must not fill the disk.
_RATES: Final = {"web_720p": (2500, 5000), "web_480p": (1200, 2400)}
#: How much of the input is searched for a poster, in seconds.
POSTER_SCAN_SECONDS: Final = 60
#: Difference to the frame before, 0 to 1, from which a frame begins another scene.
SCENE_THRESHOLD: Final = 0.4
#: Mean luma, 0 to 255, below which a frame is too dark to be a poster.
DARK_LUMA: Final = 16
#: Tiles of a strip, and pixels of one.
STRIP_TILES, TILE_WIDTH, TILE_HEIGHT = 4, 160, 90
#: JPEG quality of ``mjpeg``, 2 (best) to 31.
_JPEG_QUALITY = 3
_TURNS: Final = {90: ("clock",), 180: ("clock", "clock"), 270: ("cclock",)}


def transcode_command(media: Media, spec: VideoVariant, source: Path, dest: Path, limits: AvLimits) -> list[str]:
    """Return the command that makes an MP4 of the first video and the first audio track; silent video stays silent.

    Metadata is removed: a phone's video contains its location. Streams are selected by the index that the probe chose,
    since a cover image may come first.

    Source: FFmpeg "scale", "libx264", "mov, mp4" (``movflags``); x264's rate control (``maxrate`` with ``crf``).
    """
    track = _video_track(media)
    recipe = spec.normal_form()
    box = (recipe["width"], recipe["height"])
    if track.height > track.width and spec.frame == "fit":
        box = (box[1], box[0])
    whole = opened(source, limits)
    video = _upright(whole[str(track.index)], track)
    fit = {"force_original_aspect_ratio": "decrease", "force_divisible_by": 2}
    if spec.frame == "pad":
        video = video.filter("scale", *box, **fit)
        video = video.filter("pad", *box, "(ow-iw)/2", "(oh-ih)/2", "black")
    else:
        # The box is reduced to the video's size first: this filter alone would enlarge it.
        video = video.filter("scale", min(box[0], track.width), min(box[1], track.height), **fit)
    nodes = [video.filter("setsar", 1)]
    if media.audio is not None:
        nodes.append(whole[f"{media.audio.index}?"])
    # The muxer notes where the audio begins; gaps are filled, since players lose the time in them.
    gaps = {} if media.audio is None else {"af": f"aresample=async={GAPS_FILLED['async']}"}
    most, over = _RATES[spec.preset]
    return written(
        nodes,
        dest,
        limits,
        **{
            "sn": None,
            "dn": None,
            "c:v": "libx264",
            "pix_fmt": "yuv420p",
            "crf": recipe["crf"],
            "maxrate": f"{most}k",
            "bufsize": f"{over}k",
            "c:a": "aac",
            "b:a": f"{recipe['audio_bitrate_kbps']}k",
            **gaps,
            **({"movflags": "+faststart"} if recipe["faststart"] else {}),
            "map_metadata": -1,
            "map_chapters": -1,
        },
    )


def poster_commands(media: Media, source: Path, dest: Path, limits: AvLimits) -> Iterator[list[str]]:
    """Return the commands that may make a poster, best first; each but the last may leave no file.

    A key frame at a change of scene; any key frame; the first frame. The first two look at a minute of input and pass
    over frames that are nearly black, the last takes what there is.

    Source: FFmpeg "select", "signalstats" (``YAVG``), "metadata".
    """
    track = _video_track(media)
    for wanted in (f"gt(scene,{SCENE_THRESHOLD})*eq(pict_type,I)", "eq(pict_type,I)", None):
        options: dict[str, Any] = {} if wanted is None else {"t": min(POSTER_SCAN_SECONDS, limits.max_duration_seconds)}
        video = opened(source, limits, **options)[str(track.index)]
        if wanted is not None:
            video = video.filter("select", wanted)
        # Full range, so that black is 0 in the measurement as it is in the JPEG.
        video = _upright(video, track).filter("setsar", 1).filter("format", "yuvj420p")
        if wanted is not None:
            video = video.filter("signalstats").filter(
                "metadata",
                mode="select",
                key="lavfi.signalstats.YAVG",
                value=DARK_LUMA,
                function="expr",
                expr="gte(VALUE1,VALUE2)",
            )
        yield _one_frame([video], dest, limits, **({} if wanted is None else {"fps_mode": "vfr"}))


def strip_commands(
    media: Media, duration_ms: int | None, source: Path, dest: Path, limits: AvLimits
) -> Iterator[list[str]]:
    """Return the commands that may make a strip, quickest first; each but the last may leave no file.

    The first jumps to the middle of each quarter, so that a video is not decoded as a whole for four small images. The
    second reads everything, ``4 / duration`` frames per second: for containers that cannot be searched and for videos
    of fewer than four frames, whose last frame is then repeated.
    """
    track = _video_track(media)
    if duration_ms is not None:
        starts = [(tile + 0.5) * duration_ms / 1000 / STRIP_TILES for tile in range(STRIP_TILES)]
        tiles = [_tile(opened(source, limits, ss=f"{start:.3f}")[str(track.index)], track) for start in starts]
        yield _one_frame([_side_by_side(tiles)], dest, limits)
    # Without any idea of the duration the first four seconds stand for all of it.
    seconds = STRIP_TILES if duration_ms is None else duration_ms / 1000
    frames = opened(source, limits)[str(track.index)].filter("fps", f"{STRIP_TILES / seconds:.6f}")
    repeated = _tile(frames, track).filter("tpad", stop=STRIP_TILES - 1, stop_mode="clone")
    yield _one_frame([repeated.filter("tile", f"{STRIP_TILES}x1")], dest, limits)


def _video_track(media: Media) -> VideoTrack:
    if media.video is None:
        raise ValueError("the media has no video track")  # refused before any command is made
    return media.video


def _upright(video: Any, track: VideoTrack) -> Any:
    """Apply square pixels, and a rotation that only a tag contains; ffmpeg applies display matrices itself."""
    for direction in _TURNS.get(track.tagged_rotation, ()):
        video = video.filter("transpose", direction)
    return video if track.has_square_samples else video.filter("scale", track.width, track.height)


def _tile(video: Any, track: VideoTrack) -> Any:
    small = _upright(video, track).filter(
        "scale", TILE_WIDTH, TILE_HEIGHT, force_original_aspect_ratio="decrease", force_divisible_by=2
    )
    return small.filter("pad", TILE_WIDTH, TILE_HEIGHT, "(ow-iw)/2", "(oh-ih)/2", "black").filter("setsar", 1)


def _side_by_side(tiles: list[Any]) -> Any:
    import ffmpeg

    return ffmpeg.filter(tiles, "hstack", inputs=len(tiles)).filter("format", "yuvj420p")


def _one_frame(nodes: list[Any], dest: Path, limits: AvLimits, **options: Any) -> list[str]:
    single = {"frames:v": 1, "q:v": _JPEG_QUALITY, "update": 1, "map_metadata": -1}
    return written(nodes, dest, limits, **single, **options)
