"""Story 1, and story 5 as far as attaching goes: a member chooses, replaces and removes a photo, in a real browser."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import pytest
from PIL import Image
from playwright.async_api import BrowserContext, FilePayload, Page, Request, expect
from skimage import data

from tests.browser import errors_of, follow, held, pixels_of
from tests.contract.serving import send_raw
from tests.patience import PATIENCE_SECONDS, until, until_blocking
from tests.stage import is_stopped
from tests.stories.conftest import Site, Visit

pytestmark = pytest.mark.external

#: What ``examples.cohort.media`` declares, with the width each has for a photo of 1200 × 800 pixels.
WIDTHS = {"card": 320, "card_avif": 320, "large": 1024, "large_jpeg": 1024, "thumb": 96}
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'

# Runs before the page's own scripts and keeps every text the badge and the progress line ever had.
WATCH = """
window.seen = { badge: [], step: [], bar: [] };
new MutationObserver(() => {
  for (const [name, read] of [
    ["badge", () => document.querySelector(".badge")?.textContent],
    ["step", () => document.querySelector(".step")?.textContent],
    ["bar", () => document.querySelector("progress")?.value],
  ]) {
    const now = read();
    if (now !== undefined && window.seen[name].at(-1) !== now) window.seen[name].push(now);
  }
}).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
"""

# Loads each address as a page would and says how many pixels the picture has.
NATURAL_WIDTHS = """
(addresses) => Promise.all(addresses.map(async (address) => {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture.naturalWidth;
}))
"""


def picture(name: str) -> FilePayload:
    """Return a photograph that scikit-image ships, 1200 × 800 pixels, as a JPEG in the form Playwright takes files."""
    made = io.BytesIO()
    Image.fromarray(getattr(data, name)()).convert("RGB").resize((1200, 800)).save(made, "JPEG", quality=90)
    return {"name": f"{name}.jpg", "mimeType": "image/jpeg", "buffer": made.getvalue()}


def page_of(context: BrowserContext) -> Page:
    """Return the window's one page."""
    return context.pages[0]


async def choose(page: Page, photo: FilePayload, *, waits: Site | None = None) -> str:
    """Upload ``photo`` through the page's form, wait until it is ready and return the asset's id.

    The worker of a site that ``waits`` stands still until the page says that the photo is being processed: a page that
    is slower than the worker would not show it.
    """
    before = await asset_on(page)
    with nullcontext() if waits is None else suspended(waits):
        await page.set_input_files("#photo", photo)
        if waits is not None:
            await expect(page.locator(".badge")).to_have_text("Processing")
    ready = page.locator(f'.portrait[data-state="ready"]:not([data-asset="{before}"])')
    await expect(ready).to_be_visible()
    await expect(page.locator(".progress")).to_be_hidden()
    return str(await asset_on(page))


async def asset_on(page: Page) -> str | None:
    """Return the id of the asset the page shows."""
    return await page.locator(".portrait").get_attribute("data-asset")


async def addresses_on(page: Page) -> dict[str, str]:
    """Return the signed address of each variant the page lists, by name."""
    links = await page.locator("a.variant").all()
    return {str(await link.text_content()): str(await link.get_attribute("href")) for link in links}


async def form_token(page: Page) -> str:
    """Return the form token of the page's session."""
    return await page.locator("input[name=form_token]").first.input_value()


@contextmanager
def suspended(site: Site) -> Iterator[None]:
    """Let the worker stand still for the block.

    It is stopped again until that was outside a transaction: SQLite's write lock would be kept from the page.
    """
    pid = site.worker.pid
    try:
        while True:
            os.kill(pid, signal.SIGSTOP)
            until_blocking(lambda: is_stopped(pid), what="the worker to stop")
            if can_be_written(site.media.parent / "rindle.db"):
                break
            os.kill(pid, signal.SIGCONT)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def can_be_written(database: Path) -> bool:
    """Say whether nobody holds the write lock of an SQLite file."""
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def purged(site: Site, context: BrowserContext, asset_id: str) -> Callable[[], Awaitable[bool]]:
    """Return a condition: the asset is deleted and its objects are gone; its row stays until its ticket has expired."""

    async def asked() -> bool:
        answer = await context.request.get(f"/media/assets/{asset_id}")
        is_deleted = answer.status == 404 or (await answer.json())["asset"]["state"] == "deleted"
        return is_deleted and site.objects_of(asset_id) == []

    return asked


# --- story 1 -------------------------------------------------------------------------------------------------------


