"""Plug-ins that never return: only their own profile waits, in workers and web processes, and readiness names them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from rindle import Profile, bootstrap, plugins
from rindle.errors import PluginUnavailable, ScannerUnavailable, SourceTimeout, Unauthorized
from rindle.http import create_router
from rindle.plugin_threads import Limits
from rindle.plugins import Kind
from tests.application import Avatar
from tests.gallery import opened, png
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import Stage, photo, staged

#: Activities that the worker of a test runs at once, and how many of them one plug-in may have.
SLOTS, CALLS = 6, 3
#: Seconds of a time limit that a test waits for.
SHORT = 0.5


@pytest.fixture(autouse=True)
def small_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every plug-in of this process begin with a small budget, and give workers few slots."""
    monkeypatch.setattr(plugins, "LIMITS", dict.fromkeys(Kind, Limits(threads=2, calls=CALLS, lost=2)))
    monkeypatch.setattr(plugins, "_budgets", {})
    monkeypatch.setattr(bootstrap, "ACTIVITY_SLOTS", SLOTS)


def scans(stage: Stage) -> int:
    """Return how often the scanner was called."""
    calls = stage.home / "scans"
    return len(calls.read_text().splitlines()) if calls.is_file() else 0


# --- workers ------------------------------------------------------------------------------------------------------


async def test_a_scanner_that_never_returns_leaves_slots_to_the_uploads_of_other_profiles(lite_stage: Stage) -> None:
    lite_stage.tell("scanner", "hang")
    await lite_stage.member()
    waiting = [await lite_stage.verified("scanned") for _ in range(SLOTS + 2)]
    await until(lambda: scans(lite_stage) >= 2, what="the threads of the scanner to be in use")

    other = await lite_stage.ready("avatar")

    assert other.state == "ready"
    assert scans(lite_stage) == 2
    assert {(await lite_stage.rindle.asset(asset.id)).state for asset in waiting} <= {"validating", "analyzing"}
    lite_stage.tell("scanner", "")
    assert {(await lite_stage.settled(asset.id)).state for asset in waiting} == {"ready"}


async def test_a_worker_whose_scanner_has_used_up_its_budget_stays_ready_and_names_it(
    tmp_path: Path, temporal_server: Any
) -> None:
    url, limits = f"sqlite+aiosqlite:///{tmp_path}/stage.db", {"RINDLE_SCANNER_TIMEOUT_SECONDS": str(SHORT)}
    async with staged(tmp_path, url, temporal_server.target, limits) as stage:
        stage.tell("scanner", "hang")
        member = await stage.member()
        waiting = [await stage.verified("scanned") for _ in range(2)]
        expected = "scan ControlledScanner: 2 calls have exceeded their time limit and never returned; further calls"

        async def named() -> bool:
            missing, warnings = await member.readiness()
            return missing == () and any(warning.startswith(expected) for warning in warnings)

        await until(named, what="readiness to name the scanner")
        assert (await stage.ready("avatar")).state == "ready"
        assert scans(stage) == 2  # it is not called again

        stage.tell("scanner", "")
        assert {(await stage.settled(asset.id)).state for asset in waiting} == {"ready"}
        await until(lambda: plugins.lost_threads() == [], what="the threads to return")


async def test_the_readiness_of_a_worker_process_names_a_plugin_that_does_not_return(
    tmp_path: Path, temporal_server: Any
) -> None:
    url, limits = f"sqlite+aiosqlite:///{tmp_path}/stage.db", {"RINDLE_SCANNER_TIMEOUT_SECONDS": str(SHORT)}
    async with staged(tmp_path, url, temporal_server.target, limits) as stage:
        stage.tell("scanner", "hang")
        worker = await stage.worker()
        await stage.verified("scanned")
        async with httpx.AsyncClient(base_url=worker.health, timeout=PATIENCE_SECONDS) as probe:

            async def warned() -> str:
                answer = await probe.get("/readyz")
                return answer.text if "warning" in answer.text and answer.status_code == 200 else ""

            status, warning, *_ = (await until(warned, what="a warning")).splitlines()

        assert status == "ok"
        assert warning.startswith("warning: scan ControlledScanner: ")


# --- web processes ------------------------------------------------------------------------------------------------


