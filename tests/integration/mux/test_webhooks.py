"""Webhooks: what they say, how they are signed, and what a test can do to them."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.mux.client import Sdk, misfits
from tests.integration.mux.conftest import Receiver
from tests.patience import PATIENCE_SECONDS, until_blocking
from tests.servers import free_port
from tests.servers.mux import FakeMux
from tests.servers.mux.webhooks import Event

Urls = Callable[[str], str]


def create(sdk: Sdk, url: str) -> Any:
    """Begin an asset."""
    return sdk.assets.create_asset({"inputs": [{"url": url}], "playback_policies": ["signed"], "passthrough": "a"}).data


def stamp(headers: dict[str, str]) -> tuple[int, str]:
    """Return time and digest of a signature."""
    fields = dict(part.split("=", 1) for part in headers["mux-signature"].split(","))
    assert fields.keys() == {"t", "v1"}
    return int(fields["t"]), fields["v1"]


def signed_with(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Say whether a webhook bears the signature of a secret, as Mux's guide describes it."""
    moment, digest = stamp(headers)
    return hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest() == digest


def types(receiver: Receiver) -> list[str]:
    """Return the types of what arrived."""
    return [json.loads(body)["type"] for _, body in receiver.received]


def test_an_asset_is_told_of_until_it_is_ready(mux: FakeMux, sdk: Sdk, film_url: Urls, receiver: Receiver) -> None:
    secret = mux.add_webhook(receiver.url)
    made = create(sdk, film_url("film.mp4"))

    until_blocking(lambda: len(receiver.received) == 2)

    # Each is sent when it happens, and waits for no other: on a busy machine they may arrive in another order.
    assert sorted(types(receiver)) == ["video.asset.created", "video.asset.ready"]
    headers, body = next(arrived for arrived in receiver.received if b"video.asset.ready" in arrived[1])
    assert headers["content-type"] == "application/json"
    assert signed_with(secret, headers, body)
    assert not signed_with("another", headers, body)
    assert abs(stamp(headers)[0] - time.time()) < PATIENCE_SECONDS
    told = json.loads(body)
    assert told.keys() == {
        *("type", "id", "created_at", "object", "environment", "data"),
        *("request_id", "accessor", "accessor_source", "attempts"),
    }
    assert told["object"] == {"type": "asset", "id": made.id}
    assert told["environment"].keys() == {"name", "id"}
    assert datetime.fromisoformat(told["created_at"]).utcoffset() is not None
    data = told["data"]
    assert (data["id"], data["status"], data["passthrough"]) == (made.id, "ready", "a")
    # The one difference between an asset in an answer and in a webhook: the time is a number.
    assert data["created_at"] == int(made.created_at)
    assert list(misfits({**data, "created_at": made.created_at}, "Asset")) == []


def test_a_direct_upload_is_told_of_under_its_own_id(mux: FakeMux, sdk: Sdk, receiver: Receiver) -> None:
    mux.hold_ingest()
    mux.add_webhook(receiver.url)
    upload = sdk.uploads.create_direct_upload({"new_asset_settings": {"passthrough": "a"}}).data
    httpx.put(upload.url, content=b"film", trust_env=False, timeout=PATIENCE_SECONDS)
    until_blocking(lambda: "video.upload.asset_created" in types(receiver))

    (told,) = [
        json.loads(body) for _, body in receiver.received if json.loads(body)["type"] == "video.upload.asset_created"
    ]
    assert told["object"] == {"type": "upload", "id": upload.id}
    assert (told["data"]["id"], told["data"]["asset_id"]) == (upload.id, mux.assets[0].id)
    assert told["data"]["new_asset_settings"]["passthrough"] == "a"
    assert list(misfits(told["data"], "Upload")) == []


def test_a_webhook_is_repeated_until_it_is_taken(mux: FakeMux, sdk: Sdk, film_url: Urls, receiver: Receiver) -> None:
    mux.hold_ingest()
    mux.add_webhook(receiver.url)
    receiver.answers += [503, 400]

    create(sdk, film_url("film.mp4"))
    until_blocking(lambda: len(mux.deliveries) == 3)

    assert mux.deliveries == [("video.asset.created", status) for status in (503, 400, 200)]
    assert len({body for _, body in receiver.received}) == 1


