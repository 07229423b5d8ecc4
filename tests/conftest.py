"""What every test may ask for: real servers, each started once per run when the first test needs it.

A missing server skips the test on a laptop and fails it under ``CI=true``, where a skip of any kind fails the run.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pytest

from rindle import process
from tests.media.clips import Clips
from tests.patience import PATIENCE_SECONDS
from tests.servers import Unavailable, chromium, curl, ffmpeg, gcs, minio, npm, postgres, temporal, uppy, version_of
from tests.stage import Stage, on_bucket, staged, wait_for_temporal

if TYPE_CHECKING:
    from tests.servers.mux import FakeMux

REPOSITORY = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")

#: Variables of the developer's shell that tests do read; every other one with our prefix or of an SDK is hidden.
KEPT_VARIABLES = (
    *("RINDLE_CORPUS", "RINDLE_TEMPORAL_CLI", minio.PROGRAM_VARIABLE, gcs.PROGRAM_VARIABLE, chromium.PROGRAM_VARIABLE),
)
HIDDEN_PREFIXES = ("RINDLE_", "TEMPORAL_", "AWS_", "GOOGLE_", "STORAGE_EMULATOR_")

#: The directories of the tests in their order, those with the longest tests first: processes that share the tests take
#: the files in this order, and at the end, when one waits for the others, the files are short.
TURNS = ("stories", "faults", "workflows", "integration", "contract", "architecture", "unit")

_session = pytest.StashKey[pytest.Session]()
Server = TypeVar("Server")


# --- the run ------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Make the run independent of the shell it is started from."""
    _note_collected()
    for name in [*os.environ]:
        if name.startswith(HIDDEN_PREFIXES) and name not in KEPT_VARIABLES:
            del os.environ[name]
    # An event without its keys is a programming error here; in production it is only logged.
    os.environ["RINDLE_STRICT_EVENTS"] = "1"
    # No sweep in the middle of a test when its clock strikes the hour.
    os.environ["RINDLE_SCHEDULES"] = "false"
    # Without this boto3 looks for credentials on a cloud's metadata address, slowly.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    # The servers are here; a proxy for the rest of the world cannot reach them.
    loopback = "127.0.0.1,localhost"
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), loopback)))
    corpus = REPOSITORY.parent / "shared" / "corpus"
    if corpus.is_dir():
        os.environ.setdefault("RINDLE_CORPUS", str(corpus))


