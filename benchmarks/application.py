"""The application that is measured: in the driver, in workers (``--app benchmarks.application:rindle``), on the web.

Where its data lies comes from the environment: ``BENCH_DATABASE_URL``, ``BENCH_HOME`` and ``BENCH_BASE_URL``, and
``BENCH_ENDPOINT``, ``BENCH_BUCKET``, ``BENCH_ACCESS_KEY`` and ``BENCH_SECRET_KEY`` when there is a bucket as well, and
``BENCH_GCS_HOST`` and ``BENCH_GCS_BUCKET`` when there is one of Google Cloud Storage.
``BENCH_FSYNC=0`` makes the local store leave its files to the cache of the system.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import create_async_engine

from rindle import Profile, Rindle, TemporalConnection
from rindle.presets import Web
from rindle.protocols import Storage
from rindle.storage.gcs import GCSStorage
from rindle.storage.local import LocalStorage
from rindle.storage.s3 import S3Storage

#: Longer sides of the two variants in pixels, as the budget names them.
SIDES = {"thumb": 128, "large": 1024}
SECRET = "benchmark-secret-benchmark-secret-0"


class Photo(Profile):
    """Two JPEG variants of a photo."""

    name = "photo"
    storage = "local"
    variants: ClassVar = {name: {"mode": "fit", "width": side, "height": side} for name, side in SIDES.items()}
    allow_mime = ("image/jpeg",)


class Poster(Profile):
    """A variant that keeps a render child busy for a long time, for the benchmark of cancelling."""

    name = "poster"
    storage = "local"
    variants: ClassVar = {"poster": {"mode": "fit", "width": 8000, "height": 8000, "format": "avif", "upscale": True}}


class Film(Web):
    """A video with all variants of the preset."""

    name = "video"
    storage = "local"
    scrub_strip = True


class Archive(Profile):
    """Files of any kind and size, without variants."""

    name = "archive"
    storage = "local"
    variants: ClassVar = {}


class BucketPhoto(Photo):
    """The same photo in the bucket."""

    name = "bucket_photo"
    storage = "bucket"


class BucketArchive(Archive):
    """The same files in the bucket."""

    name = "bucket_archive"
    storage = "bucket"


class GcsPhoto(Photo):
    """The same photo in Google Cloud Storage."""

    name = "gcs_photo"
    storage = "gcs"


def bucket(environment: Mapping[str, str]) -> S3Storage:
    """Return the bucket that an environment names."""
    return S3Storage(
        environment["BENCH_BUCKET"],
        endpoint_url=environment["BENCH_ENDPOINT"],
        access_key_id=environment["BENCH_ACCESS_KEY"],
        secret_access_key=environment["BENCH_SECRET_KEY"],
    )


def make(
    *,
    database_url: str,
    home: Path,
    base_url: str,
    environment: Mapping[str, str] = os.environ,
    temporal: TemporalConnection | None = None,
) -> Rindle:
    """Return the application on the database and directory of a run; ``database_url`` is SQLAlchemy's."""
    engine = create_async_engine(database_url, pool_size=20)
    is_synced = environment.get("BENCH_FSYNC") != "0"
    storages: dict[str, Storage] = {
        "local": LocalStorage(home / "media", base_url=base_url, secrets=[SECRET], fsync=is_synced)
    }
    profiles: list[type[Profile]] = [Photo, Poster, Film, Archive]
    if "BENCH_BUCKET" in environment:
        storages["bucket"] = bucket(environment)
        profiles += [BucketPhoto, BucketArchive]
    if "BENCH_GCS_HOST" in environment:
        storages["gcs"] = GCSStorage(environment["BENCH_GCS_BUCKET"], emulator_host=environment["BENCH_GCS_HOST"])
        profiles.append(GcsPhoto)
    return Rindle(engine=engine, profiles=profiles, storages=storages, secrets=[SECRET], temporal=temporal)


def __getattr__(name: str) -> Any:
    """Make ``rindle`` from the environment when a worker or web server needs it."""
    if name != "rindle":
        raise AttributeError(name)
    made = make(
        database_url=os.environ["BENCH_DATABASE_URL"],
        home=Path(os.environ["BENCH_HOME"]),
        base_url=os.environ["BENCH_BASE_URL"],
    )
    globals()["rindle"] = made
    return made
