"""``python -m tests.servers``: make sure of every program the tests start, installing what is missing.

Safe to run again and beside itself. Ends with status 1 under ``CI=true`` when something is missing; on a laptop it only
says so, and the tests that need it are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from rindle.cli.temporal_server import ensure_go_program, ensure_temporal_cli
from rindle.errors import RindleError
from tests.servers import Unavailable, chromium, ffmpeg, minio, postgres


def report(line: str) -> None:
    """Print one line at once, also into a pipe."""
    print(f"setup: {line}", flush=True)


def ensure_minio() -> None:
    """Find MinIO or build it."""
    if minio.PROGRAM_VARIABLE in os.environ:
        minio.program()
    else:
        ensure_go_program("minio", minio.MODULE, takes="about 2 minutes", report=report)


def ensure_libmagic() -> None:
    """Load libmagic, which python-magic looks for when it is imported."""
    try:
        import magic  # noqa: F401 - importing it is the check
    except ImportError as error:
        raise Unavailable(
            "no libmagic: install it (Debian: apt-get install libmagic1; macOS: brew install libmagic)"
        ) from error


def from_debian(package: str, check: Callable[[], object]) -> None:
    """Run ``check``; when it finds nothing and we may, install ``package`` with apt and run it again.

    Raises:
        Unavailable: still missing; the message says what to install.
    """
    try:
        check()
    except Unavailable:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        report(f"installing {package} with apt-get")
        # The timeout is for a second process that installs something at the same moment.
        apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (("update",), ("install", "--yes", "--no-install-recommends", package)):
            if subprocess.run([*apt, *arguments], env=environment, stdout=subprocess.DEVNULL, check=False).returncode:
                raise Unavailable(f"apt-get could not install {package}; its output says why") from None
        check()


def main() -> int:
    """Make sure of everything and return the exit status."""
    missing = []
    for ensure in (
        partial(from_debian, "libmagic1", ensure_libmagic),
        partial(from_debian, "ffmpeg", ffmpeg.version),
        partial(from_debian, "postgresql", partial(postgres.program, "initdb")),
        partial(from_debian, "chromium", chromium.program),
        partial(ensure_temporal_cli, report=report),
        ensure_minio,
    ):
        try:
            ensure()
        except (Unavailable, RindleError) as error:
            missing.append(error)
            report(str(error))
    in_ci = bool(os.environ.get("CI"))
    if missing:
        report(f"{len(missing)} missing; the tests that need them {'fail' if in_ci else 'are skipped'}")
    return int(in_ci and bool(missing))


if __name__ == "__main__":
    sys.exit(main())
