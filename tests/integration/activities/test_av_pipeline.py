"""Video and sound through the whole pipeline: real worker, real ffmpeg, real Temporal."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rindle import MediaAsset, MediaVariant
from rindle.media.ffmpeg import FfmpegTools
from rindle.states import UNVALIDATED, VariantState
from rindle.storage.memory import MemoryStorage
from tests import invariants
from tests.media.clips import Clips, ffmpeg, tone
from tests.patience import until
from tests.servers.temporal import TemporalServer
from tests.stage import NOTICES_LOST_WORKERS, Stage, staged
from tests.workflows.fleet import runs_of, temporal


def ffmpegs(stage: Stage) -> list[int]:
    """Return the ffmpeg and ffprobe processes that work below the stage's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        is_ours = any(str(stage.home).encode() in part for part in argv)
        if is_ours and state != "Z" and any(Path(os.fsdecode(part)).name in ("ffmpeg", "ffprobe") for part in argv[:1]):
            found.append(int(entry.name))
    return found


def scratch(stage: Stage) -> list[str]:
    """Return what lies in the workers' scratch space."""
    root = stage.home / "tmp" / "rindle.tmp"
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


async def nothing_left(stage: Stage) -> None:
    """Wait until no process and no file of a build is left.

    How soon that must be is a budget that ``benchmarks/av.py`` measures: here other tests use the machine too.
    """

    async def look() -> bool:
        return not ffmpegs(stage) and not scratch(stage)

    await until(look, what=f"no ffmpeg ({ffmpegs(stage)}) and no scratch directory")


async def at_work(stage: Stage, asset_id: str, name: str = "web_720p", percent: int = 5) -> MediaVariant:
    """Wait until a variant is being built and has come ``percent`` far."""

    async def look() -> MediaVariant | None:
        row = await stage.variant(asset_id, name)
        assert row.state != VariantState.READY, "the encoder does not read the clip again and again"
        return row if row.state == VariantState.PROCESSING and row.progress >= percent else None

    found = await until(look, what=f"{name} to be {percent} % done")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def long_film(clips: Clips) -> Path:
    """Eight seconds of 1080p."""
    return clips.film("1920x1080", 8)


def encoder(stage: Stage, name: str, encoding: str) -> str:
    """Return the path of the real ffmpeg, but for films, which ``encoding`` encodes: bash with the arguments in $@."""
    program = stage.home / name
    program.write_text(
        f'#!/bin/bash\nffmpeg="{FfmpegTools.find().ffmpeg}"\n'
        f'case "$*" in *libx264*) {encoding} ;; esac\nexec "$ffmpeg" "$@"\n'
    )
    program.chmod(0o700)
    return str(program)


@pytest.fixture
def endless(lite_stage: Stage) -> str:
    """An ffmpeg that reads a film again and again: however slow the test, a build is caught at work.

    It is an ordinary one after ``lite_stage.tell("encoder", "")``.
    """
    lite_stage.tell("encoder", "endless")
    again_and_again = f'[ -s "{lite_stage.home}/encoder" ] && exec "$ffmpeg" -stream_loop -1 -re "$@"'
    return encoder(lite_stage, "endless", again_and_again)


#: Seconds of a film after which :func:`halting` waits.
HALTS = (1, 2, 3)


@pytest.fixture
def halting(lite_stage: Stage) -> str:
    """An ffmpeg that encodes the first second of a film, the first two, three, and all; it waits for a word between."""
    piece = '"$ffmpeg" "${@:1:$#-1}" -t $second "${@: -1}"'
    word = f'until [ -e "{lite_stage.home}/heard-$second" ]; do sleep 0.05; done'
    return encoder(lite_stage, "halting", f"for second in {' '.join(map(str, HALTS))}; do {piece}; {word}; done")


def rows(asset: MediaAsset) -> dict[str, MediaVariant]:
    return {row.name: row for row in asset.variants}


