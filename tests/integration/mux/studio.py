"""A site whose creators send films to Mux, on the server that stands for it: routes, webhooks, workers and a page."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from rindle import Rindle
from rindle.db import direct_uploads
from rindle.db.models import MediaProviderAsset
from rindle.http import create_router
from rindle.presets import MuxDirectUploadWeb, MuxWeb
from rindle.process import leave
from rindle.streaming.mux import MuxConfig, MuxProvider
from rindle.workflows import policies
from tests.application import SECRET, make
from tests.live import served
from tests.servers.mux import FakeMux
from tests.stage import Stage

WEBHOOK_SECRET = "the secret of Mux's webhooks"

PAGE = """<!doctype html><meta charset="utf-8"><title>Creator</title>
<script src="upchunk.js"></script><script src="hls.js"></script>
<input type="file" id="film"><p id="badge">nothing yet</p><button id="cancel">Cancel</button>
<video id="player" muted></video>
<script>
window.news = [];
const headers = {"X-Rindle": "1", "Content-Type": "application/json"};
const badge = document.getElementById("badge");
async function send() {
  const file = document.getElementById("film").files[0];
  const body = JSON.stringify({profile: "talk", filename: file.name});
  const answer = await fetch("/media/uploads/direct", {method: "POST", headers, body});
  const {upload_url, asset_id} = await answer.json();
  window.assetId = asset_id;
  badge.textContent = "uploading";
  const events = new EventSource(`/media/events?scope=asset&id=${asset_id}`);
  events.addEventListener("asset_state_changed", (event) => { badge.textContent = JSON.parse(event.data).state; });
  events.addEventListener("provider_asset_deleted", () => { badge.textContent = "cancelled"; });
  events.addEventListener("provider_asset_errored", () => { badge.textContent = "failed"; });
  events.addEventListener("open", () => {
    window.upload = UpChunk.createUpload({endpoint: upload_url, file, chunkSize: 256, delayBeforeAttempt: 0.1});
    for (const name of ["chunkSuccess", "attemptFailure", "error", "success"])
      window.upload.on(name, () => { window.news.push(name); });
  }, {once: true});
}
document.getElementById("cancel").onclick = async () => {
  window.upload.pause();
  const answer = await fetch(`/media/uploads/direct/${window.assetId}`, {method: "DELETE", headers});
  window.news.push(`cancelled ${answer.status}`);
};
async function play() {
  const {url} = await (await fetch(`/stream/${window.assetId}`)).json();
  const player = new Hls();
  player.on(Hls.Events.ERROR, (event, told) => { if (told.fatal) window.news.push(`refused ${told.details}`); });
  player.loadSource(url);
  player.attachMedia(document.getElementById("player"));
  document.getElementById("player").play().catch(() => {});
}
</script>"""


def config_of(mux: FakeMux) -> MuxConfig:
    """Return the credentials of the server that stands for Mux, as they are now."""
    token_id, token_secret = mux.token
    return MuxConfig(
        token_id=token_id,
        token_secret=token_secret,
        signing_key_id=mux.signing_key.id,
        signing_private_key=mux.signing_key.private_key,
        webhook_secrets=(WEBHOOK_SECRET,),
        base_url=mux.base_url,
        stream_url=mux.base_url,
    )


class MuxStudio:
    """The site and what a test sees of it."""

    def __init__(self, rindle: Rindle, mux: FakeMux, url: str) -> None:
        self.rindle, self.mux, self.url = rindle, mux, url

    async def row(self, asset_id: str) -> MediaProviderAsset:
        found = await self.rindle.database.read(direct_uploads.find, asset_id)
        assert found is not None
        return found


def mux_environment(mux: FakeMux) -> dict[str, str]:
    """Return the same as variables of a process."""
    token_id, token_secret = mux.token
    return {
        "RINDLE_MUX_TOKEN_ID": token_id,
        "RINDLE_MUX_TOKEN_SECRET": token_secret,
        "RINDLE_MUX_BASE_URL": mux.base_url,
    }


class Talk(MuxDirectUploadWeb):
    """Films that browsers send to Mux."""

    name = "talk"
    storage = "media"


class Lecture(MuxWeb):
    """Films that are pushed to Mux."""

    name = "lecture"
    storage = "media"


def creators(made: Rindle, provider: MuxProvider) -> Rindle:
    """Return an application with these profiles, on the database, the store and the queues of another one."""
    return Rindle(
        engine=made.database.engine,
        storages=made.storages,
        profiles=[Talk, Lecture],
        secrets=[SECRET],
        settings=made.settings,
        temporal=made.temporal,
        providers=[provider],
    )


def application(stage: Stage, mux: FakeMux, **environment: str) -> Rindle:
    """Return the stage's application with films that Mux gets from browsers, or by a push."""
    return stage.adopt(creators(stage.application(**environment), MuxProvider(lambda: config_of(mux))))


def make_worker() -> Rindle:
    """Return the application of a worker's process, from the environment (``RINDLE_APP``).

    Calls to Mux have no heartbeat: a worker that is killed in one is missed when the call's time is over, which is
    shorter here.
    """
    limit = timedelta(seconds=float(os.environ["APP_CALL_SECONDS"]))
    for policy in (policies.PROVIDER_CREATE, policies.PROVIDER_CALL):
        policy["start_to_close_timeout"] = limit
    return creators(make(), MuxProvider())


async def open_and_cancel() -> None:
    """Open an upload and cancel it, in an application of the environment."""
    rindle = creators(make(), MuxProvider())
    upload = await rindle.create_direct_upload("talk", cors_origin="https://cohort.example")
    await rindle.cancel_direct_upload(upload.asset_id)


@asynccontextmanager
async def a_studio(
    stage: Stage, mux: FakeMux, npm_script: Callable[[str, str], Path], home: Path, **environment: str
) -> AsyncIterator[MuxStudio]:
    """Serve the site, and tell Mux where its webhooks go."""
    rindle = application(stage, mux, **environment)
    profiles = {"talk": rindle.profiles.get("talk")}
    shelf = home / "page"
    shelf.mkdir()
    (shelf / "index.html").write_text(PAGE)
    for name, (package, path) in {
        "upchunk.js": ("@mux/upchunk", "dist/upchunk.js"),
        "hls.js": ("hls.js", "dist/hls.min.js"),
    }.items():
        shutil.copy(npm_script(package, path), shelf / name)
    app = FastAPI()
    router = create_router(rindle, profiles=profiles, allow_anonymous=True, webhooks={"mux": [WEBHOOK_SECRET]})
    app.include_router(router, prefix="/media")

    @app.get("/stream/{asset_id}")
    async def stream(asset_id: str) -> dict[str, str]:
        return {"url": (await rindle.streaming_url("talk", asset_id)).url}

    app.mount("/", StaticFiles(directory=shelf, html=True))
    async with served(app) as url:
        mux.add_webhook(f"{url}/media/webhooks/rindle/mux", WEBHOOK_SECRET)
        yield MuxStudio(rindle, mux, url)


if __name__ == "__main__":
    asyncio.run(open_and_cancel())
    leave(0)
