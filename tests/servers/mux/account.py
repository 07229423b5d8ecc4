"""One environment of a Mux account: its assets, direct uploads, keys, and what may happen to them.

Everything here runs on the loop of the server, one step at a time; nothing waits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.mux.media import Media
from tests.servers.mux.refusals import Refusal, invalid, not_found
from tests.servers.mux.tokens import SigningKey

#: Seconds an upload URL may be valid, and without a word from the caller (Mux's API reference).
SHORTEST_TIMEOUT, LONGEST_TIMEOUT, DEFAULT_TIMEOUT = 60, 604_800, 3600
#: Longest passthrough, in characters.
LONGEST_PASSTHROUGH = 255

POLICIES = ("public", "signed", "drm")
_CHOICES = {
    "max_resolution_tier": ("1080p", "1440p", "2160p"),
    "video_quality": ("basic", "plus", "premium"),
    "encoding_tier": ("smart", "baseline", "premium"),
    "mp4_support": ("none", "standard", "capped-1080p", "audio-only", "audio-only,capped-1080p"),
    "master_access": ("none", "temporary"),
}
_METADATA = {"title": 512, "creator_id": 128, "external_id": 128}


def new_id(length: int = 44) -> str:
    """Return an id as Mux makes them: letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


@dataclass
class PlaybackId:
    """An address of an asset for players."""

    id: str
    policy: str


@dataclass
class Asset:
    """A film; ``status`` is ``preparing``, ``ready`` or ``errored``."""

    id: str
    created_at: int
    settings: dict[str, Any] = field(repr=False)
    playback_ids: list[PlaybackId]
    directory: Path
    ingest_type: str
    upload_id: str | None = None
    status: str = "preparing"
    error: tuple[str, list[str]] | None = None
    media: Media | None = None
    track_ids: list[str] = field(default_factory=list)

    @property
    def passthrough(self) -> str | None:
        """What the caller gave it to recognise it by."""
        return self.settings.get("passthrough")

    @property
    def source(self) -> Path:
        """The file it was made from."""
        return self.directory / "source"


@dataclass
class Upload:
    """A direct upload; ``status`` is ``waiting``, ``asset_created``, ``errored``, ``cancelled`` or ``timed_out``."""

    id: str
    created_at: float
    timeout: int
    cors_origin: str
    settings: dict[str, Any] = field(repr=False)
    url: str = field(repr=False)
    file: Path
    test: bool = False
    status: str = "waiting"
    asset_id: str | None = None
    error: tuple[str, str] | None = None
    #: Bytes that are kept, and whether they are all.
    offset: int = 0
    is_complete: bool = False

    @property
    def expires_at(self) -> float:
        """When its URL ends, in seconds since 1970."""
        return self.created_at + self.timeout


#: Called with a type of event and what it is about.
Announce = Callable[[str, "Asset | Upload"], None]


