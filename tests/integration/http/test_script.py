"""``rindle.js`` as a file: small, self-contained, served with what caches need, and in step with the library."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from rindle.errors import CODES
from rindle.events import EVENT_TYPES, TERMINAL_ASSET_STATES, TERMINAL_STATES
from rindle.http import script_router
from rindle.states import ENDED_SESSIONS

SCRIPT = files("rindle.http").joinpath("static", "rindle.js").read_text()


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(script_router(), prefix="/media")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://pages.test") as made:
        yield made


async def test_it_is_served_as_a_cacheable_module(client: httpx.AsyncClient) -> None:
    answer = await client.get("/media/rindle.js")

    assert (answer.status_code, answer.text) == (200, SCRIPT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=3600"
    assert answer.headers["etag"] == f'"{hashlib.sha256(SCRIPT.encode()).hexdigest()[:32]}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = await client.head("/media/rindle.js")
    assert (head.status_code, head.headers["etag"]) == (200, answer.headers["etag"])
    assert head.headers["content-length"] == str(len(SCRIPT.encode()))


@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_it_is_not_sent_it_again(client: httpx.AsyncClient, form: str) -> None:
    etag = (await client.get("/media/rindle.js")).headers["etag"]

    again = await client.get("/media/rindle.js", headers={"If-None-Match": form.format(etag)})
    changed = await client.get("/media/rindle.js", headers={"If-None-Match": form.format('"older"').replace("*", '""')})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert "cache-control" in again.headers
    assert changed.status_code == 200


def test_it_is_small_and_needs_nothing() -> None:
    assert len(SCRIPT.encode()) < 11_264
    assert not re.search(r"^\s*import\s|\brequire\(", SCRIPT, re.MULTILINE)
    assert not re.search(r"\beval\(|new Function|innerHTML|\.style\b|document\.write", SCRIPT)
    assert max(map(len, SCRIPT.splitlines())) <= 120


def test_it_listens_to_every_event_that_is_streamed() -> None:
    def listed(name: str) -> list[str]:
        [words] = re.findall(rf'const {name} = "([a-z ]+)"\.split', SCRIPT)
        return words.split()

    [others] = re.findall(r"const TYPES = \[(.*?)\]", SCRIPT)
    types = set(re.findall(r'"(\w+)"', others))
    for scope, name in (("variant", "VARIANT"), ("upload_session", "SESSION"), ("provider_asset", "PROVIDER")):
        types |= {f"{scope}_{word}" for word in listed(name)}

    assert types == {"snapshot", "reset", *(name for name, facts in EVENT_TYPES.items() if facts.streamed)}


def test_it_knows_where_a_story_ends() -> None:
    def listed(scope: str) -> set[str]:
        [words] = re.findall(rf"^  {scope}: \[(.*?)\],$", SCRIPT, re.MULTILINE)
        return set(re.findall(r'"(\w+)"', words))

    assert listed("asset") == set(TERMINAL_ASSET_STATES)
    assert listed("upload_session") == set(ENDED_SESSIONS)
    assert listed("provider_asset") == TERMINAL_STATES["provider_asset"]


def test_its_error_codes_are_the_library_s() -> None:
    own = {"network", "storage_transient", "storage_permanent"}
    named = set(re.findall(r'(?:RindleError\(|\d{3}: |code === |\?\? )"(\w+)"', SCRIPT))

    assert named >= {"unauthorized", "max_bytes_exceeded", "upload_cancelled", "storage_transient", "unexpected"}
    assert (named | own) - {"network"} <= set(CODES)
