"""MinIO, the S3 server of the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3

from rindle.cli.temporal_server import find_program
from tests.servers import STARTUP_SECONDS, Unavailable, ending, free_port, has_ended, version_of

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

    def new_bucket(self) -> str:
        """Create an empty private bucket and return its name."""
        name = f"test-{uuid.uuid4().hex}"
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )
        client.create_bucket(Bucket=name)
        client.close()
        return name


def program() -> Path:
    """Return the MinIO program."""
    asked = os.environ.get(PROGRAM_VARIABLE)
    if asked:
        named = shutil.which(asked)
        if named is None:
            raise Unavailable(f"{PROGRAM_VARIABLE} does not name a program that can be run")
        return Path(named)
    found = find_program("minio")
    if found is None:
        raise Unavailable("no MinIO: run `make setup`, or put `minio` on PATH")
    return found


def server_version() -> str:
    """Return MinIO's version; a build by ``go install`` does not know it, but Go reads it from the program."""
    named = version_of(program(), "--version", pattern=r"minio version (\S+)")
    go = shutil.which("go")
    if named.startswith("DEVELOPMENT") and go:
        return version_of(Path(go), "version", "-m", str(program()), pattern=r"\smod\s+\S+\s+(\S+)")
    return named


@contextmanager
def running_minio(home: Path) -> Iterator[MinioServer]:
    """Run a fresh server with its data in ``home`` until the block is left.

    Raises:
        Unavailable: MinIO is not installed, or did not start.
    """
    port = free_port()
    server = MinioServer(f"http://127.0.0.1:{port}", f"test{secrets.token_hex(4)}", secrets.token_urlsafe(24))
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(
            [
                *(program(), "server", home / "data", "--address", f"127.0.0.1:{port}"),
                *("--console-address", f"127.0.0.1:{free_port()}", "--certs-dir", home / "certs", "--quiet"),
            ],
            # HOME because it writes a configuration there; the rest keeps it from looking for updates and from
            # serving a console nobody opens.
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith("MINIO_")},
                "HOME": str(home),
                "MINIO_ROOT_USER": server.access_key,
                "MINIO_ROOT_PASSWORD": server.secret_key,
                "MINIO_UPDATE": "off",
                "MINIO_BROWSER": "off",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
        ending(process),
    ):
        _wait_until_ready(server.endpoint_url, process)
        yield server


def _wait_until_ready(endpoint_url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{endpoint_url}/minio/health/ready", timeout=STARTUP_SECONDS):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if has_ended(process):
                raise Unavailable(f"MinIO ended with status {process.returncode} while starting") from None
    raise Unavailable(f"MinIO did not answer within {STARTUP_SECONDS:.0f} s")
