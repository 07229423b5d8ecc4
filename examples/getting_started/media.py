"""Rindle's configuration in this application; a worker needs only this file."""

from __future__ import annotations

import os

from rindle import Profile, Rindle, Settings
from rindle.sqlite import WRITE_OPTION
from rindle.storage.local import LocalStorage
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from models import Member


class MemberPhoto(Profile):
    """Which files are accepted, and which variants are built."""

    name = "photo"
    storage = "media"
    allow_mime = ["image/jpeg", "image/png", "image/webp", "image/heic"]
    max_bytes = 15_000_000
    variants = {
        "thumb": {"mode": "crop", "width": 128, "height": 128},
        "large": {"mode": "fit", "width": 1024, "height": 1024, "format": "webp"},
    }


settings = Settings()  # reads RINDLE_SECRETS and the other variables
engine = create_async_engine(os.environ["DATABASE_URL"])
rindle = Rindle(
    engine=engine,
    profiles=[MemberPhoto],
    storages={"media": LocalStorage("media", base_url="/media/local", secrets=settings.secrets)},
    settings=settings,
)
# Members keep their photos when the class is renamed; the slot "photo" accepts no other uploads.
rindle.register_owner_type("member", Member, slots={"photo": MemberPhoto})

#: Write transactions. On SQLite they take the write lock at their start; other databases ignore the option.
transaction = async_sessionmaker(engine.execution_options(**{WRITE_OPTION: True}))