def test_an_application_that_is_away_is_told_later(mux: FakeMux, sdk: Sdk, film_url: Urls) -> None:
    mux.hold_ingest()
    mux.add_webhook(f"http://127.0.0.1:{free_port()}/nobody")

    create(sdk, film_url("film.mp4"))

    until_blocking(lambda: mux.deliveries[:2] == 2 * [("video.asset.created", 0)])


@pytest.fixture
def held(mux: FakeMux, sdk: Sdk, film_url: Urls, receiver: Receiver) -> list[Event]:
    """Events of a ready asset, which nobody was told of."""
    mux.add_webhook(receiver.url, "a secret")
    mux.hold_webhooks()
    create(sdk, film_url("film.mp4"))
    until_blocking(lambda: len(mux.events) == 2)
    assert receiver.received == []
    return mux.events


def test_a_test_decides_on_order_and_repetition(mux: FakeMux, held: list[Event], receiver: Receiver) -> None:
    created, ready = held

    assert mux.deliver(ready, created, ready) == [200, 200, 200]

    assert types(receiver) == ["video.asset.ready", "video.asset.created", "video.asset.ready"]
    assert [json.loads(body)["id"] for _, body in receiver.received] == [ready.id, created.id, ready.id]


def test_a_signature_can_be_old_or_of_the_future_or_of_a_stranger(
    mux: FakeMux, held: list[Event], receiver: Receiver
) -> None:
    mux.deliver(held[0], age_seconds=3600)
    mux.deliver(held[0], age_seconds=-3600)
    mux.deliver(held[0], secret="a stranger's")

    (old, old_body), (early, early_body), (strange, strange_body) = receiver.received
    assert stamp(early)[0] - stamp(old)[0] == pytest.approx(7200, abs=PATIENCE_SECONDS)
    assert signed_with("a secret", old, old_body) and signed_with("a secret", early, early_body)
    assert signed_with("a stranger's", strange, strange_body)
    assert not signed_with("a secret", strange, strange_body)


def test_a_secret_can_be_replaced(mux: FakeMux, held: list[Event], receiver: Receiver) -> None:
    mux.add_webhook(receiver.url, "the new one")
    mux.deliver(held[0])

    (arrived,) = receiver.received
    assert signed_with("the new one", *arrived)


def test_events_can_be_lost(mux: FakeMux, sdk: Sdk, film_url: Urls, receiver: Receiver) -> None:
    mux.add_webhook(receiver.url)
    mux.lose_webhooks("video.asset.ready")

    made = create(sdk, film_url("film.mp4"))
    until_blocking(lambda: sdk.assets.get_asset(made.id).data.status == "ready")
    sdk.assets.delete_asset(made.id)
    until_blocking(lambda: len(receiver.received) == 2)

    assert sorted(types(receiver)) == ["video.asset.created", "video.asset.deleted"]
    assert [event.type for event in mux.events] == ["video.asset.created", "video.asset.ready", "video.asset.deleted"]


def test_as_a_program_it_says_what_to_set(receiver: Receiver, film_url: Urls, tmp_path: Path) -> None:
    """It also needs nothing of the library, which its process proves."""
    arguments = ("--home", str(tmp_path), "--webhook", receiver.url, "--webhook-secret", "a secret")
    command = [sys.executable, "-X", "importtime", "-m", "tests.servers.mux", *arguments]
    with (
        (tmp_path / "imports").open("w+") as imports,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=imports, text=True, env=dict(os.environ)) as process,
    ):
        try:
            assert process.stdout is not None
            told = dict(line.strip().split("=", 1) for line in iter(process.stdout.readline, "ready\n"))
            assert told["RINDLE_MUX_WEBHOOK_SECRETS"] == "a secret"
            assert told["RINDLE_MUX_SIGNING_PRIVATE_KEY"] and told["RINDLE_MUX_SIGNING_KEY_ID"]
            asset = {"inputs": [{"url": film_url("garbage.mp4")}]}
            access = (told["RINDLE_MUX_TOKEN_ID"], told["RINDLE_MUX_TOKEN_SECRET"])
            api = f"{told['RINDLE_MUX_BASE_URL']}/video/v1/assets"
            answer = httpx.post(api, json=asset, auth=access, trust_env=False, timeout=PATIENCE_SECONDS)
            assert answer.status_code == 201
            until_blocking(lambda: sorted(types(receiver)) == ["video.asset.created", "video.asset.errored"])
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        imports.seek(0)
        names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports}
    assert "starlette" in names
    assert "rindle" not in names
