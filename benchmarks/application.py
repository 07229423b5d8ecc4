"""The application that is measured: in the driver, in workers (``--app benchmarks.application:rindle``), on the web.

Where its data lies comes from the environment: ``BENCH_DATABASE_URL``, ``BENCH_HOME`` and ``BENCH_BASE_URL``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy.ext.asyncio import create_async_engine

from rindle import Profile, Rindle, TemporalConnection
from rindle.presets import Web
from rindle.storage.local import LocalStorage

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


def make(*, database_url: str, home: Path, base_url: str, temporal: TemporalConnection | None = None) -> Rindle:
    """Return the application on the database and directory of a run; ``database_url`` is SQLAlchemy's."""
    engine = create_async_engine(database_url, pool_size=20)
    storage = LocalStorage(home / "media", base_url=base_url, secrets=[SECRET])
    return Rindle(
        engine=engine, profiles=[Photo, Poster, Film], storages={"local": storage}, secrets=[SECRET], temporal=temporal
    )


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
