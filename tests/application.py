"""The application the tests run workers for: ``RINDLE_APP=tests.application:make``, everything from the environment.

The test and its worker process build the same object from the same variables, as a web process and its fleet do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine

from rindle import ImageVariant, MediaAsset, Profile, Quarantine, Rindle, Settings, TemporalConnection
from rindle.operations import runs
from rindle.presets import Web
from rindle.protocols import Storage, StreamingProvider
from rindle.recipes import AudioVariant, VariantSpec, VideoVariant, WaveformVariant
from rindle.storage.gcs import GCSStorage
from rindle.storage.local import LocalStorage
from rindle.storage.memory import MemoryStorage
from rindle.storage.s3 import S3Storage, headers
from rindle.streaming.memory import InMemoryProvider
from tests.patience import PATIENCE_SECONDS, widen_deadlock_detector

widen_deadlock_detector()
# A server that stands still for some seconds is busy here, and not away: reports wait for it, also those of commands.
runs.TEMPORAL_SECONDS = PATIENCE_SECONDS

if "APP_STICKY_SECONDS" in os.environ:
    # A worker that is about to be killed: nobody need wait ten seconds for what it has cached.
    from rindle import bootstrap

    bootstrap.STICKY_SECONDS = int(os.environ["APP_STICKY_SECONDS"])

SECRET = "a secret of the tests, long enough to sign with"
#: Longer than the two seconds of production, because a busy machine needs them; so late a server that hangs is found.
#: Much longer where no test has such a server, see ``wait_for_temporal`` in ``tests/stage.py``.
CONNECT_SECONDS = float(os.environ.get("APP_CONNECT_SECONDS", "8"))
_MAX_COPY_BYTES = headers.MAX_COPY_BYTES
_VARIANTS = {
    "large": ImageVariant(mode="fit", width=640, height=640, format="webp"),
    "thumb": ImageVariant(mode="crop", width=96, height=96),
}


class Avatar(Profile):
    """What most tests upload."""

    name = "avatar"
    storage = "media"
    variants = _VARIANTS
    allow_mime = ("image/*",)
    max_bytes = 8_000_000
    placeholder = True


class Drifted(Profile):
    """The same rows under another recipe, chosen by APP_DRIFTED: what a deploy with a changed profile looks like."""

    name = "avatar"
    storage = "media"
    variants = {**_VARIANTS, "thumb": ImageVariant(mode="crop", width=64, height=64)}
    allow_mime = ("image/*",)
    max_bytes = 8_000_000


class Plain(Profile):
    """No variants: an asset is ready as soon as it is judged."""

    name = "plain"
    storage = "media"
    variants = {}
    fairness = "actor"


class Poster(Profile):
    """Public: every visitor gets the stored object, with the headers that the store keeps for it."""

    name = "poster"
    storage = "media"
    variants = {"thumb": _VARIANTS["thumb"]}
    allow_mime = ("image/*",)
    max_bytes = 8_000_000
    delivery = {"public": True}


def _control(name: str) -> str:
    """Read what a test tells the process's plug-ins: the content of a file it may change while the worker runs."""
    path = Path(os.environ["APP_HOME"]) / name
    return path.read_text().strip() if path.is_file() else ""


class ControlledScanner:
    """Clean unless the file ``scanner`` says ``evil``, ``down`` or ``hang``."""

    def scan(self, path: Path, *, asset: MediaAsset | None) -> None:
        """Obey the control file; every call is counted in the file ``scans``."""
        with (Path(os.environ["APP_HOME"]) / "scans").open("a") as calls:
            calls.write("scan\n")
        while _control("scanner") == "hang":
            time.sleep(0.05)
        match _control("scanner"):
            case "evil":
                raise Quarantine("contains a test signature")
            case "down":
                raise ConnectionError("scanner is away")


class Scanned(Profile):
    """Judged by a scanner that tests control."""

    name = "scanned"
    storage = "media"
    variants = _VARIANTS
    scanner = ControlledScanner()


