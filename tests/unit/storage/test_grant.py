"""Tokens of our own URLs (S13): what they allow, and everything they do not."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from rindle.errors import Unauthorized, UploadRejected
from rindle.security import is_digest_of
from rindle.security.signing import BadToken, sign_token
from rindle.storage.grant import Grant, read_grant

SECRET = "s" * 32
OTHER = SecretStr("o" * 32)
LABEL = "rindle:local:url"
#: After the end of the slowest run of the suite, which imports this long before it runs the tests.
LATER = int(time.time()) + 7 * 86_400
GET = Grant(method="GET", key="avatars/1/a.jpg", expires_at=LATER)


def test_every_claim_survives() -> None:
    grant = Grant(
        method="PUT",
        key="avatars/ü/a.jpg",
        expires_at=LATER,
        mime="image/jpeg",
        disposition='attachment; filename="a.jpg"',
        max_bytes=0,
        length=7,
        once=True,
    )

    assert read_grant(grant.token(SECRET, LABEL), [SECRET], LABEL, "PUT") == grant
    assert grant.expires == datetime.fromtimestamp(LATER, UTC)


def test_a_token_contains_a_digest_of_its_subject_and_never_the_name() -> None:
    token = Grant(method="GET", key="a", expires_at=LATER, subject="ada@example.com").token(SECRET, LABEL)

    claims = base64.urlsafe_b64decode(token.partition(".")[0] + "==")
    assert b"ada" not in claims and b"example" not in claims
    subject = read_grant(token, [OTHER, SECRET], LABEL, "GET").subject
    assert json.loads(claims)["sub"] == subject
    assert is_digest_of(subject, "ada@example.com", [OTHER, SECRET], LABEL)
    assert not is_digest_of(subject, "bob@example.com", [OTHER, SECRET], LABEL)


def test_a_token_of_an_earlier_release_is_valid_until_it_expires() -> None:
    token = sign_token({"v": 1, "m": "GET", "key": "a", "exp": LATER, "sub": "ada@example.com"}, SECRET, LABEL)

    assert read_grant(token, [SECRET], LABEL, "GET").key == "a"


def test_a_get_grant_serves_head_and_nothing_else() -> None:
    token = GET.token(SECRET, LABEL)

    assert read_grant(token, [SECRET], LABEL, "GET") == read_grant(token, [SECRET], LABEL, "HEAD") == GET
    for method in ("PUT", "POST", "DELETE"):
        with pytest.raises(BadToken):
            read_grant(token, [SECRET], LABEL, method)


def test_a_put_grant_reads_nothing() -> None:
    token = Grant(method="PUT", key="a", expires_at=LATER).token(SECRET, LABEL)

    for method in ("GET", "HEAD"):
        with pytest.raises(BadToken):
            read_grant(token, [SECRET], LABEL, method)


def test_an_expired_grant_says_so() -> None:
    token = Grant(method="GET", key="a", expires_at=int(time.time()) - 1).token(SECRET, LABEL)

    with pytest.raises(Unauthorized) as caught:
        read_grant(token, [SECRET], LABEL, "GET")

    assert caught.value.detail == {"reason": "expired"}


def test_rotated_secrets_still_verify() -> None:
    token = GET.token(SECRET, LABEL)

    assert read_grant(token, [OTHER, SECRET], LABEL, "GET") == GET
    with pytest.raises(BadToken):
        read_grant(token, [OTHER], LABEL, "GET")


def test_a_token_of_another_purpose_is_worthless() -> None:
    with pytest.raises(BadToken):
        read_grant(GET.token(SECRET, "rindle:tus"), [SECRET], LABEL, "GET")


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"v": 2, "m": "GET", "key": "a", "exp": LATER},
        {"v": 1, "m": "GET", "exp": LATER},
        {"v": 1, "m": "GET", "key": "a", "exp": "x"},
    ],
)
def test_claims_of_another_shape_are_refused(claims: dict[str, object]) -> None:
    with pytest.raises(BadToken):
        read_grant(sign_token(claims, SECRET, LABEL), [SECRET], LABEL, "GET")


@given(token=st.text(max_size=300))
def test_what_we_did_not_sign_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        read_grant(token, [SECRET], LABEL, "GET")


@given(position=st.integers(0, 10_000), character=st.characters(codec="ascii"))
def test_changing_one_character_breaks_a_token(position: int, character: str) -> None:
    token = GET.token(SECRET, LABEL)
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]

    if changed != token:
        with pytest.raises(BadToken):
            read_grant(changed, [SECRET], LABEL, "GET")


def test_a_body_over_the_cap_is_refused_as_soon_as_it_is() -> None:
    grant = Grant(method="PUT", key="a", expires_at=LATER, max_bytes=5)

    grant.check_body_size(5, complete=True)
    with pytest.raises(UploadRejected) as caught:
        grant.check_body_size(6, complete=False)
    assert caught.value.code == "max_bytes_exceeded"


def test_a_body_must_have_the_granted_length() -> None:
    grant = Grant(method="PUT", key="a", expires_at=LATER, length=5)

    grant.check_body_size(4, complete=False)
    grant.check_body_size(5, complete=True)
    for received, complete in ((6, False), (4, True), (0, True)):
        with pytest.raises(UploadRejected) as caught:
            grant.check_body_size(received, complete=complete)
        assert caught.value.code == "size_mismatch"


def test_a_body_must_have_the_granted_type() -> None:
    grant = Grant(method="PUT", key="a", expires_at=LATER, mime="image/png")

    grant.check_content_type("IMAGE/PNG; charset=utf-8")
    for other in (None, "", "text/html", "image/png2"):
        with pytest.raises(Unauthorized):
            grant.check_content_type(other)
