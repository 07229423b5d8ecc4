"""The demo's chapter on a large file: sent in parts, the connection cut, the site killed, no byte lost."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx

from examples.cohort import demo_files
from examples.cohort.demo_stage import (
    COURSE,
    Browser,
    CheckFailed,
    Checks,
    Sent,
    console,
    looks,
    step,
)
from rindle.cli.supervisor import Supervisor

#: Size of the film, and of the parts in which it is sent.
FILM_BYTES, PART_BYTES = 192 << 20, 48 << 20
#: Seconds of picture in it; the rest of its bytes is in a box that no player reads.
FILM_SECONDS = 2
#: Bytes of a part after which the connection breaks, or the site dies.
HALF_BYTES = PART_BYTES // 2
_PIECE_BYTES = 1 << 20
#: Seconds between two attempts to continue.
RETRY_SECONDS = 0.5


class Broken(Exception):
    """The client loses its connection in the middle of a part."""


@dataclass
class Crossing:
    """What was sent, where it broke, and what was kept.

    Attributes:
        sent: the film.
        cut_at: bytes that were sent when the connection broke, and of them those that were kept.
        killed_at: the same when the site was killed.
        killed: its process.
        back_after: seconds until the upload could be continued after that.
        sha256: digest of the file, and of the original as it came back.
    """

    sent: Sent
    cut_at: tuple[int, int] = (0, 0)
    killed_at: tuple[int, int] = (0, 0)
    killed: int = 0
    back_after: float = 0.0
    sha256: tuple[str, str] = ("", "")


class Upload:
    """The client of one upload: sends parts, and asks where to go on."""

    def __init__(self, browser: Browser, url: str, film: bytes) -> None:
        self._browser, self._url, self._film = browser, url, film

    def part(self, offset: int, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Send the part at ``offset`` and return where the next one begins; ``meanwhile`` is called in its middle."""
        size = min(PART_BYTES, len(self._film) - offset)
        answer = self._browser.tus(
            "PATCH",
            self._url,
            headers={
                "Upload-Offset": str(offset),
                "Content-Type": "application/offset+octet-stream",
                "Content-Length": str(size),
            },
            content=self._pieces(offset, size, meanwhile),
        )
        if answer.status_code != 204:
            raise CheckFailed(f"a part is accepted (it was answered {answer.status_code}: {answer.text[:200]})")
        return int(answer.headers["Upload-Offset"])

    def broken(self, offset: int, how: Callable[[], None]) -> int:
        """Begin the part at ``offset``, break it in its middle, and return how many bytes had been sent."""
        try:
            self.part(offset, how)
        except (Broken, httpx.TransportError):
            return offset + HALF_BYTES
        raise CheckFailed("the part breaks in its middle")

    def offset(self) -> int:
        """Return where the upload continues, as soon as the site says it.

        Raises:
            CheckFailed: it does not within a minute.
        """
        for _ in looks(RETRY_SECONDS):
            try:
                answer = self._browser.tus("HEAD", self._url)
            except httpx.TransportError:  # the site is starting
                continue
            if answer.status_code in (200, 204):
                return int(answer.headers["Upload-Offset"])
            if answer.status_code != 423:  # the part that broke has not been given up yet
                raise CheckFailed(f"the upload is found again (HEAD was answered {answer.status_code})")
        raise CheckFailed("the upload can be continued within a minute")

    def _pieces(self, offset: int, size: int, meanwhile: Callable[[], None]) -> Iterator[bytes]:
        for start in range(offset, offset + size, _PIECE_BYTES):
            if start == offset + HALF_BYTES:
                meanwhile()
            yield self._film[start : min(start + _PIECE_BYTES, offset + size)]


def cross(browser: Browser, supervisor: Supervisor, checks: Checks) -> Crossing:
    """Send a large film in parts, through a broken connection and a killed site.

    Raises:
        CheckFailed: something is not as promised.
    """
    with step("7. A large film from a moving train, sent in parts") as status:
        status.update(f"making a film of {FILM_BYTES >> 20} MiB…")
        film = demo_files.large_video(FILM_SECONDS, FILM_BYTES)
        crossing = Crossing(Sent("train.mp4", film, f"film of {FILM_BYTES >> 20} MiB, sent in parts"))
        asked = {"filename": crossing.sent.name, "size": len(film), "content_type": "video/mp4"}
        opened = browser.post(f"/lessons/{COURSE}/media/upload", json=asked).json()
        crossing.sent.asset_id = opened["asset_id"]
        upload = Upload(browser, opened["upload_url"], film)
        status.update("sending…")
        offset = upload.part(0)
        checks.that(offset == PART_BYTES, f"the first part of {PART_BYTES >> 20} MiB is stored")
        offset = cut(upload, offset, crossing, checks)
        offset = kill(upload, offset, crossing, supervisor, checks, status.update)
        while offset < len(film):
            offset = upload.part(offset)
        status.update("waiting until it is ready…")
        asset = browser.settled(crossing.sent.asset_id)
        crossing.sent.state, crossing.sent.end = asset["state"], "playable"
        checks.that(asset["state"] == "ready", "the film is ready: it was made of all parts")
        crossing.sha256 = hashlib.sha256(film).hexdigest(), browser.digest_of(crossing.sent.asset_id)
        checks.that(crossing.sha256[0] == crossing.sha256[1], f"the same SHA-256 on both sides: {crossing.sha256[1]}")
    return crossing


def cut(upload: Upload, offset: int, crossing: Crossing, checks: Checks) -> int:
    """Lose the connection in the middle of a part; returns where the upload continues."""

    def break_off() -> None:
        raise Broken

    sent = upload.broken(offset, break_off)
    console.print(f"  [red]✗[/] the connection breaks after {sent / 2**20:.0f} MiB")
    kept = upload.offset()
    crossing.cut_at = (sent, kept)
    checks.that(offset < kept <= sent, f"{kept / 2**20:.1f} MiB of them are kept, also of the part that broke")
    return kept


def kill(
    upload: Upload,
    offset: int,
    crossing: Crossing,
    supervisor: Supervisor,
    checks: Checks,
    show: Callable[[str], None],
) -> int:
    """Kill the site in the middle of a part; returns where the upload continues."""

    def end_the_site() -> None:
        crossing.killed = supervisor.kill_part("web", signal.SIGKILL)

    sent = upload.broken(offset, end_the_site)
    began = time.monotonic()
    console.print(f"  [red]✗[/] web process {crossing.killed} killed with SIGKILL after {sent / 2**20:.0f} MiB")
    show("the supervisor starts the site again, and the upload waits for the one that died…")
    supervisor.wait_ready("web")
    kept = upload.offset()
    crossing.killed_at, crossing.back_after = (sent, kept), time.monotonic() - began
    checks.that(
        offset <= kept <= sent,
        f"{crossing.back_after:.1f} s later a new process continues at {kept / 2**20:.1f} MiB: "
        "nothing that was recorded is lost",
    )
    return kept
