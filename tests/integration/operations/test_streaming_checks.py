"""``rindle doctor`` of applications that stream: configuration, a request to the provider, and what is left there."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from rindle import MediaAsset, Profile, Rindle, Settings
from rindle.db.models import MediaProviderAsset, new_id, utc_now
from rindle.operations.checks.report import Check
from rindle.presets import MuxWeb
from rindle.protocols import StreamingProvider
from rindle.storage.local import LocalStorage
from rindle.storage.memory import MemoryStorage
from rindle.streaming.memory import InMemoryProvider
from rindle.streaming.mux import MuxConfig, MuxProvider
from tests.integration.operations.played import prepare, typed
from tests.servers import free_port
from tests.servers.mux import FakeMux
from tests.stage import Stage
from tests.tables import create_tables

SECRET = "7c1f0d3e9ab24586c1f0d3e97ab8245867c1f0d3e9ab2458"
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
CHECKS = [
    *("delivery.playback_ttl", "profiles.capability_mismatch", "streaming.credentials", "streaming.orphans"),
    *("streaming.signing_key", "streaming.smoke_ping", "streaming.webhook_secrets"),
]


class Lesson(MuxWeb):
    """Films of an hour, with tokens of a quarter."""

    name = "lesson"
    storage = "media"


def application(
    tmp_path: Path, *providers: StreamingProvider, profile: type[Profile] = Lesson, storage: Any = None
) -> Rindle:
    return Rindle(
        engine=create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'application.db'}"),
        storages={"media": storage or MemoryStorage()},
        profiles=[profile],
        providers=providers,
        secrets=[SECRET],
        settings=Settings(tmp_dir=tmp_path),
    )


async def checked(rindle: Rindle, **options: Any) -> dict[str, Check]:
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    await create_tables(engine)
    report = await rindle.doctor(only=CHECKS, workers=False, timeout=60, **options)
    await rindle.close()
    await engine.dispose()
    return {check.id: check for check in report.checks}


def config(mux: FakeMux, **options: Any) -> Callable[[], MuxConfig]:
    token_id, token_secret = mux.token
    found = {
        **{"token_id": token_id, "token_secret": token_secret, "signing_key_id": "key", "signing_private_key": PEM},
        **{"webhook_secrets": ("w" * 32,), "base_url": mux.base_url},
        **options,
    }
    return lambda: MuxConfig(**found)


async def test_a_complete_configuration_is_green_and_the_provider_is_asked_only_on_request(
    tmp_path: Path, mux: FakeMux
) -> None:
    rindle = application(tmp_path, MuxProvider(config(mux)))
    found = await checked(rindle)
    assert {name: one.status for name, one in found.items()} == {
        **dict.fromkeys(CHECKS, "ok"),
        "streaming.smoke_ping": "skipped",
    }
    assert mux.requests == []
    found = await checked(rindle, streaming=True)
    assert {one.status for one in found.values()} == {"ok"}
    assert [method for method, _ in mux.requests] == ["GET"]


async def test_what_the_provider_answers_is_told_apart(tmp_path: Path, mux: FakeMux) -> None:
    async def ping(**options: Any) -> Check:
        rindle = application(tmp_path, MuxProvider(config(mux, **options)))
        return (await checked(rindle, streaming=True))["streaming.smoke_ping"]

    refused = await ping(token_secret="canary")
    assert refused.status == "error" and "401" in refused.summary and "access token" in str(refused.fix)
    mux.plan_fault("GET", "/video/v1/assets", status=429, retry_after=7)
    limited = await ping()
    assert limited.status == "error" and limited.fix == "repeat the check later"
    mux.plan_fault("GET", "/video/v1/assets", status=500)
    broken = await ping()
    assert broken.status == "error" and "status page" in str(broken.fix)
    away = await ping(base_url=f"http://127.0.0.1:{free_port()}")
    assert away.status == "error" and "network" in str(away.fix)
    assert "canary" not in repr((refused, limited, broken, away)) and mux.token[1] not in repr((refused, away))


async def test_each_flaw_is_a_row_of_its_own_without_a_secret(tmp_path: Path, mux: FakeMux) -> None:
    options = {"token_id": "", "signing_private_key": "canary", "webhook_secrets": ("canary",)}
    found = await checked(application(tmp_path, MuxProvider(config(mux, **options))))
    wrong = {name: one.summary for name, one in found.items() if one.status == "error"}
    assert set(wrong) == {"streaming.credentials", "streaming.signing_key", "streaming.webhook_secrets"}
    assert "RINDLE_MUX_TOKEN_ID" in wrong["streaming.credentials"]
    assert "canary" not in repr(found)


async def test_what_nobody_streams_is_not_checked(tmp_path: Path) -> None:
    class Photo(Profile):
        name = "photo"
        storage = "media"
        variants = {}

    plain = application(tmp_path, profile=Photo)
    assert not [one for one in (await plain.doctor(workers=False, offline=True)).checks if "streaming" in one.id]
    found = await checked(application(tmp_path, InMemoryProvider(), profile=Photo), streaming=True)
    assert {one.status for one in found.values()} == {"ok"}


async def test_a_provider_or_a_storage_that_cannot_do_what_a_profile_declares_is_named(
    tmp_path: Path, mux: FakeMux
) -> None:
    class Half(InMemoryProvider):
        name = "mux"

        def capabilities(self) -> frozenset[str]:
            return frozenset({"public_playback"})

    private = LocalStorage(tmp_path / "media", base_url="http://127.0.0.1:9/media", secrets=[SECRET])
    found = (await checked(application(tmp_path, Half(), storage=private)))["profiles.capability_mismatch"]
    assert found.status == "error"
    for part in ("'signed_playback'", "'server_push_ingest'", "no address from which 'mux' can fetch"):
        assert part in found.summary


async def test_what_is_left_at_the_provider_and_what_outlives_its_token_is_counted(
    tmp_path: Path, mux: FakeMux
) -> None:
    rindle = application(tmp_path, MuxProvider(config(mux)))
    await checked(rindle)

    def add(session: Session) -> None:
        for state, hours, duration_ms, left in (
            ("deleted", 2, 1_000, True),
            ("deleted", 0, 1_000, True),
            ("ready", 2, 901_000, False),
            ("ready", 2, 899_000, False),
            ("processing", 2, 901_000, False),
        ):
            asset_id, then = new_id(), utc_now() - timedelta(hours=hours, minutes=1)
            session.add(
                MediaAsset(
                    id=asset_id,
                    state="ready",
                    storage_key=asset_id,
                    profile="lesson",
                    kind="video",
                    duration_ms=duration_ms,
                )
            )
            session.flush()
            row = {"asset_id": asset_id, "profile": "lesson", "provider_name": "mux", "state": state}
            session.add(MediaProviderAsset(**row, cleanup_pending=left, inserted_at=then, updated_at=then))

    await rindle.database.write(add)
    found = await checked(rindle)
    orphans, ttl = found["streaming.orphans"], found["delivery.playback_ttl"]
    assert (orphans.status, orphans.detail) == ("warn", {"count": 1})
    assert (ttl.status, ttl.detail) == ("warn", {"profiles": {"lesson": 1}})


async def test_the_command_asks_the_provider_and_names_the_queue_that_nobody_polls(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite_stage.environment["APP_PROVIDER"] = "memory"
    await prepare(lite_stage, monkeypatch)
    code, printed = await typed("rindle doctor --streaming --only streaming.smoke_ping,streaming.credentials")
    assert code == 0 and "not applicable" in printed
    code, printed = await typed("rindle doctor --only temporal.pollers")
    assert (code, f"{lite_stage.prefix}-provider" in printed) == (1, True)
