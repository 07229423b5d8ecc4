from __future__ import annotations

import pytest
from pydantic import SecretStr

from rindle.errors import Misconfigured
from rindle.security import actor_digest

SECRET = "a secret of the tests, long enough to sign with"
OTHER = "another secret of the tests, long enough to sign"


def test_a_digest_stands_for_one_actor_and_one_purpose() -> None:
    digest = actor_digest([SECRET], "ann@example.org", "fairness")
    assert digest == actor_digest([SecretStr(SECRET), OTHER], "ann@example.org", "fairness")
    assert len(digest) == 32
    others = [([SECRET], "bob", "fairness"), ([SECRET], "ann@example.org", "ticket"), ([OTHER], "ann", "fairness")]
    assert digest not in {actor_digest(*other) for other in others}


@pytest.mark.parametrize("secrets", [(), ("short",)])
def test_without_a_secret_there_is_no_digest(secrets: tuple[str, ...]) -> None:
    with pytest.raises(Misconfigured):
        actor_digest(secrets, "ann", "fairness")
