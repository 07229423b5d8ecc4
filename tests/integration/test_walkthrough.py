"""The guide's walk-through: the page's files in a directory of their own, its commands, three servers, a browser.

``scripts/walkthrough.py`` runs it with a wheel in a fresh virtualenv that has only what the page installs.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from temporalio.api.common.v1 import Payload

from tests.browser import follow, launched, pixels_of, window
from tests.copied import process
from tests.distributions import GUARD, modules_without
from tests.encrypted import encodable, parts
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port
from tests.servers.minio import MinioServer
from tests.servers.postgres import PostgresServer
from tests.servers.temporal import TemporalServer
from tests.stage import REPOSITORY, photo

EXAMPLE = REPOSITORY / "examples" / "walkthrough"
PAGE = (REPOSITORY / "docs" / "walkthrough.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]
#: The Python of the application: another one has Rindle from a wheel, and only the packages that the page names.
PYTHON = os.environ.get("WALKTHROUGH_PYTHON", sys.executable)
#: Directory for screenshots of the finished site; none are made without it.
SHOTS = os.environ.get("WALKTHROUGH_SHOTS")
ALICE, BOB, RECEPTION = "1", "2", "3"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The files of the page, without Alembic's directory, which a command of the page makes."""
    copied = tmp_path / "badges"
    shutil.copytree(EXAMPLE, copied, ignore=shutil.ignore_patterns("__pycache__", "ruff.toml", "migrations"))
    return copied


@pytest.fixture
def environment(
    home: Path, postgres_server: PostgresServer, minio: MinioServer, temporal_server: TemporalServer
) -> Iterator[dict[str, str]]:
    """The variables that the page sets, for the servers of the tests."""
    database = postgres_server.new_database()
    prefix = f"w{uuid.uuid4().hex[:10]}"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RINDLE_", "PYTHON"))}
    yield {
        **inherited,
        "PATH": f"{Path(PYTHON).parent}{os.pathsep}{os.environ['PATH']}",
        "RINDLE_APP": "media:rindle",
        "DATABASE_URL": database,
        "BUCKET": minio.new_bucket(),
        "AWS_ENDPOINT_URL_S3": minio.endpoint_url,
        "AWS_DEFAULT_REGION": minio.region,
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "RINDLE_SECRETS": secrets.token_urlsafe(32),
        "SESSION_KEY": secrets.token_urlsafe(32),
        "PAYLOAD_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "TEMPORAL_ADDRESS": temporal_server.target,
        "TEMPORAL_NAMESPACE": temporal_server.namespace,
        # For tests only: many applications share the Temporal server.
        "RINDLE_TASK_QUEUE_PREFIX": prefix,
        "RINDLE_WORKFLOW_ID_PREFIX": prefix,
        "RINDLE_TMP_DIR": str(home.parent),
        "RINDLE_RENDER_WORKERS": "1",
    }
    postgres_server.drop_database(database)


@pytest.fixture
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with launched(chromium) as running:
        yield running


