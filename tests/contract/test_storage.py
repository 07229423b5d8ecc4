"""The storage contract against every store that is shipped, over real HTTP and a real MinIO."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TypeVar

import pytest
from fastapi import FastAPI

from rindle.errors import RindleError, StorageConflict
from rindle.http.local import local_router
from rindle.protocols import Presigned, Storage
from rindle.storage.gcs import GCSStorage
from rindle.storage.local import LocalStorage
from rindle.storage.memory import MemoryStorage
from rindle.storage.s3 import S3Storage
from rindle.testing import headers_contract
from rindle.testing.flaky import FlakyStorage
from rindle.testing.headers_contract import HOSTILE_HEADERS
from rindle.testing.storage_abilities import (
    ConcatenationContract,
    MultipartUploadsContract,
    PartStreamContract,
    ResumableSessionsContract,
    SetupCheckContract,
)
from rindle.testing.storage_contract import Answer, Send, StorageContract
from tests.contract.serving import listening, serving
from tests.patience import PATIENCE_SECONDS
from tests.servers.gcs import GCSServer
from tests.servers.minio import MinioServer

SECRET = "contract-secret-of-at-least-32-bytes"
Suite = TypeVar("Suite", bound=type)


def without(**reasons: str) -> Callable[[Suite], Suite]:
    """Leave tests out of a suite because of what an emulator does; the reasons are also in docs/gcs.md."""

    def leave_out(suite: Suite) -> Suite:
        for name in reasons:
            assert callable(getattr(suite, name)), name
            setattr(suite, name, None)
        return suite

    return leave_out


@pytest.fixture(autouse=True)
def patient(patient_transfers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the end of another completion, too, as long as a busy machine needs."""
    monkeypatch.setattr("rindle.storage.part_files.COMPLETION_SECONDS", PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def bucket(minio: MinioServer) -> str:
    """One bucket for all tests: the contract's keys are unique."""
    return minio.new_bucket()


@pytest.fixture(scope="module")
def gcs_bucket(fake_gcs: GCSServer) -> str:
    """One bucket of the emulator for all tests."""
    return fake_gcs.new_bucket()


class TestLocalStorage(PartStreamContract, ConcatenationContract, StorageContract):
    @pytest.fixture(autouse=True)
    def nothing_is_left_of_streams(self, storage: LocalStorage) -> Iterator[None]:
        yield
        assert list(storage.root.glob(".rindle/tus/*")) == []

    @pytest.fixture
    def storage(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStorage]:
        with listening() as (listener, address):
            storage = LocalStorage(
                tmp_path_factory.mktemp("media"),
                base_url=address,
                secrets=[SECRET],
                public_base_url=f"{address}/p",
            )
            app = FastAPI()
            app.include_router(local_router(storage))
            with serving(app, listener):
                yield storage


class TestLocalStorageWithoutUrls(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
        return LocalStorage(tmp_path_factory.mktemp("media"), fsync=False)


class TestMemoryStorage(StorageContract):
    holds_objects_in_memory = True

    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage()

    @pytest.fixture
    def send(self, storage: Storage) -> Send:
        memory = storage.inner if isinstance(storage, FlakyStorage) else storage
        assert isinstance(memory, MemoryStorage)

        async def send(
            grant: Presigned | str, body: bytes | None = None, headers: Mapping[str, str] | None = None
        ) -> Answer:
            """Redeem a ``memory://`` URL and answer as HTTP would."""
            try:
                if isinstance(grant, str):
                    found, found_headers = memory.get(grant)
                    return Answer(200, found_headers, found)
                memory.put(grant, body or b"", headers)
            except StorageConflict:
                return Answer(412)
            except RindleError as error:
                return Answer(error.http_status)
            return Answer(200)

        return send


class TestFlakyStorageWithoutFaults(TestMemoryStorage):
    @pytest.fixture
    def storage(self) -> Storage:
        return FlakyStorage(MemoryStorage())


class OnMinio(MultipartUploadsContract, PartStreamContract, ConcatenationContract, SetupCheckContract, StorageContract):
    @pytest.fixture(autouse=True)
    async def nothing_is_left(self, minio: MinioServer, storage: S3Storage, key: str) -> AsyncIterator[None]:
        yield
        with minio.client() as client:
            found = client.list_objects_v2(Bucket=storage.bucket).get("Contents", ())
        assert [one["Key"] for one in found if ".rindle/" in one["Key"]] == []
        assert await storage.list_multipart_uploads(key) == []


@pytest.mark.external
class TestMinio(OnMinio):
    @pytest.fixture
    async def storage(self, minio: MinioServer, bucket: str) -> AsyncIterator[S3Storage]:
        storage = S3Storage(
            bucket,
            endpoint_url=minio.endpoint_url,
            access_key_id=minio.access_key,
            secret_access_key=minio.secret_key,
        )
        yield storage
        await storage.close()


@pytest.mark.external
class TestFlakyMinioWithoutFaults(MultipartUploadsContract, PartStreamContract):
    """The double around a store that has the abilities."""

    send, key = StorageContract.send, StorageContract.key

    @pytest.fixture
    async def storage(self, minio: MinioServer, bucket: str) -> AsyncIterator[Storage]:
        storage = S3Storage(
            bucket,
            endpoint_url=minio.endpoint_url,
            access_key_id=minio.access_key,
            secret_access_key=minio.secret_key,
        )
        yield FlakyStorage(storage)
        await storage.close()


@pytest.mark.external
class TestMinioWithPrefix(OnMinio):
    @pytest.fixture
    async def storage(self, minio: MinioServer, bucket: str) -> AsyncIterator[S3Storage]:
        storage = S3Storage(
            bucket,
            endpoint_url=minio.endpoint_url,
            access_key_id=minio.access_key,
            secret_access_key=minio.secret_key,
            key_prefix="tenant/media",
            public_base_url="https://cdn.example.com",
            write_once=False,
        )
        yield storage
        await storage.close()


@without(
    test_a_session_tells_where_to_continue="ends a session that is asked for its status",
    test_a_cancelled_session_takes_no_bytes="keeps a cancelled session",
    test_a_tampered_url_is_refused="checks no signature",
    test_a_grant_writes_once="ignores x-goog-if-generation-match of a signed PUT",
    test_replaced_headers_leave_the_key_taken="ignores x-goog-if-generation-match of a signed PUT",
    test_a_grant_refuses_another_size="ignores x-goog-content-length-range",
    test_a_grant_refuses_another_type="does not compare the type with the signed one",
)
class OnFakeGCS(ResumableSessionsContract, ConcatenationContract, SetupCheckContract, StorageContract):
    """Everything but what signatures enforce: the emulator checks none. See tests/unit/storage/test_gcs.py."""

    @pytest.fixture(autouse=True)
    def valid_encodings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The emulator answers 500 to a body that is not in the announced ``Content-Encoding``; Google stores it."""
        hostile = {name: value for name, value in HOSTILE_HEADERS.items() if name != "Content-Encoding"}
        monkeypatch.setattr(headers_contract, "HOSTILE_HEADERS", hostile)


@pytest.mark.external
class TestFakeGCS(OnFakeGCS):
    @pytest.fixture
    async def storage(self, fake_gcs: GCSServer, gcs_bucket: str) -> AsyncIterator[GCSStorage]:
        storage = fake_gcs.storage(gcs_bucket)
        yield storage
        await storage.close()


@pytest.mark.external
class TestFakeGCSWithPrefix(OnFakeGCS):
    @pytest.fixture
    async def storage(self, fake_gcs: GCSServer, gcs_bucket: str) -> AsyncIterator[GCSStorage]:
        storage = fake_gcs.storage(gcs_bucket, key_prefix="tenant/media", public_base_url="https://cdn.example.com")
        yield storage
        await storage.close()


@pytest.mark.external
@without(
    test_a_session_never_replaces_an_object="ignores conditions",
    test_a_cancelled_session_takes_no_bytes="cannot cancel a session",
)
class TestGCPStorageEmulator(ResumableSessionsContract):
    """The status of sessions, which the other emulator does not know."""

    send, key = StorageContract.send, StorageContract.key

    @pytest.fixture
    async def storage(self, gcp_emulator: GCSServer) -> AsyncIterator[GCSStorage]:
        storage = gcp_emulator.storage(gcp_emulator.new_bucket())
        yield storage
        await storage.close()
