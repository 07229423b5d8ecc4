"""Command lines for outputs of a video track: transcodes, posters, thumbnail strips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rindle.media import av_colour
from rindle.media.av_probe import Media, VideoTrack
from rindle.media.av_tracks import SAMPLE_RATES, mixed, nearest_rate
from rindle.media.ffmpeg import AvLimits, opened, written
from rindle.recipes import VideoVariant

#: Highest bit rate and the buffer it is measured over, in kbit, by preset: a noisy video must not fill the disk.
_RATES: Final = {"web_720p": (2500, 5000), "web_480p": (1200, 2400)}
#: Highest number of frames per second: with it no box needs a level that phones do not play.
MAX_FRAME_RATE: Final = 60
#: Highest sample rate of the audio, in hertz.
_MAX_SAMPLE_RATE: Final = 48_000
#: Smallest side of an MP4, in pixels: chroma has half of them.
_MIN_SIDE: Final = 2
#: How much of the input is searched for a poster, in seconds.
POSTER_SCAN_SECONDS: Final = 60
#: Difference to the frame before, 0 to 1, from which a frame begins another scene.
SCENE_THRESHOLD: Final = 0.4
#: Mean luma, 0 to 255, below which a frame is too dark to be a poster.
DARK_LUMA: Final = 16
#: Mean luma from which a frame is preferred: the first frames above the floor may be those of a fade.
CLEAR_LUMA: Final = 40
#: Parts of the duration where a poster is searched after the first minute, and the seconds that are read at each.
POSTER_PARTS: Final = (1 / 2, 1 / 4, 3 / 4, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 31 / 32)
_PART_SECONDS: Final = 2
#: Smallest distance of two frames that are measured, in seconds. A codec may consist of key frames, and a hostile
#: file of a million frames per second.
_KEY_FRAME_SECONDS, _FRAME_SECONDS = 0.1, 0.004
#: Files in the run directory with the measurements of frames: of luma, and of the difference to the frame before.
LUMA_FILE, SCENE_FILE = "luma", "scene"
#: Tiles of a strip, and pixels of one.
STRIP_TILES, TILE_WIDTH, TILE_HEIGHT = 4, 160, 90
#: JPEG quality of ``mjpeg``, 2 (best) to 31.
_JPEG_QUALITY = 3
_TURNS: Final = {90: ("clock",), 180: ("clock", "clock"), 270: ("cclock",)}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a video that is searched for a poster.

    Attributes:
        key_frames: only key frames are decoded, which is ten times as quick.
        start: seconds from the start of the file.
        seconds: length.
    """

    key_frames: bool = False
    start: float = 0.0
    seconds: float = POSTER_SCAN_SECONDS

    @property
    def options(self) -> dict[str, Any]:
        """Options of the input."""
        key_frames = {"skip_frame": "nokey"} if self.key_frames else {}
        return {"t": self.seconds, **({"ss": f"{self.start:.3f}"} if self.start else {}), **key_frames}


def later_section(start: float) -> Section:
    """Return the section that begins ``start`` seconds after the start of the file."""
    return Section(start=start, seconds=_PART_SECONDS)


def transcode_command(
    media: Media,
    spec: VideoVariant,
    source: Path,
    dest: Path,
    limits: AvLimits,
    *,
    tone_map: bool = True,
    largest: tuple[int, int] | None = None,
) -> list[str]:
    """Return the command that makes an MP4 of the video and the audio track; silent video stays silent.

    Metadata is removed: a phone's video contains its location. Streams are selected by the index that the probe chose,
    since a cover image may come first. Frames of another size or shape than the output are padded, not stretched.

    Args:
        media: the probed source; it has a video track.
        spec: the recipe.
        source: file to read.
        dest: file to write.
        limits: bounds of input and output.
        tone_map: whether this ffmpeg has :data:`rindle.media.av_colour.CONVERSION_FILTERS`.
        largest: displayed size of the largest frames, if the size changes in the middle.

    Source: FFmpeg "scale", "bwdif", "libx264", "mov, mp4" (``movflags``), "Main options" (``fpsmax``); x264's rate
    control (``maxrate`` with ``crf``).
    """
    track = _video_track(media)
    recipe = spec.normal_form()
    whole = opened(source, limits)
    video = whole[str(track.index)]
    if track.frame_rate > MAX_FRAME_RATE + 1:
        video = video.filter("fps", MAX_FRAME_RATE)
    if track.interlaced:
        video = video.filter("bwdif", mode="send_frame", deint="interlaced")
    width, height = _canvas(largest or (track.width, track.height), (recipe["width"], recipe["height"]), spec.frame)
    video, colour = av_colour.as_yuv(_upright(video, track), track.colour)
    video = av_colour.converted(video, colour, av_colour.VIDEO, _inside(width, height, track), tone_map=tone_map)
    video = video.filter("pad", width, height, "(ow-iw)/2", "(oh-ih)/2", "black").filter("setsar", 1)
    nodes, audio = [av_colour.tagged(video, av_colour.VIDEO)], dict[str, Any]()
    if media.audio is not None:
        node, audio = _stereo(media, whole[f"{media.audio.index}{'' if media.audio.channels > 8 else '?'}"])
        nodes.append(node)
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
            # Also where the frame rate is unknown; frames keep their times otherwise.
            "fpsmax": MAX_FRAME_RATE,
            "c:a": "aac",
            "b:a": f"{recipe['audio_bitrate_kbps']}k",
            **audio,
            **({"movflags": "+faststart"} if recipe["faststart"] else {}),
            "map_metadata": -1,
            "map_chapters": -1,
        },
    )


