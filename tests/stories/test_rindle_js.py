"""``rindle.js`` in a real browser on a page of its own: retries, fresh URLs, cancelling, waiting, the automatic mode.

The site and its worker are real; single answers are replaced on the way to the browser, as a bad network or a store in
trouble would have it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Page, Request, Route, expect

from rindle.errors import CODES
from tests.browser import held
from tests.patience import PATIENCE_SECONDS, until
from tests.stories.conftest import Visit
from tests.stories.test_1_avatar import picture

pytestmark = pytest.mark.external

PHOTO = picture("coffee")
STORE = "**/media/local/**"
VERIFY = "**/media/uploads/*/verify"

# Begins an upload of what `#file` holds and keeps everything that is told of it.
BEGIN = """
async (name) => {
  const module = await import("/media/rindle.js");
  window.told = {
    progress: [], states: [], ended: null, puts: 0, pauses: [], isGlobal: window.Rindle === module.default,
  };
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (body) { window.told.puts += 1; send.call(this, body); };
  const later = window.setTimeout;
  window.setTimeout = (wake, pause) => { window.told.pauses.push(pause); return later(wake, pause); };
  const file = document.querySelector("#file").files[0];
  window.up = module.upload(name ? new File([file], name) : file, {
    base: "/media", profile: "avatar",
    onProgress: (progress) => window.told.progress.push(progress),
    onState: (state) => window.told.states.push(state),
  });
  window.up.done.then(
    ({ assetId, sessionId }) => { window.told.ended = { assetId, sessionId }; },
    (error) => {
      const { code, status, detail, message } = error;
      window.told.ended = { code, status, detail, message, isOurs: error instanceof module.RindleError };
    },
  );
}
"""


@pytest.fixture
async def page(visit: Visit) -> Page:
    """A bare page of the site with nothing but a chosen photo on it."""
    page = (await visit("emeka")).pages[0]
    await page.evaluate("document.body.innerHTML = '<input id=file type=file>'")
    await page.set_input_files("#file", PHOTO)
    return page


async def ended(page: Page) -> dict[str, Any]:
    """Wait for the end of the upload and return what was told of it."""

    async def over() -> bool:
        return bool(await page.evaluate("window.told.ended"))

    await until(over)
    told: dict[str, Any] = await page.evaluate("window.told")
    return told


async def failing(page: Page, pattern: str, *answers: int | str) -> list[Request]:
    """Answer the next requests with these statuses, or break them off; then let them through."""
    left = [*answers]
    seen: list[Request] = []

    async def answer(route: Route) -> None:
        seen.append(route.request)
        match left.pop(0) if left else None:
            case None:
                await route.continue_()
            case int(status):
                await route.fulfill(status=status)
            case _:
                await route.abort("connectionreset")

    await page.route(pattern, answer)
    return seen


def requests_of(page: Page) -> list[Request]:
    """Return what the page asks from now on."""
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    return asked


def methods(requests: list[Request]) -> list[str]:
    """Return what was asked, without ids."""
    return [f"{one.method} {re.sub(r'[0-9a-f-]{36}', '…', one.url.partition('/media')[2])}" for one in requests]


# --- uploading -----------------------------------------------------------------------------------------------------


async def test_an_upload_tells_its_progress_and_is_whole_only_when_verified(page: Page) -> None:
    asked = requests_of(page)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert told["isGlobal"]
    assert told["ended"].keys() == {"assetId", "sessionId"}
    assert [state["state"] for state in told["states"]] == ["uploading", "verifying", "completed"]
    assert {(state["sessionId"], state["assetId"]) for state in told["states"]} == {
        (told["ended"]["sessionId"], told["ended"]["assetId"])
    }
    percents = [one["percent"] for one in told["progress"]]
    assert percents == sorted(percents) and percents[-1] == 100 and max(percents[:-1]) <= 99
    size = len(PHOTO["buffer"])
    assert told["progress"][-1] == {"loaded": size, "total": size, "percent": 100}
    put = next(one for one in asked if one.method == "PUT")
    signed = {"content-type": "image/jpeg", "content-length": str(size)}
    headers = await put.all_headers()
    assert {name: headers.get(name) for name in signed} == signed
    assert not [name for name in headers if name.startswith("x-") or name == "authorization"]


async def test_a_store_in_trouble_is_asked_three_times_more(page: Page) -> None:
    puts = await failing(page, STORE, 503, "broken", 429)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert told["ended"]["assetId"]
    assert len(puts) == 4
    assert told["pauses"] == [1000, 2000, 4000]  # milliseconds


@pytest.mark.parametrize(("how", "code"), [(500, "storage_transient"), ("broken", "network")])
async def test_then_the_upload_fails_and_is_cancelled(page: Page, how: int | str, code: str) -> None:
    puts = await failing(page, STORE, *[how] * 9)
    async with page.expect_response(lambda answer: answer.request.method == "DELETE") as deleted:
        await page.evaluate(BEGIN, "")
        told = await ended(page)

    assert told["ended"]["code"] == code and told["ended"]["isOurs"]
    assert len(puts) == 4
    assert told["states"][-1]["state"] == "failed"
    assert (await (await deleted.value).json())["session"]["state"] == "aborted"


async def test_an_expired_url_is_replaced_once(page: Page) -> None:
    puts = await failing(page, STORE, 403)
    signed: list[str] = []

    async def mark(route: Route) -> None:
        answer = await (await route.fetch()).json()
        answer["upload"]["url"] += "?fresh"  # within one second the same URL is signed again
        signed.append(answer["upload"]["url"])
        await route.fulfill(json=answer)

    await page.route("**/media/uploads/*/sign", mark)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert told["ended"]["assetId"]
    assert [put.url.endswith("?fresh") for put in puts] == [False, True]
    assert len(signed) == 1


@pytest.mark.parametrize(
    ("answers", "code", "count"),
    [((403, 403), "unauthorized", 2), ((413,), "max_bytes_exceeded", 1), ((400,), "storage_permanent", 1)],
)
async def test_what_no_retry_can_mend_fails_at_once(
    page: Page, answers: tuple[int, ...], code: str, count: int
) -> None:
    puts = await failing(page, STORE, *answers)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert (told["ended"]["code"], told["ended"]["status"], len(puts)) == (code, answers[-1], count)
    assert code in CODES


async def test_an_object_that_is_there_already_is_what_was_wanted(page: Page) -> None:
    async def lose_the_answer(route: Route) -> None:
        await route.fetch()
        await route.abort("connectionreset")

    await page.route(STORE, lose_the_answer, times=1)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert told["ended"]["assetId"]
    assert told["puts"] == 2


async def test_refusals_carry_the_server_s_code(page: Page) -> None:
    await page.evaluate(BEGIN, "notes.txt")
    told = await ended(page)

    error = told["ended"]
    assert (error["code"], error["status"], error["isOurs"]) == ("extension_not_allowed", 422, True)
    assert error["detail"] and error["message"] != error["code"]
    assert [state["state"] for state in told["states"]] == ["failed"]


# --- cancelling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["POST", "PUT"])
async def test_an_abort_stops_the_bytes_and_tells_the_server(page: Page, where: str) -> None:
    asked = requests_of(page)
    pattern = "**/media/uploads" if where == "POST" else STORE
    async with (
        page.expect_response(lambda answer: answer.request.method == "DELETE") as deleted,
        held(page, pattern, method=where, then="continue" if where == "POST" else "abort") as reached,
    ):
        await page.evaluate(BEGIN, "")
        await asyncio.wait_for(reached.wait(), PATIENCE_SECONDS)
        await page.evaluate("window.up.abort()")
        told = await ended(page)

    assert told["ended"]["code"] == "upload_cancelled"
    assert told["states"][-1]["state"] == "aborted"
    assert (await (await deleted.value).json())["session"]["state"] == "aborted"
    expected = ["POST /uploads", "DELETE /uploads/…"]
    assert [one for one in methods(asked) if not one.startswith("PUT")] == expected
    assert [one.method for one in asked].count("PUT") == (where == "PUT")


async def test_an_abort_after_the_end_changes_nothing(page: Page) -> None:
    await page.evaluate(BEGIN, "")
    await ended(page)
    asked = requests_of(page)

    await page.evaluate("window.up.abort()")

    assert (await page.request.get(f"/media/assets/{(await ended(page))['ended']['assetId']}")).status == 200
    assert [one for one in methods(asked) if one.startswith("DELETE")] == []


# --- verifying -----------------------------------------------------------------------------------------------------


async def test_when_the_store_is_away_at_the_end_the_page_waits_for_the_events(page: Page) -> None:
    streams = await failing(page, "**/media/events?*")
    verifications: list[int] = []

    async def away(route: Route) -> None:
        verifications.append(1)
        if len(verifications) > 1:
            return await route.continue_()
        await route.fetch()  # the server goes on by itself
        body = {"error": {"code": "storage_transient", "message": "the store does not answer", "detail": {}}}
        await route.fulfill(status=503, json=body, headers={"Retry-After": "5"})

    await page.route(VERIFY, away)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert told["ended"]["assetId"]
    assert len(verifications) == 2
    assert len(streams) == 1 and "scope=upload_session" in streams[0].url
    assert told["progress"][-1]["percent"] == 100


async def test_a_verification_whose_answer_is_lost_is_repeated(page: Page) -> None:
    calls = await failing(page, VERIFY, "broken", 502)

    await page.evaluate(BEGIN, "")
    told = await ended(page)

    assert told["ended"]["assetId"]
    assert len(calls) == 3


# --- events --------------------------------------------------------------------------------------------------------


async def test_a_stream_that_was_refused_for_a_while_is_opened_again(page: Page) -> None:
    await page.evaluate(BEGIN, "")
    asset_id = (await ended(page))["ended"]["assetId"]
    streams = await failing(page, "**/media/events?*", 503, 429)

    await page.evaluate(
        """async (id) => {
          const { subscribe } = await import("/media/rindle.js");
          window.heard = [];
          subscribe("asset", id, (...one) => window.heard.push(one), { base: "/media", until: "terminal" });
        }""",
        asset_id,
    )

    async def ready() -> bool:
        return any(payload.get("state") == "ready" for _, payload, _ in await page.evaluate("window.heard"))

    await until(ready)
    assert len(streams) >= 3
    assert "error" not in [name for name, _, _ in await page.evaluate("window.heard")]


# --- without a line of script ---------------------------------------------------------------------------------------


async def test_an_input_uploads_by_itself(page: Page) -> None:
    await page.evaluate(
        """async () => {
          document.body.innerHTML = `
            <form><input id="auto" type="file" data-rindle-profile="avatar" data-rindle-base="/media"
                         data-rindle-progress="#bar" data-rindle-target="#asset">
            <progress id="bar"></progress><input id="asset" type="hidden" value="old"></form>`;
          window.fired = [];
          for (const name of ["progress", "complete", "error", "event"])
            document.querySelector("form").addEventListener(`rindle:${name}`, (event) => {
              const { code, percent, assetId, payload } = event.detail;
              const what = code ?? percent ?? assetId ?? payload.state;
              window.fired.push([name, what, document.querySelector("#asset").value]);
            });
          await import("/media/rindle.js");
        }"""
    )
    await page.set_input_files("#auto", PHOTO)

    async def at_rest() -> bool:
        # The asset is ready after its variants, and with that the page stops listening.
        asset_id = await page.locator("#asset").input_value()
        answer = await page.request.get(f"/media/assets/{asset_id}") if asset_id else None
        is_ready = answer is not None and (await answer.json())["asset"]["state"] == "ready"
        return is_ready and (await page.evaluate("window.fired"))[-1][:2] == ["event", "ready"]

    await until(at_rest)
    fired = await page.evaluate("window.fired")
    names = [name for name, _, _ in fired]
    assert list(dict.fromkeys(names)) == ["progress", "complete", "event"]
    [(_, asset_id, target)] = [one for one in fired if one[0] == "complete"]
    assert target == asset_id == await page.locator("#asset").input_value()
    assert {target for name, _, target in fired if name == "progress"} == {""}  # the old value is gone at once
    await expect(page.locator("#bar")).to_have_attribute("value", "100")
    assert await page.locator("#bar").get_attribute("max") == "100"

    await page.set_input_files("#auto", {**PHOTO, "name": "notes.txt"})

    async def refused() -> bool:
        return ["error", "extension_not_allowed", ""] in await page.evaluate("window.fired")

    await until(refused)
    assert await page.locator("#asset").input_value() == ""


async def test_another_choice_ends_the_upload_before_it(page: Page) -> None:
    await page.evaluate(
        """async () => {
          document.body.innerHTML = '<input id="auto" type="file" data-rindle-profile="avatar">';
          window.codes = [];
          document.addEventListener("rindle:error", (event) => window.codes.push(event.detail.code));
          document.addEventListener("rindle:complete", () => window.codes.push("complete"));
          await import("/media/rindle.js");
        }"""
    )
    async with held(page, STORE, times=1) as sending:
        await page.set_input_files("#auto", PHOTO)
        await asyncio.wait_for(sending.wait(), PATIENCE_SECONDS)
        await page.set_input_files("#auto", picture("chelsea"))

        async def both() -> bool:
            return sorted(await page.evaluate("window.codes")) == ["complete", "upload_cancelled"]

        await until(both)


async def test_a_store_that_takes_no_parts_is_not_sent_the_whole_file_instead(page: Page) -> None:
    asked = requests_of(page)
    await page.evaluate(
        """async () => {
          document.body.innerHTML =
            '<input id="auto" type="file" data-rindle-profile="avatar" data-rindle-strategy="multipart">';
          window.codes = [];
          document.addEventListener("rindle:error", (event) => window.codes.push(event.detail.code));
          await import("/media/rindle.js");
        }"""
    )
    await page.set_input_files("#auto", PHOTO)

    async def refused() -> bool:
        return bool(await page.evaluate("window.codes.length"))

    await until(refused)
    assert await page.evaluate("window.codes") == ["upload_unsupported"]
    assert "PUT" not in {one.method for one in asked}
    assert await page.evaluate("localStorage.length") == 0
