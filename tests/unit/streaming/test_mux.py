"""Mux without a network: credentials, playback tokens, webhooks."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rindle.errors import MissingConfig, ProviderSyncFailed, ProviderWebhookInvalid
from rindle.protocols import VerifiedWebhook, WebhookKind
from rindle.streaming import signatures
from rindle.streaming.mux import MuxConfig, MuxProvider, tokens
from rindle.streaming.mux.tokens import playback_token

NOW = datetime.now(UTC).replace(microsecond=0)
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def config(**options: Any) -> MuxConfig:
    return MuxConfig(**{"signing_key_id": "key-1", "signing_private_key": PEM, **options})


# --- playback ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [PEM, PEM.replace("\n", "\\n"), base64.b64encode(PEM.encode()).decode(), f"\n {PEM} "],
    ids=["pem", "literal line ends", "base64", "spaces"],
)
@pytest.mark.parametrize(("audience", "aud"), [("video", "v"), ("thumbnail", "t"), ("gif", "g"), ("storyboard", "s")])
def test_a_token_has_mux_claims_and_an_explicit_expiry(text: str, audience: str, aud: str) -> None:
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)  # NOW is that of the import
    token = playback_token(config(signing_private_key=text), "play-1", expires_at=expires_at, audience=audience)
    claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"], audience=aud)
    assert claims == {"sub": "play-1", "aud": aud, "exp": int(expires_at.timestamp()), "kid": "key-1"}
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}


EC = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("text", ["canary-of-a-key", "-----BEGIN canary-of-a-key", "Y2FuYXJ5", EC])
def test_a_key_that_cannot_be_read_is_named_by_its_variable_alone(text: str) -> None:
    with pytest.raises(MissingConfig) as caught:
        playback_token(config(signing_private_key=text), "play-1", expires_at=NOW)
    assert caught.value.detail["key"] == "RINDLE_MUX_SIGNING_PRIVATE_KEY"
    assert "canary" not in repr(caught.value) + str(caught.value.detail) and EC[40:80] not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("option", ["signing_key_id", "signing_private_key"])
def test_a_missing_credential_is_named(option: str) -> None:
    with pytest.raises(MissingConfig, match=f"RINDLE_MUX_{option.upper()}"):
        playback_token(config(**{option: ""}), "play-1", expires_at=NOW)


async def test_credentials_are_read_at_each_call_and_public_playback_needs_none() -> None:
    current = MuxConfig()
    provider = MuxProvider(lambda: current)
    public = await provider.playback_url("a/b", policy="public", expires_in=60)
    assert (public.url, public.expires_at) == ("https://stream.mux.com/a%2Fb.m3u8", None)
    with pytest.raises(MissingConfig):
        await provider.playback_url("play-1", policy="signed", expires_in=60)
    current = config()
    signed = await provider.playback_url("play-1", policy="signed", expires_in=60)
    address, _, token = signed.url.partition("?token=")
    assert address == "https://stream.mux.com/play-1.m3u8"
    claims = jwt.decode(token, KEY.public_key(), algorithms=["RS256"], audience="v")
    assert signed.expires_at is not None and claims["exp"] == int(signed.expires_at.timestamp())
    assert token not in repr(signed)
    with pytest.raises(MissingConfig, match="RINDLE_MUX_TOKEN_ID"):
        await provider.get_asset("x")
    await provider.close()


def test_a_key_is_parsed_once_and_another_one_is_used_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing takes longer than signing; the cache knows a key by its digest."""
    parse = Mock(wraps=tokens.load_pem_private_key)
    monkeypatch.setattr(tokens, "load_pem_private_key", parse)
    tokens._parsed.cache_clear()
    other = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    for text, key in ((PEM, KEY), (PEM, KEY), (pem, other), (PEM, KEY)):
        token = playback_token(config(signing_private_key=text), "play-1", expires_at=NOW + timedelta(days=1))
        assert jwt.decode(token, key.public_key(), algorithms=["RS256"], audience="v")["sub"] == "play-1"
    assert parse.call_count == 2