def search_command(media: Media, section: Section, source: Path, limits: AvLimits) -> list[str]:
    """Return the command that measures the frames of a section at a small size; see :func:`measured`.

    It writes :data:`LUMA_FILE` into its working directory, for key frames also :data:`SCENE_FILE`. Other frames are
    measured up to the first clear one.

    Source: FFmpeg "select" (``scene``), "signalstats" (``YAVG``), "metadata"; "Codec Options" (``skip_frame``).
    """
    track = _video_track(media)
    luma = "lavfi.signalstats.YAVG"
    distance = _KEY_FRAME_SECONDS if section.key_frames else _FRAME_SECONDS
    video = opened(source, limits, **section.options)[str(track.index)]
    video = video.filter("select", f"isnan(prev_selected_t)+gte(t-prev_selected_t,{distance})")
    meaning = {"in_range": track.colour.range, "out_range": "pc", "out_color_matrix": "bt709"}
    small = video.filter("scale", 64, 36, flags="area", **meaning).filter("format", "yuvj420p")
    if section.key_frames:
        small = small.filter("select", "gte(scene,0)")
        small = small.filter("metadata", mode="print", key="lavfi.scene_score", file=SCENE_FILE)
    small = small.filter("signalstats").filter("metadata", mode="print", key=luma, file=LUMA_FILE)
    if section.key_frames:
        return written([small], None, limits)
    clear = {"value": track.colour.level_of(CLEAR_LUMA), "function": "expr", "expr": "gte(VALUE1,VALUE2)"}
    return written([small.filter("metadata", mode="select", key=luma, **clear)], None, limits, **{"frames:v": 1})


def measured(text: str) -> dict[float, float]:
    """Return the values that :func:`search_command` wrote to a file, by the time of their frames in seconds."""
    found: dict[float, float] = {}
    time = None
    for line in text.splitlines():
        if line.startswith("frame:"):
            time = _float(line.partition("pts_time:")[2])
        elif time is not None and (value := _float(line.partition("=")[2])) is not None:
            found[time] = value
    return found


def poster_time(luma: Mapping[float, float], scene: Mapping[float, float], colour: av_colour.Colour) -> float | None:
    """Return the time of the best frame of a section, ``None`` when all are dark.

    The first frame of another scene, else the first clear one, else the first that is not dark.

    Args:
        luma: mean luma of the frames by their times.
        scene: difference to the frame before, likewise; may be empty.
        colour: of the track.
    """
    dark, clear = (colour.level_of(level) for level in (DARK_LUMA, CLEAR_LUMA))
    bright = sorted(time for time, value in luma.items() if value >= dark)
    cuts = [time for time in bright if scene.get(time, 0) > SCENE_THRESHOLD]
    return next(iter([*cuts, *(time for time in bright if luma[time] >= clear), *bright]), None)


def poster_command(
    media: Media,
    source: Path,
    dest: Path,
    limits: AvLimits,
    *,
    section: Section | None = None,
    time: float = 0.0,
    tone_map: bool = True,
) -> list[str]:
    """Return the command that writes one frame as a JPEG in the video's size.

    Args:
        media: the probed source; it has a video track.
        source: file to read.
        dest: file to write.
        limits: bounds of input and output.
        section: where the frame was found; read as it was in the search, so that the same frame is found again. The
            first frame of the video without it.
        time: of the frame, in seconds from the start of the section.
        tone_map: as in :func:`transcode_command`.
    """
    track = _video_track(media)
    video = opened(source, limits, **({} if section is None else section.options))[str(track.index)]
    if section is not None:
        video = video.filter("select", f"gte(t,{time - 0.0005:.4f})*isnan(prev_selected_t)")
    video = _alone(video, track)
    video, colour = av_colour.as_yuv(_upright(video, track), track.colour)
    video = av_colour.converted(video, colour, av_colour.JPEG, _shown(track), tone_map=tone_map)
    # The size of the frame, also where an earlier one had another.
    return _one_frame([video.filter("setsar", 1)], dest, limits, fps_mode="vfr", autoscale=0)


