"""Test clips made by ffmpeg: small, of known size and length, each with one peculiarity."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from tests.patience import VIDEO_PATIENCE_SECONDS

#: Frames per second of every clip that does not say otherwise.
RATE = 25


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg by hand, as a person making a file would."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=VIDEO_PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr


def moving(size: str = "320x180", seconds: float = 2, rate: float = RATE) -> tuple[str, ...]:
    """Return the input of a moving picture."""
    return ("-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}")


def tone(seconds: float = 2, *, hertz: int = 440, rate: int = 44_100) -> tuple[str, ...]:
    """Return the input of a sine tone, one channel, an eighth of full scale."""
    return ("-f", "lavfi", "-i", f"sine=frequency={hertz}:sample_rate={rate}:duration={seconds}")


#: Quick, and with a key frame every ten frames, so that posters and seeking have something to find.
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-g", "10", "-pix_fmt", "yuv420p")


class Clips:
    """A shelf of clips; each is made when it is first asked for and must not be changed.

    Args:
        directory: where they lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def made(self, name: str, *arguments: str | Path) -> Path:
        """Return the clip of a name, made with these arguments; clips of one name and other arguments are others."""
        shelf = self._directory / hashlib.sha256("\0".join(map(str, arguments)).encode()).hexdigest()[:12]
        path = shelf / name
        if not path.exists():
            shelf.mkdir(exist_ok=True)
            ffmpeg(*arguments, path)
        return path

    def film(self, size: str = "320x180", seconds: float = 2) -> Path:
        """Return an MP4 with picture and sound."""
        return self.made(f"film-{size}-{seconds}.mp4", *moving(size, seconds), *tone(seconds), *H264, "-c:a", "aac")

    def silent(self, size: str = "320x180", seconds: float = 2, rate: float = RATE) -> Path:
        """Return an MP4 without sound, as of a screen recording."""
        return self.made(f"silent-{size}-{seconds}-{rate}.mp4", *moving(size, seconds, rate), *H264)

    def rotated(self, degrees: int = 90) -> Path:
        """Return a film whose display matrix turns it, as a phone writes it."""
        name = f"rotated-{degrees}.mp4"
        try:  # an option of the input from 6.0 on, where the tag has lost its effect
            return self.made(name, "-display_rotation", str(-degrees), "-i", self.film(), "-c", "copy")
        except AssertionError:
            return self.made(name, "-i", self.film(), "-c", "copy", "-metadata:s:v:0", f"rotate={degrees}")

    def tagged_rotation(self, degrees: int = 90) -> Path:
        """Return a film that asks for its rotation by a tag alone; in capitals, or ffmpeg makes a matrix of it."""
        tag = ("-metadata:s:v:0", f"ROTATE={degrees}")
        return self.made(f"tagged-{degrees}.mkv", "-i", self.film(), "-c", "copy", *tag)

    def anamorphic(self) -> Path:
        """Return a film of 360 × 288 stored pixels, each 16:11 wide: 524 × 288 as shown."""
        return self.made("anamorphic.mp4", *moving("360x288"), "-vf", "setsar=16/11", *H264)

    def song(self) -> Path:
        """Return an MP3 with a Xing header, which states its length."""
        return self.made("song.mp3", *tone(4), "-c:a", "libmp3lame")

    def guessed_song(self) -> Path:
        """Return an MP3 of changing bit rate without a Xing header: four seconds of it that pass for more."""
        noise = ("-f", "lavfi", "-i", "anoisesrc=duration=2:amplitude=0.8")
        silence = ("-f", "lavfi", "-i", "anullsrc=duration=2:sample_rate=48000")
        joined = ("-filter_complex", "[1:a][0:a]concat=n=2:v=0:a=1", "-c:a", "libmp3lame", "-q:a", "2")
        return self.made("guessed.mp3", *noise, *silence, *joined, "-write_xing", "0")

    def covered(self, name: str = "covered.mp3") -> Path:
        """Return a song with a cover picture, which is no video."""
        cover = self.made("cover.jpg", *moving("64x64", 0.04), "-frames:v", "1", "-update", "1")
        disposition = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic")
        song = self.song() if name.endswith("mp3") else self.made("song.m4a", *tone(4), "-c:a", "aac")
        return self.made(name, "-i", song, "-i", cover, *disposition)

    def covered_film(self) -> Path:
        """Return a film whose first stream is a cover picture."""
        cover = self.made("cover.jpg", *moving("64x64", 0.04), "-frames:v", "1", "-update", "1")
        order = ("-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic")
        return self.made("covered-film.mp4", "-i", self.film(), "-i", cover, *order)

    def live_recording(self) -> Path:
        """Return a WebM that says nowhere how long it is, as a browser records it."""
        path = self._directory / "recording.webm"
        if not path.exists():
            codecs = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libvorbis")
            # Through a pipe: nothing can be written into the header afterwards.
            ffmpeg(*moving(), *tone(), *codecs, "-f", "webm", "-live", "1", path)
        return path

    def transport_stream(self) -> Path:
        """Return an MPEG transport stream."""
        return self.made("stream.ts", *moving(), *tone(), *H264, "-c:a", "aac")

    def surround(self) -> Path:
        """Return a sound of six channels."""
        layout = ("-f", "lavfi", "-i", "aevalsrc=" + "|".join(["0.1*sin(880*t)"] * 6) + ":c=5.1:d=2:s=96000")
        return self.made("surround.wav", *layout)

    def uneven(self) -> Path:
        """Return a film whose frames do not come at even times."""
        vary = ("-vf", "setpts='if(lt(N,20),N/25,0.8+(N-20)/8)/TB'", "-fps_mode", "vfr")
        return self.made("uneven.mp4", *moving(seconds=2), *vary, *H264)

    def dark_start(self) -> Path:
        """Return a film that is black for a second and then bright."""
        black = ("-f", "lavfi", "-i", "color=black:size=320x180:rate=25:duration=1")
        return self.made(
            "dark-start.mp4", *black, *moving(seconds=2), "-filter_complex", "[0][1]concat=n=2", "-bf", "0", *H264
        )
