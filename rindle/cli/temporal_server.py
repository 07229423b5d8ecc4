"""Find or install the Temporal CLI, whose ``server start-dev`` is the embedded Temporal server.

The search order is ``RINDLE_TEMPORAL_CLI``, ``temporal`` on ``PATH``, our cache. Otherwise it is fetched by the SDK's
own download, which is the release that belongs to the SDK, or built with Go. ``rindle dev`` and the test suite use the
same code.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rindle.errors import Misconfigured, SetupIncomplete

#: Environment variable that names the Temporal CLI: a path, or a command on ``PATH``.
CLI_VARIABLE = "RINDLE_TEMPORAL_CLI"
#: The newest release of the CLI that Go can build from modules alone. From v1.6.0 on its go.mod replaces the nested
#: module ``cliext`` by a directory beside it. ``go install`` refuses such a module. A main module of our own ignores
#: the replacement, but then needs ``cliext`` itself, which has no release: neither v0.0.0, which the CLI's go.mod
#: names, nor a pseudo-version of its newest commit is available from the module proxy (tried with CLI v1.9.1).
CLI_MODULE = "github.com/temporalio/cli/cmd/temporal@v1.5.1"
#: Modules built into it in a newer version than its go.mod requires. Its own SQLite driver, v1.34.1, does not recover
#: from a call that is cancelled while a statement runs: every later call on that connection ends with
#: ``interrupted (9)``, and the server has one connection. Measured on the driver alone: after 40 cancelled
#: transactions; never in 42,000 with v1.51.0, which is the version in CLI v1.9.1. The server stays the CLI's own
#: v1.29.1, the newest available of its line: with v1.31.2 this CLI does not compile.
CLI_NEWER = ("modernc.org/sqlite@v1.51.0",)

#: Dynamic configuration of a dev server: eager activities and one partition per queue, because one worker on the same
#: machine serves it. Measured 1.5 times the throughput of the server's defaults on two cores.
DYNAMIC_CONFIG = {
    "system.enableActivityEagerExecution": "true",
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "history.transferProcessorMaxPollInterval": '"1s"',
}
#: The same as arguments of ``temporal server start-dev``.
DEV_SERVER_ARGS = tuple(
    part for key, value in DYNAMIC_CONFIG.items() for part in ("--dynamic-config-value", f"{key}={value}")
)

#: Environment variables of a dev server. By default its garbage collector runs whenever a small heap has doubled; at
#: five times the heap instead, the server takes a tenth less processor time and more memory: 310 MB, not 200. Its calls
#: are deep: a stack that starts at the recent average size need not be copied while it grows.
_VARIABLES = {"GOGC": "400", "GODEBUG": "adaptivestackstart=1"}

#: Timeout of the SDK's download in seconds; Go is tried afterwards.
DOWNLOAD_SECONDS = 120.0
#: Seconds between two lines of progress while Go compiles.
PROGRESS_SECONDS = 15.0

#: Source recorded beside a program that the SDK downloaded.
_DOWNLOADED = "download"

Report = Callable[[str], object]


def cache_directory() -> Path:
    """Return ``rindle`` below the user's cache directory: ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Source: XDG Base Directory Specification; a relative ``XDG_CACHE_HOME`` is invalid and ignored.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "rindle"


def dev_server_environment() -> dict[str, str]:
    """Return the variables to add for a dev server; those already set in this process's environment stay."""
    return {name: value for name, value in _VARIABLES.items() if name not in os.environ}


def find_program(name: str) -> Path | None:
    """Return the program ``name`` from ``PATH`` or from our cache."""
    found = shutil.which(name) or shutil.which(cache_directory() / "bin" / name)
    return Path(found) if found else None


def find_temporal_cli() -> Path | None:
    """Return the Temporal CLI of this machine without fetching anything, or ``None``.

    Raises:
        Misconfigured: ``RINDLE_TEMPORAL_CLI`` is set and does not name a program. It is never ignored.
    """
    if configured := os.environ.get(CLI_VARIABLE):
        found = shutil.which(configured)
        if found is None:
            raise Misconfigured(f"{CLI_VARIABLE} does not name a program that can be run")
        return Path(found)
    return find_program("temporal")


def ensure_temporal_cli(*, report: Report) -> Path:
    """Return a Temporal CLI, fetching or building one into our cache when this machine has none.

    The first call can take minutes; later calls return at once. Concurrent processes wait for one another. A cached
    program that was built from other modules than the current ones is rebuilt; it stays in use when that fails.

    Args:
        report: called with one line of text at a time: the step, how long it takes, how long it took.

    Raises:
        Misconfigured: ``RINDLE_TEMPORAL_CLI`` does not name a program.
        SetupIncomplete: there is none, and both the download and the build failed.
    """
    source = _source(CLI_MODULE, CLI_NEWER)
    if (found := find_temporal_cli()) and _is_current(found, source):
        return found
    with _one_at_a_time("temporal", report):
        # Another process may have fetched it while this one waited for the lock.
        if (found := find_temporal_cli()) and _is_current(found, source):
            return found
        why = _why("the Temporal server for this machine", found)
        if downloaded := _download("temporal", why=why, report=report):
            return downloaded
        try:
            return go_install("temporal", CLI_MODULE, newer=CLI_NEWER, why=why, takes="about 4 minutes", report=report)
        except SetupIncomplete as error:
            if found is None:
                raise
            report(f"using the Temporal CLI of an earlier set-up: {error.message}")
            return found


