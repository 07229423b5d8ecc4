"""Playback: what ``stream.mux.com`` and ``image.mux.com`` serve, here both from the root of one server.

A signed playback id opens for a token of the right audience only. The token is passed on to every address of the
playlists and judged at each of them, so a token that ends in the middle of a film ends the film.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tests.servers.mux import media, tokens
from tests.servers.mux.account import Account, Asset
from tests.servers.mux.refusals import Refusal, invalid

PLAYLIST = "application/vnd.apple.mpegurl"
_STILLS = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
_SEGMENT = re.compile(r"segment-\d{5}\.ts")
#: Sides of a picture, in pixels.
LARGEST_WIDTH = 3840


class Playback:
    """The answers.

    Args:
        account: whose films.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def routes(self) -> list[Route]:
        """Return the paths."""
        return [
            Route("/{playback_id}.m3u8", self.master),
            Route("/{playback_id}/rendition.m3u8", self.rendition),
            Route("/{playback_id}/{segment}.ts", self.segment),
            Route("/{playback_id}/thumbnail.{kind}", self.thumbnail),
            Route("/{playback_id}/animated.{kind}", self.animated),
            Route("/{playback_id}/storyboard.{kind}", self.storyboard),
        ]

    def _opened(self, request: Request, audience: str) -> tuple[Asset, Mapping[str, Any]]:
        """Return the film, and the parameters of the picture: a token's claims, or else the query's.

        Raises:
            Refusal: 404 unknown, 403 refused, 412 not ready.
        """
        asset, address = self._account.playback(request.path_params["playback_id"])
        parameters: Mapping[str, Any] = request.query_params
        if address.policy == "signed":
            token = request.query_params.get("token")
            if token is None:
                raise Refusal(403, "missing_token", "A signed playback ID needs a token.")
            parameters = tokens.verify(
                token, self._account.keys, playback_id=address.id, audience=audience, now=self._account.now()
            )
        if asset.status != "ready":
            raise Refusal(412, "not_ready", "The asset cannot be played yet.")
        return asset, parameters

    # --- HLS ---

    async def master(self, request: Request) -> Response:
        """Serve the list of renditions."""
        asset, _ = self._opened(request, tokens.VIDEO)
        playback_id = request.path_params["playback_id"]
        return _playlist(request, asset.directory / media.MASTER, f"{playback_id}/")

    async def rendition(self, request: Request) -> Response:
        """Serve the list of segments."""
        asset, _ = self._opened(request, tokens.VIDEO)
        return _playlist(request, asset.directory / media.RENDITION, "")

    async def segment(self, request: Request) -> Response:
        """Serve a piece of film."""
        asset, _ = self._opened(request, tokens.VIDEO)
        name = f"{request.path_params['segment']}.ts"
        file = asset.directory / name
        if not _SEGMENT.fullmatch(name) or not file.is_file():
            raise Refusal(404, "not_found", "There is no such segment.")
        return FileResponse(file, media_type="video/mp2t", headers=_CORS)

    # --- pictures ---

    async def thumbnail(self, request: Request) -> Response:
        """Serve the picture at ``time``, by default the middle one, ``width`` pixels wide."""
        asset, asked = self._opened(request, tokens.THUMBNAIL)
        kind = _kind(request, _STILLS)
        duration = _film(asset)
        at = min(_float(asked, "time", duration / 2, 0, math.inf), max(0.0, duration - 0.1))
        width = int(_float(asked, "width", 0, 0, LARGEST_WIDTH)) or None
        target = asset.directory / f"thumbnail-{at:.3f}-{width}.{kind}"
        if not target.exists():
            await media.still(asset.source, target, at=at, width=width)
        return FileResponse(target, media_type=_STILLS[kind], headers=_CORS)

    async def animated(self, request: Request) -> Response:
        """Serve the moving picture from ``start`` to ``end``, by default the first five seconds."""
        asset, asked = self._opened(request, tokens.GIF)
        kind = _kind(request, {"gif": "image/gif", "webp": "image/webp"})
        duration = _film(asset)
        start = _float(asked, "start", 0, 0, duration)
        end = min(duration, _float(asked, "end", start + 5, start, start + 10))
        width, rate = int(_float(asked, "width", 320, 16, 640)), int(_float(asked, "fps", 15, 1, 30))
        target = asset.directory / f"animated-{start:.3f}-{end:.3f}-{width}-{rate}.{kind}"
        if not target.exists():
            await media.animation(asset.source, target, start=start, end=end, width=width, rate=rate)
        return FileResponse(target, media_type=f"image/{kind}", headers=_CORS)

    async def storyboard(self, request: Request) -> Response:
        """Serve many small pictures in one, or as ``vtt`` where each of them is."""
        asset, _ = self._opened(request, tokens.STORYBOARD)
        duration = _film(asset)
        kind = _kind(request, {**_STILLS, "vtt": "text/vtt"})
        if kind == "vtt":
            return Response(_cues(request, asset), media_type="text/vtt", headers=_CORS)
        target = asset.directory / f"storyboard.{kind}"
        if not target.exists():
            await media.storyboard(asset.source, target, duration)
        return FileResponse(target, media_type=_STILLS[kind], headers=_CORS)


def _film(asset: Asset) -> float:
    """Return the length of what has a picture, in seconds."""
    if asset.media is None or asset.media.track("video") is None:
        raise Refusal(404, "not_found", "The asset has no picture.")
    return asset.media.duration


def _kind(request: Request, allowed: Mapping[str, str]) -> str:
    kind: str = request.path_params["kind"]
    if kind not in allowed:
        raise Refusal(404, "not_found", "There is no such kind of picture.")
    return kind


def _float(asked: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """Return a number of a claim or the query."""
    try:
        value = float(asked.get(name, default))
    except (TypeError, ValueError):
        raise invalid(f"{name}: must be a number") from None
    if not least <= value <= most:
        raise invalid(f"{name}: must be from {least} to {most}")
    return value


def _with_token(request: Request, uri: str) -> str:
    token = request.query_params.get("token")
    return f"{uri}?token={token}" if token else uri


def _playlist(request: Request, file: Path, prefix: str) -> Response:
    """Answer with a playlist whose addresses begin with ``prefix`` and hand the token on."""
    lines = [
        _with_token(request, f"{prefix}{line}") if line and not line.startswith("#") else line
        for line in file.read_text().splitlines()
    ]
    return Response("\n".join(lines) + "\n", media_type=PLAYLIST, headers=_CORS)


def _cues(request: Request, asset: Asset) -> str:
    """Return a WebVTT whose cues are parts of the storyboard."""
    assert asset.media is not None
    video = asset.media.track("video")
    assert video is not None
    height = round(media.TILE_WIDTH * video["height"] / video["width"] / 2) * 2
    picture = _with_token(request, str(request.url.replace(query="")).removesuffix(".vtt") + ".jpg")
    cues = ["WEBVTT", ""]
    for index, (begin, end) in enumerate(media.tiles(asset.media.duration)):
        left, top = index % media.COLUMNS * media.TILE_WIDTH, index // media.COLUMNS * height
        cues += [f"{_clock(begin)} --> {_clock(end)}", f"{picture}#xywh={left},{top},{media.TILE_WIDTH},{height}", ""]
    return "\n".join(cues)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{rest:06.3f}"
