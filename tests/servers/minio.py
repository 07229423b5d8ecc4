"""MinIO, the S3 server of the tests."""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from tests.servers import answering, free_port, go, version_of

#: The release the tests are written against, by the only way it is published.
MODULE = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"
#: Environment variable that names the MinIO program.
PROGRAM_VARIABLE = "RINDLE_MINIO"
#: MinIO's own default region.
REGION = "us-east-1"


@dataclass(frozen=True)
class MinioServer:
    """A running server and the credentials of its administrator, made for this run."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = REGION

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> MinioServer:
        """Return the server that the environment of an application on a bucket names; see ``tests/stage.py``."""
        return cls(environment["APP_ENDPOINT"], environment["APP_ACCESS_KEY"], environment["APP_SECRET_KEY"])

    @contextmanager
    def client(self, service: str = "s3") -> Iterator[Any]:
        """Yield a client of boto3: what the store has, seen without our own adapter."""
        found = boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        try:
            yield found
        finally:
            found.close()

    def new_bucket(self) -> str:
        """Create an empty private bucket and return its name."""
        name = f"test-{uuid.uuid4().hex}"
        with self.client() as client:
            client.create_bucket(Bucket=name)
        return name


def program() -> Path:
    """Return the MinIO program."""
    return go.program("minio", PROGRAM_VARIABLE)


def server_version() -> str:
    """Return MinIO's version; a build by ``go install`` does not know it, but Go reads it from the program."""
    named = version_of(program(), "--version", pattern=r"minio version (\S+)")
    return go.version(program()) if named.startswith("DEVELOPMENT") else named


@contextmanager
def running_minio(home: Path) -> Iterator[MinioServer]:
    """Run a fresh server with its data in ``home`` until the block is left.

    Raises:
        Unavailable: MinIO is not installed, or did not start.
    """
    port = free_port()
    server = MinioServer(f"http://127.0.0.1:{port}", f"test{secrets.token_hex(4)}", secrets.token_urlsafe(24))
    command = [
        *(program(), "server", home / "data", "--address", f"127.0.0.1:{port}"),
        *("--console-address", f"127.0.0.1:{free_port()}", "--certs-dir", home / "certs", "--quiet"),
    ]
    # HOME because it writes a configuration there; the rest keeps it from looking for updates and from serving a
    # console nobody opens.
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MINIO_")},
        "HOME": str(home),
        "MINIO_ROOT_USER": server.access_key,
        "MINIO_ROOT_PASSWORD": server.secret_key,
        "MINIO_UPDATE": "off",
        "MINIO_BROWSER": "off",
    }
    ready = f"{server.endpoint_url}/minio/health/ready"
    with answering(command, ready, name="MinIO", log=home / "log", environment=environment):
        yield server
