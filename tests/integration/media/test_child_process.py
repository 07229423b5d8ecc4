"""The child process: ended as a group, reaped, bounded; and programs that behave like ffmpeg on a bad day.

After each ending the process group is looked for in ``/proc``; nothing of it may be left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rindle.errors import RindleError, VariantProcessingCancelled
from rindle.media.av_processor import AvProcessor
from rindle.media.child_process import LAST_WORDS_BYTES, ChildLimits, Ended, run_child
from rindle.media.ffmpeg import AvLimits, FfmpegTools
from rindle.recipes import AudioVariant, FrameVariant, VariantSpec, VideoVariant, WaveformVariant
from tests.media.clips import H264, Clips, moving, tone
from tests.patience import PATIENCE_SECONDS, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

LIMITS = ChildLimits(
    wall_seconds=PATIENCE_SECONDS,
    stall_seconds=PATIENCE_SECONDS,
    cpu_seconds=60,
    memory_bytes=4 << 30,
    file_bytes=1 << 30,
    nice=0,
)
STUBBORN = "trap '' TERM INT; while :; do sleep 0.1; done"
#: Limits of time, in seconds, for programs that exceed any: longer and longer, because on a busy machine a program may
#: not have begun when the first is over.
MOMENTS = (0.5, 4, 32)


def members(group: int) -> list[int]:
    """Return the processes of a group. A dead one counts as long as it is ours to reap, an orphan is init's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, own_group, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(own_group) == group and (state not in "ZX" or int(parent) == os.getpid()):
                found.append(int(entry.name))
    return found


async def nobody_of(pid_file: Path) -> None:
    """Check that the group whose leader wrote its id is gone; the kernel needs a moment for what was killed."""
    group = int(pid_file.read_text())
    await until(lambda: not members(group), what=f"group {group} to end")


def written(path: Path) -> bool:
    """Say whether a script has come to the point where it says so."""
    return path.exists() and path.read_text().endswith("\n")


