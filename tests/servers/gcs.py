"""The two emulators of Google Cloud Storage: each lacks what the other one has.

=========================  ==========================================================================================
fake-gcs-server            uploads, downloads, lists, joins; it answers 200 to the status probe of a resumable session,
                           and checks neither signatures nor what they bind
gcp-storage-emulator       the status of resumable sessions; it cannot cancel them, and ignores pages and conditions
=========================  ==========================================================================================
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rindle.storage.gcs import GCSStorage
from tests.servers import STARTUP_SECONDS, answering, free_port, go

#: The release the tests are written against.
MODULE = "github.com/fsouza/fake-gcs-server@v1.56.1"
#: Environment variable that names the program.
PROGRAM_VARIABLE = "RINDLE_FAKE_GCS"


@dataclass(frozen=True)
class GCSServer:
    """A running emulator."""

    address: str

    def new_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"test-{uuid.uuid4().hex}"
        request = urllib.request.Request(
            f"{self.address}/storage/v1/b?project=test",
            data=f'{{"name": "{name}"}}'.encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=STARTUP_SECONDS):
            return name

    def storage(self, bucket: str, **options: str) -> GCSStorage:
        """Return an adapter of ``bucket``."""
        return GCSStorage(bucket, emulator_host=self.address, **options)  # type: ignore[arg-type]


def program() -> Path:
    """Return fake-gcs-server."""
    return go.program("fake-gcs-server", PROGRAM_VARIABLE)


def server_version() -> str:
    """Return the version, which Go reads from the program."""
    return go.version(program())


@contextmanager
def running_fake_gcs(home: Path, *, objects: Path | None = None) -> Iterator[GCSServer]:
    """Run fake-gcs-server until the block is left.

    Args:
        objects: an empty directory for the objects; without it they are in memory.

    Raises:
        Unavailable: it is not installed, or did not start.
    """
    port = free_port()
    host = f"127.0.0.1:{port}"
    backend = ("memory",) if objects is None else ("filesystem", "-filesystem-root", str(objects))
    command = [
        *(str(program()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", *backend),
        *("-public-host", host, "-external-url", f"http://{host}", "-log-level", "error"),
    ]
    with _running(command, home / "log", f"http://{host}", "/_internal/healthcheck", "fake-gcs-server") as server:
        yield server


@contextmanager
def running_gcp_emulator(home: Path) -> Iterator[GCSServer]:
    """Run gcp-storage-emulator with its objects in memory until the block is left.

    Raises:
        Unavailable: it did not start.
    """
    port = free_port()
    command = [
        *(sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)),
        "--in-memory",
    ]
    with _running(command, home / "log", f"http://127.0.0.1:{port}", "/", "gcp-storage-emulator") as server:
        yield server


@contextmanager
def _running(command: Sequence[str], log: Path, address: str, health: str, name: str) -> Iterator[GCSServer]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PORT", "HOST")}
    with answering(command, f"{address}{health}", name=name, log=log, environment=environment):
        yield GCSServer(address)