def facts_of(path: Path) -> dict[str, Any]:
    """Return what ffprobe says of a file."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)]
    facts: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return facts


async def body_of(stage: Stage, row: MediaVariant) -> Path:
    """Fetch a variant's object."""
    assert row.storage_key is not None
    return await stage.storage.download(row.storage_key, stage.home / f"fetched-{row.name}")


# --- what comes out -------------------------------------------------------------------------------------------------


async def test_a_film_becomes_what_its_profile_declares(stage: Stage, clips: Clips) -> None:
    await stage.member()

    asset = await stage.ready("lesson", clips.film("1920x1080", 4), filename="lesson.mp4")

    assert (asset.state, asset.kind, asset.width, asset.height) == ("ready", "video", 1920, 1080)
    assert (asset.has_video_track, asset.has_audio_track) == (True, True)
    assert asset.duration_ms is not None and abs(asset.duration_ms - 4000) < 100
    made = rows(await stage.rindle.asset(asset.id))
    assert {name: (row.state, row.progress, row.content_type) for name, row in made.items()} == {
        "web_720p": ("ready", 100, "video/mp4"),
        "poster": ("ready", 100, "image/jpeg"),
        "scrub_strip": ("ready", 100, "image/jpeg"),
    }
    film = made["web_720p"]
    assert (film.width, film.height) == (1280, 720)
    assert film.duration_ms is not None and abs(film.duration_ms - 4000) < 250
    assert (made["poster"].width, made["poster"].height) == (1920, 1080)
    assert (made["scrub_strip"].width, made["scrub_strip"].height) == (640, 90)
    shown = facts_of(await body_of(stage, film))
    assert {stream["codec_name"] for stream in shown["streams"]} == {"h264", "aac"}
    states = [event.payload["state"] for event in await stage.events(asset.id, "asset_state_changed")]
    assert states[-2:] == ["transcoding", "ready"]
    await invariants.everything_holds(stage)


async def test_the_duration_of_a_file_that_only_estimates_it_is_corrected_by_the_build(
    stage: Stage, clips: Clips
) -> None:
    guessed = float(facts_of(clips.guessed_song())["format"]["duration"]) * 1000
    assert abs(guessed - 4000) > 250  # else this would test nothing
    await stage.member()

    asset = await stage.ready("talk", clips.guessed_song(), filename="talk.mp3")

    assert (asset.state, asset.kind) == ("ready", "audio")
    assert asset.duration_ms == pytest.approx(4000, abs=100)


async def test_a_film_that_a_phone_took_upright_stays_upright(lite_stage: Stage, clips: Clips) -> None:
    await lite_stage.member()

    asset = await lite_stage.ready("lesson", clips.rotated(90), filename="phone.mp4")

    assert (asset.width, asset.height) == (180, 320)
    made = rows(await lite_stage.rindle.asset(asset.id))
    assert (made["web_720p"].width, made["web_720p"].height) == (180, 320)
    assert (made["poster"].width, made["poster"].height) == (180, 320)


async def test_sound_becomes_players_and_an_outline(lite_stage: Stage, clips: Clips) -> None:
    await lite_stage.member()

    asset = await lite_stage.ready("talk", clips.made("talk.wav", *tone(4)), filename="talk.wav")

    assert (asset.state, asset.kind, asset.width) == ("ready", "audio", None)
    made = rows(await lite_stage.rindle.asset(asset.id))
    assert {name: row.content_type for name, row in made.items()} == {
        "m4a": "audio/mp4",
        "mp3": "audio/mpeg",
        "outline": "application/json",
    }
    outline = json.loads((await body_of(lite_stage, made["outline"])).read_text())
    assert len(outline["peaks"]) == 1000
    assert outline["length"] == 1000


async def test_a_silent_film_gets_no_sound_and_a_skipped_variant_no_row(lite_stage: Stage, clips: Clips) -> None:
    await lite_stage.member()
    silent = clips.silent()

    lesson = await lite_stage.ready("lesson", silent, filename="screen.mp4")
    talk = await lite_stage.ready("talk", silent, filename="screen.mp4")

    assert lesson.state == "ready"
    assert not lesson.has_audio_track
    assert (talk.state, (await lite_stage.rindle.asset(talk.id)).variants) == ("ready", [])


