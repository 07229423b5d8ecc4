"""``python -m tests.servers NAME...``: find programs that the tests or the demo start, and install what is missing.

Safe to run again and beside itself. With ``--required``, and under ``CI=true``, it ends with status 1 when something is
missing. Otherwise it only says so, and the tests that need it are skipped. The demo's set-up runs it too, with fewer
packages: what a server needs is imported with that server.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from rindle.cli.temporal_server import ensure_go_program, ensure_temporal_cli
from rindle.errors import RindleError
from tests.servers import Unavailable


def report(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(f"setup: {line}", flush=True)


def ensure_minio() -> None:
    """Find MinIO or build it."""
    from tests.servers import minio

    if minio.PROGRAM_VARIABLE in os.environ:
        minio.program()
    else:
        purpose = "the S3 server of the tests"
        ensure_go_program("minio", minio.MODULE, purpose=purpose, takes="2 to 4 minutes", report=report)


def ensure_fake_gcs() -> None:
    """Find fake-gcs-server or build it."""
    from tests.servers import gcs

    if gcs.PROGRAM_VARIABLE in os.environ:
        gcs.program()
    else:
        purpose = "a server of the tests for Google Cloud Storage"
        ensure_go_program("fake-gcs-server", gcs.MODULE, purpose=purpose, takes="1 to 2 minutes", report=report)


def ensure_uppy() -> None:
    """Find Uppy or fetch it."""
    from tests.servers import uppy

    uppy.ensure(report)


def find_libmagic() -> None:
    """Load libmagic, which python-magic looks for when it is imported."""
    try:
        import magic  # noqa: F401 - importing it is the check
    except ImportError as error:
        raise Unavailable(
            "no libmagic: install it (Debian: apt-get install libmagic1; macOS: brew install libmagic)"
        ) from error


def find_ffmpeg() -> None:
    """Find ffmpeg with the encoders of our recipes."""
    from tests.servers import ffmpeg

    ffmpeg.version()


def find_postgres() -> None:
    """Find the programs of a Postgres server."""
    from tests.servers import postgres

    postgres.program("initdb")


def find_chromium() -> None:
    """Find the browser."""
    from tests.servers import chromium

    chromium.program()


def find_curl() -> None:
    """Find curl."""
    from tests.servers import curl

    curl.program()


def ensure_scripts() -> None:
    """Find the npm packages or install them."""
    from tests.servers import npm

    npm.ensure(report)


def from_debian(package: str, find: Callable[[], None], why: str | None = None) -> None:
    """Run ``find``; when it finds nothing and we may, install ``package`` with apt and run it again.

    Args:
        package: its name on Debian.
        find: raises ``Unavailable`` when the program is missing.
        why: what it is for, for the line of progress.

    Raises:
        Unavailable: still missing; the message says what to install.
    """
    try:
        find()
    except Unavailable:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        report(f"installing {package}{f', {why},' if why else ''} with apt-get: about 1 minute, once")
        # The timeout is for a second process that installs something at the same moment.
        apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (("update",), ("install", "--yes", "--no-install-recommends", package)):
            if subprocess.run([*apt, *arguments], env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
                raise Unavailable(f"apt-get could not install {package}; its output says why") from None
        find()


#: How each program is found or installed. ``scripts/setup.py`` decides which target needs which.
PROGRAMS: Final[Mapping[str, Callable[[], object]]] = {
    "libmagic": partial(from_debian, "libmagic1", find_libmagic, "which detects file types from their bytes"),
    "ffmpeg": partial(from_debian, "ffmpeg", find_ffmpeg, "which builds the variants of video and audio"),
    "postgres": partial(from_debian, "postgresql", find_postgres, "a database server of the tests and benchmarks"),
    "chromium": partial(from_debian, "chromium", find_chromium, "the browser of the tests"),
    "temporal": partial(ensure_temporal_cli, report=report),
    "minio": ensure_minio,
    "fake-gcs-server": ensure_fake_gcs,
    "scripts": ensure_scripts,
    "uppy": ensure_uppy,
    "curl": partial(from_debian, "curl", find_curl, "a client of the tests"),
}


def main(arguments: list[str]) -> int:
    """Make sure of the named programs and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="Find or install programs.")
    parser.add_argument("--for", dest="target", default="test", help="the target of the Makefile that needs them")
    parser.add_argument("--required", action="store_true", help="end with status 1 when one is missing")
    parser.add_argument("programs", nargs="+", choices=PROGRAMS)
    given = parser.parse_args(arguments)
    missing = 0
    for name in given.programs:
        try:
            PROGRAMS[name]()
        except (Unavailable, RindleError) as error:
            missing += 1
            report(str(error))
    if not missing:
        return 0
    fails = given.required or bool(os.environ.get("CI"))
    end = f"make {given.target} does not run without them" if fails else "what needs them is skipped"
    report(f"{missing} missing; {end}")
    return int(fails)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
