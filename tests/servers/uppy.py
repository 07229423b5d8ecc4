"""Uppy, the uploader that applications put on their pages: the bundles that its package on npm has for browsers.

Only the archive of the package is fetched, whose digest is pinned here: a bundle holds all that it needs. In
``package.json`` the two versions would bring 110 packages that no test loads. The scripts that are there cannot come as
archives: tus-js-client runs on Node.js with what it needs, and the example serves hls.js from ``node_modules``.
"""

from __future__ import annotations

import base64
import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from rindle.cli.temporal_server import cache_directory
from tests.servers import Unavailable, npm

#: Version and SHA-512 of the archive of each major version: the last one with ``endpoint`` (``@uppy/aws-s3`` 5.1), and
#: one with ``companionEndpoint`` (6.1).
RELEASES: Final[Mapping[int, tuple[str, str]]] = {
    5: ("5.2.4", "1btgAGUb7Tu7GympmA9XkyGcXBSM93d1FA36J6pY4lr6a0jMXfvFUg66Dbnm/Xaq6sFvm8KwSPJF46d8Ng0E8Q=="),
    6: ("6.0.1", "2OONMUNUHGBNkfSjNpWDhleeCeqm2oP+8NJRSxkkFVLmm3BbE7S+XCm45+jp36z7PCRuogtm1FgYPKa0iKbYAQ=="),
}
_BUNDLE = "package/dist/uppy.min.mjs"


def bundle(major: int) -> Path:
    """Return the module of a major version.

    Raises:
        Unavailable: it is not there.
    """
    found = _place(major)
    if not found.is_file():
        raise Unavailable("no Uppy: fetch it with `python -m tests.servers uppy`")
    return found


def versions() -> str:
    """Return the versions that are there."""
    for major in RELEASES:
        bundle(major)
    return " and ".join(version for version, _ in RELEASES.values())


def ensure(report: Callable[[str], None]) -> None:
    """Fetch the bundles with npm; does nothing when they are there.

    Raises:
        Unavailable: npm could not do it, or brought something else.
    """
    for major, (version, digest) in RELEASES.items():
        place = _place(major)
        if place.is_file():
            continue
        report(f"fetching Uppy {version}, a client of the tests, with npm: some seconds, once")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as made:
            npm.run("pack", f"uppy@{version}", "--silent", cwd=Path(made))
            (archive,) = Path(made).glob("*.tgz")
            if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != digest:
                raise Unavailable(f"the archive of uppy@{version} is not the one that is pinned")
            with tarfile.open(archive) as opened:
                member = opened.extractfile(_BUNDLE)
                assert member is not None
                Path(made, "bundle").write_bytes(member.read())
            Path(made, "bundle").replace(place)


def _place(major: int) -> Path:
    version, digest = RELEASES[major]
    return cache_directory() / "npm" / f"uppy-{version}-{hashlib.sha256(digest.encode()).hexdigest()[:16]}.mjs"