class ControlledProcessor:
    """Copies the source; holds, blocks the loop, crashes or fails when the file ``processor`` says so."""

    capabilities = frozenset({"image_resize"})

    async def process(
        self,
        source: Path,
        spec: VariantSpec,
        dest: Path,
        *,
        progress: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> Path:
        """Obey the control file."""
        with (Path(os.environ["APP_HOME"]) / "builds").open("a") as calls:
            calls.write("build\n")
        while (wanted := _control("processor")) == "hold":
            await asyncio.sleep(0.05)
        while _control("processor") == "block":
            time.sleep(0.05)  # noqa: ASYNC251 - as faulty code of an application does
        if wanted == "fail":
            raise RuntimeError("no picture today")
        if wanted == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.to_thread(dest.write_bytes, await asyncio.to_thread(source.read_bytes))
        progress(99)
        return dest


class Held(Profile):
    """Built by a processor that tests control."""

    name = "held"
    storage = "media"
    variants = _VARIANTS
    processor = ControlledProcessor()


class ControlledFilmer(ControlledProcessor):
    """The same for films."""

    capabilities = frozenset({"video_transcode"})


class HeldFilm(Profile):
    """A film built by a processor that tests control."""

    name = "held_film"
    storage = "media"
    variants = {"web": VideoVariant(preset="web_480p")}
    processor = ControlledFilmer()


STREAMING = {"provider": "memory", "playback_policy": "signed", "source_variant": "web"}


class Streamed(Profile):
    """The same film, which is pushed to a provider in memory; only in applications that have one."""

    name = "streamed"
    storage = "media"
    variants = HeldFilm.variants
    processor = ControlledFilmer()
    delivery = {"streaming": {**STREAMING, "ingest_mode": "server_push"}}


class Reel(Profile):
    """A film that browsers send to the provider in memory; only in applications that have one."""

    name = "reel"
    storage = "media"
    variants = HeldFilm.variants
    processor = ControlledFilmer()
    delivery = {"streaming": {**STREAMING, "ingest_mode": "direct_creator_upload"}}


class Lesson(Web):
    """A film with everything the preset makes of it."""

    name = "lesson"
    storage = "media"
    allow_mime = ("video/*",)
    scrub_strip = True


class Talk(Profile):
    """Sound, from an audio file or a film's track."""

    name = "talk"
    storage = "media"
    allow_mime = ("audio/*", "video/*")
    max_duration_seconds = 600
    variants = {
        "m4a": AudioVariant(preset="m4a_128k"),
        "mp3": AudioVariant(preset="mp3_128k", normalize=True, two_pass=True),
        "outline": WaveformVariant(),
    }


class Voice(Profile):
    """Voice recordings, and no film."""

    name = "voice"
    storage = "media"
    allow_mime = ("audio/*",)
    max_duration_seconds = 30
    variants = {"outline": WaveformVariant()}


def profiles(*, drifted: bool = False) -> list[type[Profile]]:
    """Return the profiles this process knows."""
    return [Drifted if drifted else Avatar, Plain, Poster, Scanned, Held, HeldFilm, Lesson, Talk, Voice]


def storage(environment: Mapping[str, str]) -> Storage:
    """Return the storage that APP_STORAGE names."""
    kind = environment.get("APP_STORAGE", "local")
    if kind == "local":
        return LocalStorage(
            Path(environment["APP_HOME"]) / "media",
            base_url=environment.get("APP_LOCAL_URL", "http://127.0.0.1:9/local"),
            secrets=[SECRET],
            public_base_url=environment.get("APP_PUBLIC_URL"),
            fsync=False,
        )
    if kind == "s3":
        # Smaller than S3's own limit, for tests of the copy in parts, which changes an object's ETag.
        headers.MAX_COPY_BYTES = int(environment.get("APP_MAX_COPY_BYTES", _MAX_COPY_BYTES))
        return S3Storage(
            environment["APP_BUCKET"],
            endpoint_url=environment["APP_ENDPOINT"],
            access_key_id=environment["APP_ACCESS_KEY"],
            secret_access_key=environment["APP_SECRET_KEY"],
            public_base_url=environment.get("APP_PUBLIC_URL"),
        )
    if kind == "gcs":
        return GCSStorage(environment["APP_BUCKET"], emulator_host=environment["APP_ENDPOINT"])
    if kind == "memory":
        return MemoryStorage()
    raise ValueError(f"APP_STORAGE={kind!r}")


def make(
    environment: Mapping[str, str] = os.environ,
    *,
    store: Storage | None = None,
    providers: Sequence[StreamingProvider] = (),
) -> Rindle:
    """Build the application from an environment; a test may hand in its own storage and streaming providers."""
    providers = providers or ([InMemoryProvider()] if environment.get("APP_PROVIDER") == "memory" else ())
    tuning: dict[str, Any] = {
        name.removeprefix("RINDLE_").lower(): value
        for name, value in environment.items()
        if name.removeprefix("RINDLE_").lower() in Settings.model_fields
    }
    return Rindle(
        engine=create_async_engine(environment["APP_DATABASE_URL"]),
        storages={"media": store or storage(environment)},
        profiles=[*profiles(drifted=bool(environment.get("APP_DRIFTED"))), *([Streamed, Reel] if providers else [])],
        providers=providers,
        secrets=[SECRET],
        settings=Settings(**tuning),
        temporal=TemporalConnection(connect_seconds=CONNECT_SECONDS, environment=environment),
    )
