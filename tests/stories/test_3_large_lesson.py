"""Story 3 with a bucket: a lesson is sent in parts, the page is reloaded half-way, and the upload continues."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, Request, Response, Route, expect

from tests.browser import held
from tests.media.clips import Clips
from tests.patience import PATIENCE_SECONDS, VIDEO_PATIENCE_MS, until
from tests.servers.minio import MinioServer
from tests.stories.conftest import Site, Visit

#: The size of a part when nobody names another.
PART_BYTES = 8 * 1024 * 1024

pytestmark = pytest.mark.external


@pytest.fixture
def long_film(clips: Clips, tmp_path: Path) -> Path:
    """A short film with three parts: most of it is a box that players skip, so that it is not a long wait."""
    short = clips.film().read_bytes()
    path = tmp_path / "lesson.mp4"
    padding = 2 * PART_BYTES
    path.write_bytes(short + (padding + 8).to_bytes(4, "big") + b"free" + os.urandom(padding))
    return path


def stored(minio: MinioServer, asset_id: str) -> tuple[str, list[str]]:
    """Return the SHA-256 of an asset's original, and the unfinished uploads of its bucket."""
    with minio.client() as client:
        for bucket in (one["Name"] for one in client.list_buckets()["Buckets"]):
            objects = client.list_objects_v2(Bucket=bucket, Prefix=f"lesson/{asset_id}/").get("Contents", ())
            # Names of originals are random; those of variants begin with the variant.
            for key in (one["Key"] for one in objects):
                if re.fullmatch(r"[0-9a-f-]{36}\.mp4", key.rpartition("/")[2]):
                    body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
                    left = client.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads", [])
                    return hashlib.sha256(body).hexdigest(), [one["Key"] for one in left]
    raise AssertionError("no original in any bucket")


def numbers_of(requests: list[Request] | list[Response]) -> list[int]:
    """Return the part numbers of PUT requests to the store."""
    return sorted(int(found[1]) for one in requests if (found := re.search(r"[?&]partNumber=(\d+)", one.url)))


async def own_page(visit: Visit, site: Site) -> Page:
    """Return a window on a lesson's page, signed in as its teacher."""
    page = (await visit("alice", at=site)).pages[0]
    await page.goto("/lessons/sea-floor")
    return page


async def shown_on(page: Page) -> str | None:
    """Return the id of the lesson that the page shows."""
    return await page.locator(".state").get_attribute("data-asset")


async def test_a_lesson_survives_a_reload_half_way(
    bucket_site: Site, visit: Visit, long_film: Path, minio: MinioServer
) -> None:
    page = await own_page(visit, bucket_site)
    before = await shown_on(page)
    arrived: list[Response] = []
    page.on("response", lambda answer: arrived.append(answer) if answer.request.method == "PUT" and answer.ok else None)
    async with held(page, re.compile(r"[?&]partNumber=(?!1&)\d"), method="PUT") as second:
        await page.set_input_files("#lesson", long_film)
        await asyncio.wait_for(second.wait(), PATIENCE_SECONDS)

        async def first_part_is_there() -> bool:
            return numbers_of(arrived) == [1]

        await until(first_part_is_there, what="the first part to be stored")
        await page.reload()
    sent: list[Request] = []
    created: list[Request] = []
    page.on("request", lambda asked: sent.append(asked) if asked.method == "PUT" else None)
    page.on("request", lambda asked: created.append(asked) if asked.url.endswith("/media/uploads") else None)

    await page.set_input_files("#lesson", long_film)

    ready = page.locator(f'.state[data-state="ready"]:not([data-asset="{before}"])')
    await expect(ready).to_be_visible(timeout=VIDEO_PATIENCE_MS)
    assert numbers_of(sent) == [2, 3]  # the first part was not sent again
    assert created == []
    assert await page.evaluate("Object.keys(localStorage)") == []
    digest, unfinished = await asyncio.to_thread(stored, minio, str(await ready.get_attribute("data-asset")))
    assert digest == hashlib.sha256(long_film.read_bytes()).hexdigest()
    assert unfinished == []


async def test_four_parts_are_sent_at_a_time_and_a_cancelled_upload_leaves_nothing(
    bucket_site: Site, visit: Visit, tmp_path: Path
) -> None:
    page = await own_page(visit, bucket_site)
    lesson = tmp_path / "lesson.mp4"
    with lesson.open("wb") as file:
        file.truncate(5 * PART_BYTES + 1)  # six parts
    held_parts: list[Request] = []
    page.on("request", lambda asked: held_parts.append(asked) if asked.method == "PUT" else None)
    async with (
        held(page, re.compile(r"[?&]partNumber="), method="PUT"),
        page.expect_response(lambda answer: answer.request.method == "DELETE") as deleted,
    ):
        await page.set_input_files("#lesson", lesson)

        async def four() -> bool:
            return len(held_parts) >= 4

        await until(four, what="four parts to be under way")
        assert await page.evaluate("Object.keys(localStorage).length") == 1
        await page.click(".cancel")
    assert len(held_parts) == 4
    assert (await (await deleted.value).json())["session"]["state"] == "aborted"
    assert await page.evaluate("Object.keys(localStorage)") == []


async def test_a_part_that_was_refused_is_signed_and_sent_again(
    bucket_site: Site, visit: Visit, long_film: Path, minio: MinioServer
) -> None:
    page = await own_page(visit, bucket_site)
    refusals = {1: [503], 2: [403, 503]}
    signed: list[str] = []
    page.on("request", lambda asked: signed.append(asked.url) if "/parts/" in asked.url else None)

    async def answer(route: Route) -> None:
        [number] = numbers_of([route.request])
        if refusals.get(number):
            status = refusals[number].pop(0)
            await route.fulfill(status=status, headers={"Access-Control-Allow-Origin": "*"})
        else:
            await route.continue_()

    await page.route(re.compile(r"[?&]partNumber="), answer)
    before = await shown_on(page)

    await page.set_input_files("#lesson", long_film)

    ready = page.locator(f'.state[data-state="ready"]:not([data-asset="{before}"])')
    await expect(ready).to_be_visible(timeout=VIDEO_PATIENCE_MS)
    assert sorted(int(re.findall(r"/parts/(\d+)/sign", url)[0]) for url in signed) == [1, 1, 2, 2, 2, 3]
    digest, _ = await asyncio.to_thread(stored, minio, str(await ready.get_attribute("data-asset")))
    assert digest == hashlib.sha256(long_film.read_bytes()).hexdigest()
