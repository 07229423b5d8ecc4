"""Signatures of webhooks: what is refused, and that nothing says why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rindle.errors import ProviderWebhookInvalid
from rindle.streaming import signatures

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
BODY = b'{"id": "e1", "type": "video.asset.ready"}'


def verify(header: str | None, *, body: bytes = BODY, secrets: tuple[str, ...] = ("one", "two")) -> int:
    return signatures.verify(body, header, secrets, now=NOW, tolerance_seconds=300)


@pytest.mark.parametrize(("secret", "index"), [("one", 0), ("two", 1)])
def test_each_secret_verifies(secret: str, index: int) -> None:
    assert verify(signatures.sign(BODY, secret, now=NOW)) == index


def test_spaces_further_schemes_and_several_digests_are_accepted() -> None:
    time, digest = signatures.sign(BODY, "one", now=NOW).split(",")
    assert verify(f" {time} , v0=abc, v1={'0' * 64} ,{digest.upper().replace('V1', 'v1')}") == 0


@pytest.mark.parametrize("seconds", [-300, 300])
def test_the_tolerance_holds_both_ways(seconds: int) -> None:
    assert verify(signatures.sign(BODY, "one", now=NOW + timedelta(seconds=seconds))) == 0
    further = NOW + timedelta(seconds=seconds * 301 // 300)
    with pytest.raises(ProviderWebhookInvalid):
        verify(signatures.sign(BODY, "one", now=further))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "t=,v1=",
        "v1=" + "0" * 64,
        "t=99999999999999999999,v1=" + "0" * 64,
        "t=١٢,v1=" + "0" * 64,
        f"t={int(NOW.timestamp())},v1=é",
        f"t={int(NOW.timestamp())},t={int(NOW.timestamp())},v1=" + "0" * 64,
        f"t={int(NOW.timestamp())},v1=" + "0" * 64,
    ],
)
def test_anything_else_is_refused_with_one_message(header: str | None) -> None:
    with pytest.raises(ProviderWebhookInvalid) as caught:
        verify(header)
    assert caught.value.message == signatures.invalid().message
    assert caught.value.detail == {}


def test_another_body_and_another_secret_are_refused() -> None:
    header = signatures.sign(BODY, "one", now=NOW)
    with pytest.raises(ProviderWebhookInvalid):
        verify(header, body=BODY + b" ")
    with pytest.raises(ProviderWebhookInvalid):
        verify(header, secrets=("three",))
    with pytest.raises(ProviderWebhookInvalid):
        verify(header, secrets=())
    with pytest.raises(ProviderWebhookInvalid):
        verify(signatures.sign(BODY, "", now=NOW), secrets=("",))  # an empty secret is none


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{" + b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ProviderWebhookInvalid):
        signatures.document_of(body)


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (None, ()),
        ("abc", ()),
        ([], ()),
        ([{"id": "a", "policy": "signed"}, "b", None, {"policy": "public"}, ""], ("a", "b")),
    ],
)
def test_playback_ids_have_one_form(value: object, ids: tuple[str, ...]) -> None:
    assert signatures.playback_ids_of(value) == ids


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-29T12:00:00Z", NOW),
        ("2026-11-29T13:00:00+01:00", NOW),
        ("2026-11-29T12:00:00", NOW),
        (int(NOW.timestamp()), NOW),
        (str(int(NOW.timestamp())), NOW),
        ("soon", None),
        (None, None),
        (True, None),
        (1e30, None),
    ],
)
def test_times_are_iso_8601_or_unix_seconds(value: object, expected: datetime | None) -> None:
    assert signatures.instant_of(value) == expected
