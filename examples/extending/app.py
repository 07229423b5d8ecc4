"""An application with one profile per plug-in; its worker: ``RINDLE_APP=examples.extending.app:make python worker.py``.

It reads ``DATABASE_URL`` and Rindle's own settings (``RINDLE_HOME``, ``RINDLE_SECRETS``, ...) from the environment.
"""

from __future__ import annotations

import os

from sqlalchemy.ext.asyncio import create_async_engine

from examples.extending.analyzer import DominantColourAnalyzer
from examples.extending.authorizer import TeamAuthorizer
from examples.extending.probe import WavProbe
from examples.extending.processor import GrayscaleProcessor
from examples.extending.scanner import EicarScanner
from examples.extending.storage import SqliteStorage
from rindle import Profile, Rindle, Settings
from rindle.storage.local import LocalStorage

#: Names of the actors who may see originals of team photos.
EDITORS = {"alice", "bob"}
THUMB = {"thumb": {"mode": "crop", "width": 64, "height": 64}}


class ScannedPhoto(Profile):
    """Every upload is scanned before any decoder opens it."""

    name = "scanned"
    storage = "media"
    allow_mime = ["image/*"]
    variants = THUMB
    scanner = EicarScanner()


class ColouredPhoto(Profile):
    """The dominant colour of every image is in its row."""

    name = "coloured"
    storage = "media"
    allow_mime = ["image/*"]
    variants = THUMB
    analyzer = DominantColourAnalyzer()


class GrayPhoto(Profile):
    """Variants are black and white."""

    name = "gray"
    storage = "media"
    allow_mime = ["image/jpeg", "image/png"]
    variants = {**THUMB, "large": {"mode": "fit", "width": 320, "height": 320, "format": "webp"}}
    processor = GrayscaleProcessor()


class Recording(Profile):
    """Audio of at most ten seconds."""

    name = "recording"
    storage = "media"
    allow_mime = ["audio/wav"]
    allow_extensions = [".wav"]
    max_duration_seconds = 10
    variants = {}
    probe = WavProbe()


class TeamPhoto(Profile):
    """Thumbnails for all members, originals for the editors."""

    name = "team"
    storage = "media"
    allow_mime = ["image/*"]
    variants = THUMB
    delivery = {"authorizer": TeamAuthorizer(EDITORS)}


class ArchivedPhoto(Profile):
    """Photos in one SQLite file."""

    name = "archived"
    storage = "archive"
    allow_mime = ["image/*"]
    variants = THUMB


def make() -> Rindle:
    """Build the application; ``--app`` and ``RINDLE_APP`` may name a function."""
    settings = Settings()
    media = LocalStorage(
        settings.home / "media", base_url="http://localhost:8000/media/local", secrets=settings.secrets
    )
    return Rindle(
        engine=create_async_engine(os.environ["DATABASE_URL"]),
        storages={"media": media, "archive": SqliteStorage(settings.home / "archive.db")},
        profiles=[ScannedPhoto, ColouredPhoto, GrayPhoto, Recording, TeamPhoto, ArchivedPhoto],
        settings=settings,
    )
