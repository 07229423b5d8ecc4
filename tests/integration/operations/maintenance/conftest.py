"""Stages of sweeps: on both databases, and on Local and MinIO."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers.minio import MinioServer
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, on_bucket, staged


@pytest.fixture(params=["local", "minio"])
async def store_stage(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, temporal_server: TemporalServer
) -> AsyncIterator[Stage]:
    """A stage on each pair of a database and a store."""
    environment = {}
    if request.param == "minio":
        server: MinioServer = request.getfixturevalue("minio")
        environment = on_bucket(server)
    async with staged(tmp_path, database_url, temporal_server.target, environment) as ready:
        yield ready
