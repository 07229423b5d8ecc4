"""Where a build is refused before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from rindle.errors import InsufficientDiskHeadroom, UnsupportedEphemeralRuntime
from rindle.media.av_processor import check_headroom, check_runtime
from rindle.media.ffmpeg import AvLimits
from rindle.recipes import AudioVariant, FrameVariant, ImageVariant, VideoVariant, WaveformVariant


def test_video_is_refused_where_the_process_may_be_frozen() -> None:
    for variable in ("LAMBDA_TASK_ROOT", "AWS_LAMBDA_FUNCTION_NAME", "VERCEL", "VERCEL_ENV", "NOW_REGION"):
        with pytest.raises(UnsupportedEphemeralRuntime):
            check_runtime(VideoVariant("web_720p"), {variable: "1"})
        check_runtime(VideoVariant("web_720p"), {variable: ""})
        for spec in (
            ImageVariant("fit", width=9),
            FrameVariant("video_poster_scene"),
            AudioVariant("m4a_128k"),
            WaveformVariant(),
        ):
            check_runtime(spec, {variable: "1"})


def test_a_full_disk_is_seen_before_the_download(tmp_path: Path) -> None:
    check_headroom(tmp_path / "not" / "yet", AvLimits(max_output_bytes=1), 1)
    with pytest.raises(InsufficientDiskHeadroom) as refused:
        check_headroom(tmp_path / "not" / "yet", AvLimits(max_output_bytes=1 << 60), 7)

    assert refused.value.retryable
    assert refused.value.detail["required_bytes"] == (2 << 60) + 7
    assert 0 < refused.value.detail["free_bytes"] < 1 << 60
