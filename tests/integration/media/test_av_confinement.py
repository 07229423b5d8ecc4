"""Playlists and scripts dressed as media open no file and no socket, neither in ffprobe nor in ffmpeg.

A canary film lies beside the payloads and a canary server listens on the loopback. The same payloads without the
whitelists reach both, so the tests can tell the difference.
"""

from __future__ import annotations

import asyncio
import http.server
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rindle.errors import ContentRejected, RindleError
from rindle.media.av_probe import AvProbe
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import AvLimits, FfmpegTools, opened, run_ffmpeg, written
from rindle.recipes import AudioVariant, FrameVariant, VideoVariant, WaveformVariant
from tests.media.clips import H264, ffmpeg, moving, tone
from tests.patience import PATIENCE_SECONDS

#: Stands in the canary's metadata and as its stream; in no payload.
MARK = "canary-in-the-mine"
NAMES = ("lesson.mp4", "lesson.avi", "lesson.txt")


class CanaryServer:
    """Counts who asks for anything."""

    def __init__(self, film: bytes) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(film)))
                self.end_headers()
                self.wfile.write(film)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The canary: a film somebody else's file must not get at."""
    path = tmp_path_factory.mktemp("canary") / "canary.ts"
    ffmpeg(*moving(), *tone(), *H264, "-c:a", "aac", "-metadata", f"service_name={MARK}", path)
    assert MARK.encode() in path.read_bytes()
    return path


@pytest.fixture
def server(film: Path) -> Iterator[CanaryServer]:
    server = CanaryServer(film.read_bytes())
    yield server
    server.close()


