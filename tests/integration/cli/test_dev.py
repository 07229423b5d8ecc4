"""``rindle dev`` as a developer runs it: one command, real parts, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rindle.cli.supervisor import identity
from tests.patience import PATIENCE_SECONDS, until_blocking
from tests.stage import REPOSITORY, photo

SHOP = """
import os
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
from rindle import Profile, Rindle, Settings
from rindle.storage.local import LocalStorage

class Avatar(Profile):
    name = "avatar"
    storage = "media"
    variants = {}

settings = Settings()
media = LocalStorage(settings.home / "media", base_url=os.environ["RINDLE_WEB_URL"], secrets=settings.secrets)
engine = create_async_engine(os.environ["DATABASE_URL"])
rindle = Rindle(engine=engine, storages={"media": media}, profiles=[Avatar], settings=settings)
app = FastAPI()

@app.post("/")
async def initiate():
    return {"session": (await rindle.initiate_upload("avatar")).id}
"""

pytestmark = pytest.mark.usefixtures("temporal_server")

#: The same with pictures and all routes: what somebody who uploads a photo needs.
GALLERY = """
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine
import os
from rindle import ImageVariant, Profile, Rindle, Settings
from rindle.http import create_router
from rindle.storage.local import LocalStorage

class Photo(Profile):
    name = "photo"
    storage = "media"
    variants = {"thumb": ImageVariant(mode="crop", width=96, height=96)}

settings = Settings()
base_url = f"{os.environ['RINDLE_WEB_URL']}/media/local"
media = LocalStorage(settings.home / "media", base_url=base_url, secrets=settings.secrets)
engine = create_async_engine(os.environ["DATABASE_URL"])
rindle = Rindle(engine=engine, storages={"media": media}, profiles=[Photo], settings=settings)
app = FastAPI()
app.include_router(create_router(rindle, profiles={"photo": Photo}, allow_anonymous=True), prefix="/media")
"""
#: Seconds after which an unhealthy part is restarted where a test waits for it; longer than one look at a part takes.
UNHEALTHY_SECONDS = 30


class Dev:
    """One run of the command in a directory with a tiny application."""

    def __init__(self, shop: Path, number: int, *options: str) -> None:
        self.home = shop / "var" / "rindle"
        self._said, self._log = shop / f"out-{number}", shop / f"err-{number}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RINDLE_", "TEMPORAL_"))}
        if "RINDLE_TEMPORAL_CLI" in os.environ:
            environment["RINDLE_TEMPORAL_CLI"] = os.environ["RINDLE_TEMPORAL_CLI"]
        with self._said.open("w") as said, self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rindle.cli", "dev", "--app", "tiny_shop:rindle", *options],
                cwd=shop,
                env={**environment, "PYTHONPATH": str(REPOSITORY), "RINDLE_RENDER_WORKERS": "1"},
                stdout=said,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ready(self) -> dict[str, str]:
        """Wait until everything works and return the addresses by what they are of."""
        until_blocking(
            lambda: "Ready." in self.said or self.process.poll() is not None, what=lambda: f"{self.said}\n{self.log}"
        )
        assert self.process.poll() is None, self.log
        return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in self.said.splitlines() if "  " in line)

    def pids(self) -> dict[str, int]:
        record = json.loads((self.home / "supervisor.json").read_text())
        return {part["name"]: part["pid"] for part in record["parts"]}

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    """Start the command; whatever still runs at the end of the test is killed by its own id."""
    (tmp_path / "tiny_shop.py").write_text(SHOP)
    runs: list[Dev] = []

    def begin(*options: str) -> Dev:
        runs.append(Dev(tmp_path, len(runs), *options))
        return runs[-1]

    yield begin
    left = runs[-1].pids().values() if runs and (runs[-1].home / "supervisor.json").exists() else ()
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
            run.process.wait()
    for pid in left:
        if identity(pid) is not None:
            os.killpg(pid, signal.SIGKILL)


def answer(url: str, *, method: str = "GET") -> bytes | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as response:
            body: bytes = response.read()
            return body
    except OSError:
        return None


def test_one_command_runs_everything_restarts_what_dies_and_ends_without_a_trace(start: Callable[[], Dev]) -> None:
    dev = start()
    addresses = dev.ready()
    parts = dev.pids()

    assert addresses["RINDLE_HOME"] == str(dev.home)
    assert list(parts) == ["temporal", "worker", "web"]
    until_blocking(lambda: answer(addresses["Temporal UI"]) is not None, what=lambda: dev.log)
    initiated = until_blocking(lambda: answer(addresses["Application"], method="POST"), what=lambda: dev.log)
    assert "session" in json.loads(initiated)  # so it is migrated
    secret = dev.home / "secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(dev.home.stat().st_mode) == 0o700
    assert secret.read_text() not in dev.said + dev.log

    for name in ("worker", "temporal"):
        os.kill(parts[name], signal.SIGKILL)
        until_blocking(lambda name=name: dev.pids().get(name, parts[name]) != parts[name], what=lambda: dev.log)
        until_blocking(lambda: answer(addresses["Worker"]) == b"ok\n", what=lambda: dev.log)
    assert dev.pids()["web"] == parts["web"]
    parts = dev.pids()

    assert dev.end(signal.SIGINT) == 0
    assert dev.said.splitlines()[-1] == "rindle dev has stopped."
    assert [name for name, pid in parts.items() if identity(pid) is not None] == []
    assert not (dev.home / "supervisor.json").exists()


def readiness(url: str) -> tuple[int, str]:
    """Return what a readiness probe is told: status and body."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()
    except OSError as error:
        return 0, type(error).__name__


