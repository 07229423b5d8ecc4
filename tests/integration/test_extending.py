"""The plug-ins of ``docs/extending.md``, run by a real worker; the store also passes the shipped contract."""

from __future__ import annotations

import asyncio
import io
import os
import random
import secrets
import sys
import uuid
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import skimage.data
from fastapi import FastAPI, Request
from PIL import Image, ImageChops

from examples.extending.app import TeamPhoto, make
from examples.extending.authorizer import TeamAuthorizer
from examples.extending.scanner import PIECE_BYTES, SIGNATURES, EicarScanner
from examples.extending.storage import SqliteStorage
from rindle import AssetState, MediaAsset, MediaKind, Quarantine, Rindle, VariantState
from rindle.db.migrate import async_upgrade
from rindle.errors import CapabilityUnsupported, Unauthorized
from rindle.http import create_router
from rindle.protocols import Analyzer, Authorizer, Probe, Processor, Scanner
from rindle.testing.storage_contract import StorageContract
from tests.patience import PATIENCE_SECONDS
from tests.servers import free_port
from tests.servers.temporal import TemporalServer
from tests.stage import REPOSITORY, SpawnedWorker

EICAR = SIGNATURES["EICAR test file"]


@dataclass(frozen=True)
class Extended:
    """The example application and where its files are."""

    rindle: Rindle
    home: Path

    async def ready(
        self, profile: str, body: bytes, filename: str = "photo.jpg", actor: str | None = None
    ) -> MediaAsset:
        """Take in a file and wait until the worker is done with it."""
        asset = await self.rindle.upload(profile, io.BytesIO(body), filename=filename, actor=actor)
        return await self.rindle.settled(asset.id, timeout=PATIENCE_SECONDS)

    async def sent(self, profile: str, body: bytes, filename: str) -> MediaAsset:
        """Send a file past the application, as a browser does: then the worker alone judges it."""
        session = await self.rindle.initiate_upload(profile, filename=filename)
        await self.rindle.sign_url(session.id)
        source = self.home / uuid.uuid4().hex
        source.write_bytes(body)
        await self.rindle.storages["media"].store(session.upload_key, source)
        done = await self.rindle.verify_completion(session.id)
        return await self.rindle.settled(done.asset.id, timeout=PATIENCE_SECONDS)

    async def picture(self, storage: str, key: str | None) -> Image.Image:
        """Open an object that a worker has stored."""
        assert key is not None
        path = await self.rindle.storages[storage].download(key, self.home / uuid.uuid4().hex)
        with Image.open(path) as found:
            found.load()
            return found


@pytest.fixture(scope="module")
async def extended(
    temporal_server: TemporalServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Extended]:
    """The application in this process and a ``python worker.py`` of it, for all tests of this file."""
    home = tmp_path_factory.mktemp("extending")
    prefix = f"x{uuid.uuid4().hex[:10]}"
    health = f"127.0.0.1:{free_port()}"
    environment = {
        "DATABASE_URL": f"sqlite+aiosqlite:///{home / 'rindle.db'}",
        "RINDLE_APP": "examples.extending.app:make",
        "RINDLE_HEALTH_ADDRESS": health,
        "RINDLE_HOME": str(home),
        "RINDLE_RENDER_WORKERS": "1",
        "RINDLE_SECRETS": secrets.token_urlsafe(32),
        "RINDLE_TASK_QUEUE_PREFIX": prefix,
        "RINDLE_TMP_DIR": str(home),
        "RINDLE_WORKFLOW_ID_PREFIX": prefix,
        "TEMPORAL_ADDRESS": temporal_server.target,
        "TEMPORAL_NAMESPACE": temporal_server.namespace,
    }
    log = home / "worker.log"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        rindle = make()
        await async_upgrade(rindle.database.engine)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "worker.py", cwd=REPOSITORY, env=dict(os.environ), stdout=output, stderr=output
            )
        worker = SpawnedWorker(process, f"http://{health}", log)
        try:
            await worker.ready()
            assert process.returncode is None, worker.tail()
            async with rindle:
                yield Extended(rindle, home)
        finally:
            await worker.kill()
            await rindle.database.engine.dispose()