# --- order and economy ----------------------------------------------------------------------------------------------


class CountingStorage(MemoryStorage):
    """Counts how often each object is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    async def download(self, key: str, dest: Path, **options: Any) -> Path:
        self.fetched.append(key)
        return await super().download(key, dest, **options)


@pytest.fixture
async def counted(tmp_path: Path, temporal_server: TemporalServer) -> AsyncIterator[Stage]:
    """A stage whose store counts."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'counted.db'}"
    async with staged(tmp_path, url, temporal_server.target, store=CountingStorage()) as stage:
        yield stage


async def test_what_is_quick_comes_first_and_the_film_is_fetched_once(counted: Stage, clips: Clips) -> None:
    await counted.member()

    asset = await counted.ready("lesson", clips.film("1280x720", 2), filename="film.mp4")

    [upload] = {row.workflow_id for row in await counted.outbox() if "-upload:" in row.workflow_id}

    async def requested() -> list[str]:
        """Return the builds in the order of their requests. A worker may begin them in another one."""
        for run in await runs_of(counted, upload):
            attributes = "start_child_workflow_execution_initiated_event_attributes"
            events = [event for event in (await run.fetch_history()).events if event.HasField(attributes)]
            if events:
                return [getattr(event, attributes).workflow_id for event in events]
        return []

    builds = await until(requested, what="the run that started the builds")
    assert len(builds) == 3
    assert builds[-1] == counted.variants_workflow(asset.id, "web_720p")
    assert isinstance(counted.storage, CountingStorage)
    assert counted.storage.fetched == [asset.storage_key]


async def test_progress_rises_and_is_told_in_events(lite_stage: Stage, clips: Clips, halting: str) -> None:
    await lite_stage.member(lite_stage.application(RINDLE_FFMPEG_PATH=halting))
    asset = await lite_stage.verified("lesson", clips.film(seconds=4), filename="film.mp4")

    async def heard() -> list[int]:
        found = await lite_stage.events(asset.id, "variant_progress")
        return [event.payload["progress"] for event in found if event.payload["variant_name"] == "web_720p"]

    for second in HALTS:

        async def is_told(percent: int = 25 * second - 4) -> bool:  # the last sound ends a little earlier
            return (await heard() or [0])[-1] >= percent

        await until(is_told, what=f"the progress after {second} s of the film")
        lite_stage.tell(f"heard-{second}", "")
    assert (await lite_stage.settled(asset.id)).state == "ready"

    told = await heard()
    assert len(told) >= 3
    assert all(later - sooner >= 5 for sooner, later in pairwise(told)), told
    assert 1 <= told[0] <= told[-1] <= 99


# --- stopping -------------------------------------------------------------------------------------------------------


async def test_a_cancel_frees_the_processor_and_leaves_nothing(
    lite_stage: Stage, long_film: Path, endless: str
) -> None:
    await lite_stage.member(lite_stage.application(RINDLE_FFMPEG_PATH=endless))
    asset = await lite_stage.verified("lesson", long_film, filename="f.mp4")
    await at_work(lite_stage, asset.id)
    assert ffmpegs(lite_stage)

    assert (await lite_stage.rindle.cancel_processing(asset.id)).cancelled >= 1

    await nothing_left(lite_stage)
    row = await lite_stage.variant(asset.id, "web_720p")
    assert (row.state, row.error_code) == ("cancelled", "variant_processing_cancelled")
    assert (await lite_stage.state(asset.id, "degraded")).state == "degraded"
    await invariants.everything_holds(lite_stage)


