"""The requirements of every store that takes forms (``presigned_post``).

A part of :class:`rindle.testing.storage_contract.StorageContract`, which adopters inherit.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from rindle.errors import CapabilityUnsupported, InvalidArgument, StorageNotFound
from rindle.protocols import PresignedPost, Storage

#: Largest file of the forms of these tests, in bytes.
MAX_BYTES = 1000


@pytest.mark.asyncio
class FormsContract:
    """Tests with the fixtures of ``StorageContract``; a store without the capability has to refuse, and passes."""

    async def test_a_form_takes_the_file_it_was_made_for(self, storage: Storage, key: str) -> None:
        if "presigned_post" not in storage.capabilities():
            with pytest.raises(CapabilityUnsupported) as caught:
                await storage.presigned_post(key, 60)
            assert caught.value.code == "upload_unsupported"
            return
        form = await storage.presigned_post(key, 60, content_type="image/png", max_bytes=MAX_BYTES)

        statuses = [await send_form(form, body) for body in (b"x" * MAX_BYTES, b"y")]

        assert timedelta(0) < form.expires_at - datetime.now(UTC) <= timedelta(seconds=61)
        assert statuses == [201, 201]
        assert (await storage.head(key)).content_type == "image/png"
        assert await storage.read_range(key, 0, 10) == b"y"
        assert not any(value in repr(form) for value in form.fields.values() if len(value) > 40)

    @pytest.mark.parametrize("body", [b"", b"x" * (MAX_BYTES + 1)])
    async def test_a_form_refuses_another_size(self, storage: Storage, key: str, body: bytes) -> None:
        if "presigned_post" not in storage.capabilities():
            return
        form = await storage.presigned_post(key, 60, max_bytes=MAX_BYTES)

        assert 400 <= await send_form(form, body) < 500
        await _nothing_at(storage, key)

    @pytest.mark.parametrize(
        "changed",
        [
            {"content-type": "text/html"},
            {"key": "another/1/key"},
            {"success_action_status": "200"},
            {"x-amz-meta-title": "mine"},
            {"policy": "e30="},
        ],
    )
    async def test_a_form_refuses_other_fields(self, storage: Storage, key: str, changed: Mapping[str, str]) -> None:
        if "presigned_post" not in storage.capabilities():
            return
        form = await storage.presigned_post(key, 60, content_type="image/png", max_bytes=MAX_BYTES)

        assert 400 <= await send_form(form, b"<script>", changed) < 500
        await _nothing_at(storage, key)
        await _nothing_at(storage, "another/1/key")

    async def test_a_form_has_a_lifetime_and_a_printable_type(self, storage: Storage, key: str) -> None:
        if "presigned_post" not in storage.capabilities():
            return
        for seconds in (0, -1, 604_801):
            with pytest.raises(InvalidArgument):
                await storage.presigned_post(key, seconds)
        with pytest.raises(InvalidArgument):
            await storage.presigned_post(key, 60, content_type="image/png\r\nx-evil: 1")


async def send_form(form: PresignedPost, body: bytes, changed: Mapping[str, str] | None = None) -> int:
    """Send a file as a browser does, with ``changed`` fields; returns the status of the answer."""
    import httpx  # the contract of a store without URLs does not need it

    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:  # generous, for busy machines
        fields = {**form.fields, **(changed or {})}
        return (await client.post(form.url, data=fields, files={"file": ("file", body)})).status_code


async def _nothing_at(storage: Storage, key: str) -> None:
    with pytest.raises(StorageNotFound):
        await storage.head(key)