class Hanging:
    """Every kind of plug-in at once; never returns until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def read(self, size: int) -> bytes:
        """Be a file that is uploaded."""
        self.released.wait()
        return b""

    def scan(self, path: Path, *, asset: Any) -> None:
        """Be a scanner."""
        self.released.wait()

    def authorize(self, actor: Any, action: str, subject: Any) -> bool:
        """Be an authorizer."""
        return not self.released.wait()

    def actor_of(self, request: Request) -> str:
        """Be a hook of the routes."""
        self.released.wait()
        return "late"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    plugin = Hanging()
    yield plugin
    plugin.released.set()


def profiles_with(plugin: Hanging) -> Any:
    """Return how to make a profile whose plug-ins hang, and one without plug-ins."""

    def make(store: Any) -> list[type[Profile]]:
        class Guarded(Profile):
            name = "guarded"
            storage = store
            variants: dict[str, Any] = {}
            scanner = plugin
            delivery = {"authorizer": plugin}

        class Open(Profile):
            name = "open"
            storage = store
            variants: dict[str, Any] = {}

        return [Guarded, Open]

    return make


async def test_server_side_uploads_of_other_profiles_go_on(tmp_path: Path, hanging: Hanging) -> None:
    async with opened(tmp_path, profiles_with(hanging), scanner_timeout_seconds=SHORT) as gallery:
        source, rindle = photo(tmp_path / "photo.jpg"), gallery.rindle
        for _ in range(2):
            with pytest.raises(ScannerUnavailable, match="scanner failed"):
                await rindle.upload("guarded", source, filename="me.jpg")
        with pytest.raises(ScannerUnavailable) as refused:
            await rindle.upload("guarded", source, filename="me.jpg")

        assert refused.value.detail == {"error": "PluginUnavailable"}
        assert (await rindle.upload("open", source, filename="me.jpg")).state == "analyzing"


async def test_a_source_that_never_returns_is_given_up(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, profiles_with(hanging)) as gallery:
        with monkeypatch.context() as patched, pytest.raises(SourceTimeout):
            patched.setattr(plugins, "READ_SECONDS", SHORT)
            await gallery.rindle.upload("open", hanging, filename="me.jpg")

        assert (await gallery.uploaded(gallery.rindle.profiles.get("open"))).state == "analyzing"


async def test_an_authorizer_that_never_returns_denies_only_what_it_decides(
    tmp_path: Path, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "ANSWER_SECONDS", SHORT)
    async with opened(tmp_path, profiles_with(hanging)) as gallery:
        guarded, public = (gallery.rindle.profiles.get(name) for name in ("guarded", "open"))
        asset = await gallery.available(public)
        for _ in range(3):
            with pytest.raises(Unauthorized):
                await plugins.authorize(guarded.delivery_policy().authorizer, "alice", "deliver", None)

        assert plugins.lost_threads()[0].startswith("authorize Hanging: 2 calls")
        assert await gallery.rindle.url(public, asset, actor="alice")


async def test_a_hook_that_never_returns_is_refused_while_other_routes_answer(
    lite_stage: Stage, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "ANSWER_SECONDS", SHORT)
    app = FastAPI()
    options: dict[str, Any] = {"profiles": {"avatar": Avatar}, "allow_anonymous": True}
    app.include_router(
        create_router(lite_stage.rindle, **options, actor_from_request=hanging.actor_of), prefix="/hanging"
    )
    app.include_router(create_router(lite_stage.rindle, **options), prefix="/media")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    body, headers = {"profile": "avatar", "filename": "me.png", "size": len(png())}, {"X-Rindle": "1"}
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test", timeout=PATIENCE_SECONDS) as web:

        async def create(path: str) -> httpx.Response:
            return await web.post(f"{path}/uploads", json=body, headers=headers)

        late = await asyncio.gather(create("/hanging"), create("/hanging"))  # two threads are lost
        refused = await create("/hanging")

        for answer in (*late, refused):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, PluginUnavailable.code)
        assert (await create("/media")).status_code == 201

        async def warned() -> httpx.Response | None:
            answer = await web.get("/media/readyz")
            return answer if answer.status_code == 200 and answer.json()["warnings"] else None

        ready = await until(warned, what="readiness to warn")
        assert ready is not None and ready.json()["warnings"][0].startswith("request Hanging: 2 calls")