async def test_the_temporal_cli_alone_cancels_and_requeues(lite_stage: Stage, long_film: Path, endless: str) -> None:
    await lite_stage.member(lite_stage.application(RINDLE_FFMPEG_PATH=endless))
    asset = await lite_stage.verified("lesson", long_film, filename="f.mp4")
    await at_work(lite_stage, asset.id)
    workflow_id = lite_stage.variants_workflow(asset.id, "web_720p")

    await temporal(lite_stage, "workflow", "signal", "--workflow-id", workflow_id, "--name", "cancel")

    await lite_stage.variant(asset.id, "web_720p", "cancelled")
    await nothing_left(lite_stage)
    lite_stage.tell("encoder", "")
    await temporal(
        lite_stage,
        *(
            "workflow",
            "signal-with-start",
            "--signal-name",
            "requeue",
            "--signal-input",
            "null",
            "--workflow-id",
            workflow_id,
        ),
        *("--type", "rindle.VariantWorkflow", "--task-queue", lite_stage.prefix),
        *("--input", json.dumps({"asset_id": asset.id, "group": "web_720p"})),
    )
    assert (await lite_stage.variant(asset.id, "web_720p", "ready")).progress == 100


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
async def test_a_worker_that_goes_in_the_middle_is_replaced_by_another(
    lite_stage: Stage, long_film: Path, endless: str, end: str
) -> None:
    first = await lite_stage.worker("--grace", "1", RINDLE_FFMPEG_PATH=endless, **NOTICES_LOST_WORKERS)
    asset = await lite_stage.verified("lesson", long_film, filename="f.mp4")
    await at_work(lite_stage, asset.id, percent=40)

    await (first.kill() if end == "SIGKILL" else first.stop())

    await gone(lite_stage)
    await lite_stage.member()
    await lite_stage.variant(asset.id, "web_720p", "ready")
    done = await lite_stage.settled(asset.id)
    assert done.state == "ready"
    ready = await lite_stage.events(asset.id, "variant_ready")
    assert sorted(event.payload["variant_name"] for event in ready) == ["poster", "scrub_strip", "web_720p"]
    assert len(await lite_stage.keys()) == 4  # the original and one object for each variant
    assert (await lite_stage.variant(asset.id, "web_720p")).attempts == 0, "a lost worker is not the variant's fault"
    await invariants.everything_holds(lite_stage)


async def gone(stage: Stage) -> None:
    """Wait until a worker that has gone has left no process."""

    async def look() -> bool:
        return not ffmpegs(stage)

    await until(look, what="no ffmpeg of the worker that went")


async def test_a_build_whose_row_was_queued_again_stops_and_makes_room(
    lite_stage: Stage, long_film: Path, endless: str
) -> None:
    await lite_stage.member(lite_stage.application(RINDLE_FFMPEG_PATH=endless))
    asset = await lite_stage.verified("lesson", long_film, filename="f.mp4")
    first = await at_work(lite_stage, asset.id)
    lite_stage.tell("encoder", "")

    await lite_stage.rindle.cancel_processing(asset.id)
    await lite_stage.rindle.requeue_variants(asset.id)

    again = await lite_stage.variant(asset.id, "web_720p", "ready")
    assert again.generation > first.generation
    assert (await lite_stage.settled(asset.id)).state == "ready"
    assert len(await lite_stage.keys()) == 4
    await invariants.everything_holds(lite_stage)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def _playlist(clips: Clips, path: Path) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")


