"""Tokens: readable by their holder, changeable by nobody."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import SecretStr

from rindle.errors import Misconfigured
from rindle.security import BadToken, check_secrets, derive_key, sign_token, verify_token

OLD, NEW, OTHER = "o" * 32, SecretStr("n" * 32), "x" * 40
LABEL = "rindle:local:url"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)
CLAIMS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=20), JSON, max_size=6)


@given(CLAIMS)
def test_claims_come_back_as_they_were_signed(claims: dict[str, object]) -> None:
    assert verify_token(sign_token(claims, NEW, LABEL), [NEW], LABEL) == claims


@given(CLAIMS, st.data())
def test_a_token_with_any_character_changed_is_refused(claims: dict[str, object], data: st.DataObject) -> None:
    token = sign_token(claims, NEW, LABEL)
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from("ABCDabcd0123-_.="))
    assume(char != token[at])
    with pytest.raises(BadToken):
        verify_token(token[:at] + char + token[at + 1 :], [NEW], LABEL)


@given(st.text(max_size=200))
def test_no_text_but_a_token_is_accepted(text: str) -> None:
    with pytest.raises(BadToken):
        verify_token(text, [NEW], LABEL)


def test_the_token_is_base64url_of_json_and_of_the_mac() -> None:
    token = sign_token({"key": "a/ä", "exp": 1}, NEW, LABEL)
    payload, mac = token.split(".")
    assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))) == {"key": "a/ä", "exp": 1}
    assert len(base64.urlsafe_b64decode(mac + "=")) == 32
    assert token == sign_token({"exp": 1, "key": "a/ä"}, NEW, LABEL)


def test_a_token_of_one_purpose_is_worthless_for_another() -> None:
    with pytest.raises(BadToken):
        verify_token(sign_token({}, NEW, "rindle:tus:url"), [NEW], LABEL)


def test_after_a_rotation_tokens_of_the_old_secret_verify_until_it_is_dropped() -> None:
    token = sign_token({"v": 1}, OLD, LABEL)
    assert verify_token(token, [NEW, OLD], LABEL) == {"v": 1}
    with pytest.raises(BadToken):
        verify_token(token, [NEW, OTHER], LABEL)


def test_a_signed_payload_that_is_no_mapping_is_refused() -> None:
    mapping = sign_token({}, NEW, LABEL)
    payload = base64.urlsafe_b64encode(b"[1]").rstrip(b"=").decode()
    with pytest.raises(BadToken):
        verify_token(f"{payload}.{mapping.split('.')[1]}", [NEW], LABEL)


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "ä.ö", "A" * 10_000])
def test_malformed_tokens_are_refused_with_one_message(token: str) -> None:
    with pytest.raises(BadToken) as caught:
        verify_token(token, [NEW], LABEL)
    assert str(caught.value) == "the token is not valid"
    assert (caught.value.code, caught.value.http_status) == ("unauthorized", 403)


@pytest.mark.parametrize("secrets", [[], ["short"], [NEW, "x" * 31], "x" * 32])
def test_weak_or_missing_secrets_are_refused(secrets: list[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        verify_token(sign_token({}, NEW, LABEL), secrets, LABEL)
    assert "x" * 31 not in str(caught.value)
    with pytest.raises(Misconfigured):
        check_secrets(secrets)


def test_signing_with_a_weak_secret_is_refused() -> None:
    with pytest.raises(Misconfigured):
        sign_token({}, "short", LABEL)


def test_values_json_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        sign_token({"x": float("nan")}, NEW, LABEL)


def test_keys_differ_by_label_and_by_secret() -> None:
    keys = {derive_key(OLD, "a"), derive_key(OLD, "b"), derive_key(NEW, "a")}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {32}
