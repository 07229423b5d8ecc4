"""Rindle's configuration in this application; a worker needs this file and none of the pages."""

from __future__ import annotations

import base64
import os

from rindle import Profile, Rindle, Settings, TemporalConnection
from rindle.storage.s3 import S3Storage
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from access import OwnerOrStaff
from encryption import encrypting
from models import Member


class Badge(Profile):
    """Photos on badges: which files are accepted, which variants are built, and who may see them."""

    name = "badge"
    storage = "photos"
    allow_mime = ["image/jpeg", "image/png", "image/webp", "image/heic"]
    max_bytes = 15_000_000
    variants = {
        "small": {"mode": "crop", "width": 160, "height": 200},
        "large": {"mode": "fit", "width": 800, "height": 1000, "format": "webp"},
    }
    delivery = {"authorizer": OwnerOrStaff()}


engine = create_async_engine(os.environ["DATABASE_URL"])
#: Sessions of the pages. Objects stay readable after the commit.
sessions = async_sessionmaker(engine, expire_on_commit=False)

rindle = Rindle(
    engine=engine,
    profiles=[Badge],
    # Credentials and region come from boto3's own variables. Without the endpoint, the bucket is on Amazon S3.
    storages={"photos": S3Storage(os.environ["BUCKET"], endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3"))},
    temporal=TemporalConnection(data_converter=encrypting(base64.urlsafe_b64decode(os.environ["PAYLOAD_KEY"]))),
    settings=Settings(),  # reads RINDLE_SECRETS and the other variables
)
rindle.register_owner_type("member", Member, slots={"badge": Badge})