async def test_a_chosen_photo_goes_straight_to_the_store_and_appears_when_it_is_ready(site: Site, visit: Visit) -> None:
    context = await visit("alice")
    page = page_of(context)
    await page.add_init_script(WATCH)
    await page.reload()
    puts: list[Request] = []
    page.on("request", lambda request: puts.append(request) if request.method == "PUT" else None)
    violations = errors_of(page)
    photo = picture("astronaut")

    asset_id = await choose(page, photo, waits=site)

    seen = await page.evaluate("window.seen")
    assert [text for text in seen["badge"] if text in ("Processing", "Ready")] == ["Processing", "Ready"]
    assert any(text.startswith("Uploading… ") for text in seen["step"])
    assert "Uploaded. Checking…" in seen["step"]
    assert 100 in seen["bar"]
    assert len(puts) == 1
    headers = await puts[0].all_headers()
    assert headers["content-type"] == "image/jpeg"
    assert headers["content-length"] == str(len(photo["buffer"]))
    assert "x-form-token" not in headers
    sources = page.locator(".portrait picture source")
    assert [await one.get_attribute("type") for one in await sources.all()] == ["image/avif", "image/webp"]
    assert (await pixels_of(page.locator(".portrait img")))[0] == 1024
    addresses = await addresses_on(page)
    assert dict(zip(addresses, await page.evaluate(NATURAL_WIDTHS, [*addresses.values()]), strict=True)) == WIDTHS
    assert len(site.objects_of(asset_id)) == 1 + len(WIDTHS)
    assert violations == []


async def test_the_same_page_puts_into_a_bucket_of_another_origin(bucket_site: Site, visit: Visit) -> None:
    page = page_of(await visit("alice", at=bucket_site))
    puts: list[Request] = []
    page.on("request", lambda request: puts.append(request) if request.method == "PUT" else None)

    await choose(page, picture("astronaut"))

    assert len(puts) == 1
    assert not puts[0].url.startswith(bucket_site.url)
    addresses = await addresses_on(page)
    assert dict(zip(addresses, await page.evaluate(NATURAL_WIDTHS, [*addresses.values()]), strict=True)) == WIDTHS


async def test_others_see_the_photo_and_no_buttons(visit: Visit) -> None:
    alice = page_of(await visit("alice"))
    await choose(alice, picture("astronaut"))

    bob = page_of(await visit("bob"))
    await bob.goto("/")
    face = bob.locator('a[href="/members/alice"] img')
    await expect(face).to_be_visible()
    assert (await pixels_of(face))[0] == 320
    await bob.goto("/members/alice")
    await expect(bob.locator(".portrait picture")).to_be_visible()
    await expect(bob.locator(".chooser, .remove")).to_have_count(0)


async def test_a_reload_goes_on_where_the_page_was(visit: Visit) -> None:
    page = page_of(await visit("daria"))
    async with held(page, "**/media/events?*", times=1) as asked:
        await page.set_input_files("#photo", picture("coffee"))
        await asyncio.wait_for(asked.wait(), PATIENCE_SECONDS)
        # The page is between the verification and the first event of the asset.
        await page.reload()

    await expect(page.locator(".badge")).to_have_text("Ready")
    await expect(page.locator(".portrait picture")).to_be_visible()


async def test_cancel_stops_the_bytes_and_ends_the_upload(visit: Visit) -> None:
    page = page_of(await visit("emeka"))
    async with held(page, "**/media/local/*") as sending:
        await page.set_input_files("#photo", picture("coffee"))
        await asyncio.wait_for(sending.wait(), PATIENCE_SECONDS)
        async with page.expect_response(lambda answer: answer.request.method == "DELETE") as ended:
            await page.click(".cancel")

    assert (await (await ended.value).json())["session"]["state"] == "aborted"
    await expect(page.locator(".chooser .notice")).to_have_text("Upload cancelled.")
    await expect(page.locator(".badge")).to_have_text("No photo yet")


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("portrait.jpg", SVG, "not a photo"),
        ("notes.txt", b"only words", "choose a JPEG"),
        ("half.jpg", picture("coffee")["buffer"][:20_000], "damaged"),
        ("empty.jpg", b"", "empty"),
    ],
    ids=["script", "text", "half", "empty"],
)
async def test_a_refused_file_says_why_and_replaces_nothing(visit: Visit, name: str, body: bytes, told: str) -> None:
    page = page_of(await visit("fumiko"))
    kept = await asset_on(page) or await choose(page, picture("chelsea"))

    await page.set_input_files("#photo", {"name": name, "mimeType": "image/jpeg", "buffer": body})

    await expect(page.locator(".chooser .notice")).to_contain_text(told)
    await expect(page.locator(".badge")).to_have_text("Ready")
    await page.reload()
    assert await asset_on(page) == kept


