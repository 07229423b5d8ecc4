"""Checks of this machine: media libraries and programs, disk, and secrets in its environment.

Media libraries are tested in a child process (:mod:`rindle.media.features`); the application's process never loads
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rindle.cancellation import run_to_end
from rindle.extras import install_command
from rindle.operations.checks import safe_versions
from rindle.operations.checks.report import Planned, Result, Status, Subject, version_of
from rindle.process import ephemeral_runtime
from rindle.recipes import FrameVariant, ImageVariant, VideoVariant
from rindle.security import sniff
from rindle.security.signing import MIN_SECRET_BYTES
from rindle.states import OutputKind

#: Module that is run in a process of its own.
FEATURES_MODULE = "rindle.media.features"
#: Module whose file, run without arguments, tries the isolation of decoders.
CONFINING_MODULE = "rindle.media.confined"
#: First release of ffmpeg with every option that the recipes use; older ones work.
FFMPEG_RECOMMENDED = (6, 0)
#: Bytes that one output may need on the scratch disk; twice as much must be free.
OUTPUT_BYTES = 500 * 1024 * 1024

_IMAGES_FIX = f"run {install_command('images')}; it brings libvips 8.13 or newer and pi-heif"
_FFMPEG_FIX = (
    f"run {install_command('av')}; install ffmpeg 5.1 or newer with ffprobe, on PATH or set in RINDLE_FFMPEG_PATH"
)
_TMP_DIR_FIX = "set RINDLE_TMP_DIR to a writable directory with enough free space"
#: Image types that a profile may accept and that some builds of the libraries cannot read.
_TRIED_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/avif", "image/heic"})
#: The first bytes of the two formats that every installation must recognise.
_SAMPLES = {
    "image/png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00\x90wS\xde",
    "video/mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41\x00\x00\x00\x08free",
}
_EXAMPLE_SECRET = re.compile(r"change|example|secret|password|your[-_ ]|dummy|test|xxxx|1234", re.IGNORECASE)


def planned(subject: Subject) -> list[Planned]:
    """Return the checks of this machine; engines that no profile needs are not tested."""
    checks = [
        Planned("libmagic", "media", _libmagic),
        Planned("temp.dir", "host", _temp_dir),
        Planned("security.secrets", "security", _secrets),
        Planned("ffmpeg.version", "media", _ffmpeg_version, patience=4),
        Planned("media.isolation", "security", _isolation, patience=4),
    ]
    if any(isinstance(spec, ImageVariant) for profile in subject.profiles for spec in profile.variants.values()):
        checks.append(Planned("libvips.features", "media", _libvips_features, patience=4))
    if subject.av_variants():
        checks.append(Planned("ffmpeg.features", "media", _ffmpeg_features, patience=4))
        checks.append(Planned("profiles.runtime_fit", "profiles", _runtime_fit))
    return checks


# --- media libraries and programs --------------------------------------------------------------------------------


async def _features(*arguments: str) -> dict[str, Any]:
    """Return the features of the engines, as found by a child process; ``error`` is the reason when it failed."""
    output = await _output(sys.executable, "-m", FEATURES_MODULE, *arguments)
    try:
        found: dict[str, Any] = json.loads(output)
    except ValueError:
        return {"error": "it printed no result"}
    return found


async def _output(*command: str) -> str:
    """Return what a program prints; it ends with the check."""
    child = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await run_to_end(child.wait())
    return output.decode(errors="replace").strip()


async def _libvips_features(subject: Subject) -> Result:
    found = await _features("images")
    if "error" in found:
        return Result("error", f"the test of libvips failed ({found['error']})", _IMAGES_FIX)
    problem = found.pop("problem")
    if problem is not None:
        return Result("error", problem, _IMAGES_FIX, found)
    if not found["untrusted_blocked"]:
        return Result("error", "libvips does not block untrusted loaders", "unset VIPS_BLOCK_UNTRUSTED=0", found)
    formats = {
        spec.format
        for profile in subject.profiles
        for spec in profile.variants.values()
        if isinstance(spec, ImageVariant)
    }
    if unwritable := ", ".join(sorted(formats - set(found["writable"]))):
        return Result("error", f"libvips cannot write formats that profiles declare: {unwritable}", _IMAGES_FIX, found)
    accepted = {mime for profile in subject.profiles for mime in profile.allow_mime or ()}
    if unreadable := ", ".join(sorted((_TRIED_TYPES & accepted) - set(found["readable"]))):
        return Result("error", f"libvips cannot read types that profiles accept: {unreadable}", _IMAGES_FIX, found)
    # The wheel holds exactly its version; a library of the system may hold later fixes.
    held = _known_holes("libvips", found["libvips"], safe_versions.LIBVIPS, "error" if found["is_wheel"] else "warn")
    return held or Result("ok", f"libvips {found['libvips']}, untrusted loaders blocked", detail=found)


def _known_holes(
    name: str, version: str, table: Mapping[safe_versions.Branch, tuple[int, ...]], status: Status
) -> Result | None:
    safe = safe_versions.first_safe(version, table)
    if safe is None:
        return None
    unless = ", unless your distribution has repaired them" if status == "warn" else ""
    return Result(
        status,
        f"{name} {version} has known holes{unless} (compared on {safe_versions.COMPARED_ON})",
        f"install {name} {safe} or newer",
        {"found": version, "safe": safe},
    )


async def _isolation(subject: Subject) -> Result:
    program = importlib.util.find_spec(CONFINING_MODULE)
    assert program is not None and program.origin is not None  # noqa: S101 - a module of this package
    problem = await _output(sys.executable, "-I", "-S", program.origin)
    if problem:
        return Result(
            "warn",
            f"the kernel does not isolate decoders ({problem})",
            "allow unprivileged user namespaces, or keep other secrets away from the machine or container of workers",
            {"problem": problem},
        )
    return Result("ok", "decoders run without network, privileges and access to the worker")


async def _av_features(subject: Subject) -> dict[str, Any]:
    settings = subject.services.settings
    paths = [str(path or "") for path in (settings.ffmpeg_path, settings.ffprobe_path)]
    found = await subject.once("av", lambda: _features("av", *paths))
    return dict(found) if "error" not in found else {"problem": f"the test of ffmpeg failed ({found['error']})"}


async def _ffmpeg_version(subject: Subject) -> Result:
    found = await _av_features(subject)
    if found["problem"] is not None:
        needed = subject.av_variants()
        unneeded = "" if needed else "; no registered profile needs it"
        return Result("error" if needed else "warn", f"{found['problem']}{unneeded}", _FFMPEG_FIX)
    summary = f"ffmpeg {found['ffmpeg']}, ffprobe {found['ffprobe']}"
    versions = {name: found[name] for name in ("ffmpeg", "ffprobe")}
    if "development" in versions.values():
        return Result("warn", f"{summary}: not a release", "use a release of ffmpeg in production", versions)
    for name, version in versions.items():
        status: Status = "warn" if safe_versions.is_packaged(version) or not subject.av_variants() else "error"
        if (held := _known_holes(name, version, safe_versions.FFMPEG, status)) is not None:
            return held
    if any(version_of(version) < FFMPEG_RECOMMENDED for version in versions.values()):
        return Result(
            "warn", f"{summary}: supported; 6.0 or newer is recommended", "upgrade ffmpeg when you can", versions
        )
    return Result("ok", summary, detail=versions)


async def _ffmpeg_features(subject: Subject) -> Result:
    found = await _av_features(subject)
    if found["problem"] is not None:
        return Result("error", found["problem"], _FFMPEG_FIX)
    problems = []
    for profile, name, spec in subject.av_variants():
        if lacking := sorted(spec.required_capabilities - set(found["capabilities"])):
            problems.append(f"{profile.name}.{name}: {', '.join(lacking)}")
    if problems:
        return Result(
            "error",
            f"this ffmpeg lacks encoders or filters for {'; '.join(problems)}",
            "install a build with libx264, aac, libmp3lame and mjpeg, such as your distribution's",
            {"problems": problems},
        )
    if any(isinstance(spec, VideoVariant | FrameVariant) for _, _, spec in subject.av_variants()) and not found.get(
        "converts_colours", True
    ):
        return Result(
            "warn",
            "this ffmpeg lacks zscale or tonemap: variants of HDR and wide-gamut videos get dull colours",
            "install a build with libzimg (zscale), such as your distribution's",
        )
    return Result("ok", "encoders and filters for every variant are available")


async def _runtime_fit(subject: Subject) -> Result:
    builds = subject.av_variants()
    names = [f"{profile.name}.{name}" for profile, name, _ in builds]
    videos = [f"{profile.name}.{name}" for profile, name, spec in builds if spec.output_kind is OutputKind.VIDEO]
    runtime = ephemeral_runtime()
    if runtime is not None and videos:
        return Result(
            "error",
            f"{', '.join(videos)}: workers on {runtime} build no video",
            "run a worker for the audio and video queue on a dedicated machine",
            {"variants": videos},
        )
    settings = subject.services.settings
    free = await subject.off_loop(lambda: shutil.disk_usage(settings.tmp_dir).free)
    wanted = 2 * settings.av_max_output_bytes
    if free < wanted:
        return Result(
            "error",
            f"{', '.join(names)}: {free >> 20} MiB are free for builds, {wanted >> 20} MiB are required",
            "free disk space, or set RINDLE_TMP_DIR to a larger disk",
            {"free_bytes": free, "required_bytes": wanted},
        )
    return Result("ok", f"{len(names)} variants of audio and video can be built here")


async def _libmagic(subject: Subject) -> Result:
    def check() -> Result:
        with tempfile.TemporaryDirectory(prefix="rindle-doctor-") as scratch:
            for expected, head in _SAMPLES.items():
                sample = Path(scratch) / "sample"
                sample.write_bytes(head)
                found = sniff(sample)
                if found != expected:
                    return Result(
                        "error",
                        f"libmagic detects {found} for a file of type {expected}",
                        "install libmagic 5.40 or newer with its database",
                    )
        return Result("ok", "PNG and MP4 are recognised")

    return await subject.off_loop(check)


# --- disk and secrets --------------------------------------------------------------------------------------------


async def _temp_dir(subject: Subject) -> Result:
    settings = subject.services.settings
    largest = max((profile.max_bytes or 0 for profile in subject.profiles), default=0)
    headroom = 2 * max(OUTPUT_BYTES, largest)

    def check() -> Result:
        if not settings.tmp_dir.is_dir():
            return Result("error", "the temporary directory does not exist", _TMP_DIR_FIX)
        try:
            with tempfile.TemporaryFile(dir=settings.tmp_dir) as probe:
                probe.write(b"rindle")
        except OSError as error:
            problem = f"the temporary directory cannot be written to ({type(error).__name__})"
            return Result("error", problem, _TMP_DIR_FIX)
        if settings.scratch.is_dir() and stat.S_IMODE(settings.scratch.stat().st_mode) & 0o077:
            return Result(
                "error",
                "other users can read the scratch directory",
                "run chmod 700 on the directory rindle.tmp in RINDLE_TMP_DIR",
            )
        free = shutil.disk_usage(settings.tmp_dir).free
        detail = {"free_bytes": free, "wanted_bytes": headroom}
        if free < headroom:
            return Result(
                "warn", f"{free >> 20} MiB are free, {headroom >> 20} MiB are recommended", _TMP_DIR_FIX, detail
            )
        return Result("ok", f"writable, {free >> 30} GiB free", detail=detail)

    return await subject.off_loop(check)


async def _secrets(subject: Subject) -> Result:
    if not subject.secrets:
        return Result("ok", "no signing secrets are set")
    problems = []
    for number, secret in enumerate(subject.secrets, 1):
        if len(secret.encode()) < MIN_SECRET_BYTES:
            problems.append(f"secret {number} is shorter than {MIN_SECRET_BYTES} bytes")
        elif _EXAMPLE_SECRET.search(secret) or len(set(secret)) < 10:
            problems.append(f"secret {number} looks like an example")
        # A leak of the application's other secret would then leak this one too.
        shared = sorted(name for name, value in os.environ.items() if value == secret and "RINDLE" not in name)
        problems += [f"secret {number} is also the value of {name}" for name in shared]
    if len(set(subject.secrets)) < len(subject.secrets):
        problems.append("one secret is listed twice")
    if problems:
        return Result("warn", "; ".join(problems), "create one with: openssl rand -hex 32", {"problems": problems})
    return Result("ok", f"{len(subject.secrets)} set")