class Account:
    """One environment.

    Args:
        home: an empty directory for the films.
        base_url: where this server answers.
        announce: sends an event.
        ingest: begins to make an asset playable.
    """

    def __init__(self, home: Path, base_url: str, announce: Announce, ingest: Callable[[Asset], None]) -> None:
        self.home = home
        self._base_url = base_url
        self._announce = announce
        self._ingest = ingest
        self._secret = secrets.token_bytes(32)
        self._ahead = 0.0
        self.environment_id = new_id(6).lower()
        self.token_id, self.token_secret = "", ""
        self.assets: dict[str, Asset] = {}
        self.uploads: dict[str, Upload] = {}
        self.keys: dict[str, SigningKey] = {}
        self.new_access_token()

    # --- time and access ---

    def now(self) -> float:
        """Return the time here, in seconds since 1970."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Let time pass: tokens expire and uploads time out."""
        self._ahead += seconds

    def new_access_token(self) -> tuple[str, str]:
        """Replace the access token, id and secret; the old one is refused from now on."""
        self.token_id, self.token_secret = f"test-{secrets.token_hex(8)}", secrets.token_urlsafe(48)
        return self.token_id, self.token_secret

    def new_signing_key(self) -> SigningKey:
        """Make a key pair for playback tokens."""
        key = SigningKey.new(new_id(), int(self.now()))
        self.keys[key.id] = key
        return key

    # --- assets ---

    def create_asset(self, body: Mapping[str, Any]) -> Asset:
        """Begin an asset from the URL of the caller's input.

        Raises:
            Refusal: 400.
        """
        settings = checked_settings(body)
        inputs = settings.get("inputs")
        if not inputs or not inputs[0].get("url"):
            raise invalid("inputs: at least one input with a url is required")
        return self._begin(settings, "on_demand_url")

    def _begin(self, settings: dict[str, Any], ingest_type: str, upload: Upload | None = None) -> Asset:
        asset_id = new_id()
        asset = Asset(
            id=asset_id,
            created_at=int(self.now()),
            settings=settings,
            playback_ids=[PlaybackId(new_id(), policy) for policy in settings.get("playback_policies", ())],
            directory=self.home / "assets" / asset_id,
            ingest_type=ingest_type,
            upload_id=upload.id if upload else None,
        )
        asset.directory.mkdir(parents=True)
        if upload:
            upload.file.rename(asset.source)
        self.assets[asset_id] = asset
        self._announce("video.asset.created", asset)
        if upload:
            upload.status, upload.asset_id = "asset_created", asset_id
            self._announce("video.upload.asset_created", upload)
        self._ingest(asset)
        return asset

    def asset(self, asset_id: str) -> Asset:
        """Return an asset.

        Raises:
            Refusal: 404.
        """
        if asset_id not in self.assets:
            raise not_found()
        return self.assets[asset_id]

    def newest_assets(self, *, upload_id: str | None = None) -> list[Asset]:
        """Return all assets, the newest first."""
        kept = [asset for asset in self.assets.values() if upload_id is None or asset.upload_id == upload_id]
        return kept[::-1]

    def asset_is_ready(self, asset: Asset, media: Media) -> None:
        """Make an asset playable, unless it was deleted meanwhile."""
        if asset.id in self.assets and asset.status == "preparing":
            asset.media, asset.status = media, "ready"
            asset.track_ids = [new_id() for _ in media.tracks]
            self._announce("video.asset.ready", asset)

    def asset_has_failed(self, asset: Asset, kind: str, *messages: str) -> None:
        """Give up an asset, unless it was deleted meanwhile."""
        if asset.id in self.assets:
            asset.status, asset.error = "errored", (kind, list(messages))
            self._announce("video.asset.errored", asset)

    def delete_asset(self, asset_id: str) -> None:
        """Forget an asset with its playback ids.

        Raises:
            Refusal: 404.
        """
        asset = self.asset(asset_id)
        del self.assets[asset_id]
        self._announce("video.asset.deleted", asset)

    def playback(self, playback_id: str) -> tuple[Asset, PlaybackId]:
        """Return what a playback id plays.

        Raises:
            Refusal: 404.
        """
        for asset in self.assets.values():
            for address in asset.playback_ids:
                if address.id == playback_id:
                    return asset, address
        raise not_found()

    # --- direct uploads ---

    def create_upload(self, body: Mapping[str, Any]) -> Upload:
        """Open an upload URL.

        Raises:
            Refusal: 400.
        """
        timeout = body.get("timeout", DEFAULT_TIMEOUT)
        if type(timeout) is not int or not SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
            raise invalid(f"timeout: must be an integer from {SHORTEST_TIMEOUT} to {LONGEST_TIMEOUT}")
        origin = body.get("cors_origin", "")
        if not isinstance(origin, str):
            raise invalid("cors_origin: must be a string")
        settings = body.get("new_asset_settings", {})
        if not isinstance(settings, dict):
            raise invalid("new_asset_settings: must be an object")
        upload_id, created_at = new_id(), self.now()
        expires = int(created_at) + timeout
        signature = self._signature(upload_id, expires)
        directory = self.home / "uploads"
        directory.mkdir(parents=True, exist_ok=True)
        upload = Upload(
            id=upload_id,
            created_at=created_at,
            timeout=timeout,
            cors_origin=origin,
            settings=checked_settings(settings),
            url=f"{self._base_url}/mux-uploads/{upload_id}?Expires={expires}&Signature={signature}",
            file=directory / upload_id,
            test=body.get("test") is True,
        )
        upload.file.touch()
        self.uploads[upload_id] = upload
        self._announce("video.upload.created", upload)
        return upload

    def _signature(self, upload_id: str, expires: int) -> str:
        return hmac.new(self._secret, f"{upload_id}.{expires}".encode(), hashlib.sha256).hexdigest()

    def upload(self, upload_id: str) -> Upload:
        """Return an upload, in the state that the time has brought it to.

        Raises:
            Refusal: 404.
        """
        upload = self.uploads.get(upload_id)
        if upload is None:
            raise not_found()
        if upload.status == "waiting" and self.now() >= upload.expires_at:
            upload.status = "timed_out"  # silently: Mux has no webhook for it
        return upload

    def upload_by_url(self, upload_id: str, expires: str, signature: str) -> Upload | None:
        """Return the upload of a signed URL, or nothing when the signature is not ours."""
        upload = self.uploads.get(upload_id)
        if upload is None or not expires.isdecimal():
            return None
        fits = hmac.compare_digest(self._signature(upload_id, int(expires)), signature)
        return self.upload(upload_id) if fits else None

    def cancel_upload(self, upload_id: str) -> Upload:
        """End a waiting upload; bytes that still arrive become nothing.

        Raises:
            Refusal: 404, or 403 when it waits no longer.
        """
        upload = self.upload(upload_id)
        if upload.status != "waiting":
            raise Refusal(403, "forbidden", "This upload can only be cancelled while it is waiting.")
        upload.status = "cancelled"
        self._announce("video.upload.cancelled", upload)
        return upload

    def upload_has_arrived(self, upload: Upload) -> None:
        """Note that the last byte is here, and make an asset of them when the upload still waits."""
        upload.is_complete = True
        if self.upload(upload.id).status == "waiting":
            self._begin({**upload.settings, "test": upload.test}, "on_demand_direct_upload", upload)

    def upload_has_failed(self, upload_id: str, kind: str, message: str) -> None:
        """End a waiting upload with an error of Mux's own."""
        upload = self.upload(upload_id)
        upload.status, upload.error = "errored", (kind, message)
        self._announce("video.upload.errored", upload)


