"""The condition, as SQL of both databases, of assets whose technical facts are wrong."""

from __future__ import annotations

#: Validated assets whose technical facts are missing or contradict each other; ``reprobe`` reads them again. WebM and
#: Matroska files of browsers state no duration. An audio file may have the type of a video container. Queries contain
#: the condition as it stands, so that they use its index.
PROBE_DRIFT = (
    "state IN ('available', 'processing', 'transcoding', 'ready', 'degraded') AND ("
    "(kind = 'video' AND (width IS NULL OR height IS NULL OR has_video_track IS NOT TRUE)) "
    "OR (kind = 'audio' AND has_audio_track IS NOT TRUE) "
    "OR (kind <> 'image' AND duration_ms IS NULL AND content_type NOT IN "
    "('audio/webm', 'audio/x-matroska', 'video/webm', 'video/x-matroska')) "
    "OR (kind <> 'image' AND substr(content_type, 1, 6) = 'image/') "
    "OR (kind <> 'audio' AND substr(content_type, 1, 6) = 'audio/') "
    "OR (kind = 'image' AND substr(content_type, 1, 6) = 'video/'))"
)
