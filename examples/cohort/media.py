"""The site's configuration of Rindle, which is all that a worker needs: the profiles, one storage, one database.

Read from the environment:

``COHORT_DATABASE_URL`` (or ``DATABASE_URL``)
    An async SQLAlchemy URL; a SQLite file below ``RINDLE_HOME`` by default.
``MEDIA_BUCKET``
    An S3 bucket to keep the media in; boto3's own variables name the endpoint and the credentials. Without it they are
    files below ``RINDLE_HOME``.
``COHORT_MEDIA_URL``
    Address under which browsers reach local files (``/media/local`` on the site itself by default), or the endpoint
    under which they reach the bucket, when that is not the one the servers use. A streaming provider fetches local
    files from it; by default from the address at which ``rindle dev`` serves the site.
``COHORT_UPPY``
    Path of Uppy's module for browsers (``dist/uppy.min.mjs`` of its package on npm). With it and local files, lessons
    are sent by tus and continue after a reload.
``RINDLE_SECRETS``
    Signs local URLs and the session cookie; the secret that ``rindle dev`` left in ``RINDLE_HOME`` by default, so that
    every command run beside it works without further ado.
``RINDLE_MUX_TOKEN_ID`` and others
    Credentials of Mux, which then streams the videos; see ``streaming.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import SecretStr
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from examples.cohort import streaming
from examples.cohort.models import Course, Member
from rindle import Profile, Rindle, Settings
from rindle.presets import MuxDirectUploadWeb, MuxWeb, Web
from rindle.protocols import Storage
from rindle.sqlite import WRITE_OPTION
from rindle.storage.local import LocalStorage

#: The slot of a member's photo, and the profile's name.
AVATAR = "avatar"
#: The slot of a course's lesson.
LESSON = "lesson"
#: The slot of a member's talk, and the profile's name.
TALK = "talk"


class MemberAvatar(Profile):
    """A portrait: what may be sent, and what is made of it."""

    name = AVATAR
    storage = "media"
    allow_mime = ["image/jpeg", "image/png", "image/webp", "image/heic"]
    allow_extensions = [".jpg", ".jpeg", ".png", ".webp", ".heic"]
    max_bytes = 15_000_000
    max_pixels = 60_000_000
    placeholder = True
    variants = {
        "thumb": {"mode": "crop", "width": 96, "height": 96, "gravity": "attention"},
        "card": {"mode": "fill", "width": 320, "height": 320, "format": "webp"},
        "card_avif": {"mode": "fill", "width": 320, "height": 320, "format": "avif"},
        "large": {"mode": "fit", "width": 1024, "height": 1024, "format": "webp"},
        "large_jpeg": {"mode": "fit", "width": 1024, "height": 1024},
    }


class VideoLesson(Web, abstract=True):
    """A video: the preset plays it in 720p behind a poster; the waveform of its audio is drawn below."""

    storage = "media"
    allow_mime = ["video/mp4", "video/quicktime", "video/webm"]
    allow_extensions = [".mp4", ".m4v", ".mov", ".webm"]
    max_bytes = 500_000_000
    max_duration_seconds = 3600
    scrub_strip = True
    extra_variants = {"waveform": {"kind": "waveform", "preset": "overview"}}


class Lesson(VideoLesson):
    """A video that plays from the site's own store."""

    name = "lesson"


class StreamedLesson(VideoLesson, MuxWeb):
    """A video that Mux streams. Players send the token of a playback with each segment, so it outlives the lesson."""

    name = "streamed_lesson"
    delivery = {"signed_url_ttl_seconds": 7_200}


class Talk(MuxDirectUploadWeb):
    """A video that its member sends to Mux; the site has no byte of it, and makes nothing of it."""

    name = TALK
    storage = "media"
    allow_extensions = [".mp4", ".m4v", ".mov", ".webm"]
    delivery = {"signed_url_ttl_seconds": 7_200}