def checked_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a new asset under their names of today.

    Raises:
        Refusal: 400, with a sentence for each that cannot be.
    """
    settings = {name: value for name, value in body.items() if value is not None}
    for old, new in (("input", "inputs"), ("playback_policy", "playback_policies")):
        if old in settings:
            settings.setdefault(new, settings.pop(old))
    faults = []
    policies = settings.get("playback_policies", [])
    if not isinstance(policies, list) or any(policy not in POLICIES for policy in policies):
        faults.append(f"playback_policies: must be a list of {', '.join(POLICIES)}")
    elif "drm" in policies:
        faults.append("playback_policies: drm needs advanced_playback_policies with a drm_configuration_id")
    inputs = settings.get("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(one, dict) for one in inputs):
        faults.append("inputs: must be a list of objects")
    elif any(not str(one.get("url", "http:")).startswith(("http:", "https:", "mux:")) for one in inputs):
        faults.append("inputs: url must be an http or https URL")
    passthrough = settings.get("passthrough", "")
    if not isinstance(passthrough, str) or len(passthrough) > LONGEST_PASSTHROUGH:
        faults.append(f"passthrough: must be a string of at most {LONGEST_PASSTHROUGH} characters")
    faults += [
        f"{name}: must be one of {', '.join(allowed)}"
        for name, allowed in _CHOICES.items()
        if name in settings and settings[name] not in allowed
    ]
    faults += metadata_faults(settings.get("meta", {}))
    if faults:
        raise invalid(*faults)
    return settings


def metadata_faults(meta: object) -> list[str]:
    """Return a sentence for each value of ``meta`` that is too long or no text."""
    if not isinstance(meta, dict):
        return ["meta: must be an object"]
    return [
        f"meta.{name}: must be a string of at most {longest} characters"
        for name, longest in _METADATA.items()
        if name in meta and (not isinstance(meta[name], str) or len(meta[name]) > longest)
    ]