def strip_commands(
    media: Media, duration_ms: int | None, source: Path, dest: Path, limits: AvLimits, *, tone_map: bool = True
) -> Iterator[list[str]]:
    """Return the commands that may make a strip, quickest first; each but the last may leave no file.

    The first jumps to the middle of each quarter, so that a video is not decoded as a whole for four small images. The
    second reads everything, ``4 / duration`` frames per second: for containers that cannot be searched and for videos
    of fewer than four frames, whose last frame is then repeated.
    """
    track = _video_track(media)
    if duration_ms is not None:
        starts = [(tile + 0.5) * duration_ms / 1000 / STRIP_TILES for tile in range(STRIP_TILES)]
        tiles = [
            _tile(
                opened(source, limits, ss=f"{start:.3f}")[str(track.index)].filter("select", "eq(n,0)"), track, tone_map
            )
            for start in starts
        ]
        yield _one_frame([_side_by_side(tiles)], dest, limits)
    # Without any idea of the duration the first four seconds stand for all of it.
    seconds = STRIP_TILES if duration_ms is None else duration_ms / 1000
    frames = opened(source, limits)[str(track.index)].filter("fps", f"{STRIP_TILES / seconds:.6f}")
    repeated = _tile(frames, track, tone_map).filter("tpad", stop=STRIP_TILES - 1, stop_mode="clone")
    yield _one_frame([repeated.filter("tile", f"{STRIP_TILES}x1")], dest, limits)


def _video_track(media: Media) -> VideoTrack:
    if media.video is None:
        raise ValueError("the media has no video track")  # refused before any command is made
    return media.video


def _upright(video: Any, track: VideoTrack) -> Any:
    """Apply a rotation that only a tag contains; ffmpeg applies display matrices itself."""
    for direction in _TURNS.get(track.tagged_rotation, ()):
        video = video.filter("transpose", direction)
    return video


def _alone(video: Any, track: VideoTrack) -> Any:
    """Deinterlace single frames: from themselves, since their neighbours are not decoded."""
    return video.filter("estdif", mode="frame", deint="interlaced") if track.interlaced else video


def _canvas(size: tuple[int, int], box: tuple[int, int], frame: str) -> tuple[int, int]:
    """Return the size of an MP4: even, at least 2 × 2, inside the box, never larger than the video."""
    if frame == "pad":
        return box
    if size[1] > size[0]:
        box = (box[1], box[0])
    share = min(1.0, box[0] / size[0], box[1] / size[1])
    width, height = (max(_MIN_SIDE, int(side * share + 1e-6) // 2 * 2) for side in size)
    return width, height


def _shown(track: VideoTrack) -> tuple[str, str]:
    """Return expressions of "scale" for the displayed size of a frame, which a rotation has turned already."""
    if track.has_square_samples:
        return "iw", "ih"
    return ("iw", "max(1,floor(ih/sar+0.5))") if track.sideways else ("max(1,floor(iw*sar+0.5))", "ih")


def _inside(width: int, height: int, track: VideoTrack) -> tuple[str, str]:
    """Return expressions of "scale" for a frame of any size: as large as fits, square pixels, even.

    A side that is short of the canvas by rounding alone is filled, so that frames of the usual size need no bars.
    """
    shown = "iw" if track.has_square_samples else "iw*sar"
    share = f"min({width}/({shown}),{height}/ih)"

    def side(full: int, stored: str) -> str:
        exact = f"{stored}*{share}"
        return f"if(lt({full}-{exact},2.5),{full},max({_MIN_SIDE},2*floor({exact}/2)))"

    return side(width, shown), side(height, "ih")


def _stereo(media: Media, node: Any) -> tuple[Any, dict[str, Any]]:
    """Return the audio track with at most two channels and a sample rate that every player knows."""
    track = media.audio
    if track is None:
        raise ValueError("the media has no audio track")
    wanted = 2 if track.channels > 2 else None
    node, channels = mixed(node, channels=track.channels, layout=track.layout, wanted=wanted, codec="aac")
    options = {} if channels is None else {"ac": channels}
    if track.sample_rate and (track.sample_rate > _MAX_SAMPLE_RATE or track.sample_rate not in SAMPLE_RATES["aac"]):
        options["ar"] = nearest_rate("aac", track.sample_rate, at_most=_MAX_SAMPLE_RATE)
    return node, options


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tile(video: Any, track: VideoTrack, tone_map: bool) -> Any:
    video, colour = av_colour.as_yuv(_upright(video, track), track.colour)
    size = _inside(TILE_WIDTH, TILE_HEIGHT, track)
    small = av_colour.converted(video, colour, av_colour.JPEG, size, tone_map=tone_map)
    return small.filter("pad", TILE_WIDTH, TILE_HEIGHT, "(ow-iw)/2", "(oh-ih)/2", "black").filter("setsar", 1)


def _side_by_side(tiles: list[Any]) -> Any:
    import ffmpeg

    return ffmpeg.filter(tiles, "hstack", inputs=len(tiles)).filter("format", "yuvj420p")


def _one_frame(nodes: list[Any], dest: Path, limits: AvLimits, **options: Any) -> list[str]:
    single = {"frames:v": 1, "q:v": _JPEG_QUALITY, "update": 1, "map_metadata": -1}
    return written(nodes, dest, limits, **single, **options)
