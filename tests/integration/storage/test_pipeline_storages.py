"""The whole pipeline on every store: MinIO by presigned URLs over real HTTP, and memory in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest

from rindle import OutputKind
from rindle.errors import UploadRejected
from rindle.storage.memory import MemoryStorage
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS
from tests.servers.temporal import TemporalServer
from tests.stage import Stage, photo, staged


async def test_a_photo_put_to_minio_is_judged_built_served_replaced_and_purged(s3_stage: Stage) -> None:
    stage = s3_stage
    await stage.worker()
    body = photo(stage.home / "p.jpg").read_bytes()
    ids = []
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        for _ in range(2):
            session = await stage.rindle.initiate_upload(
                "avatar", filename="me.jpg", size=len(body), content_type="image/jpeg", actor="alice"
            )
            presigned = (await stage.rindle.sign_url(session.id)).presigned
            answer = await browser.put(presigned.url, content=body, headers=dict(presigned.headers))
            assert answer.status_code == 200, answer.text
            again = await browser.put(presigned.url, content=body, headers=dict(presigned.headers))
            assert again.status_code == 412  # written once
            asset = (await stage.rindle.verify_completion(session.id)).asset
            ids.append(asset.id)
            await stage.let_tickets_expire(session.id)  # a purge waits for that
            await stage.rindle.attach(asset.id, ("user", "1"), "avatar", uploaded_by="alice")
            done = await stage.settled(asset.id)
            assert done.state == "ready"
            for row in done.variants:
                url = await stage.rindle.variant_url("avatar", done, row)
                got = await browser.get(url)
                assert (got.status_code, got.headers["content-type"]) == (200, row.content_type)
                assert len(got.content) == row.byte_size
                assert row.output_kind == OutputKind.IMAGE
    await stage.gone(ids[0])
    await everything_holds(stage)


async def test_a_ticket_for_8_bytes_takes_neither_more_nor_less_nor_another_type(s3_stage: Stage) -> None:
    session = await s3_stage.rindle.initiate_upload("avatar", filename="me.jpg", size=8, content_type="image/jpeg")
    presigned = (await s3_stage.rindle.sign_url(session.id)).presigned

    # The store reads up to 256 KiB of a body that it refuses, and breaks the connection when there is more.
    async def announced_by_nobody() -> AsyncGenerator[bytes, None]:
        for _ in range(3):
            yield b"x" * 65_536

    headers = dict(presigned.headers)
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        for body in (b"x" * 9, b"x" * 7, b"x" * 200_000):
            assert (await browser.put(presigned.url, content=body, headers=headers)).status_code == 403
        async with aclosing(announced_by_nobody()) as unannounced:
            without_length = await browser.put(presigned.url, content=unannounced, headers=headers)
        assert without_length.status_code >= 400
        other_type = {**headers, "content-type": "text/html"}
        assert (await browser.put(presigned.url, content=b"x" * 8, headers=other_type)).status_code == 403
        assert await s3_stage.keys() == set()
        assert (await browser.put(presigned.url, content=b"x" * 8, headers=headers)).status_code == 200


async def test_an_undeclared_size_is_checked_at_verify_and_the_object_removed(s3_stage: Stage) -> None:
    await s3_stage.worker()
    session = await s3_stage.rindle.initiate_upload("avatar", filename="me.jpg")
    presigned = (await s3_stage.rindle.sign_url(session.id)).presigned
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as browser:
        put = await browser.put(presigned.url, content=b"x" * 8_000_001, headers=dict(presigned.headers))
    assert put.status_code == 200
    with pytest.raises(UploadRejected) as refused:
        await s3_stage.rindle.verify_completion(session.id)
    assert refused.value.code == "max_bytes_exceeded"
    await everything_holds(s3_stage)
    assert await s3_stage.keys() == set()


async def test_the_pipeline_runs_in_one_process_on_memory(tmp_path: Path, temporal_server: TemporalServer) -> None:
    store = MemoryStorage()
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, store=store) as stage:
        await stage.member()
        assets = await asyncio.gather(*(stage.ready(actor=str(number)) for number in range(5)))
        assert {asset.state for asset in assets} == {"ready"}
        await everything_holds(stage)


async def test_a_split_image_queue_renders_in_a_fleet_member_of_its_own(
    tmp_path: Path, database_url: str, temporal_server: TemporalServer
) -> None:
    async with staged(tmp_path, database_url, temporal_server.target) as stage:
        stage.environment["RINDLE_IMAGE_TASK_QUEUE"] = f"{stage.prefix}-image"
        split = stage.application()
        await stage.worker("--queues", stage.prefix)
        session = await split.initiate_upload("avatar", filename="me.jpg")
        await split.sign_url(session.id)
        await stage.put(session.id, photo(stage.home / "p.jpg"))
        asset = (await split.verify_completion(session.id)).asset
        waiting = await stage.variant(asset.id, "thumb", "queued")  # nobody renders yet
        assert waiting.storage_key is None
        await stage.worker("--queues", f"{stage.prefix}-image")
        assert (await stage.settled(asset.id)).state == "ready"
