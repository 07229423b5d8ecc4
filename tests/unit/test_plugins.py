"""Foreign code: plain functions in threads of their own, coroutines on the loop, every failure in our words."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rindle import ImageVariant, MediaKind, Quarantine, plugins
from rindle.errors import PluginUnavailable, RenderFailed, ScannerUnavailable, Unauthenticated, Unauthorized, Unexpected
from rindle.plugin_threads import Limits
from rindle.plugins import Kind, authorize, call
from rindle.protocols import ProbeResult
from tests.patience import PATIENCE_SECONDS, until

FACTS = ProbeResult(MediaKind.IMAGE, width=1, height=1)
RECIPE = ImageVariant(mode="fit", width=8, height=8)

trace = contextvars.ContextVar("trace", default="none")


class Gate:
    """Blocks whoever passes through it in a thread, until a test opens it."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def block(self) -> None:
        """Wait, as code that blocks does."""
        self._reached.set()
        assert self._open.wait(PATIENCE_SECONDS)

    def open(self) -> None:
        """Let everybody pass from now on."""
        self._open.set()

    async def reached(self) -> None:
        """Return when somebody waits at the gate; the event loop is free meanwhile."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_SECONDS)


@pytest.fixture(params=["plain function", "coroutine function", "function that returns a coroutine"])
def made_of(request: pytest.FixtureRequest) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return how a plug-in is written."""

    def make(body: Callable[..., Any]) -> Callable[..., Any]:
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

        def returning(*args: Any, **kwargs: Any) -> Any:
            return coroutine(*args, **kwargs)

        return {"plain function": body, "coroutine function": coroutine}.get(request.param, returning)

    return make


class Plugin:
    """Every kind of plug-in at once, all made of one callable."""

    capabilities = frozenset({"image_resize"})

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.scan = self.probe = self.analyze = self.process = self.authorize = function

    def call(self, *args: Any) -> Any:
        """Call the function as a method of this plug-in."""
        return self._function(*args)

    def accepts(self, mime: str) -> bool:
        """Take everything."""
        return True


def limit(patch: pytest.MonkeyPatch, *, threads: int, calls: int = 100, lost: int = 100) -> None:
    """Limit every plug-in that is called for the first time from now on."""
    patch.setattr(plugins, "LIMITS", dict.fromkeys(Kind, Limits(threads, calls, lost)))
    patch.setattr(plugins, "_budgets", {})


