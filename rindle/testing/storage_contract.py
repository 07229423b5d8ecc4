"""The requirements of every store, as tests to inherit.

Ten lines test an adapter (pytest with pytest-asyncio; ``httpx`` for stores that sign URLs)::

    # test_my_storage.py
    import pytest
    from rindle.testing.storage_contract import StorageContract
    from my_package import MyStorage

    class TestMyStorage(StorageContract):
        @pytest.fixture
        async def storage(self):
            storage = MyStorage("a-fresh-bucket")
            yield storage
            await storage.close()

Only the advertised capabilities are exercised; of the others only the refusal is tested. Each test uses its own keys,
so one bucket is enough for a whole run.

Signed URLs and upload grants are redeemed over real HTTP by the fixture :meth:`StorageContract.send`; override it when
the store's URLs are not HTTP. For assertion details put
``pytest.register_assert_rewrite("rindle.testing.storage_contract")`` into ``conftest.py`` before the import.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from rindle.capabilities import STORAGE_CAPABILITIES
from rindle.errors import (
    CapabilityUnsupported,
    InvalidArgument,
    InvalidKey,
    ObjectChanged,
    RindleError,
    StorageConflict,
    StorageError,
    StorageNotFound,
    StoragePermanent,
)
from rindle.protocols import MAX_RANGE_BYTES, Presigned, Storage
from rindle.testing.forms_contract import FormsContract
from rindle.testing.headers_contract import Answer as Answer  # public here
from rindle.testing.headers_contract import HeadersContract, file_of
from rindle.testing.headers_contract import Send as Send

MIB = 1024 * 1024
#: Size of the object of the streaming test in bytes, and the memory limit of its transfer.
STREAMED_BYTES = 48 * MIB
STREAMING_MEMORY_BYTES = 12 * MIB

#: Keys that every adapter must refuse.
INVALID_KEYS: Mapping[str, str] = {
    "empty": "",
    "absolute": "/etc/passwd",
    "parent": "..",
    "parent inside": "a/../../b",
    "here": ".",
    "here inside": "a/./b",
    "empty segment": "a//b",
    "trailing slash": "a/b/",
    "backslash": "a\\..\\b",
    "unc": "\\\\server\\share",
    "drive": "C:/Windows",
    "nul": "a\x00b",
    "newline": "a\nb",
    "delete": "a\x7fb",
    "right-to-left override": "a/\u202egpj.exe",
    "full-width dots": "a/\uff0e\uff0e/b",
    "unpaired surrogate": "a/\ud800",
    "escaped dots": "a/%2e%2e/b",
    "escaped slash": "a%2fb",
    "too long": "x" * 1025,
    "too long in utf-8": "\u00e9" * 513,
    "internal": ".rindle/tmp/x",
    "internal in capitals": ".RINDLE/tmp/x",
}

#: Valid names that a glob, a prefix match or an unescaped URL would misinterpret.
AWKWARD_NAMES = ("*", "?", "[ab]", "a b", "a+b", "a&b=c", "a#b", "a;b", "~", "фото.jpg", "日本.png", "50%", "a'b\"c")


@pytest.mark.asyncio
class StorageContract(HeadersContract, FormsContract):
    """Inherit it, name the subclass ``Test...`` and give it the fixture ``storage``."""

    #: Set it for a store that keeps whole objects in memory: the streaming test then checks only the bytes.
    holds_objects_in_memory: ClassVar[bool] = False

    # --- hooks ---------------------------------------------------------------------------------------------------

    @pytest.fixture
    def storage(self) -> Storage:
        """The store under test. Override."""
        raise NotImplementedError("a storage contract needs the fixture `storage`")

    @pytest.fixture
    async def send(self) -> AsyncIterator[Send]:
        """Send one request as a browser does. Override for URLs that are not HTTP."""
        import httpx  # the contract of a store without URLs does not need it

        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:  # generous, for busy machines

            async def send(
                grant: Presigned | str, body: bytes | None = None, headers: Mapping[str, str] | None = None
            ) -> Answer:
                if isinstance(grant, str):
                    response = await client.get(grant, headers=headers)
                else:
                    sent = grant.headers if headers is None else headers
                    response = await client.request(grant.method, grant.url, content=body or b"", headers=sent)
                return Answer(response.status_code, dict(response.headers), response.content)

            yield send

    @pytest.fixture
    def key(self) -> str:
        """An unused key in Rindle's format."""
        return f"contract/{uuid.uuid4().hex}/{uuid.uuid4()}.bin"

    # --- bytes in and out ----------------------------------------------------------------------------------------

    async def test_it_advertises_known_capabilities(self, storage: Storage) -> None:
        offered = storage.capabilities()

        assert isinstance(offered, frozenset)
        assert offered <= STORAGE_CAPABILITIES
        await storage.ping()

    async def test_what_is_stored_comes_back(self, storage: Storage, key: str, tmp_path: Path) -> None:
        body = os.urandom(100_000)

        stored = await storage.store(key, file_of(tmp_path, body), content_type="image/png", metadata={"a": "b"})
        fetched = await storage.download(key, tmp_path / "deep" / "er" / "copy.bin")
        head = await storage.head(key)

        assert (stored.key, stored.size) == (key, len(body))
        assert fetched == tmp_path / "deep" / "er" / "copy.bin"
        assert fetched.read_bytes() == body
        assert (head.size, head.etag) == (len(body), stored.etag)
        assert '"' not in head.etag
        assert head.content_type in ("image/png", None)
        if head.last_modified is not None:
            assert abs(datetime.now(UTC) - head.last_modified) < timedelta(hours=1)

    async def test_an_empty_object_is_an_object(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b""))

        assert (await storage.head(key)).size == 0
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == b""
        assert await storage.read_range(key, 0, 10) == b""

    async def test_storing_again_replaces(self, storage: Storage, key: str, tmp_path: Path) -> None:
        first = await storage.store(key, file_of(tmp_path, b"one"))
        second = await storage.store(key, file_of(tmp_path, b"two"))

        assert first.etag != second.etag
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == b"two"

    @pytest.mark.parametrize("name", AWKWARD_NAMES)
    async def test_a_name_is_taken_literally(self, storage: Storage, key: str, tmp_path: Path, name: str) -> None:
        await storage.store(f"{key}/{name}", file_of(tmp_path, name.encode()))

        assert (await storage.download(f"{key}/{name}", tmp_path / "copy")).read_bytes() == name.encode()
        assert [found.key for found in (await storage.list_keys(f"{key}/")).objects] == [f"{key}/{name}"]

    async def test_a_missing_object_is_not_found(self, storage: Storage, key: str, tmp_path: Path) -> None:
        for call in (storage.head(key), storage.download(key, tmp_path / "copy"), storage.read_range(key, 0, 1)):
            with pytest.raises(StorageNotFound) as caught:
                await call
            assert caught.value.code == "storage_not_found"
            assert not caught.value.retryable

        assert not entries(tmp_path)

    async def test_a_prefix_of_a_key_is_not_found(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"x"))

        for prefix in (key[:-1], key.rpartition("/")[0], key.partition("/")[0]):
            with pytest.raises(StorageNotFound):
                await storage.head(prefix)

    async def test_a_missing_source_is_the_callers_mistake(self, storage: Storage, key: str, tmp_path: Path) -> None:
        with pytest.raises(RindleError) as caught:
            await storage.store(key, tmp_path / "never-written")

        assert not isinstance(caught.value, StorageNotFound)  # that would mean a missing object
        with pytest.raises(StorageNotFound):
            await storage.head(key)

    # --- pins and limits -----------------------------------------------------------------------------------------

    async def test_a_pinned_read_refuses_another_version(self, storage: Storage, key: str, tmp_path: Path) -> None:
        first = await storage.store(key, file_of(tmp_path, b"first"))
        await storage.download(key, tmp_path / "pinned", if_match=first.etag)
        second = await storage.store(key, file_of(tmp_path, b"other"))
        before = entries(tmp_path)

        for call in (
            storage.download(key, tmp_path / "copy", if_match=first.etag),
            storage.read_range(key, 0, 5, if_match=first.etag),
        ):
            with pytest.raises(ObjectChanged) as caught:
                await call
            assert caught.value.code == "object_changed"

        assert entries(tmp_path) == before
        assert await storage.read_range(key, 0, 5, if_match=second.etag) == b"other"
        assert await storage.read_range(key, 0, 5, if_match=f'"{second.etag}"') == b"other"

    async def test_a_download_over_the_limit_leaves_nothing(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"x" * 1000))
        before = entries(tmp_path)

        with pytest.raises(StoragePermanent):
            await storage.download(key, tmp_path / "copy", max_bytes=999)

        assert entries(tmp_path) == before
        assert (await storage.download(key, tmp_path / "copy", max_bytes=1000)).stat().st_size == 1000

    async def test_a_failed_download_keeps_the_file_that_was_there(
        self, storage: Storage, key: str, tmp_path: Path
    ) -> None:
        (tmp_path / "copy").write_bytes(b"precious")

        with pytest.raises(StorageNotFound):
            await storage.download(key, tmp_path / "copy")

        assert (tmp_path / "copy").read_bytes() == b"precious"
        assert entries(tmp_path) == {tmp_path / "copy"}

    async def test_a_download_into_a_place_that_cannot_be_written_says_so(
        self, storage: Storage, key: str, tmp_path: Path
    ) -> None:
        await storage.store(key, file_of(tmp_path, b"x"))
        (tmp_path / "file").write_bytes(b"not a directory")

        with pytest.raises(StorageError) as caught:
            await storage.download(key, tmp_path / "file" / "copy")

        assert not isinstance(caught.value, StorageNotFound)  # the object is there
        assert str(tmp_path) not in str(caught.value)

    async def test_ranges_are_cut_at_the_end(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"0123456789"))

        assert await storage.read_range(key, 0, 4) == b"0123"
        assert await storage.read_range(key, 4, 3) == b"456"
        assert await storage.read_range(key, 8, 100) == b"89"
        assert await storage.read_range(key, 10, 1) == b""
        assert await storage.read_range(key, 1_000_000, 5) == b""
        assert await storage.read_range(key, 3, 0) == b""
        assert await storage.read_range(key, 0, MAX_RANGE_BYTES) == b"0123456789"

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1), (0, MAX_RANGE_BYTES + 1)])
    async def test_impossible_ranges_are_refused(self, storage: Storage, key: str, start: int, length: int) -> None:
        with pytest.raises(InvalidArgument):
            await storage.read_range(key, start, length)

    # --- create only ---------------------------------------------------------------------------------------------

    async def test_if_absent_keeps_what_is_there(self, storage: Storage, key: str, tmp_path: Path) -> None:
        if "write_once" not in storage.capabilities():
            with pytest.raises(CapabilityUnsupported):
                await storage.store(key, file_of(tmp_path, b"x"), if_absent=True)
            return
        await storage.store(key, file_of(tmp_path, b"first"), if_absent=True)

        with pytest.raises(StorageConflict) as caught:
            await storage.store(key, file_of(tmp_path, b"second"), if_absent=True)

        assert caught.value.code == "storage_conflict"
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == b"first"

    async def test_of_many_creators_exactly_one_wins(self, storage: Storage, key: str, tmp_path: Path) -> None:
        if "write_once" not in storage.capabilities():
            return
        bodies = [bytes([number]) * 200_000 for number in range(8)]
        sources = [file_of(tmp_path, body) for body in bodies]

        outcomes = await asyncio.gather(
            *(storage.store(key, source, if_absent=True) for source in sources), return_exceptions=True
        )

        won = [body for body, outcome in zip(bodies, outcomes, strict=True) if not isinstance(outcome, BaseException)]
        lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert len(won) == 1
        assert all(isinstance(outcome, StorageConflict) for outcome in lost), lost
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == won[0]

    async def test_writers_and_deleters_do_not_disturb_their_neighbours(
        self, storage: Storage, key: str, tmp_path: Path
    ) -> None:
        source = file_of(tmp_path, b"x" * 1000)

        async def come_and_go(name: str) -> None:
            for _ in range(5):
                await _patiently(partial(storage.store, f"{key}/{name}", source))
                await _patiently(partial(storage.delete, f"{key}/{name}"))

        await asyncio.gather(*(come_and_go(f"n{number}") for number in range(6)))

        assert (await storage.list_keys(f"{key}/")).objects == ()

    # --- delete --------------------------------------------------------------------------------------------------

    async def test_deleting_is_exact_and_repeatable(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"x"))

        first, second = await storage.delete(key), await storage.delete(key)

        assert (first.key, second.key) == (key, key)
        assert first.existed in (True, None)
        assert second.existed in (False, None)
        with pytest.raises(StorageNotFound):
            await storage.head(key)

    @pytest.mark.parametrize(
        ("doomed", "neighbours"),
        [
            ("a/1", ["a/1.jpg", "a/10", "a/11/x", "b/1"]),
            ("a/*", ["a/1", "a/b"]),
            ("a/[12]", ["a/1", "a/2"]),
            ("a/?", ["a/1", "a/x"]),
            ("a", ["a.b/c", "ab"]),
            ("a/%", ["a/%3f", "a/x"]),
        ],
    )
    async def test_deleting_touches_no_neighbour(
        self, storage: Storage, key: str, tmp_path: Path, doomed: str, neighbours: list[str]
    ) -> None:
        for name in neighbours:
            await storage.store(f"{key}/{name}", file_of(tmp_path, name.encode()))

        async def listed() -> list[str]:
            return [found.key.removeprefix(f"{key}/") for found in (await storage.list_keys(f"{key}/")).objects]

        await storage.delete(f"{key}/{doomed}")  # the key is unused: no neighbour may be deleted instead
        assert await listed() == neighbours

        await storage.store(f"{key}/{doomed}", file_of(tmp_path, b"doomed"))
        await storage.delete(f"{key}/{doomed}")
        assert await listed() == neighbours

    # --- keys and lists ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", INVALID_KEYS)
    async def test_no_call_accepts_an_invalid_key(self, storage: Storage, tmp_path: Path, name: str) -> None:
        key, source = INVALID_KEYS[name], file_of(tmp_path, b"x")
        before = entries(tmp_path)
        calls: list[Awaitable[object]] = [
            storage.store(key, source),
            storage.download(key, tmp_path / "copy"),
            storage.read_range(key, 0, 1),
            storage.delete(key),
            storage.head(key),
        ]
        if "signed_url" in storage.capabilities():
            calls.append(storage.url(key, expires_in=60))
        if "public_url" in storage.capabilities():
            calls.append(storage.url(key, public=True))
        if "presigned_put" in storage.capabilities():
            calls.append(storage.presigned_put(key, 60))
        if "local" in storage.capabilities():
            calls.append(storage.local_path(key).__aenter__())

        for call in calls:
            with pytest.raises(InvalidKey) as caught:
                await call
            assert caught.value.code == "invalid_key"

        assert entries(tmp_path) == before

    async def test_keys_are_listed_in_order_page_by_page(self, storage: Storage, key: str, tmp_path: Path) -> None:
        # '-' and '.' sort before '/': a directory walk easily gets this wrong.
        names = ["a-b", "a.b", "a/1", "a/10", "a/2", "a/b/c", "a0", "b", "b-/x", "é", "日"]
        for name in reversed(names):
            await storage.store(f"{key}/{name}", file_of(tmp_path, name.encode()))

        pages, after = [], None
        while True:
            page = await storage.list_keys(f"{key}/", after=after, limit=3)
            pages.append([found.key.removeprefix(f"{key}/") for found in page.objects])
            if page.next_after is None:
                break
            after = page.next_after

        assert [name for page_names in pages for name in page_names] == names
        assert all(len(page_names) <= 3 for page_names in pages)

    async def test_a_listed_object_has_its_size(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"12345"))

        (found,) = (await storage.list_keys(key)).objects

        assert (found.key, found.size) == (key, 5)
        assert found.last_modified is None or found.last_modified.tzinfo is not None

    async def test_a_prefix_may_end_within_a_segment(self, storage: Storage, key: str, tmp_path: Path) -> None:
        for name in ("a/1", "a/10", "a/2"):
            await storage.store(f"{key}/{name}", file_of(tmp_path, b"x"))

        async def listed(prefix: str, after: str | None = None) -> list[str]:
            page = await storage.list_keys(f"{key}/{prefix}", after=after and f"{key}/{after}")
            return [found.key.removeprefix(f"{key}/") for found in page.objects]

        assert await listed("a/1") == ["a/1", "a/10"]
        assert await listed("a/", after="a/1") == ["a/10", "a/2"]
        assert await listed("a/", after="a/2") == []
        assert await listed("nothing") == []
        for prefix in ("../", "a/..", "/"):
            with pytest.raises(InvalidKey):
                await listed(prefix)

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    async def test_a_page_holds_1_to_1000_objects(self, storage: Storage, limit: int) -> None:
        with pytest.raises(InvalidArgument):
            await storage.list_keys("contract/", limit=limit)

    # --- signed URLs ---------------------------------------------------------------------------------------------

    async def test_a_signed_url_serves_the_object(self, storage: Storage, key: str, tmp_path: Path, send: Send) -> None:
        if "signed_url" not in storage.capabilities():
            with pytest.raises(CapabilityUnsupported) as caught:
                await storage.url(key, expires_in=60)
            assert caught.value.code == "delivery_unsupported"
            return
        await storage.store(key, file_of(tmp_path, b"hello"))

        answer = await send(await storage.url(key, expires_in=60))

        assert (answer.status, answer.body) == (200, b"hello")

    async def test_a_signed_url_reaches_awkward_names(
        self, storage: Storage, key: str, tmp_path: Path, send: Send
    ) -> None:
        if "signed_url" not in storage.capabilities():
            return
        for name in AWKWARD_NAMES:
            await storage.store(f"{key}/{name}", file_of(tmp_path, name.encode()))

        answers = [await send(await storage.url(f"{key}/{name}", expires_in=60)) for name in AWKWARD_NAMES]

        assert [answer.body.decode() for answer in answers] == list(AWKWARD_NAMES)

    async def test_a_signed_url_binds_its_response_headers(
        self, storage: Storage, key: str, tmp_path: Path, send: Send
    ) -> None:
        disposition = "attachment; filename=\"_.jpg\"; filename*=UTF-8''%D1%84%D0%BE%D1%82%D0%BE%20%F0%9F%8E%89.jpg"
        if "response_headers" not in storage.capabilities():
            return
        await storage.store(key, file_of(tmp_path, b"hello"), content_type="text/html")

        answer = await send(
            await storage.url(key, expires_in=60, content_disposition=disposition, content_type="image/jpeg")
        )

        assert answer.status == 200
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["content-disposition"] == disposition

    @pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "\x00", "фото"])
    async def test_headers_cannot_be_injected(self, storage: Storage, key: str, tmp_path: Path, value: str) -> None:
        calls: list[Awaitable[object]] = [
            storage.store(key, file_of(tmp_path, b"x"), content_type=value),
            storage.store(key, file_of(tmp_path, b"x"), content_disposition=value),
            storage.store(key, file_of(tmp_path, b"x"), metadata={"name": value}),
        ]
        if "response_headers" in storage.capabilities():
            calls.append(storage.url(key, expires_in=60, content_disposition=value))
            calls.append(storage.url(key, expires_in=60, content_type=value))
        if "presigned_put" in storage.capabilities():
            calls.append(storage.presigned_put(key, 60, content_type=value))

        for call in calls:
            with pytest.raises(InvalidArgument):
                await call

    async def test_a_tampered_url_is_refused(self, storage: Storage, key: str, tmp_path: Path, send: Send) -> None:
        if "signed_url" not in storage.capabilities():
            return
        await storage.store(key, file_of(tmp_path, b"secret"))
        url = await storage.url(key, expires_in=60)

        answer = await send(url[:-4] + ("aaaa" if not url.endswith("aaaa") else "bbbb"))

        assert answer.status in (400, 401, 403)
        assert b"secret" not in answer.body

    async def test_a_url_for_a_missing_object_answers_404(self, storage: Storage, key: str, send: Send) -> None:
        if "signed_url" in storage.capabilities():
            assert (await send(await storage.url(key, expires_in=60))).status == 404

    @pytest.mark.parametrize("expires_in", [0, -1, 604_801, True])
    async def test_a_grant_lives_1_second_to_7_days(self, storage: Storage, key: str, expires_in: int) -> None:
        if "signed_url" in storage.capabilities():
            with pytest.raises(InvalidArgument):
                await storage.url(key, expires_in=expires_in)
        if "presigned_put" in storage.capabilities():
            with pytest.raises(InvalidArgument):
                await storage.presigned_put(key, expires_in)

    async def test_a_public_url_has_no_signature(self, storage: Storage, key: str) -> None:
        if "public_url" not in storage.capabilities():
            with pytest.raises(CapabilityUnsupported) as caught:
                await storage.url(key, public=True)
            assert caught.value.code == "delivery_unsupported"
            return

        url = await storage.url(key, public=True)

        assert url.endswith(key)
        assert "?" not in url
        with pytest.raises(CapabilityUnsupported):
            await storage.url(key, public=True, content_type="image/png")

    # --- upload grants -------------------------------------------------------------------------------------------

    async def test_a_grant_takes_the_bytes_it_was_made_for(
        self, storage: Storage, key: str, tmp_path: Path, send: Send
    ) -> None:
        if "presigned_put" not in storage.capabilities():
            with pytest.raises(CapabilityUnsupported) as caught:
                await storage.presigned_put(key, 60)
            assert caught.value.code == "upload_unsupported"
            return
        body = os.urandom(300_000)
        grant = await storage.presigned_put(key, 60, content_type="image/png", content_length=len(body))

        answer = await send(grant, body)

        assert grant.method == "PUT"
        assert timedelta(0) < grant.expires_at - datetime.now(UTC) <= timedelta(seconds=61)
        assert not {"host", "content-length"} & {name.lower() for name in grant.headers}
        assert grant.url not in repr(grant)
        assert answer.status == 200, answer.body[:500]
        head = await storage.head(key)
        assert (head.size, head.content_type) in ((len(body), "image/png"), (len(body), None))
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == body

    async def test_a_grant_with_nothing_bound_takes_anything(self, storage: Storage, key: str, send: Send) -> None:
        if "presigned_put" not in storage.capabilities():
            return
        grant = await storage.presigned_put(key, 60, write_once=False)

        answers = [await send(grant, b"one"), await send(grant, b"three")]

        assert [answer.status for answer in answers] == [200, 200]
        assert dict(grant.headers) == {}
        assert (await storage.head(key)).size == 5

    async def test_a_grant_writes_once(self, storage: Storage, key: str, tmp_path: Path, send: Send) -> None:
        if not {"presigned_put", "write_once"} <= storage.capabilities():
            return
        grant = await storage.presigned_put(key, 60, content_type="image/png", content_length=5)
        assert (await send(grant, b"first")).status == 200

        again = await send(grant, b"other")
        without_headers = await send(grant, b"other", {"Content-Type": "image/png"})

        assert again.status in (409, 412)
        assert 400 <= without_headers.status < 500
        assert (await storage.download(key, tmp_path / "copy")).read_bytes() == b"first"

    @pytest.mark.parametrize("body", [b"", b"four", b"sixsix", b"x" * 100_000])
    async def test_a_grant_refuses_another_size(self, storage: Storage, key: str, send: Send, body: bytes) -> None:
        if "presigned_put" not in storage.capabilities():
            return
        grant = await storage.presigned_put(key, 60, content_type="image/png", content_length=5)

        answer = await send(grant, body)

        assert 400 <= answer.status < 500
        with pytest.raises(StorageNotFound):
            await storage.head(key)

    @pytest.mark.parametrize("content_type", ["text/html", None])
    async def test_a_grant_refuses_another_type(
        self, storage: Storage, key: str, send: Send, content_type: str | None
    ) -> None:
        if "presigned_put" not in storage.capabilities():
            return
        grant = await storage.presigned_put(key, 60, content_type="image/png")
        headers = {name: value for name, value in grant.headers.items() if name.lower() != "content-type"}
        if content_type is not None:
            headers["Content-Type"] = content_type

        answer = await send(grant, b"<script>", headers)

        assert 400 <= answer.status < 500
        with pytest.raises(StorageNotFound):
            await storage.head(key)

    # --- files of its own, memory, cancellation --------------------------------------------------------------------

    async def test_a_local_path_is_the_object(self, storage: Storage, key: str, tmp_path: Path) -> None:
        first = await storage.store(key, file_of(tmp_path, b"first"))
        if "local" not in storage.capabilities():
            async with storage.local_path(key) as path:
                assert path is None
            return

        async with storage.local_path(key, if_match=first.etag) as path:
            assert path is not None
            assert path.read_bytes() == b"first"

        await storage.store(key, file_of(tmp_path, b"other"))
        with pytest.raises(ObjectChanged):
            await storage.local_path(key, if_match=first.etag).__aenter__()
        await storage.delete(key)
        with pytest.raises(StorageNotFound):
            await storage.local_path(key).__aenter__()

    async def test_large_objects_are_streamed(self, storage: Storage, key: str, tmp_path: Path) -> None:
        source = tmp_path / "large"
        digest = hashlib.sha256()
        with source.open("wb") as file:
            for _ in range(STREAMED_BYTES // MIB):
                piece = os.urandom(MIB)
                digest.update(piece)
                file.write(piece)
        # Once before measuring, so that lazily made clients do not count.
        await storage.store(f"{key}.small", file_of(tmp_path, b"x"))
        await storage.download(f"{key}.small", tmp_path / "small")

        tracemalloc.start()
        try:
            await storage.store(key, source)
            await storage.download(key, tmp_path / "copy")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        with (tmp_path / "copy").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
        if not self.holds_objects_in_memory:
            assert peak < STREAMING_MEMORY_BYTES
        await storage.delete(key)

    async def test_a_cancelled_transfer_leaves_nothing(self, storage: Storage, key: str, tmp_path: Path) -> None:
        source = file_of(tmp_path, os.urandom(8 * MIB))
        await storage.store(f"{key}/there", source)
        before = entries(tmp_path)

        for transfer in (
            storage.download(f"{key}/there", tmp_path / "copy"),
            storage.store(f"{key}/cancelled", source),
        ):
            task = asyncio.ensure_future(transfer)
            await asyncio.sleep(0)  # let it begin
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        # A transfer that finished before its cancellation is complete; any other leaves no trace.
        left = entries(tmp_path) - before
        assert left <= {tmp_path / "copy"}
        assert all(path.read_bytes() == source.read_bytes() for path in left)
        sizes = {found.size for found in (await storage.list_keys(f"{key}/")).objects}
        assert sizes == {8 * MIB}

    async def test_it_can_be_used_after_close(self, storage: Storage, key: str, tmp_path: Path) -> None:
        await storage.store(key, file_of(tmp_path, b"x"))
        await storage.close()
        await storage.close()

        assert (await storage.head(key)).size == 1


async def _patiently(request: Callable[[], Awaitable[object]]) -> None:
    """Send a request again that the store refuses for a moment, as the activities do.

    MinIO answers ``AccessDenied`` while it removes the directory in which another request stores an object.
    """
    for _ in range(4):
        try:
            await request()
            return
        except StorageError as error:
            if not error.retryable:
                raise
    await request()


def entries(directory: Path) -> set[Path]:
    """Return everything below ``directory``."""
    return set(directory.rglob("*"))
