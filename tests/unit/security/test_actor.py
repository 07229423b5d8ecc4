"""Digests of actors: only who has the secret and knows the name can tell whose they are."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rindle.errors import Misconfigured
from rindle.security import actor_digest, is_digest_of

OLD, NEW = "o" * 32, "n" * 32
PURPOSE = "rindle:local:url"


@given(actor=st.text(max_size=300))
def test_a_digest_is_short_and_contains_nothing_of_the_name(actor: str) -> None:
    digest = actor_digest([NEW], actor, PURPOSE)

    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", digest)
    assert is_digest_of(digest, actor, [NEW], PURPOSE)


def test_every_secret_verifies_and_the_first_one_makes() -> None:
    before = actor_digest([OLD], "ada@example.com", PURPOSE)
    rotated = actor_digest([NEW, OLD], "ada@example.com", PURPOSE)

    assert before != rotated == actor_digest([NEW], "ada@example.com", PURPOSE)
    for digest in (before, rotated):
        assert is_digest_of(digest, "ada@example.com", [NEW, OLD], PURPOSE)
        assert not is_digest_of(digest, "bob@example.com", [NEW, OLD], PURPOSE)
    assert not is_digest_of(before, "ada@example.com", [NEW], PURPOSE)


def test_digests_of_two_purposes_cannot_be_compared() -> None:
    digest = actor_digest([NEW], "ada", PURPOSE)

    assert digest != actor_digest([NEW], "ada", "rindle:other")
    assert not is_digest_of(digest, "ada", [NEW], "rindle:other")


@pytest.mark.parametrize("digest", ["", "ada", "anonymous", "ü" * 22, "A" * 22])
def test_what_is_no_digest_matches_nobody(digest: str) -> None:
    assert not is_digest_of(digest, "ada", [NEW], PURPOSE)


@pytest.mark.parametrize("secrets", [[], ["short"]])
def test_a_digest_needs_a_secret(secrets: list[str]) -> None:
    with pytest.raises(Misconfigured):
        actor_digest(secrets, "ada", PURPOSE)
    with pytest.raises(Misconfigured):
        is_digest_of("x", "ada", secrets, PURPOSE)