ANSWERS: dict[str, Any] = {
    "nothing": None,
    "a list": [],
    "no data": {},
    "a list of data": {"data": []},
    "no id": {"data": {"status": "ready", "passthrough": "canary"}},
    "an id that is none": {"data": {"id": 5, "passthrough": "canary"}},
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_of_another_shape_is_refused_by_its_type(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    provider = MuxProvider(config)
    monkeypatch.setattr(provider, "_blocking", lambda *args, **options: ANSWERS[answer])
    for call in (provider.get_asset("canary"), provider.get_direct_upload("canary")):
        with pytest.raises(ProviderSyncFailed) as caught:
            await call
        assert not caught.value.transient and "canary" not in repr(caught.value) + caplog.text
    assert "mux answered with an unexpected shape" in caplog.text
    await provider.close()


async def test_an_unknown_status_and_null_playback_ids_are_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider = MuxProvider(config)
    answer = {"data": {"id": "canary", "status": "a later invention", "playback_ids": None}}
    monkeypatch.setattr(provider, "_blocking", lambda *args, **options: answer)
    found = await provider.get_asset("canary")
    assert (found.state, found.playback_ids) == ("", ())
    [record] = [record for record in caplog.records if record.name.startswith("rindle")]
    assert (record.getMessage(), vars(record)["status"]) == ("mux reports an unknown status", "a later invention")
    await provider.close()


def test_the_environment_is_read_and_no_secret_is_shown() -> None:
    found = MuxConfig.of_environment(
        {
            "RINDLE_MUX_TOKEN_ID": " id ",
            "RINDLE_MUX_TOKEN_SECRET": "canary-1",
            "RINDLE_MUX_WEBHOOK_SECRETS": "canary-2, ,canary-3",
            "RINDLE_MUX_SIGNING_PRIVATE_KEY": "canary-4",
            "RINDLE_MUX_BASE_URL": "http://127.0.0.1:1",
        }
    )
    assert (found.token_id, found.base_url, found.stream_url) == ("id", "http://127.0.0.1:1", "https://stream.mux.com")
    assert found.webhook_secrets == ("canary-2", "canary-3")
    assert "canary" not in repr(found)


# --- webhooks ----------------------------------------------------------------------------------------------------


def received(document: Mapping[str, Any], *, header: str = "Mux-Signature") -> VerifiedWebhook:
    body = json.dumps(document).encode()
    headers = {header: signatures.sign(body, "secret", now=NOW)}
    return MuxProvider().verify_webhook(body, headers, ["secret"], now=NOW, tolerance_seconds=300)


def webhook(kind: str, **data: Any) -> dict[str, Any]:
    return {"id": "e1", "type": kind, "created_at": NOW.isoformat(), "data": {"id": "x1", **data}}


@pytest.mark.parametrize("header", ["Mux-Signature", "mux-signature", "MUX-SIGNATURE"])
def test_a_ready_asset(header: str) -> None:
    document = webhook("video.asset.ready", playback_ids=[{"id": "p1", "policy": "signed"}], passthrough="pass")
    event = received(document, header=header).event
    assert event is not None
    assert (event.kind, event.provider_asset_id, event.upload_id) == (WebhookKind.READY, "x1", None)
    assert (event.playback_ids, event.passthrough, event.occurred_at) == (("p1",), "pass", NOW)
    assert "x1" not in repr(event) and "pass" not in repr(event).replace("passthrough", "")


def test_an_upload_that_became_an_asset_names_both() -> None:
    document = webhook("video.upload.asset_created", asset_id="a1", new_asset_settings={"passthrough": "pass"})
    event = received(document).event
    assert event is not None
    assert (event.kind, event.upload_id, event.provider_asset_id) == (WebhookKind.UPLOAD_ASSET_CREATED, "x1", "a1")
    assert event.passthrough == "pass"


def test_an_errored_asset_has_its_messages_and_null_playback_ids_are_none() -> None:
    errors = {"type": "invalid_input", "messages": ["no video", "no audio"]}
    event = received(webhook("video.asset.errored", errors=errors, playback_ids=None)).event
    assert event is not None
    assert (event.error, event.playback_ids) == ("invalid_input: no video; no audio", ())


def test_other_types_are_verified_and_dropped() -> None:
    assert received(webhook("video.asset.track.ready")).event is None
    assert received({"id": "e1", "type": "video.future." + "x" * 200}).event is None


@pytest.mark.parametrize(
    "document",
    [
        {"type": "video.asset.ready", "data": {"id": "x1"}},
        {"id": "", "type": "video.asset.ready", "data": {"id": "x1"}},
        {"id": "e1", "data": {"id": "x1"}},
        {"id": "e1", "type": "video.asset.ready"},
        {"id": "e1", "type": "video.asset.ready", "data": {"id": None}},
        {"id": "e1", "type": "video.asset.ready", "data": {"id": "x" * 256}},
    ],
)
def test_a_webhook_without_its_ids_is_refused(document: Mapping[str, Any]) -> None:
    with pytest.raises(ProviderWebhookInvalid):
        received(document)


# --- checks ------------------------------------------------------------------------------------------------------

COMPLETE = {"token_id": "id", "token_secret": "canary", "webhook_secrets": ("s" * 32, "t" * 32)}
WEAK = rsa.generate_private_key(public_exponent=65_537, key_size=1024)
WEAK_PEM = WEAK.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("options", "signed", "wanted"),
    [
        ({}, True, {}),
        ({"signing_key_id": "", "signing_private_key": ""}, False, {}),
        ({"signing_key_id": ""}, True, {"credentials": "RINDLE_MUX_SIGNING_KEY_ID"}),
        (
            {"token_id": "", "token_secret": "", "webhook_secrets": ()},
            True,
            {
                "credentials": "RINDLE_MUX_TOKEN_ID, RINDLE_MUX_TOKEN_SECRET, RINDLE_MUX_WEBHOOK_SECRETS",
                "webhook_secrets": "every webhook is refused",
            },
        ),
        ({"signing_private_key": "canary"}, True, {"signing_key": "is not an RSA private key"}),
        ({"signing_private_key": EC}, True, {"signing_key": "is not an RSA private key"}),
        ({"signing_private_key": WEAK_PEM}, True, {"signing_key": "has 1024 bits"}),
        ({"webhook_secrets": ("s" * 32, "canary")}, True, {"webhook_secrets": "number 2 has fewer than 32"}),
    ],
)
def test_a_flaw_of_the_configuration_is_named_without_a_part_of_a_secret(
    options: dict[str, Any], signed: bool, wanted: dict[str, str]
) -> None:
    found = MuxProvider(lambda: config(**{**COMPLETE, **options})).configuration_flaws(signed=signed)
    assert [flaw.check for flaw in found] == list(wanted)
    for flaw in found:
        assert wanted[flaw.check] in flaw.problem and flaw.fix
    assert "canary" not in repr(found) and EC[40:80] not in repr(found) and WEAK_PEM[40:80] not in repr(found)
