"""Keep the histories of a release for ever: ``python -m tests.workflows.freeze VERSION``, part of every release.

Layout: ``histories/<Workflow>/<case>.json`` has today's branches, and ``record`` may write them anew.
``earlier/<version>/<Workflow>/<case>.json`` has those of a release, whose runs may still be open in some installation;
nobody changes them. ``earlier/unreleased`` has those that a change between two releases has replaced.
``test_replay.py`` replays all of them. A release that no installation runs any more may be removed as a whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from pathlib import Path

from tests.workflows.branches import HISTORIES

#: Histories of releases, and of changes between releases.
EARLIER = HISTORIES.parent / "earlier"
UNRELEASED = "unreleased"
#: List of the files of a release with their SHA-256, in the format of ``sha256sum``.
SUMS = "SHA256SUMS"
CHANGELOG = HISTORIES.parents[2] / "CHANGELOG.md"


def freeze(version: str, *, histories: Path = HISTORIES, earlier: Path = EARLIER) -> list[Path]:
    """Copy today's histories, and those of ``unreleased``, to a release; returns the copies.

    Raises:
        ValueError: the version is not ``major.minor.patch``, or is frozen already.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"{version!r} is not a version such as 1.2.0")
    target = earlier / version
    if target.exists():
        raise ValueError(f"the histories of {version} are frozen already")
    shutil.copytree(histories, target)
    left = earlier / UNRELEASED
    for path in sorted(left.rglob("*.json")):
        copy = target / path.relative_to(left)
        if copy.exists():  # the branch was recorded anew after this history was kept
            copy = copy.with_stem(f"{copy.stem}_before")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, copy)
    found = sorted(target.rglob("*.json"))
    lines = [f"{digest(path)}  {path.relative_to(target).as_posix()}\n" for path in found]
    (target / SUMS).write_text("".join(lines), encoding="utf-8")
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed(release: Path) -> list[str]:
    """Return the files of a frozen release that were changed, removed or added, sorted."""
    listed = {}
    for line in (release / SUMS).read_text(encoding="utf-8").splitlines():
        sha256, _, name = line.partition("  ")
        listed[name] = sha256
    present = {path.relative_to(release).as_posix(): digest(path) for path in release.rglob("*.json")}
    return sorted(name for name in listed.keys() | present.keys() if listed.get(name) != present.get(name))


def released(changelog: str) -> list[str]:
    """Return the versions that a changelog has a section for."""
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)


def releases(earlier: Path = EARLIER) -> list[Path]:
    """Return the directories of the frozen releases."""
    return sorted(path for path in earlier.iterdir() if path.is_dir() and path.name != UNRELEASED)


if __name__ == "__main__":
    for kept in freeze(sys.argv[1]):
        sys.stdout.write(f"{kept.relative_to(EARLIER)}\n")
