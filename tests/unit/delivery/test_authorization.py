"""The authorizer decides, and everything that is not a yes is a no."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rindle.delivery.authorization import authorize
from rindle.errors import Unauthenticated, Unauthorized


class Answering:
    """An authorizer that returns or raises what it was given, as a plain function or a coroutine."""

    def __init__(self, answer: Any, *, is_async: bool) -> None:
        self.answer, self.is_async, self.asked = answer, is_async, []

    def authorize(self, actor: Any, action: str, subject: Any) -> Any:
        self.asked.append((actor, action, subject))
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
async def test_a_plain_return_allows(answer: Any, is_async: bool):
    authorizer = Answering(answer, is_async=is_async)

    await authorize(authorizer, "alice", "deliver", "subject")

    assert authorizer.asked == [("alice", "deliver", "subject")]


async def test_without_an_authorizer_everybody_may():
    await authorize(None, None, "deliver", "subject")


@both_ways
@pytest.mark.parametrize("answer", [False, 0, ""])
async def test_a_false_answer_denies(answer: Any, is_async: bool):
    with pytest.raises(Unauthorized) as denied:
        await authorize(Answering(answer, is_async=is_async), "alice", "deliver", "subject")

    assert denied.value.code == "unauthorized"


@both_ways
async def test_a_denial_keeps_the_code_its_authorizer_gave_it(is_async: bool):
    with pytest.raises(Unauthorized) as denied:
        await authorize(Answering(Unauthorized("no", code="forbidden"), is_async=is_async), "alice", "read", None)

    assert (denied.value.code, denied.value.http_status) == ("forbidden", 403)


@both_ways
@pytest.mark.parametrize("raised", [KeyError("the-secret"), RuntimeError("the-secret"), Unauthenticated("the-secret")])
async def test_a_broken_authorizer_denies_and_its_text_stays_inside(
    raised: Exception, is_async: bool, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthorized) as denied:
        await authorize(Answering(raised, is_async=is_async), "alice", "deliver", None)

    assert denied.value.code == "unauthorized"
    assert denied.value.__cause__ is None and denied.value.__suppress_context__
    [record] = caplog.records
    assert record.error == type(raised).__name__  # type: ignore[attr-defined]
    assert "the-secret" not in f"{record.getMessage()} {vars(record)} {denied.value!r}"
