from __future__ import annotations
import time, asyncio
import pytest
from tests.stories.conftest import *
from tests.stories.test_4_live import *
from tests.stories import conftest as _c

@pytest.mark.timeout(300)
async def test_probe(site, visit, film):
    t0 = time.monotonic()
    def log(*a): print(f"{time.monotonic()-t0:7.2f}", *a)
    async with behind_a_proxy(site) as (seen, proxy):
        page, asset_id = await teach(visit, film, at=seen)
        for n in ("request","requestfailed","requestfinished"):
            page.on(n, lambda r, n=n: log(n, r.url[-70:], r.failure if n=="requestfailed" else "") if "events" in r.url else None)
        page.on("response", lambda r: log("response", r.status, r.url[-60:]) if "events" in r.url else None)
        await page.evaluate(LISTEN, ["asset", asset_id, {"base": "/media", "until": "terminal"}])
        async def begun(): return len(await heard(page, "variant_progress")) >= 1
        await until(begun, 100)
        log("cut"); await proxy.cut()
        await made_meanwhile(site, asset_id)
        count = len(await heard(page)); log("heard", count)
        await proxy.restore(); log("restored")
        for _ in range(40):
            await asyncio.sleep(1)
            now = len(await heard(page))
            if now > count: log("heard", now); break
        await page.click(".stop button")
