"""Stages of sweeps: on both databases, and on Local and MinIO."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, staged


@pytest.fixture(params=["local", "minio"])
async def store_stage(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, temporal_server: TemporalServer
) -> AsyncIterator[Stage]:
    """A stage on each pair of a database and a store."""
    environment = {}
    if request.param == "minio":
        server: MinioServer = request.getfixturevalue("minio")
        environment = {
            "APP_STORAGE": "s3",
            "APP_BUCKET": server.new_bucket(),
            "APP_ENDPOINT": server.endpoint_url,
            "APP_ACCESS_KEY": server.access_key,
            "APP_SECRET_KEY": server.secret_key,
        }
    async with staged(tmp_path, database_url, temporal_server.target, environment) as ready:
        yield ready