# --- story 5: attach, replace, detach ------------------------------------------------------------------------------


async def test_replacing_a_photo_purges_the_one_before(site: Site, visit: Visit) -> None:
    context = await visit("chidi")
    page = page_of(context)
    first = await choose(page, picture("coffee"))
    addresses = await addresses_on(page)

    second = await choose(page, picture("chelsea"))

    assert second != first
    await until(purged(site, context, first), what="the purge of the photo before")
    for address in addresses.values():
        assert (await context.request.get(address)).status == 404
    assert len(site.objects_of(second)) == 1 + len(WIDTHS)


async def test_removing_a_photo_empties_the_place(site: Site, visit: Visit) -> None:
    context = await visit("chidi")
    page = page_of(context)
    asset_id = await choose(page, picture("rocket"))

    await page.click(".remove button")

    await expect(page.locator(".badge")).to_have_text("No photo yet")
    await expect(page.locator(".portrait .initials")).to_have_text("CA")
    await until(purged(site, context, asset_id), what="the purge of the photo")


async def test_nobody_can_take_or_change_what_is_somebody_elses(visit: Visit) -> None:
    alice = await visit("alice")
    asset_id = await choose(page_of(alice), picture("astronaut"))
    bob = await visit("bob")
    token = await form_token(page_of(bob))
    as_script = {"Accept": "application/json"}

    taken = await bob.request.post(
        "/members/bob/avatar", form={"asset_id": asset_id, "form_token": token}, headers=as_script
    )
    assert (taken.status, (await taken.json())["error"]["code"]) == (404, "not_found")
    as_person = await bob.request.post("/members/bob/avatar", form={"asset_id": asset_id, "form_token": token})
    assert "not yours" in await as_person.text()
    for address in ("/members/alice/avatar", "/members/alice/avatar/remove"):
        changed = await bob.request.post(address, form={"asset_id": asset_id, "form_token": token}, headers=as_script)
        assert (changed.status, (await changed.json())["error"]["code"]) == (403, "unauthorized")
    assert (await bob.request.get(f"/media/assets/{asset_id}")).status == 404
    assert (await bob.request.get(f"/media/assets/{asset_id}/url")).status == 404

    await page_of(bob).reload()
    assert await asset_on(page_of(bob)) is None
    await page_of(alice).reload()
    assert await asset_on(page_of(alice)) == asset_id


async def test_a_form_of_another_site_changes_nothing(visit: Visit) -> None:
    context = await visit("alice")
    asset_id = await choose(page_of(context), picture("astronaut"))

    for fields in ({}, {"form_token": "guessed"}):
        for address in ("/members/alice/avatar/remove", "/session"):
            refused = await context.request.post(address, form={"actor": "bob", **fields}, max_redirects=0)
            assert refused.status in (303, 403)
    created = await context.request.post("/media/uploads", data={"profile": "avatar", "filename": "a.jpg"})
    assert (created.status, (await created.json())["error"]["code"]) == (403, "unauthorized")

    await page_of(context).reload()
    assert await asset_on(page_of(context)) == asset_id
    await expect(page_of(context).locator("#actor")).to_have_value("alice")


async def test_a_refused_form_is_answered_before_its_file_is_sent(site: Site) -> None:
    start = (
        b'--x\r\nContent-Disposition: form-data; name="form_token"\r\n\r\nguessed\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n\xff\xd8'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "14000000"}

    status = await send_raw("POST", f"{site.url}/members/alice/avatar", headers, start)

    assert status == 303  # back to the page, with a notice


# --- without scripts -----------------------------------------------------------------------------------------------


async def test_everything_works_without_scripts(site: Site, visit: Visit) -> None:
    context = await visit("bob", scripts=False)
    page = page_of(context)

    async def send(photo: FilePayload) -> str:
        await page.set_input_files("#photo", photo)
        await follow(page, ".chooser .row button")
        # While it is being worked on the page looks again by itself.
        await expect(page.locator(".badge")).to_have_text("Ready")
        assert not re.search(r"http-equiv=.refresh", await page.content())
        return str(await asset_on(page))

    first = await send(picture("coffee"))
    await expect(page.locator(".portrait picture")).to_be_visible()
    second = await send(picture("chelsea"))
    assert second != first
    await until(purged(site, context, first))

    await page.set_input_files("#photo", {"name": "portrait.jpg", "mimeType": "image/jpeg", "buffer": SVG})
    await follow(page, ".chooser .row button")
    await expect(page.locator("main > .notice")).to_contain_text("not a photo")
    assert await asset_on(page) == second

    await follow(page, ".remove button")
    await expect(page.locator(".badge")).to_have_text("No photo yet")
    await until(purged(site, context, second))
