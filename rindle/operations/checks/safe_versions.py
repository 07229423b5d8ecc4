"""The oldest releases of the decoders without known holes: a small table that is only as good as its date.

A branch that is missing is no longer maintained and has known holes, unless it is newer than every branch listed.
Distributions repair holes without a new version number, so a version from one is a reason to look, not an error.

Source: release notes and advisories of FFmpeg and libvips, Debian's changelog of ffmpeg.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from rindle.operations.checks.report import version_of

#: Day on which the tables were compared with the advisories.
COMPARED_ON: Final = "2026-07-31"
Branch = tuple[int, int]
#: Of each maintained branch of FFmpeg the first release with all fixes. 7.1, 8.0 and 8.1: CVE-2026-8461, an overflow in
#: a decoder; 5.1: twelve holes, among them CVE-2024-35368, CVE-2025-0518 and CVE-2025-22919; 6.1: the same.
FFMPEG: Final[Mapping[Branch, tuple[int, ...]]] = {
    (5, 1): (5, 1, 9),
    (6, 1): (6, 1, 5),
    (7, 1): (7, 1, 5),
    (8, 0): (8, 0, 3),
    (8, 1): (8, 1, 2),
}
#: Of libvips only the newest branch is maintained. 8.18.3: reads and writes beyond the heap when images are reduced.
LIBVIPS: Final[Mapping[Branch, tuple[int, ...]]] = {(8, 18): (8, 18, 3)}

#: What packages of distributions append to the version of the program: ``-0+deb12u1``, ``-3ubuntu5``, ``.fc42``.
_PACKAGED = re.compile(r"deb\d|ubuntu|\.fc\d|\.el\d|alpine|-r\d|suse|~bpo", re.IGNORECASE)


def first_safe(version: str, table: Mapping[Branch, tuple[int, ...]]) -> str | None:
    """Return the release to install in place of ``version``; ``None`` when no hole of it is known.

    Args:
        version: such as ``5.1.9-0+deb12u1``; a missing third number counts as 0.
        table: :data:`FFMPEG` or :data:`LIBVIPS`.
    """
    found = (*version_of(version), 0, 0, 0)[:3]
    branch: Branch = (found[0], found[1])
    newest = max(table)
    if branch > newest or (branch in table and found >= table[branch]):
        return None
    return ".".join(map(str, table.get(branch, table[newest])))


def is_packaged(version: str) -> bool:
    """Whether ``version`` looks like that of a distribution's package, which may hold fixes of later releases."""
    return _PACKAGED.search(version) is not None