def playlist(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{target}\n#EXT-X-ENDLIST\n".encode()


def keyed_playlist(target: str) -> bytes:
    """A playlist whose segment is harmless and whose key is what it is after."""
    return playlist("data:,x").replace(b"#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF'.encode(), 1)


def concat_script(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\nduration 2\n".encode()


def manifest(target: str) -> bytes:
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="x" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp2t">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    ).encode()


def reference(target: str) -> bytes:
    """Nothing but protocols that read other files."""
    return f"concat:{target}|{target}\nsubfile,,start,0,end,0,,:{target}\n".encode()


def subtitles(target: str) -> bytes:
    return f"1\n00:00:00,000 --> 00:00:02,000\n<img src='{target}'>\n\n".encode() * 50


def behind_riff(target: str) -> bytes:
    """An AVI's first bytes, and a playlist behind them."""
    return b"RIFF\x00\x00\x01\x00AVI LIST\x04\x00\x00\x00hdrl" + playlist(target)


PAYLOADS = (playlist, keyed_playlist, concat_script, manifest, reference, subtitles, behind_riff)


def targets(film: Path, server: CanaryServer) -> list[str]:
    """Return what a payload may be after: the file by its path and as a URL, and the server."""
    return [str(film), f"file:{film}", f"file://{film}", film.name, f"{server.url}/canary.ts"]


@pytest.fixture(params=PAYLOADS, ids=lambda make: make.__name__)
def payloads(request: pytest.FixtureRequest, film: Path, server: CanaryServer) -> Callable[[Path], list[Path]]:
    """Write one kind of payload for every target, the names in turn, and the first target under each name."""

    def write(directory: Path) -> list[Path]:
        (directory / film.name).write_bytes(film.read_bytes())  # so that a relative name could be found, too
        after = targets(film, server)
        pairs = [(after[0], name) for name in NAMES] + [(after[turn], NAMES[turn % 3]) for turn in range(1, len(after))]
        paths = []
        for number, (target, name) in enumerate(pairs):
            path = directory / f"{number}-{name}"
            path.write_bytes(request.param(target))
            paths.append(path)
        return paths

    return write


async def test_ffprobe_opens_nothing_else(
    payloads: Callable[[Path], list[Path]], server: CanaryServer, tmp_path: Path
) -> None:
    probe = AvProbe(FfmpegTools.find(), scratch=tmp_path / "scratch")
    for path in payloads(tmp_path):
        with pytest.raises(ContentRejected) as verdict:
            await probe.probe(path)
        assert MARK not in str(verdict.value.to_dict())

    assert server.asked == []


async def test_a_build_opens_nothing_else(
    payloads: Callable[[Path], list[Path]], server: CanaryServer, tmp_path: Path
) -> None:
    processor = AvProcessor(FfmpegTools.find())
    specs = (
        VideoVariant("web_720p"),
        FrameVariant("video_poster_scene"),
        AudioVariant("m4a_128k"),
        WaveformVariant(),
    )
    for path, spec in zip(payloads(tmp_path), specs * 2, strict=False):
        dest = tmp_path / f"made{spec.extension}"
        with pytest.raises(RindleError):
            await processor.build(path, spec, dest)
        assert not dest.exists()

    assert server.asked == []


async def test_ffmpeg_itself_opens_nothing_else(
    payloads: Callable[[Path], list[Path]], server: CanaryServer, tmp_path: Path
) -> None:
    """The probe refuses these files before ffmpeg sees them; this is what ffmpeg does when it sees them."""
    limits = AvLimits()
    for path in payloads(tmp_path):
        dest = tmp_path / "made.mp4"
        command = written([opened(path, limits)], dest, limits)
        with pytest.raises(RindleError):
            await run_ffmpeg(FfmpegTools.find(), command, limits.encoding(2000), tmp_path, None)
        assert not dest.exists() or dest.stat().st_size == 0

    assert server.asked == []


# --- the same without the whitelists -----------------------------------------------------------------------------


def without(arguments: list[str], *options: str) -> list[str]:
    """Return a command line that lacks these options."""
    kept = list(arguments)
    for option in options:
        at = kept.index(option)
        del kept[at : at + 2]
    return kept


async def unconfined(path: Path, dest: Path, *, protocols: str | None, formats: bool) -> bool:
    """Run the same command without its whitelists, or with another list of protocols; say whether it made a film."""
    arguments = written([opened(path, AvLimits())], dest, AvLimits())
    if not formats:
        arguments = without(arguments, "-format_whitelist")
    if protocols is None:
        arguments = without(arguments, "-protocol_whitelist")
    else:
        arguments[arguments.index("-protocol_whitelist") + 1] = protocols
    await asyncio.to_thread(
        subprocess.run, ["ffmpeg", *arguments], capture_output=True, timeout=PATIENCE_SECONDS, check=False
    )
    return dest.exists() and dest.stat().st_size > 0


@pytest.mark.parametrize("protocols", ["file", None])
async def test_without_the_format_list_the_file_is_read(
    film: Path, server: CanaryServer, tmp_path: Path, protocols: str | None
) -> None:
    """With or without the list of protocols: a local file is what it allows."""
    hits = []
    for make in PAYLOADS:
        path = tmp_path / f"{make.__name__}.mp4"
        path.write_bytes(make(f"file:{film}"))
        if await unconfined(path, tmp_path / f"{make.__name__}-made.mp4", protocols=protocols, formats=False):
            hits.append(make.__name__)

    assert "playlist" in hits


async def test_without_both_lists_the_server_is_asked(server: CanaryServer, tmp_path: Path) -> None:
    path = tmp_path / "lesson.mp4"
    path.write_bytes(playlist(f"{server.url}/canary.ts"))

    await unconfined(path, tmp_path / "made.mp4", protocols="file,http,tcp", formats=False)

    assert "/canary.ts" in server.asked


async def test_with_one_list_the_other_may_be_missing(film: Path, server: CanaryServer, tmp_path: Path) -> None:
    """Each of the two keeps sockets shut by itself; files need the list of formats."""
    path = tmp_path / "lesson.mp4"
    path.write_bytes(playlist(f"{server.url}/canary.ts"))

    assert not await unconfined(path, tmp_path / "a.mp4", protocols="file,http,tcp", formats=True)
    assert not await unconfined(path, tmp_path / "b.mp4", protocols="file", formats=False)
    assert server.asked == []


async def test_the_probes_canary_dies_without_the_lists(film: Path, server: CanaryServer, tmp_path: Path) -> None:
    """Not ffmpeg alone: ffprobe follows a playlist just the same when nothing forbids it."""
    path = tmp_path / "lesson.mp4"
    path.write_bytes(playlist(f"file:{film}"))
    ask = ["ffprobe", "-v", "error", "-show_streams", "-show_programs", f"file:{path}"]

    told = await asyncio.to_thread(
        subprocess.run, ask, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )

    assert "codec_name=h264" in told.stdout