class AudioLesson(Profile):
    """A recording: one file that plays everywhere, and the outline that the page draws."""

    name = "audio_lesson"
    storage = "media"
    allow_mime = ["audio/mpeg", "audio/mp4", "audio/wav", "audio/flac", "audio/ogg"]
    allow_extensions = [".mp3", ".m4a", ".wav", ".flac", ".ogg"]
    max_bytes = 200_000_000
    max_duration_seconds = 3600
    variants = {
        "m4a_128k": {"kind": "audio", "preset": "m4a_128k"},
        "waveform": {"kind": "waveform", "preset": "overview"},
    }


#: The profile of a course's new lesson, by the kind of the course.
LESSONS: Mapping[str, type[Profile]] = {
    "video": StreamedLesson if streaming.is_configured() else Lesson,
    "audio": AudioLesson,
}
#: Those of all lessons: the ones that were uploaded before there was streaming stay.
LESSON_PROFILES = tuple(dict.fromkeys([Lesson, *LESSONS.values()]))
#: Talks need Mux: without it there are none.
TALK_PROFILES: tuple[type[Profile], ...] = (Talk,) if streaming.is_configured() else ()


def _database_url(settings: Settings) -> str:
    given = os.environ.get("COHORT_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if given:
        return given
    settings.home.mkdir(parents=True, exist_ok=True)
    return f"sqlite+aiosqlite:///{settings.home.resolve() / 'rindle.db'}"


def _secrets(settings: Settings) -> tuple[SecretStr, ...]:
    left = settings.home / "secret"
    if settings.secrets or not left.is_file():
        return settings.secrets
    return (SecretStr(left.read_text().strip()),)


def _storage(settings: Settings) -> Storage:
    if bucket := os.environ.get("MEDIA_BUCKET"):
        from rindle.storage.s3 import S3Storage  # here, because boto3 is heavy and most runs do without it

        # boto3 reads the variable as well; named here, the store is known to be no AWS and addressed by path.
        return S3Storage(bucket, endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"), public_endpoint=MEDIA_URL)
    # With an address of its own for public files the store counts as one that others reach: a provider fetches a video
    # from it by a signed URL.
    public = f"{MEDIA_URL}/p" if MEDIA_URL else None
    address = MEDIA_URL or "/media/local"
    return LocalStorage(settings.home / "media", base_url=address, public_base_url=public, secrets=secrets)


def _media_url() -> str | None:
    given = os.environ.get("COHORT_MEDIA_URL")
    site = os.environ.get("RINDLE_WEB_URL")  # set by `rindle dev` for all parts
    if given or not site or not streaming.is_configured() or os.environ.get("MEDIA_BUCKET"):
        return given or None
    return f"{site}/media/local"


MEDIA_URL = _media_url()
settings = Settings()
secrets = _secrets(settings)
engine = create_async_engine(_database_url(settings))
rindle = Rindle(
    engine=engine,
    profiles=[MemberAvatar, *LESSON_PROFILES, *TALK_PROFILES],
    storages={"media": _storage(settings)},
    providers=[streaming.provider()] if streaming.is_configured() else [],
    secrets=secrets,
    settings=settings,
)
# Members keep their photos and talks, and courses their lessons, when the classes are renamed. An id from a browser may
# be the id of any upload: a slot accepts only what its pages can show.
rindle.register_owner_type("member", Member, slots={AVATAR: MemberAvatar, **({TALK: Talk} if TALK_PROFILES else {})})
rindle.register_owner_type("course", Course, slots={LESSON: LESSON_PROFILES})

#: Transactions of the pages that read.
reading = async_sessionmaker(engine, expire_on_commit=False)
#: Transactions that write. On SQLite they take the write lock when they begin, as Rindle's own do, so that they wait
#: for one another instead of failing; other databases ignore the option.
writing = async_sessionmaker(engine.execution_options(**{WRITE_OPTION: True}), expire_on_commit=False)
