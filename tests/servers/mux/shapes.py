"""Rows of the account as Mux's JSON: what is unknown is left out, as it does.

Source: Mux's API reference (Video: assets, direct uploads; System: signing keys) and its webhook reference.
"""

from __future__ import annotations

from typing import Any

from tests.servers.mux.account import Account, Asset, PlaybackId, Upload
from tests.servers.mux.tokens import SigningKey

#: What the newer name of a quality was called before.
_ENCODING_TIERS = {"basic": "baseline", "plus": "smart", "premium": "premium"}


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def playback_id(address: PlaybackId) -> dict[str, Any]:
    """Return a playback id."""
    return {"id": address.id, "policy": address.policy}


def asset(row: Asset, *, in_webhook: bool = False) -> dict[str, Any]:
    """Return an asset; times are text in answers and numbers in webhooks."""
    quality = row.settings.get("video_quality", "plus")
    media = row.media
    rates = [track["frame_rate"] for track in media.tracks if track["type"] == "video"] if media else []
    state, percent = {"preparing": ("ingesting", 0), "ready": ("completed", 100)}.get(row.status, ("errored", -1))
    return _known(
        id=row.id,
        created_at=row.created_at if in_webhook else str(row.created_at),
        status=row.status,
        duration=media.duration if media else None,
        max_stored_resolution=media.stored_resolution if media else None,
        resolution_tier=media.resolution_tier if media else None,
        max_resolution_tier=row.settings.get("max_resolution_tier", "1080p"),
        encoding_tier=_ENCODING_TIERS[quality],
        video_quality=quality,
        max_stored_frame_rate=rates[0] if rates else None,
        aspect_ratio=media.aspect_ratio if media else None,
        # An asset without a playback id has no list of them, not an empty one.
        playback_ids=[playback_id(address) for address in row.playback_ids] or None,
        tracks=_tracks(row) if media else None,
        errors={"type": row.error[0], "messages": row.error[1]} if row.error else None,
        upload_id=row.upload_id,
        passthrough=row.passthrough,
        master_access=row.settings.get("master_access", "none"),
        mp4_support=row.settings.get("mp4_support", "none"),
        normalize_audio=row.settings.get("normalize_audio"),
        test=row.settings.get("test") or None,
        ingest_type=row.ingest_type,
        meta=row.settings.get("meta"),
        progress={"state": state, "progress": percent},
    )


def _tracks(row: Asset) -> list[dict[str, Any]]:
    assert row.media is not None
    shapes = []
    for track_id, track in zip(row.track_ids, row.media.tracks, strict=True):
        base = {"id": track_id, "type": track["type"], "duration": track["duration"]}
        if track["type"] == "video":
            base |= {"max_width": track["width"], "max_height": track["height"], "max_frame_rate": track["frame_rate"]}
        else:
            base |= {"max_channels": track["channels"], "max_channel_layout": track["layout"], "primary": not shapes}
        shapes.append(base)
    return shapes


def input_info(row: Asset) -> list[dict[str, Any]]:
    """Return what the files that were put in hold."""
    settings = (row.settings.get("inputs") or [{}])[0]
    names = {"type", "duration", "encoding", "width", "height", "frame_rate", "sample_rate", "channels"}
    if row.media is None:
        return [{"settings": settings}]
    tracks = [{name: track[name] for name in names & track.keys()} for track in row.media.tracks]
    return [{"settings": settings, "file": {"container_format": row.media.container, "tracks": tracks}}]


def upload(row: Upload) -> dict[str, Any]:
    """Return a direct upload; its URL is told while it waits."""
    return _known(
        id=row.id,
        timeout=row.timeout,
        status=row.status,
        new_asset_settings=row.settings,
        asset_id=row.asset_id,
        error={"type": row.error[0], "message": row.error[1]} if row.error else None,
        cors_origin=row.cors_origin,
        url=row.url if row.status == "waiting" else None,
        test=row.test or None,
    )


def signing_key(key: SigningKey, *, with_private: bool = False) -> dict[str, Any]:
    """Return a key; the private half is told once, when it is made."""
    return _known(id=key.id, created_at=str(key.created_at), private_key=key.private_key if with_private else None)


def event(account: Account, event_id: str, kind: str, created_at: str, about: Asset | Upload) -> dict[str, Any]:
    """Return the body of a webhook."""
    is_asset = isinstance(about, Asset)
    return {
        "type": kind,
        "id": event_id,
        "created_at": created_at,
        "object": {"type": "asset" if is_asset else "upload", "id": about.id},
        "environment": {"name": "Test", "id": account.environment_id},
        "data": asset(about, in_webhook=True) if isinstance(about, Asset) else upload(about),
        "request_id": None,
        "accessor": None,
        "accessor_source": None,
        "attempts": [],
    }
