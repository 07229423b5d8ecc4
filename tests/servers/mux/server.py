"""The server itself, on a thread of its own, and the calls by which a test directs it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from starlette.applications import Starlette

from tests.servers import POLL_SECONDS, STARTUP_SECONDS, Unavailable
from tests.servers.mux import media, shapes
from tests.servers.mux.account import Account, Asset, Upload
from tests.servers.mux.api import Api
from tests.servers.mux.faults import Fault, Faults
from tests.servers.mux.playback import Playback
from tests.servers.mux.refusals import Refusal, answer_refusal
from tests.servers.mux.storage import UploadUrls
from tests.servers.mux.tokens import SigningKey
from tests.servers.mux.webhooks import Event, Webhooks

T = TypeVar("T")


class FakeMux:
    """A running server; every call may come from any thread but the server's own.

    Attributes:
        base_url: of the API, of playback and of pictures alike.
        signing_key: of playback tokens, with its private half.
    """

    def __init__(self, home: Path, listener: socket.socket) -> None:
        self.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self._listener = listener
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ingesting: set[asyncio.Task[None]] = set()
        self._may_ingest = asyncio.Event()
        self._may_ingest.set()
        self._account = Account(home, self.base_url, self._announce, self._begin_ingest)
        self._webhooks = Webhooks(self._account.now)
        self.signing_key: SigningKey = self._account.new_signing_key()
        routes = [route for part in (Api, UploadUrls, Playback) for route in part(self._account).routes()]
        app = Starlette(routes=routes, exception_handlers={Refusal: answer_refusal}, lifespan=self._lifespan)
        self._faults = Faults(app)
        config = uvicorn.Config(
            self._faults,
            log_config=None,
            access_log=False,
            loop="asyncio",
            ws="none",
            timeout_graceful_shutdown=1,
            # A client may use a connection again at any time: closing it then would look like an outage.
            timeout_keep_alive=int(STARTUP_SECONDS),
        )
        self._server = uvicorn.Server(config)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        yield
        await self._webhooks.stop()
        for task in tuple(self._ingesting):
            task.cancel()
        await asyncio.gather(*self._ingesting, return_exceptions=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    # --- access ---

    @property
    def token(self) -> tuple[str, str]:
        """The access token: its id and its secret."""
        return self._account.token_id, self._account.token_secret

    def rotate_token(self) -> tuple[str, str]:
        """Replace the access token and return the new one; the old one is refused."""
        return self._call(self._account.new_access_token)

    def new_signing_key(self) -> SigningKey:
        """Make another key of playback tokens."""
        return self._call(self._account.new_signing_key)

    def advance(self, seconds: float) -> None:
        """Let time pass at Mux: tokens expire, uploads time out, webhooks bear the later time."""
        self._call(self._account.advance, seconds)

    # --- what there is ---

    @property
    def assets(self) -> list[Asset]:
        """The assets, the newest first: what is billed."""
        return self._account.newest_assets()

    @property
    def uploads(self) -> list[Upload]:
        """The direct uploads, in the order they were opened."""
        return list(self._account.uploads.values())

    @property
    def events(self) -> list[Event]:
        """All events, told to anybody or not, in the order they happened."""
        return list(self._webhooks.events)

    @property
    def deliveries(self) -> list[tuple[str, int]]:
        """Type and answer of each webhook sent; 0 stands for no answer."""
        return [(delivery.type, delivery.status) for delivery in self._webhooks.deliveries]

    @property
    def requests(self) -> list[tuple[str, str]]:
        """Method and path of each request, in the order they came."""
        return list(self._faults.requests)

    # --- what happens by itself ---

    def hold_ingest(self) -> None:
        """Leave new assets ``preparing`` until :meth:`release_ingest`."""
        self._call(self._may_ingest.clear)

    def release_ingest(self) -> None:
        """Go on with assets."""
        self._call(self._may_ingest.set)

    def fail_asset(self, asset_id: str, kind: str, *messages: str) -> None:
        """Give up an asset for a reason of Mux's own."""
        self._call(lambda: self._account.asset_has_failed(self._account.asset(asset_id), kind, *messages))

    def fail_upload(self, upload_id: str, kind: str, message: str) -> None:
        """End a direct upload with an error of Mux's own."""
        self._call(self._account.upload_has_failed, upload_id, kind, message)

    # --- webhooks ---

    def add_webhook(self, url: str, secret: str | None = None) -> str:
        """Send events to ``url`` and return the secret that signs them; again with another secret replaces it."""
        return self._call(self._webhooks.add_endpoint, url, secret)

    def hold_webhooks(self) -> None:
        """Send nothing but what :meth:`deliver` is given."""
        self._call(self._webhooks.hold)

    def lose_webhooks(self, *types: str) -> None:
        """Never send events of these types by itself."""
        self._call(self._webhooks.lose, *types)

    def lose_no_webhooks(self) -> None:
        """Send new events of all types by itself again."""
        self._call(self._webhooks.lose_nothing)

    def deliver(self, *events: Event, age_seconds: float = 0, secret: str | None = None) -> list[int]:
        """Send events once each in this order, as often as they are named; return the answers.

        Args:
            events: of :attr:`events`.
            age_seconds: how old the signature is; negative: from the future.
            secret: signs them instead of the endpoint's own.
        """
        return self._wait(self._webhooks.deliver(events, age_seconds=age_seconds, secret=secret))

    # --- faults ---

    def plan_fault(
        self,
        method: str,
        path: str,
        *,
        status: int | None = 500,
        times: int = 1,
        retry_after: int | str | None = None,
        is_done_first: bool = False,
        is_silent: bool = False,
    ) -> None:
        """Let the next requests fail.

        Args:
            method: ``GET``, ``POST`` and so on.
            path: of the API; ``*`` stands for anything.
            status: of the answer; None for the real one, which then only comes late.
            times: how many requests.
            retry_after: the header of that name.
            is_done_first: the request has its effect, and only the answer is lost.
            is_silent: no answer comes before :meth:`answer_the_silent`.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._call(self._faults.plan, Fault(method, path, times, status, headers, is_done_first, is_silent))

    def forget_faults(self) -> None:
        """Let no further request fail."""
        self._call(self._faults.forget)

    def answer_the_silent(self) -> None:
        """Answer all requests that wait."""
        self._call(self._faults.answer_the_silent)

    # --- on the loop of the server ---

    def _announce(self, kind: str, about: Asset | Upload) -> None:
        self._webhooks.announce(
            kind, about.id, lambda event_id, moment: shapes.event(self._account, event_id, kind, moment, about)
        )

    def _begin_ingest(self, asset: Asset) -> None:
        task = asyncio.get_running_loop().create_task(self._ingest(asset))
        self._ingesting.add(task)
        task.add_done_callback(self._ingesting.discard)

    async def _ingest(self, asset: Asset) -> None:
        """Fetch the film, cut it, and say how it went."""
        await self._may_ingest.wait()
        if not asset.source.exists():
            url = asset.settings["inputs"][0]["url"]
            try:
                await _fetch(url, asset.source)
            except (httpx.HTTPError, httpx.InvalidURL):
                message = f"The input file '{url}' could not be downloaded."
                self._account.asset_has_failed(asset, "download_failed", message)
                return
        try:
            known = await media.probe(asset.source)
            seconds = media.TEST_SECONDS if asset.settings.get("test") else None
            await media.cut(asset.source, asset.directory, known, seconds=seconds)
        except media.NotMedia:
            message = "The file may be corrupt or not a media file that can be played."
            self._account.asset_has_failed(asset, "invalid_input", message)
            return
        self._account.asset_is_ready(asset, known)

    def _call(self, function: Callable[..., T], *arguments: object) -> T:
        async def called() -> T:
            return function(*arguments)

        return self._wait(called())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STARTUP_SECONDS)


async def _fetch(url: str, target: Path) -> None:
    part = target.with_suffix(".part")
    async with (
        httpx.AsyncClient(timeout=STARTUP_SECONDS, follow_redirects=True, trust_env=False) as client,
        client.stream("GET", url) as answer,
    ):
        answer.raise_for_status()
        with part.open("wb") as file:
            async for data in answer.aiter_bytes():
                file.write(data)
    part.rename(target)


@contextmanager
def running_mux(home: Path, *, port: int = 0, webhooks: Sequence[tuple[str, str | None]] = ()) -> Iterator[FakeMux]:
    """Run a server with its films in ``home`` until the block is left.

    Args:
        home: an empty directory.
        port: on loopback; default: a free one.
        webhooks: URLs that are told of events, each with the secret to sign with or None for a new one.

    Raises:
        Unavailable: it did not start.
    """
    listener = socket.create_server(("127.0.0.1", port))
    mux = FakeMux(home, listener)
    thread = threading.Thread(target=mux._run, name="mux", daemon=True)
    thread.start()
    deadline = time.monotonic() + STARTUP_SECONDS
    try:
        while not mux._server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise Unavailable("the server that stands for Mux did not start")
            thread.join(POLL_SECONDS)
        for url, secret in webhooks:
            mux.add_webhook(url, secret)
        yield mux
    finally:
        mux._server.should_exit = True
        thread.join(STARTUP_SECONDS)
        listener.close()