def _empty_box(clips: Clips, path: Path) -> None:
    path.write_bytes(b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41\0\0\0\x08free")


def _cut_off(clips: Clips, path: Path) -> None:
    whole = clips.film("1280x720", 2).read_bytes()  # its index is at the end
    path.write_bytes(whole[: len(whole) // 2])


def _cut_sound(clips: Clips, path: Path) -> None:
    front = clips.made("front.mp4", *("-i", clips.film("1280x720", 2), "-c", "copy", "-movflags", "+faststart"))
    body = front.read_bytes()
    path.write_bytes(body[: len(body) // 3])


def _sound_only(clips: Clips, path: Path) -> None:
    path.write_bytes(clips.made("talk.m4a", *tone(2), "-c:a", "aac").read_bytes())


def _title(clips: Clips, path: Path) -> None:
    hostile = "title=<script>alert(1)</script>\x01\x02" + "x" * 5000
    ffmpeg("-i", clips.film(), "-c", "copy", "-metadata", hostile, path)


#: What is sent as ``lesson.mp4``, the states it may end in, and the codes it may get.
HOSTILE: Mapping[str, tuple[Callable[[Clips, Path], None], set[str], set[str]]] = {
    "playlist": (_playlist, {"quarantined"}, {"mime_not_allowed", "unknown_mime", "extension_mime_mismatch"}),
    "no_track": (_empty_box, {"quarantined"}, {"decode_failed"}),
    "index_cut_off": (_cut_off, {"quarantined"}, {"decode_failed"}),
    "frames_cut_off": (
        _cut_sound,
        {"quarantined", "degraded"},
        {"decode_failed", "ffmpeg_failed", "output_duration_mismatch", "output_missing"},
    ),
    "sound_called_a_film": (_sound_only, {"ready", "quarantined"}, {"mime_not_allowed", "extension_mime_mismatch"}),
    "title": (_title, {"ready"}, set()),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_bad_input_gets_a_verdict_or_a_code_and_leaves_nothing(
    lite_stage: Stage, clips: Clips, case: str
) -> None:
    make, states, codes = HOSTILE[case]
    sent = lite_stage.home / "sent.mp4"
    make(clips, sent)
    await lite_stage.member()

    asset = await lite_stage.ready("lesson", sent, filename="lesson.mp4")

    found = {row.error_code for row in (await lite_stage.rindle.asset(asset.id)).variants if row.state == "failed"}
    found |= {asset.error_code}
    assert asset.state in states, (asset.state, found)
    assert found - {None} <= codes
    assert all("\x01" not in text for text in asset.media_metadata.get("tags", {}).values())
    await nothing_left(lite_stage)
    await invariants.everything_holds(lite_stage)


async def test_without_ffmpeg_the_work_waits_and_no_attempt_is_counted(
    lite_stage: Stage, clips: Clips, caplog: pytest.LogCaptureFixture
) -> None:
    async with lite_stage.working(RINDLE_FFMPEG_PATH="/nonexistent/ffmpeg"):
        asset = await lite_stage.verified("lesson", clips.film(), filename="f.mp4")
        await until(lambda: told(caplog, "ffmpeg_not_found"), what="the video to be read")
        waiting = await lite_stage.rindle.asset(asset.id)
        assert waiting.state in UNVALIDATED and waiting.error_code is None
        assert all(row.attempts == 0 for row in waiting.variants)

    await lite_stage.member()
    assert (await lite_stage.settled(asset.id)).state == "ready"


async def test_without_room_on_the_disk_the_work_waits(
    lite_stage: Stage, clips: Clips, caplog: pytest.LogCaptureFixture
) -> None:
    async with lite_stage.working(RINDLE_AV_MAX_OUTPUT_BYTES=str(1 << 60)):
        asset = await lite_stage.verified("lesson", clips.film(), filename="f.mp4")
        await until(lambda: told(caplog, "insufficient_disk_headroom"), what="the build to be tried")
        assert (await lite_stage.variant(asset.id, "web_720p")).attempts == 0

    await lite_stage.member()
    assert (await lite_stage.settled(asset.id)).state == "ready"


def told(caplog: pytest.LogCaptureFixture, code: str) -> bool:
    """Whether a worker has logged an error with this code."""
    return any(code in str(vars(record)) for record in caplog.records)


async def test_a_film_that_is_too_long_is_quarantined(lite_stage: Stage, clips: Clips) -> None:
    await lite_stage.member()

    asset = await lite_stage.ready("talk", clips.made("long.mp3", *tone(601), "-b:a", "32k"), filename="long.mp3")

    assert (asset.state, asset.error_code) == ("quarantined", "media_too_long")