def run(home: Path, environment: dict[str, str], command: str) -> str:
    """Run a command of the page and return what it printed."""
    program, *arguments = shlex.split(command)
    executable = PYTHON if program == "python" else str(Path(PYTHON).parent / program)
    done = subprocess.run(
        [executable, *arguments], cwd=home, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def prepare(home: Path, environment: dict[str, str]) -> None:
    """Make the tables and the members with the commands of the page."""
    wanted = ("alembic ", "rindle migrate", "python seed.py")
    commands = [line for line in COMMANDS if line.startswith(wanted)]
    assert [line.split()[1] for line in commands] == ["init", "migrate", "revision", "upgrade", "seed.py"]
    for command in commands:
        run(home, environment, command)
        if "init" in command:
            shutil.copy(EXAMPLE / "migrations" / "env.py", home / "migrations" / "env.py")


async def sign_in(page: Page, member: str) -> None:
    """Choose a member on the page."""
    await page.select_option("select", member)
    await follow(page, "header button")
    await expect(page.locator("select")).to_have_value(member)


async def upload(page: Page, path: Path) -> None:
    """Choose a file and press the button of a page, which may have just reloaded itself."""
    # Before its script has run, which `load` waits for, the button would send the form to the page's own address.
    await page.wait_for_load_state("load")
    await page.set_input_files("input[type=file]", path)
    await page.click("#upload button")


async def shot(page: Page, name: str) -> None:
    """Keep what the page looks like now, if somebody wants to see it."""
    if SHOTS:
        await page.screenshot(path=Path(SHOTS, f"{name}.png"), full_page=True)


@pytest.mark.external
async def test_the_walk_through_ends_with_a_site_on_postgres_and_s3(
    home: Path, environment: dict[str, str], browser: Browser, temporal_server: TemporalServer
) -> None:
    await asyncio.to_thread(prepare, home, environment)
    (migration,) = (home / "migrations" / "versions").glob("*_members.py")
    assert "create_table('members'" in migration.read_text()
    assert "media_" not in migration.read_text()
    assert "drop_table" not in migration.read_text().partition("def downgrade")[0]

    port, health = free_port(), f"127.0.0.1:{free_port()}"
    url = f"http://127.0.0.1:{port}/"
    for_worker = {**environment, "RINDLE_HEALTH_ADDRESS": health}
    async with AsyncExitStack() as stack:
        serve = ("-m", "uvicorn", "--port", str(port), "--no-access-log", "app:app")
        await stack.enter_async_context(process(home, environment, url, *serve, python=PYTHON))
        await stack.enter_async_context(
            process(home, for_worker, f"http://{health}/readyz", "worker.py", python=PYTHON)
        )
        page = await (await stack.enter_async_context(window(browser))).new_page()
        await page.goto(url)
        badge = page.locator(f"#member-{ALICE}")

        # Alice puts her photo on her badge.
        await sign_in(page, ALICE)
        await upload(page, photo(home.parent / "me.jpg", width=900, height=900))
        await expect(badge.locator("source[type='image/webp']")).to_have_count(1)
        assert (await pixels_of(badge.locator("img")))[0] == 800
        await expect(badge).to_contain_text("since")
        await shot(page, "alice")

        # A file that is no photo is rejected, and replaces nothing.
        refused = home.parent / "page.jpg"
        refused.write_text("<!doctype html><script>alert(1)</script>")
        await upload(page, refused)
        await expect(page.locator("output")).to_contain_text("rejected")
        await page.reload()
        assert (await pixels_of(badge.locator("img")))[0] == 800

        # Bob sees neither the photo nor its asset; the reception does.
        asset_id = re.search(r"/badge/([0-9a-f-]{36})/", await badge.inner_html())
        assert asset_id is not None
        for member, sources, status in ((BOB, 0, 404), (RECEPTION, 2, 200)):
            await sign_in(page, member)
            await expect(badge.locator("source")).to_have_count(sources)
            assert (await pixels_of(badge.locator("img")))[0] == (800 if sources else 160)
            answered = await page.request.get(f"{url}media/assets/{asset_id[1]}/url?variant=small")
            assert answered.status == status
            await shot(page, f"member-{member}")

        # Before its validation an upload cannot become the photo of a badge.
        await sign_in(page, ALICE)
        wanted = {"profile": "badge", "filename": "me.jpg", "size": 1000}
        opened = await page.request.post(f"{url}media/uploads", headers={"X-Rindle": "1"}, data=wanted)
        staged = (await opened.json())["session"]["asset_id"]
        answered = await page.request.put(f"{url}badge", data={"asset_id": staged})
        assert answered.status == 409

        # An asset id of somebody else does not help Bob, nor does a wrong one.
        await sign_in(page, BOB)
        for claimed in (asset_id[1], str(uuid.uuid4())):
            answered = await page.request.put(f"{url}badge", data={"asset_id": claimed})
            assert answered.status == 404

    # Temporal has only ciphertext.
    prefix = environment["RINDLE_WORKFLOW_ID_PREFIX"]
    found = [
        part.metadata["encoding"].decode()
        async for started in temporal_server.client.list_workflows(f"WorkflowId STARTS_WITH '{prefix}'")
        for history in [await temporal_server.client.get_workflow_handle(started.id).fetch_history()]
        for event in encodable(history)
        for part in parts(event)
        if isinstance(part, Payload)
    ]
    assert len(found) > 10
    assert set(found) == {"binary/encrypted"}


def test_the_page_installs_what_its_files_import(home: Path, environment: dict[str, str]) -> None:
    (line,) = (line for line in COMMANDS if line.startswith("pip install") and "rindle[" in line)
    missing = modules_without(shlex.split(line)[2:])
    imports = (
        "import app, media, seed, rindle.cli.commands, rindle.cli.worker, rindle.bootstrap, alembic.config, uvicorn"
    )

    done = subprocess.run(
        [sys.executable, "-c", f"{GUARD}sys.path.insert(0, '')\n{imports}", *missing],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 0, done.stderr
    assert missing >= {"aiosqlite", "ffmpeg", "httpx", "pytest"}