#: Makes a program with such a body.
Script = Callable[[str], Path]
#: Builds with such a program in place of ffmpeg: the failure.
Build = Callable[..., Awaitable[RindleError]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Make a program that first writes its process id to ``pid``, which is also its group's."""

    def script(body: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/bash\necho $$ > {tmp_path}/pid\n{body}\n")
        path.chmod(0o700)
        return path

    return script


async def run(program: Path, **options: Any) -> Ended:
    """Run a program without arguments in a directory of its own."""
    limits = options.pop("limits", LIMITS)
    return await run_child([str(program)], limits, program.parent, **options)


# --- the runner --------------------------------------------------------------------------------------------------


async def test_output_status_and_last_words(script: Script, tmp_path: Path) -> None:
    heard = bytearray()
    ended = await run(script("echo out; echo err >&2; exit 3"), on_output=heard.extend)

    assert (bytes(heard), ended.last_words, ended.status, ended.timed_out) == (b"out\n", b"err\n", 3, False)
    assert b"err" not in repr(ended).encode()


async def test_the_child_sees_four_variables_no_input_and_a_home_of_its_own(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    heard = bytearray()
    await run(script("cat; env; pwd; ulimit -c; nice; ulimit -f"), on_output=heard.extend)

    *environment, where, core, niceness, blocks = heard.decode().splitlines()
    names = {line.partition("=")[0] for line in environment}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "HOME", "TMPDIR", "LANG"}
    assert f"HOME={tmp_path}" in environment
    assert (where, core, niceness, blocks) == (str(tmp_path), "0", str(os.nice(0)), str((1 << 30) // 1024))


async def test_ten_megabytes_of_complaints_block_nobody(script: Script) -> None:
    ended = await run(script("head -c 10000000 /dev/zero | tr '\\0' e >&2; echo last >&2"))

    assert ended.status == 0
    assert len(ended.last_words) == LAST_WORDS_BYTES
    assert ended.last_words.endswith(b"e" + b"last\n")


async def test_a_program_that_hangs_and_ignores_sigterm_is_killed(script: Script, tmp_path: Path) -> None:
    for moment in MOMENTS:
        deaf = f"trap '' TERM INT; touch {tmp_path}/deaf; {STUBBORN}"
        ended = await run(script(deaf), limits=replace(LIMITS, wall_seconds=moment))
        if (tmp_path / "deaf").exists():
            break

    assert (ended.timed_out, ended.status) == (True, -signal.SIGKILL)
    await nobody_of(tmp_path / "pid")


async def test_silence_is_a_limit_of_its_own(script: Script, tmp_path: Path) -> None:
    for moment in MOMENTS:
        ended = await run(script("echo hello; exec sleep 1000"), limits=replace(LIMITS, stall_seconds=moment))
        if written(tmp_path / "pid"):
            break

    assert (ended.timed_out, ended.status) == (True, -signal.SIGTERM)
    await nobody_of(tmp_path / "pid")


@pytest.mark.parametrize("body", [STUBBORN, f"({STUBBORN}) & {STUBBORN}", "sleep 100 & wait"])
async def test_cancelling_leaves_nobody(script: Script, tmp_path: Path, body: str) -> None:
    running = asyncio.create_task(run(script(body)))
    await until(lambda: written(tmp_path / "pid"), what="the program to start")

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    await nobody_of(tmp_path / "pid")


async def test_cancelling_again_and_again_changes_nothing(script: Script, tmp_path: Path) -> None:
    running = asyncio.create_task(run(script(STUBBORN)))
    await until(lambda: written(tmp_path / "pid"), what="the program to start")

    while not running.done():
        running.cancel()
        await asyncio.wait({running}, timeout=0.05)

    assert running.cancelled()
    await nobody_of(tmp_path / "pid")


async def test_cancelled_before_it_began(script: Script, tmp_path: Path) -> None:
    running = asyncio.create_task(run(script("exec sleep 100")))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    if written(tmp_path / "pid"):
        await nobody_of(tmp_path / "pid")


async def test_what_a_program_leaves_behind_ends_with_it(script: Script, tmp_path: Path) -> None:
    """The grandchild holds the pipes open and would do so for ever."""
    ended = await run(script(f"({STUBBORN}) & exit 0"))

    assert (ended.status, ended.timed_out) == (0, False)
    await nobody_of(tmp_path / "pid")


async def test_a_listener_that_raises_ends_the_program(script: Script, tmp_path: Path) -> None:
    def refuse(data: bytes) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await run(script(f"echo hello; {STUBBORN}"), on_output=refuse)

    await nobody_of(tmp_path / "pid")


async def test_a_worker_that_is_killed_takes_its_child_along(script: Script, tmp_path: Path) -> None:
    program = script("exec sleep 100")
    worker = (
        "import asyncio\nfrom pathlib import Path\nfrom rindle.media.child_process import *\n"
        f"limits = ChildLimits(60, 60, 60, 4 << 30, 1 << 30, 0)\n"
        f"asyncio.run(run_child([{str(program)!r}], limits, Path({str(tmp_path)!r})))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", worker)
    await until(lambda: written(tmp_path / "pid"), what="the program to start")
    group = int((tmp_path / "pid").read_text())
    assert members(group)

    process.kill()
    await process.wait()

    await until(lambda: not members(group), what="the child of a killed worker to end")


async def test_a_loop_that_is_closed_leaves_nobody(script: Script, tmp_path: Path) -> None:
    """Ctrl-C in a program that waits for nothing: ``asyncio.run`` cancels every task once and goes."""
    program = script(STUBBORN)
    worker = (
        "import asyncio\nfrom pathlib import Path\nfrom rindle.media.child_process import *\n"
        "limits = ChildLimits(60, 60, 60, 4 << 30, 1 << 30, 0)\n"
        "async def main():\n"
        f"    asyncio.create_task(run_child([{str(program)!r}], limits, Path({str(tmp_path)!r})))\n"
        f"    pid = Path({str(tmp_path / 'pid')!r})\n"
        "    while not (pid.exists() and pid.read_text()):\n        await asyncio.sleep(0.01)\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", worker)

    assert await process.wait() == 0
    group = int((tmp_path / "pid").read_text())
    await until(lambda: not members(group), what="its child to end")


# --- ffmpeg on a bad day -----------------------------------------------------------------------------------------


@pytest.fixture
def build(clips: Clips, tmp_path: Path, script: Script) -> Build:
    """Build with a program in place of ffmpeg, and expect a typed failure that leaves nothing."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()

    async def build(
        body: str, spec: VariantSpec | None = None, limits: Iterable[AvLimits | None] = (None,)
    ) -> RindleError:
        tools = FfmpegTools(script(body), FfmpegTools.find().ffprobe, "5.1", "5.1", FfmpegTools.find().encoders)
        recipe = spec or VideoVariant("web_720p")
        for limit in limits:  # until the program has come to its first line
            with pytest.raises(RindleError) as failed:
                await AvProcessor(tools, limit).build(clips.film(), recipe, run_dir / f"made{recipe.extension}")
            assert list(run_dir.iterdir()) == []
            if written(tmp_path / "pid"):
                break
        await nobody_of(tmp_path / "pid")
        assert str(tmp_path) not in str(failed.value.to_dict())
        return failed.value

    return build


#: The last argument of ffmpeg is what it writes, as ``file:/...``.
OUTPUT = 'out="${@: -1}"; out="${out#file:}"'
QUICK = [AvLimits(wall_floor_seconds=moment, wall_ceiling_seconds=moment) for moment in MOMENTS]


BAD_DAYS = {
    "writes nothing": ("exit 0", "output_missing", True),
    "writes an empty file": (f'{OUTPUT}; : > "$out"', "output_missing", True),
    "writes a broken file": (f'{OUTPUT}; echo broken > "$out"', "output_missing", True),
    "crashes": ("kill -SEGV $$", "ffmpeg_failed", True),
    "is killed": ("kill -KILL $$", "ffmpeg_failed", True),
    "is told to stop": ("exit 255", "ffmpeg_failed", True),
    "fails": ("echo 'Conversion failed!' >&2; exit 1", "ffmpeg_failed", True),
    "floods": ("head -c 10000000 /dev/zero | tr '\\0' e >&2; exit 1", "ffmpeg_failed", True),
    "fills the disk": ("echo 'write: No space left on device' >&2; exit 1", "insufficient_disk_headroom", True),
    "lacks a decoder": ("echo 'Decoder (codec z) not found for x' >&2; exit 1", "unsupported_codec", False),
    "lacks an encoder": ("echo 'Unknown encoder libx264' >&2; exit 1", "processor_capability_missing", False),
    "is gone": ("exec /nowhere/ffmpeg", "ffmpeg_not_found", True),
}


@pytest.mark.parametrize(("body", "code", "retryable"), BAD_DAYS.values(), ids=BAD_DAYS.keys())
async def test_bad_days(build: Build, body: str, code: str, retryable: bool) -> None:
    failure = await build(body)

    assert (failure.code, failure.retryable) == (code, retryable)


@pytest.mark.parametrize("body", [STUBBORN, f"({STUBBORN}) & {STUBBORN}", "kill -STOP $$"])
async def test_a_program_that_hangs_is_a_timeout(build: Build, body: str) -> None:
    failure = await build(body, limits=QUICK)

    assert (failure.code, failure.retryable) == ("process_timeout", True)


async def test_a_program_that_says_nothing_is_a_timeout(build: Build) -> None:
    failure = await build("exec sleep 1000", limits=[AvLimits(stall_seconds=moment) for moment in MOMENTS])

    assert failure.code == "process_timeout"


async def test_a_program_that_writes_too_much_is_stopped_by_the_kernel(build: Build) -> None:
    limits = AvLimits(max_output_bytes=1000)
    failure = await build(f'{OUTPUT}; exec head -c 200000000 /dev/zero > "$out"', limits=[limits])

    assert (failure.code, failure.retryable) == ("output_too_large", False)


@pytest.mark.parametrize(
    ("other", "spec", "code"),
    [
        ("song.mp3", VideoVariant("web_720p"), "output_kind_mismatch"),
        ("film.mp4", AudioVariant("m4a_128k"), "output_kind_mismatch"),
        ("silent.mp4", VideoVariant("web_720p"), "output_track_missing"),
        ("long.mp4", VideoVariant("web_720p"), "output_duration_mismatch"),
        ("song.mp3", FrameVariant("video_poster_scene"), "output_missing"),
        ("short.txt", WaveformVariant(), None),
    ],
)
async def test_a_file_of_something_else_is_no_variant(
    build: Build, clips: Clips, tmp_path: Path, other: str, spec: VariantSpec, code: str | None
) -> None:
    if code is None:
        failure = await build(f'{OUTPUT}; : > "$out"', spec)
        assert failure.code == "ffmpeg_failed"
        return
    others = {
        "song.mp3": clips.song,
        "film.mp4": clips.film,
        "silent.mp4": clips.silent,
        "long.mp4": lambda: clips.film("320x180", 3),
    }
    failure = await build(f'{OUTPUT}; cp "{others[other]()}" "$out"', spec)

    assert failure.code == code


async def test_a_cut_off_picture_is_no_poster(build: Build, clips: Clips) -> None:
    whole = clips.made("whole.jpg", *moving("640x360", 0.04), "-frames:v", "1", "-update", "1")
    failure = await build(f'{OUTPUT}; head -c 4000 "{whole}" > "$out"', FrameVariant("video_poster_scene"))

    assert failure.code == "output_missing"


async def test_the_processor_time_is_a_limit(clips: Clips, tmp_path: Path) -> None:
    """The real ffmpeg, which catches the signal and ends like after any other."""
    source = clips.made("busy.mp4", *moving("1920x1080", 20), *H264)
    limits = AvLimits(wall_floor_seconds=1e-3, wall_ceiling_seconds=1e-3)
    encoding = AvLimits.encoding(limits, 20_000)
    assert encoding.cpu_seconds == 1

    class Patient(AvLimits):
        """Leaves the wall clock out, so that only the kernel's limit is met."""

        def encoding(self, duration_ms: int | None) -> ChildLimits:
            return ChildLimits(PATIENCE_SECONDS, PATIENCE_SECONDS, 1, encoding.memory_bytes, encoding.file_bytes, 0)

    with pytest.raises(RindleError) as failed:
        await AvProcessor(FfmpegTools.find(), Patient()).build(source, VideoVariant("web_720p"), tmp_path / "made.mp4")

    assert failed.value.code == "process_timeout"
    assert failed.value.retryable is False, "the same file would use it up again"
    assert failed.value.detail == {"part": "cpu_seconds", "limit": 1}


async def test_memory_is_bounded(clips: Clips, tmp_path: Path) -> None:
    limits = AvLimits(memory_bytes=300 << 20)

    with pytest.raises(RindleError):
        await AvProcessor(FfmpegTools.find(), limits).build(
            clips.made("8k.mp4", *moving("7680x4320", 0.2), *H264), VideoVariant("web_720p"), tmp_path / "made.mp4"
        )

    assert not list(tmp_path.iterdir())


@pytest.fixture
def unhurried(script: Script) -> FfmpegTools:
    """The real ffmpeg, which needs as long for a film as the film lasts: however slow the test, it has not ended."""
    found = FfmpegTools.find()
    return replace(found, ffmpeg=script(f'exec "{found.ffmpeg}" -re "$@"'))


async def test_cancelling_a_real_transcode_leaves_nothing(clips: Clips, tmp_path: Path, unhurried: FfmpegTools) -> None:
    source = clips.made("busy.mp4", *moving("1920x1080", 20), *H264)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    moved = asyncio.Event()
    running = asyncio.create_task(
        AvProcessor(unhurried).build(
            source, VideoVariant("web_720p"), run_dir / "made.mp4", progress=lambda percent: percent > 5 and moved.set()
        )
    )
    await moved.wait()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    ours = [int(pid) for pid in children if b"libx264" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ours) == 1

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert members(ours[0]) == []
    assert list(run_dir.iterdir()) == []


async def test_a_build_that_is_not_wanted_any_more_ends(clips: Clips, tmp_path: Path, unhurried: FfmpegTools) -> None:
    source = clips.made("busy.mp4", *moving("1920x1080", 20), *H264)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    told: list[int] = []

    with pytest.raises(VariantProcessingCancelled):
        await AvProcessor(unhurried).process(
            source,
            VideoVariant("web_720p"),
            run_dir / "made.mp4",
            progress=told.append,
            cancelled=lambda: bool(told),
        )

    assert not list(run_dir.iterdir())


async def test_a_scratch_directory_that_cannot_be_written_is_worth_another_try(clips: Clips, tmp_path: Path) -> None:
    with pytest.raises(RindleError) as failed:
        await AvProcessor(FfmpegTools.find()).build(
            clips.film(), VideoVariant("web_720p"), tmp_path / "gone" / "made.mp4"
        )

    assert (failed.value.code, failed.value.retryable) == ("ffmpeg_failed", True)


async def test_without_ffmpeg_everything_waits_for_a_worker_that_has_it(clips: Clips, tmp_path: Path) -> None:
    processor = AvProcessor(FfmpegTools.find(ffmpeg=tmp_path / "nowhere"))
    spec = AudioVariant("m4a_128k")

    assert spec.required_capabilities <= processor.capabilities
    with pytest.raises(RindleError) as failed:
        await processor.build(clips.film(), spec, tmp_path / "made.m4a")
    assert (failed.value.code, failed.value.retryable) == ("ffmpeg_not_found", True)


async def test_an_hour_of_sound_needs_no_memory(clips: Clips, tmp_path: Path) -> None:
    """The samples of an hour are 115 MB; what this process holds of them is not."""
    source = clips.made("hour.mp3", *tone(3600, rate=8000), "-c:a", "libmp3lame", "-b:a", "16k")
    program = f"""
import asyncio, resource
from pathlib import Path
from rindle.media.av_processor import AvProcessor
from rindle.media.ffmpeg import FfmpegTools
from rindle.recipes import WaveformVariant

source, dest = Path({str(source)!r}), Path({str(tmp_path / "waveform.json")!r})
processor = AvProcessor(FfmpegTools.find())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
asyncio.run(processor.build(source, WaveformVariant(), dest))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
    megabytes, _ = await done.communicate()

    assert int(megabytes) < 30