def pytest_report_header() -> list[str]:
    """Print the versions of everything outside Python that this run uses."""
    libvips = "import pyvips; print('.'.join(str(pyvips.version(part)) for part in range(3)))"
    tools: dict[str, Callable[[], str]] = {
        "Temporal server": temporal.server_version,
        f"postgresql+psycopg {version('psycopg')}, Postgres": lambda: version_of(
            postgres.program("postgres"), "--version"
        ),
        f"sqlite+aiosqlite {version('aiosqlite')}, SQLite": lambda: sqlite3.sqlite_version,
        "MinIO": minio.server_version,
        "fake-gcs-server": gcs.server_version,
        f"gcp-storage-emulator {version('gcp-storage-emulator')}, Google's SDK": lambda: version(
            "google-cloud-storage"
        ),
        # Not imported into this process: the library never does that either.
        "libvips": lambda: version_of(Path(sys.executable), "-c", libvips),
        "ffmpeg": ffmpeg.version,
        f"tuspy {version('tuspy')}, tus-js-client": lambda: npm.packages()["tus-js-client"],
        "Uppy": uppy.versions,
        "curl": lambda: version_of(curl.program(), "--version"),
        "Chromium": lambda: version_of(chromium.program(), "--version"),
    }

    def tell(name: str) -> str:
        try:
            return f"{name} {tools[name]()}"
        except Unavailable as missing:
            return f"{name} missing: {missing}"

    with ThreadPoolExecutor(len(tools)) as threads:
        servers = [f"servers: {line}" for line in threads.map(tell, tools)]
    return [*servers, "corpus: present" if os.environ.get("RINDLE_CORPUS") else "corpus: none, its tests are left out"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Close the network to unit tests, and leave out what needs the corpus where there is none.

    Unix sockets stay open, because asyncio's own loop is made of them. The corpus is extra material that no clone
    contains: without it its tests are deselected, not skipped, so that they do not count as a skip in CI.
    """
    for item in items:
        if item.path.is_relative_to(REPOSITORY / "tests" / "unit"):
            item.add_marker(pytest.mark.disable_socket)
    if not os.environ.get("RINDLE_CORPUS"):
        unmet = [item for item in items if _needs_corpus(item)]
        items[:] = [item for item in items if item not in unmet]
        config.hook.pytest_deselected(items=unmet)
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """Say when the directory of ``item`` has its turn; any other one, such as that of a test's own tests, is first."""
    path = item.path.relative_to(REPOSITORY / "tests") if item.path.is_relative_to(REPOSITORY / "tests") else Path()
    return next((turn for turn, name in enumerate(TURNS, 1) if name in path.parts[:1]), 0)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking through the tests and the modules again and again: they stay anyway."""
    gc.collect()
    gc.freeze()


def _needs_corpus(item: pytest.Item) -> bool:
    """Say whether ``item`` asks to be skipped without the corpus, or was to be made once for each of its files."""
    reasons = [str(mark.kwargs.get("reason")) for mark in item.iter_markers() if mark.name in ("skip", "skipif")]
    return any("RINDLE_CORPUS" in reason or reason.startswith("got empty parameter set") for reason in reasons)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remember the session: its exit status is known only when everything has been reported."""
    session.config.stash[_session] = session


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in CI that skipped anything: what was not run was not tested."""
    if _skips(session.config) and IN_CI and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why a run without a failure is red; pytest's own summary line follows as the last one."""
    skips = _skips(terminalreporter.config)
    if skips and IN_CI:
        terminalreporter.write_line(f"CI: {skips} skipped, which fails the run", red=True)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave before the interpreter shuts down, which Temporal's runtime does not always survive.

    By now the fixtures are torn down and the reports are written; where no session ran (``--help``) nothing needs it.
    """
    if _session in config.stash:
        process.leave(int(config.stash[_session].exitstatus))


def _skips(config: pytest.Config) -> int:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return 0 if reporter is None else len(reporter.stats.get("skipped", ()))


# --- what is left behind ---


_collected: list[str] = []


def _note_collected() -> None:
    """Remember every async generator of ours that the interpreter had to finish because nobody closed it."""
    finish = asyncio.BaseEventLoop._asyncgen_finalizer_hook  # type: ignore[attr-defined]

    def noted(loop: asyncio.BaseEventLoop, generator: Any) -> None:
        code = generator.ag_code
        if Path(code.co_filename).is_relative_to(REPOSITORY) and ".venv" not in code.co_filename:
            _collected.append(f"{code.co_filename}:{code.co_firstlineno} {generator.__qualname__}")
        finish(loop, generator)

    asyncio.BaseEventLoop._asyncgen_finalizer_hook = noted  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _nothing_is_left_to_the_collector() -> Iterator[None]:
    """Fail a test that leaves an async generator of ours unclosed: when it then ends is nobody's choice."""
    _collected.clear()
    yield
    assert _collected == []


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which anything is logged as a warning or worse, also by what it leaves to the collector.

    What earlier tests left is collected before it begins.
    """
    gc.collect()
    caplog.clear()
    yield
    gc.collect()
    # What the collector reports belongs to the teardown, not to the call.
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []


# --- servers ------------------------------------------------------------------------------------------------------


def _without(missing: Unavailable) -> NoReturn:
    if IN_CI:
        pytest.fail(str(missing), pytrace=False)
    pytest.skip(str(missing))


@contextmanager
def _started(running: AbstractContextManager[Server]) -> Iterator[Server]:
    """Enter ``running``, whose refusal to start skips or fails the test; what the test raises passes through."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(running)
        except Unavailable as missing:
            _without(missing)
        yield server


@pytest.fixture(scope="session")
async def temporal_server() -> AsyncIterator[temporal.TemporalServer]:
    """A Temporal dev server all tests share; use task queues and ids of your own."""
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(temporal.running_temporal())
        except Unavailable as missing:
            _without(missing)
        yield server


@pytest.fixture
async def stoppable_temporal(tmp_path: Path) -> AsyncIterator[temporal.StoppableTemporal]:
    """A running Temporal dev server of one test, which may stop, kill and restart it."""
    async with temporal.StoppableTemporal(tmp_path / "temporal.db") as server:
        try:
            await server.start()
        except Unavailable as missing:
            _without(missing)
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A Postgres server all tests share; each takes a database of its own."""
    with _started(postgres.running_postgres()) as server:
        yield server


@pytest.fixture(scope="session", name="minio")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[minio.MinioServer]:
    """An S3 server all tests share; each takes a bucket of its own."""
    with _started(minio.running_minio(tmp_path_factory.mktemp("minio"))) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gcs.GCSServer]:
    """fake-gcs-server, which all tests share; each takes a bucket of its own."""
    with _started(gcs.running_fake_gcs(tmp_path_factory.mktemp("fake-gcs"))) as server:
        yield server


@pytest.fixture(scope="session")
def gcp_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gcs.GCSServer]:
    """gcp-storage-emulator, which all tests share; each takes a bucket of its own."""
    with _started(gcs.running_gcp_emulator(tmp_path_factory.mktemp("gcp-emulator"))) as server:
        yield server


@pytest.fixture
def mux(tmp_path: Path) -> Iterator[FakeMux]:
    """A server of this test alone that stands for Mux; it cuts films with ffmpeg."""
    from tests.servers.mux import running_mux  # what it needs is slow to load, and few want it

    with running_mux(tmp_path / "mux") as server:
        yield server


@pytest.fixture(scope="session", name="chromium")
def chromium_path() -> Path:
    """The browser's program, for Playwright's ``executable_path``; launch it with ``chromium.ARGUMENTS``."""
    try:
        return chromium.program()
    except Unavailable as missing:
        _without(missing)


@pytest.fixture(scope="session", name="curl")
def running_curl() -> curl.Curl:
    """curl, to be called with its arguments."""
    try:
        return curl.Curl(curl.program())
    except Unavailable as missing:
        _without(missing)


@pytest.fixture
def every_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Captures the records of all loggers, of any level, whatever SDKs and earlier tests have set."""
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            monkeypatch.setattr(logger, "disabled", False)
            monkeypatch.setattr(logger, "level", logging.NOTSET)
    logging.root.manager._clear_cache()  # type: ignore[attr-defined] # of the levels that are enabled
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.fixture(scope="session")
def npm_script() -> Callable[[str, str], Path]:
    """Finds a file of an npm package, for a page to load: its arguments are the package and the path."""

    def find(package: str, path: str) -> Path:
        try:
            return npm.script(package, path)
        except Unavailable as missing:
            _without(missing)

    return find


@pytest.fixture(scope="session")
def uppy_bundles() -> dict[int, Path]:
    """The modules of Uppy, by major version."""
    try:
        return {major: uppy.bundle(major) for major in uppy.RELEASES}
    except Unavailable as missing:
        _without(missing)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of this test alone: one run on SQLite, one on Postgres."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'rindle.db'}"
        return
    server: postgres.PostgresServer = request.getfixturevalue("postgres_server")
    url = server.new_database()
    yield url
    server.drop_database(url)


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Films and songs, each made when the first test of the run asks for it."""
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def patient_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the end of a cancelled transfer of a store as long as a busy machine needs."""
    monkeypatch.setattr("rindle.storage.threads.GRACE_SECONDS", PATIENCE_SECONDS)


#: Tests whose Temporal server is never away without refusing connections, unless they stop a server of their own.
BUSY_ONLY = tuple(
    REPOSITORY / "tests" / part
    for part in (
        *("faults", "workflows", "integration/activities", "integration/cli", "integration/operations"),
        "integration/test_outbox.py",
    )
)


@pytest.fixture(autouse=True)
def _temporal_may_be_busy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a Temporal server that takes long to answer, where no test needs the limits of production."""
    if "stoppable_temporal" not in request.fixturenames and any(map(request.path.is_relative_to, BUSY_ONLY)):
        wait_for_temporal(monkeypatch)


# --- stages -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def stage(tmp_path: Path, database_url: str, temporal_server: temporal.TemporalServer) -> AsyncIterator[Stage]:
    """The test application on both databases, local storage, the shared Temporal server; no worker runs yet."""
    async with staged(tmp_path, database_url, temporal_server.target) as ready:
        yield ready


@pytest.fixture
async def lite_stage(tmp_path: Path, temporal_server: temporal.TemporalServer) -> AsyncIterator[Stage]:
    """The same on SQLite alone, for behaviour that no database can change."""
    async with staged(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/stage.db", temporal_server.target) as ready:
        yield ready


@pytest.fixture
def bucket_environment(minio: minio.MinioServer) -> dict[str, str]:
    """Variables of an application whose store is a fresh bucket of MinIO."""
    return on_bucket(minio)


@pytest.fixture
async def s3_stage(
    tmp_path: Path, database_url: str, temporal_server: temporal.TemporalServer, bucket_environment: dict[str, str]
) -> AsyncIterator[Stage]:
    """The test application on both databases, with a bucket as its store."""
    async with staged(tmp_path, database_url, temporal_server.target, bucket_environment) as ready:
        yield ready


@pytest.fixture
async def lite_s3_stage(
    tmp_path: Path, temporal_server: temporal.TemporalServer, bucket_environment: dict[str, str]
) -> AsyncIterator[Stage]:
    """The same on SQLite alone, for behaviour that no database can change."""
    url = f"sqlite+aiosqlite:///{tmp_path}/stage.db"
    async with staged(tmp_path, url, temporal_server.target, bucket_environment) as ready:
        yield ready