def test_work_ends_although_temporal_stands_still_and_both_sides_say_so_meanwhile(
    start: Callable[..., Dev], tmp_path: Path
) -> None:
    (tmp_path / "tiny_shop.py").write_text(GALLERY)
    dev = start("--unhealthy-seconds", str(UNHEALTHY_SECONDS))
    addresses = dev.ready()
    parts = dev.pids()
    web = f"{addresses['Application']}/media"

    def send() -> str:
        answer = httpx.post(
            f"{web}/uploads/inline",
            headers={"X-Rindle": "1"},
            data={"profile": "photo"},
            files={"file": ("me.jpg", photo(tmp_path / "me.jpg").read_bytes())},
            timeout=PATIENCE_SECONDS,
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["asset"]["id"])

    begun = send()
    os.kill(dev.process.pid, signal.SIGSTOP)  # the supervisor restarts Temporal only when everybody has been asked
    os.kill(parts["temporal"], signal.SIGSTOP)  # its connections stay open, and no signal but SIGKILL reaches it
    waiting = send()

    def told(url: str, text: str) -> bool:
        last[url] = status, body = readiness(url)  # a busy machine may lack the database for a moment too
        return status == 503 and text in body

    last: dict[str, tuple[int, str]] = {}
    for url, text in {
        f"{web}/readyz": '"message":"not ready: no answer from temporal"',
        addresses["Worker"]: "not ready: temporal\n",
    }.items():
        until_blocking(lambda url=url, text=text: told(url, text), what=lambda: f"{last} {dev.log}")
    # They only wait for another part. The supervisor, which asks for this, has no reason to restart them; how soon they
    # answer it is up to the machine.
    for url in (f"{web}/livez", addresses["Worker"].replace("/readyz", "/livez")):
        until_blocking(lambda url=url: readiness(url)[0] == 200, what=lambda: dev.log)
    os.kill(dev.process.pid, signal.SIGCONT)

    until_blocking(lambda: dev.pids().get("temporal", parts["temporal"]) != parts["temporal"], what=lambda: dev.log)
    for asset in (begun, waiting):
        until_blocking(
            lambda asset=asset: state_of(web, asset) == "ready",
            what=lambda asset=asset: f"{state_of(web, asset)} {dev.log}",
        )
    for url in (f"{web}/readyz", addresses["Worker"]):
        until_blocking(lambda url=url: readiness(url)[0] == 200, what=lambda: dev.log)
    assert f"the temporal has been unhealthy for {UNHEALTHY_SECONDS} s; restarting it" in dev.log


def state_of(web: str, asset: str) -> str:
    try:
        answer = httpx.get(f"{web}/assets/{asset}", timeout=PATIENCE_SECONDS)
    except httpx.TransportError as error:  # the application itself is being restarted: it starved for eight seconds
        return type(error).__name__
    return str(answer.json()["asset"]["state"])


def test_a_start_after_the_supervisor_was_killed_cleans_up_and_goes_on_with_the_same_data(
    start: Callable[[], Dev],
) -> None:
    first = start()
    first.ready()
    left, secret = first.pids(), (first.home / "secret").read_text()
    first.end(signal.SIGKILL)
    assert all(identity(pid) is not None for pid in left.values())

    second = start()
    second.ready()

    assert all(identity(pid) is None for pid in left.values())
    assert [f"(process {pid})" in second.log for pid in left.values()] == [True, True, True]
    assert (second.home / "secret").read_text() == secret
    assert second.end(signal.SIGTERM) == 0


def test_a_part_that_cannot_start_is_named_and_ends_the_command(start: Callable[[], Dev], tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("raise SystemExit('this worker is broken')\n")

    dev = start()

    assert dev.process.wait(PATIENCE_SECONDS) == 1
    # Three times or more: the application's own start comes first, and on a busy machine it takes its time.
    assert re.search(r"the worker does not start: it ended \d+ times, last with status 1", dev.log)
    assert not (dev.home / "supervisor.json").exists()


@pytest.mark.parametrize(
    ("module", "options", "last"),
    [
        ("tiny_shop", (), "setup_incomplete: the application could not be loaded, or its database not migrated;"),
        ("tiny_pages", ("--web", "tiny_pages:app"), "setup_incomplete: the web does not start; the lines above show"),
    ],
)
def test_an_application_that_cannot_be_imported_is_shown_once_and_ends_the_command(
    start: Callable[..., Dev], tmp_path: Path, module: str, options: tuple[str, ...], last: str
) -> None:
    (tmp_path / f"{module}.py").write_text("import os\nkey = os.environ['SHOP_KEY']\n")

    dev = start(*options)

    assert dev.process.wait(PATIENCE_SECONDS) == 1
    lines = dev.log.splitlines()
    assert lines.count(f'  File "{tmp_path}/{module}.py", line 2, in <module>') == 1
    assert lines.count("KeyError: 'SHOP_KEY'") == 1
    assert any(line.startswith("application_not_loaded: the environment variable SHOP_KEY is not") for line in lines)
    assert lines[-1].startswith(last)


def test_data_of_another_temporal_version_is_refused(start: Callable[[], Dev], tmp_path: Path) -> None:
    home = tmp_path / "var" / "rindle"
    home.mkdir(parents=True)
    (home / "temporal.db").write_bytes(b"")
    (home / "temporal.version").write_text("temporal version 0.1\n")

    dev = start()

    assert dev.process.wait(PATIENCE_SECONDS) == 1
    assert dev.log.splitlines()[-1].startswith("misconfigured: temporal.db was made by 'temporal version 0.1'")