def refusing(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises ``error``."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise error

    return refuse


# --- where it runs ------------------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread_of_its_kind_with_the_callers_context() -> None:
    trace.set("the request")

    def where(*args: Any) -> tuple[str, str]:
        return threading.current_thread().name, trace.get()

    for kind in Kind:
        name, context = await call(kind, where)
        assert name.startswith(f"rindle-{kind.value}_")
        assert context == "the request"


async def test_a_coroutine_function_runs_on_the_loop_in_the_callers_task() -> None:
    class Called:
        async def __call__(self) -> tuple[threading.Thread, Any]:
            return threading.current_thread(), asyncio.current_task()

    here = (threading.current_thread(), asyncio.current_task())
    assert await call(Kind.PROBE, Called().__call__) == here
    assert await call(Kind.REQUEST, Called()) == here  # an object that is called


async def test_a_function_that_blocks_holds_up_nobody_else() -> None:
    gate = Gate()
    blocked = asyncio.create_task(call(Kind.ANALYZE, gate.block))
    await gate.reached()

    assert await call(Kind.ANALYZE, lambda: "meanwhile") == "meanwhile"
    assert not blocked.done()

    gate.open()
    await blocked


async def test_a_plugin_whose_threads_are_all_taken_does_not_delay_another(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, threads=1)
    gate = Gate()
    blocking, other = Plugin(lambda passes: None if passes else gate.block()), Plugin(lambda passes: "at once")
    blocked = asyncio.create_task(call(Kind.SCAN, blocking.call, False))
    await gate.reached()
    waiting = asyncio.create_task(call(Kind.SCAN, blocking.call, True))
    await asyncio.sleep(0)

    assert await call(Kind.SCAN, other.call, True) == "at once"
    assert await call(Kind.AUTHORIZE, blocking.call, True) is None
    assert not waiting.done()

    gate.open()
    await blocked
    assert await waiting is None


@pytest.mark.parametrize("error", [StopIteration("x"), concurrent.futures.CancelledError("x"), KeyError("x")])
async def test_an_error_of_a_thread_arrives_as_one(error: Exception) -> None:
    """Not as a caller that waits for ever, nor as a cancellation of the caller."""
    with pytest.raises(Exception) as raised:
        await call(Kind.PROBE, refusing(error))
    assert error in (raised.value, raised.value.__cause__)


async def test_a_call_that_takes_too_long_is_left_behind() -> None:
    gate = Gate()
    with pytest.raises(TimeoutError):
        await call(Kind.PROBE, gate.block, timeout_seconds=0.01)
    gate.open()


# --- budgets ------------------------------------------------------------------------------------------------------


async def test_a_lost_thread_is_replaced_up_to_the_limit_and_then_only_this_plugin_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit(monkeypatch, threads=1, lost=2)
    gate = Gate()
    hanging, other = Plugin(lambda passes: "works" if passes else gate.block()), Plugin(lambda: "works")

    for _ in range(2):
        assert await call(Kind.PROBE, hanging.call, True) == "works"
        with pytest.raises(TimeoutError):
            await call(Kind.PROBE, hanging.call, False, timeout_seconds=0.01)
    with pytest.raises(PluginUnavailable) as refused:
        await call(Kind.PROBE, hanging.call, True)

    assert refused.value.retryable and refused.value.http_status == 503
    assert refused.value.detail == {"kind": "probe", "plugin": "Plugin", "lost": 2}
    assert await call(Kind.PROBE, other.call) == "works"
    assert plugins.lost_threads() == [
        "probe Plugin: 2 calls have exceeded their time limit and never returned; further calls are refused"
    ]
    assert [record.action for record in caplog.records] == ["plugin_thread_lost"] * 2  # type: ignore[attr-defined]

    gate.open()  # they return after all
    await until(lambda: plugins.lost_threads() == [], what="the threads to return")
    assert await call(Kind.PROBE, hanging.call, True) == "works"


async def test_callers_beyond_the_limit_are_refused_at_once_also_those_of_coroutines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(monkeypatch, threads=1, calls=2)
    gate, release = Gate(), asyncio.Event()

    class Waiting:
        async def scan(self) -> None:
            await release.wait()

    for scan, let_go in ((Plugin(gate.block).call, gate.open), (Waiting().scan, release.set)):
        running = [asyncio.create_task(call(Kind.SCAN, scan, timeout_seconds=PATIENCE_SECONDS)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(PluginUnavailable):
            await call(Kind.SCAN, scan, timeout_seconds=PATIENCE_SECONDS)
        let_go()
        await asyncio.gather(*running)
        await call(Kind.SCAN, scan, timeout_seconds=PATIENCE_SECONDS)


async def test_a_caller_that_gives_up_early_loses_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that disconnect must not use up the budget of an authorizer that is merely slow."""
    limit(monkeypatch, threads=1, lost=1)
    gate = Gate()
    plugin = Plugin(lambda passes: None if passes else gate.block())
    impatient = asyncio.create_task(call(Kind.AUTHORIZE, plugin.call, False, timeout_seconds=PATIENCE_SECONDS))
    await gate.reached()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient

    assert plugins.lost_threads() == []
    gate.open()
    await call(Kind.AUTHORIZE, plugin.call, True, timeout_seconds=PATIENCE_SECONDS)


async def test_the_budget_of_a_plugin_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, threads=1)
    others = set(plugins._budgets)  # of applications that earlier tests of this process still hold
    plugin = Plugin(lambda: None)
    await call(Kind.REQUEST, plugin.call)
    assert len(set(plugins._budgets) - others) == 1
    del plugin

    def gone() -> bool:
        gc.collect()
        return set(plugins._budgets) <= others

    await until(gone, what="the thread to let go of the plug-in, and its budget to be gone")


async def test_a_plugin_that_ends_its_thread_does_not_end_the_process() -> None:
    with pytest.raises(RuntimeError, match="SystemExit"):
        await call(Kind.REQUEST, Plugin(refusing(SystemExit(3))).call)


# --- scan ---------------------------------------------------------------------------------------------------------


async def test_a_scanner_that_returns_none_finds_the_file_clean(made_of: Any, tmp_path: Path) -> None:
    scanned: list[Path] = []

    def note(path: Path, *, asset: Any) -> None:
        scanned.append(path)

    await plugins.scan(Plugin(made_of(note)), tmp_path, asset=None, timeout_seconds=PATIENCE_SECONDS)

    assert scanned == [tmp_path]


async def test_a_quarantine_is_passed_on(made_of: Any, tmp_path: Path) -> None:
    with pytest.raises(Quarantine):
        await plugins.scan(
            Plugin(made_of(refusing(Quarantine("evil")))), tmp_path, asset=None, timeout_seconds=PATIENCE_SECONDS
        )


@pytest.mark.parametrize("answer", [False, True, {"clean": True}])
async def test_any_other_answer_of_a_scanner_is_not_taken_for_clean(made_of: Any, tmp_path: Path, answer: Any) -> None:
    scanner = Plugin(made_of(lambda path, *, asset: answer))
    with pytest.raises(ScannerUnavailable) as failed:
        await plugins.scan(scanner, tmp_path, asset=None, timeout_seconds=PATIENCE_SECONDS)
    assert failed.value.retryable


async def test_any_other_error_of_a_scanner_is_an_outage(made_of: Any, tmp_path: Path) -> None:
    with pytest.raises(ScannerUnavailable) as failed:
        await plugins.scan(
            Plugin(made_of(refusing(OSError("down")))), tmp_path, asset=None, timeout_seconds=PATIENCE_SECONDS
        )
    assert failed.value.detail["error"] == "OSError"


async def test_a_scanner_that_does_not_answer_in_time_is_an_outage(tmp_path: Path) -> None:
    gate = Gate()
    scanner = Plugin(lambda path, *, asset: gate.block())
    with pytest.raises(ScannerUnavailable) as failed:
        await plugins.scan(scanner, tmp_path, asset=None, timeout_seconds=0.01)
    assert failed.value.detail["error"] == "TimeoutError"
    gate.open()


# --- probe, analyze -----------------------------------------------------------------------------------------------


async def test_a_probe_returns_its_facts_and_raises_what_it_raises(made_of: Any, tmp_path: Path) -> None:
    assert await plugins.probe(Plugin(made_of(lambda path: FACTS)), tmp_path) is FACTS
    with pytest.raises(ZeroDivisionError):
        await plugins.probe(Plugin(made_of(refusing(ZeroDivisionError()))), tmp_path)


async def test_an_analyzer_returns_a_document(made_of: Any, tmp_path: Path) -> None:
    analyzer = Plugin(made_of(lambda path, facts: {"width": facts.width}))
    assert await plugins.analyze(analyzer, tmp_path, FACTS, asset_id="a") == {"width": 1}


@pytest.mark.parametrize("answer", [None, "text", {"at": object()}, {"share": float("nan")}])
async def test_what_is_no_json_document_counts_as_a_failed_analyzer(made_of: Any, tmp_path: Path, answer: Any) -> None:
    assert await plugins.analyze(Plugin(made_of(lambda *_: answer)), tmp_path, FACTS, asset_id="a") is None


async def test_a_failed_analyzer_is_logged_by_its_class_name_only(
    made_of: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    analyzer = Plugin(made_of(refusing(RuntimeError("the-secret"))))

    assert await plugins.analyze(analyzer, tmp_path, FACTS, asset_id="a") is None

    [record] = caplog.records
    assert record.error == "RuntimeError"  # type: ignore[attr-defined]
    assert "the-secret" not in f"{record.getMessage()} {vars(record)}"


# --- process ------------------------------------------------------------------------------------------------------


async def _process(
    function: Callable[..., Any], source: Path, progress: Callable[[int], None] = lambda percent: None
) -> None:
    await plugins.process(Plugin(function), source, RECIPE, source.with_name("out"), progress=progress)


async def test_a_processor_gets_paths_recipe_and_callbacks(made_of: Any, tmp_path: Path) -> None:
    reported: list[int] = []
    calls: list[tuple[Any, ...]] = []

    def build(*args: Any, progress: Callable[[int], None], cancelled: Callable[[], bool]) -> None:
        progress(40)
        calls.append((*args, cancelled()))

    await _process(made_of(build), tmp_path / "in", reported.append)

    assert calls == [(tmp_path / "in", RECIPE, tmp_path / "out", False)]
    assert reported == [40]


async def test_an_error_of_ours_is_passed_on_and_any_other_is_unexpected(made_of: Any, tmp_path: Path) -> None:
    with pytest.raises(RenderFailed):
        await _process(made_of(refusing(RenderFailed("no"))), tmp_path)
    with pytest.raises(Unexpected) as failed:
        await _process(made_of(refusing(KeyError("no"))), tmp_path)
    assert failed.value.retryable


async def test_a_cancelled_build_waits_until_its_thread_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that nothing writes into a scratch directory that is removed, or beside the next attempt."""
    monkeypatch.setattr(plugins, "GRACE_SECONDS", PATIENCE_SECONDS)
    started, ended = threading.Event(), threading.Event()

    def build(*args: Any, progress: Any, cancelled: Callable[[], bool]) -> None:
        started.set()
        while not cancelled():
            pass
        ended.set()

    building = asyncio.create_task(_process(build, tmp_path))
    assert await asyncio.to_thread(started.wait, PATIENCE_SECONDS)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert ended.is_set()


async def test_a_build_that_ignores_its_cancellation_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "GRACE_SECONDS", 0.01)
    gate = Gate()
    building = asyncio.create_task(_process(lambda *_, **__: gate.block(), tmp_path))
    await gate.reached()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    gate.open()


async def test_a_build_that_still_waits_for_a_thread_never_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, threads=1)
    gate, built = Gate(), threading.Event()

    def build(source: Path, *_: Any, **__: Any) -> None:
        gate.block() if source.name == "blocks" else built.set()

    blocked = asyncio.create_task(_process(build, tmp_path / "blocks"))
    await gate.reached()
    waiting = asyncio.create_task(_process(build, tmp_path / "in"))
    await asyncio.sleep(0)  # it is in the queue now
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open()
    await blocked
    assert not built.is_set()


async def test_a_coroutine_is_cancelled_at_once_and_its_own_threads_learn_it_by_the_callback(tmp_path: Path) -> None:
    started = asyncio.Event()
    callbacks: list[Callable[[], bool]] = []

    async def build(*args: Any, progress: Any, cancelled: Callable[[], bool]) -> None:
        callbacks.append(cancelled)
        started.set()
        await asyncio.Event().wait()

    building = asyncio.create_task(_process(build, tmp_path))
    await started.wait()
    assert not callbacks[0]()
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    assert callbacks[0]()


# --- request hooks ------------------------------------------------------------------------------------------------


async def test_a_hook_answers_and_raises_what_it_raises(made_of: Any) -> None:
    assert await plugins.call_hook(made_of(lambda request: request["user"]), {"user": "alice"}) == "alice"
    with pytest.raises(LookupError):
        await plugins.call_hook(made_of(refusing(LookupError())), {})


# --- authorize ----------------------------------------------------------------------------------------------------


class Answering:
    """An authorizer that returns or raises what it was given, as a plain function or a coroutine."""

    def __init__(self, answer: Any, *, is_async: bool) -> None:
        self.answer, self.is_async = answer, is_async
        self.calls: list[tuple[Any, str, Any]] = []

    def authorize(self, actor: Any, action: str, subject: Any) -> Any:
        self.calls.append((actor, action, subject))
        return self._later() if self.is_async else self._now()

    def _now(self) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def _later(self) -> Any:
        return self._now()


both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


@both_ways
@pytest.mark.parametrize("answer", [None, True])
async def test_a_plain_return_allows(answer: Any, is_async: bool) -> None:
    authorizer = Answering(answer, is_async=is_async)

    await authorize(authorizer, "alice", "deliver", "subject")

    assert authorizer.calls == [("alice", "deliver", "subject")]


async def test_without_an_authorizer_everybody_may() -> None:
    await authorize(None, None, "deliver", "subject")


@both_ways
@pytest.mark.parametrize("answer", [False, 0, ""])
async def test_a_false_answer_denies(answer: Any, is_async: bool) -> None:
    with pytest.raises(Unauthorized) as denied:
        await authorize(Answering(answer, is_async=is_async), "alice", "deliver", "subject")

    assert denied.value.code == "unauthorized"


@both_ways
async def test_a_denial_keeps_the_code_its_authorizer_gave_it(is_async: bool) -> None:
    with pytest.raises(Unauthorized) as denied:
        await authorize(Answering(Unauthorized("no", code="forbidden"), is_async=is_async), "alice", "read", None)

    assert (denied.value.code, denied.value.http_status) == ("forbidden", 403)


@both_ways
@pytest.mark.parametrize("raised", [KeyError("the-secret"), RuntimeError("the-secret"), Unauthenticated("the-secret")])
async def test_a_broken_authorizer_denies_and_its_text_stays_inside(
    raised: Exception, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthorized) as denied:
        await authorize(Answering(raised, is_async=is_async), "alice", "deliver", None)

    assert denied.value.code == "unauthorized"
    assert denied.value.__cause__ is None and denied.value.__suppress_context__
    [record] = caplog.records
    assert record.error == type(raised).__name__  # type: ignore[attr-defined]
    assert "the-secret" not in f"{record.getMessage()} {vars(record)} {denied.value!r}"


async def test_an_authorizer_that_does_not_answer_in_time_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "ANSWER_SECONDS", 0.01)
    gate = Gate()
    with pytest.raises(Unauthorized):
        await authorize(Plugin(lambda *_: gate.block()), "alice", "deliver", None)
    gate.open()


async def test_an_authorizer_that_blocks_holds_up_nobody_else() -> None:
    gate = Gate()

    class Slow:
        def authorize(self, actor: Any, action: str, subject: Any) -> bool:
            if actor == "slow":
                gate.block()
            return True

    slow = asyncio.create_task(authorize(Slow(), "slow", "deliver", None))
    await gate.reached()

    await authorize(Slow(), "quick", "deliver", None)
    assert not slow.done()

    gate.open()
    await slow