def photo(size: tuple[int, int] = (400, 300), *, gray: bool = False) -> bytes:
    """Return a real photograph as JPEG."""
    target = io.BytesIO()
    Image.fromarray(skimage.data.camera() if gray else skimage.data.astronaut()).resize(size).save(target, "JPEG")
    return target.getvalue()


def sound(seconds: float, rate: int = 8000) -> bytes:
    """Return silence as a WAV file."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * round(seconds * rate)))
    return target.getvalue()


def test_the_examples_are_what_they_claim_to_be() -> None:
    from examples.extending import app

    assert isinstance(app.ScannedPhoto.scanner, Scanner)
    assert isinstance(app.ColouredPhoto.analyzer, Analyzer)
    assert isinstance(app.GrayPhoto.processor, Processor)
    assert isinstance(app.Recording.probe, Probe)
    assert isinstance(app.TeamPhoto.delivery_policy().authorizer, Authorizer)


# --- scanner ------------------------------------------------------------------------------------------------------


async def test_a_clean_picture_passes_the_scanner(extended: Extended) -> None:
    asset = await extended.sent("scanned", photo(), "photo.jpg")

    assert asset.state == AssetState.READY
    assert asset.scanned_etag == asset.stored_etag


async def test_a_picture_with_a_signature_behind_it_is_quarantined(extended: Extended) -> None:
    asset = await extended.sent("scanned", photo() + EICAR, "photo.jpg")

    assert (asset.state, asset.error_code) == (AssetState.QUARANTINED, "scanner_rejected")
    assert "EICAR" in (asset.error_reason or "")
    assert asset.variants == []


async def test_a_server_side_upload_is_scanned_before_anything_is_stored(extended: Extended) -> None:
    before = (await extended.rindle.storages["media"].list_keys("scanned/")).objects

    with pytest.raises(Quarantine):
        await extended.ready("scanned", photo() + EICAR)

    assert (await extended.rindle.storages["media"].list_keys("scanned/")).objects == before


@pytest.mark.parametrize("before", [0, 1, PIECE_BYTES - len(EICAR) // 2, PIECE_BYTES, 3 * PIECE_BYTES - 1])
def test_a_signature_is_found_wherever_it_lies(tmp_path: Path, before: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(random.Random(7).randbytes(before) + EICAR + b"\0" * 100)

    with pytest.raises(Quarantine, match="EICAR"):
        EicarScanner().scan(file, asset=None)


def test_bytes_without_a_signature_are_clean(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(EICAR[:-1] + b"\0" * PIECE_BYTES + EICAR[1:])

    EicarScanner().scan(file, asset=None)


# --- analyzer -----------------------------------------------------------------------------------------------------


async def test_the_dominant_colour_is_in_the_row(extended: Extended) -> None:
    target = io.BytesIO()
    picture = Image.new("RGB", (200, 100), "#2080c0")
    picture.paste("#f0f0f0", (0, 0, 40, 100))
    picture.save(target, "PNG")

    asset = await extended.ready("coloured", target.getvalue(), "flag.png")

    found = asset.media_metadata["analyzer"]
    assert found["dominant_colour"] == "#2080c0"
    assert found["share"] == pytest.approx(0.8, abs=0.05)


# --- processor ----------------------------------------------------------------------------------------------------


async def test_variants_come_from_the_profiles_own_processor(extended: Extended) -> None:
    asset = await extended.ready("gray", photo())

    assert asset.state == AssetState.READY
    thumb, large = sorted(asset.variants, key=lambda row: row.width or 0)
    assert (thumb.width, thumb.height, thumb.content_type) == (64, 64, "image/jpeg")
    assert (large.width, large.height, large.content_type) == (320, 240, "image/webp")
    for row in (thumb, large):
        red, green, blue = (await extended.picture("media", row.storage_key)).convert("RGB").split()
        for other in (green, blue):  # WebP keeps colours apart from brightness and rounds them
            assert ImageChops.difference(red, other).getextrema()[1] <= 3


async def test_comments_of_the_original_do_not_reach_variants(extended: Extended) -> None:
    target = io.BytesIO()
    Image.open(io.BytesIO(photo())).save(target, "JPEG", comment=b"taken at home")

    asset = await extended.ready("gray", target.getvalue())

    for row in asset.variants:
        assert "comment" not in (await extended.picture("media", row.storage_key)).info


# --- probe --------------------------------------------------------------------------------------------------------


async def test_a_type_of_its_own_is_probed(extended: Extended) -> None:
    asset = await extended.ready("recording", sound(2.5), "note.wav")

    assert (asset.state, asset.kind, asset.duration_ms) == (AssetState.READY, MediaKind.AUDIO, 2500)
    assert asset.content_type == "audio/wav"
    assert asset.has_audio_track is True
    assert asset.media_metadata["sample_rate_hz"] == 8000


@pytest.mark.parametrize(
    ("body", "code"),
    [(sound(11), "media_too_long"), (sound(1)[:20], "decode_failed")],
    ids=["too long", "damaged"],
)
async def test_what_the_probe_finds_decides(extended: Extended, body: bytes, code: str) -> None:
    asset = await extended.ready("recording", body, "note.wav")

    assert (asset.state, asset.error_code) == (AssetState.QUARANTINED, code)


# --- authorizer ---------------------------------------------------------------------------------------------------


async def test_thumbnails_for_all_and_originals_for_the_team(extended: Extended) -> None:
    asset = await extended.ready("team", photo(), actor="alice")
    url, variant_url = extended.rindle.url, extended.rindle.variant_url

    assert await url("team", asset, actor="bob")
    assert await variant_url("team", asset, "thumb", actor="carol")
    for call in (
        url("team", asset, actor="carol"),
        url("team", asset),
        variant_url("team", asset, "thumb"),
    ):
        with pytest.raises(Unauthorized):
            await call


async def test_the_routes_ask_the_same_authorizer(extended: Extended) -> None:
    asset = await extended.ready("team", photo(), actor="alice")

    def actor_of(request: Request) -> str | None:
        return request.headers.get("x-test-actor")

    app = FastAPI()
    app.include_router(
        create_router(
            extended.rindle,
            profiles={"team": TeamPhoto},
            actor_from_request=actor_of,
            authorizer=TeamAuthorizer({"alice", "bob"}),
        )
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:

        async def status(method: str, path: str, actor: str) -> int:
            sent = {"X-Test-Actor": actor, "X-Rindle": "1"}
            body = {"profile": "team", "filename": "a.jpg"} if path == "/uploads" else None
            return (await client.request(method, path, headers=sent, json=body)).status_code

        path = f"/assets/{asset.id}"
        assert [await status("GET", path, actor) for actor in ("alice", "bob", "carol")] == [200, 200, 404]
        assert [await status("POST", f"{path}/requeue", actor) for actor in ("alice", "bob")] == [202, 404]
        assert [await status("POST", "/uploads", actor) for actor in ("bob", "carol")] == [201, 403]


# --- storage ------------------------------------------------------------------------------------------------------


class TestSqliteStorage(StorageContract):
    @pytest.fixture
    async def storage(self, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SqliteStorage]:
        storage = SqliteStorage(tmp_path_factory.mktemp("archive") / "archive.db")
        yield storage
        await storage.close()


async def test_originals_and_variants_live_in_the_archive(extended: Extended) -> None:
    asset = await extended.ready("archived", photo())

    assert asset.state == AssetState.READY
    (thumb,) = asset.variants
    assert thumb.state == VariantState.READY
    assert (await extended.picture("archive", thumb.storage_key)).size == (64, 64)
    assert (await extended.picture("archive", asset.storage_key)).size == (400, 300)


async def test_what_the_archive_cannot_do_is_refused_by_name(extended: Extended) -> None:
    asset = await extended.ready("archived", photo())

    with pytest.raises(CapabilityUnsupported) as no_url:
        await extended.rindle.url("archived", asset)
    with pytest.raises(CapabilityUnsupported) as no_upload:
        await extended.rindle.initiate_upload("archived", filename="photo.jpg")

    assert (no_url.value.code, no_url.value.capability) == ("delivery_unsupported", "signed_url")
    assert (no_upload.value.code, no_upload.value.capability) == ("upload_unsupported", "presigned_put")


async def test_a_purge_empties_the_archive(extended: Extended) -> None:
    asset = await extended.ready("archived", photo())
    prefix = asset.storage_key.rpartition("/")[0]

    await extended.rindle.purge_asset(asset)

    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await extended.rindle.storages["archive"].list_keys(prefix)).objects:
            await asyncio.sleep(0.05)
