from __future__ import annotations

from datetime import date

import pytest

from rindle.operations.checks.safe_versions import COMPARED_ON, FFMPEG, LIBVIPS, first_safe, is_packaged


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ("5.1", "5.1.9"),
        ("5.1.0", "5.1.9"),
        ("5.1.8-0+deb12u1", "5.1.9"),
        ("5.1.9-0+deb12u1", None),
        ("6.0.1", "8.1.2"),
        ("7.0.2-static", "8.1.2"),
        ("7.1.4", "7.1.5"),
        ("7.1.10", None),
        ("8.1.2", None),
        ("8.2", None),
        ("9.0", None),
    ],
)
def test_whole_versions_of_ffmpeg_are_compared(version: str, safe: str | None) -> None:
    assert first_safe(version, FFMPEG) == safe


@pytest.mark.parametrize(
    ("version", "safe"),
    [("8.13.0", "8.18.3"), ("8.17.3", "8.18.3"), ("8.18.2", "8.18.3"), ("8.18.3", None), ("8.19.0", None)],
)
def test_whole_versions_of_libvips_are_compared(version: str, safe: str | None) -> None:
    assert first_safe(version, LIBVIPS) == safe


def test_packages_of_distributions_are_recognised() -> None:
    packaged = ["5.1.6-0+deb12u1", "6.1.1-3ubuntu5+esm2", "4:7.1.1-1~bpo12+1", "7.1.1-2.fc42"]
    assert all(map(is_packaged, packaged))
    assert not any(map(is_packaged, ["7.1", "7.0.2-static", "8.1.2-full_build-www.gyan.dev"]))


def test_the_table_has_a_date() -> None:
    assert date.fromisoformat(COMPARED_ON)