def ensure_go_program(name: str, module: str, *, purpose: str, takes: str, report: Report) -> Path:
    """Return the program ``name`` from ``PATH`` or our cache; build it from the Go ``module`` when it is in neither.

    Args:
        name: file name of the program.
        module: argument of ``go install``, with its version.
        purpose: what the program is for, for the reader of ``report``.
        takes: how long a first build takes, for the reader of ``report``.
        report: called with one line of text at a time.

    Raises:
        SetupIncomplete: it is missing and cannot be built.
    """
    source = _source(module, ())
    if (found := find_program(name)) and _is_current(found, source):
        return found
    with _one_at_a_time(name, report):
        if (found := find_program(name)) and _is_current(found, source):
            return found
        return go_install(name, module, why=_why(purpose, found), takes=takes, report=report)


def go_install(name: str, module: str, *, newer: Sequence[str] = (), why: str, takes: str, report: Report) -> Path:
    """Build ``module`` with Go and put the program ``name`` into our cache, atomically.

    Args:
        name: file name of the program.
        module: its package, with the version of its module.
        newer: modules to build it with in a newer version than its own go.mod requires.
        why: what the program is for and why it is built, for the reader of ``report``.
        takes: how long the build takes, for the reader of ``report``.
        report: called with one line of text at a time.

    Raises:
        SetupIncomplete: Go is missing, or the build failed; Go's own output is on standard error.
    """
    go = shutil.which("go")
    if go is None:
        raise SetupIncomplete(
            f"{name} is missing and Go is not installed to build it: install {name} so that it is on PATH, or Go",
            detail={"program": name, "module": module},
        )
    programs = _programs_directory()
    report(f"building {name} with Go, {why}: {takes}, once ({' with '.join([module, *newer])})")
    # In the target's directory, so that the last step is one atomic rename.
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=programs) as scratch:
        began = time.monotonic()
        # GOBIN excludes a build for another platform: build for this machine. Ignore the user's workspace.
        environment = {key: value for key, value in os.environ.items() if key not in ("GOOS", "GOARCH")}
        environment |= {"GOBIN": scratch, "GOWORK": "off"}
        steps = [["install", module]]
        if newer:
            # go install takes every version from the program's own go.mod; a main module may require newer ones.
            package = module.partition("@")[0]
            steps = [["mod", "init", "rindle/build"], ["get", module, *newer], ["build", "-o", name, package]]
        for step in steps:
            # Go lists every module, more than a hundred lines; they are of use only when the build fails.
            with (
                tempfile.TemporaryFile() as output,
                subprocess.Popen([go, *step], cwd=scratch, env=environment, stdout=output, stderr=output) as build,  # noqa: S603 - fixed arguments
            ):
                try:
                    while (status := _wait(build, PROGRESS_SECONDS)) is None:
                        report(f"building {name}: {time.monotonic() - began:.0f} s")
                except BaseException:
                    build.terminate()  # Ctrl-C must not leave a compiler behind
                    raise
                output.seek(0)
                printed = output.read().decode(errors="replace")
            if status != 0:
                sys.stderr.write(printed)
                raise SetupIncomplete(
                    f"go {step[0]} could not build {name} (exit status {status}); see its output",
                    detail={"program": name, "module": module, "exit_status": status},
                )
        _put(Path(scratch) / name, programs / name, _source(module, newer))
    report(f"built {name} in {time.monotonic() - began:.0f} s")
    return programs / name


def _download(name: str, *, why: str, report: Report) -> Path | None:
    """Return the CLI that the SDK downloads, moved into our cache; ``None`` when the download fails."""
    report(f"downloading {name}, {why}: under a minute, once")
    programs = _programs_directory()
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=programs) as scratch:
        # In a thread with its own event loop: the caller may be inside a running loop.
        with ThreadPoolExecutor(1) as thread:
            try:
                thread.submit(asyncio.run, _start_downloaded(scratch)).result()
            except (RuntimeError, TimeoutError):
                report("the download failed; the next attempt is to build it")
                return None
        fetched = [file for file in Path(scratch).iterdir() if file.is_file() and os.access(file, os.X_OK)]
        if len(fetched) != 1:
            return None
        _put(fetched[0], programs / name, _DOWNLOADED)
    return programs / name


async def _start_downloaded(directory: str) -> None:
    # Imported here because finding a program, which every test run does, should not load the SDK.
    from temporalio.testing import WorkflowEnvironment

    # The SDK has no call that only downloads. Starting its server once also proves that the program runs here.
    environment = await asyncio.wait_for(
        WorkflowEnvironment.start_local(download_dest_dir=directory), timeout=DOWNLOAD_SECONDS
    )
    await environment.shutdown()


def _why(purpose: str, found: Path | None) -> str:
    """Return what a program is for and why it is fetched, as the middle of a line of progress."""
    return f"{purpose}, because {'none is installed' if found is None else 'the cached one is of another release'}"


def _source(module: str, newer: Sequence[str]) -> str:
    return " ".join([module, *newer])


def _note(program: Path) -> Path:
    """Return the file that records what a cached program was built from."""
    return program.with_name(f".{program.name}.source")


def _put(built: Path, program: Path, source: str) -> None:
    built.replace(program)
    _note(program).write_text(source)


def _is_current(program: Path, source: str) -> bool:
    """Whether a cached program was built from ``source``; programs outside our cache always count as current."""
    if program.parent != cache_directory() / "bin":
        return True
    note = _note(program)
    return note.is_file() and note.read_text() in (source, _DOWNLOADED)


def _programs_directory() -> Path:
    directory = cache_directory() / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


@contextmanager
def _one_at_a_time(name: str, report: Report) -> Iterator[None]:
    """Hold the lock of one program; the kernel releases it when its holder dies."""
    with (_programs_directory() / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another process that sets up {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
