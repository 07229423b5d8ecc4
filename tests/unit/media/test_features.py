"""The program that ``doctor`` runs in a process of its own: one JSON object, whatever happens."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from rindle.media import features
from rindle.operations.checks.host import FEATURES_MODULE


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    features.main(arguments)
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_the_module_that_doctor_names_is_this_one() -> None:
    assert importlib.util.find_spec(FEATURES_MODULE) is not None
    assert features.__name__ == FEATURES_MODULE


def test_what_cannot_be_tried_is_named_by_its_class_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, object]:
        raise OSError("/home/somebody/lib/libvips.so")

    monkeypatch.setattr(features, "image_features", broken)

    assert printed(capsys, "images") == {"error": "OSError"}


def test_a_program_that_is_no_ffmpeg_is_a_problem_and_no_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho something else\n")
    program.chmod(0o755)

    found = printed(capsys, "av", str(program), str(program))

    assert found["problem"] is not None
    assert set(found) == {"problem", "ffmpeg", "ffprobe", "capabilities", "converts_colours"}
