"""Create the private bucket of the compose file; one that exists and is ours is kept."""

from __future__ import annotations

import os
from contextlib import suppress

import boto3

client = boto3.client("s3")
with suppress(client.exceptions.BucketAlreadyOwnedByYou):
    client.create_bucket(Bucket=os.environ["MEDIA_BUCKET"])
