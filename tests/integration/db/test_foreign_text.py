"""Text that stores, plug-ins and other programs wrote never prevents the change of a row; equal on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import String, inspect, select
from sqlalchemy.orm import Session

from docs.generate import models
from rindle import MediaAsset, MediaOutbox, MediaProcessingRun, Profile, webhooks
from rindle.db import promotion
from rindle.db import variants as variant_rows
from rindle.db.events import record_event
from rindle.db.models import Note
from rindle.errors import InvalidOwner, UploadRejected
from rindle.protocols import ProviderAsset, Storage
from rindle.storage.memory import MemoryStorage
from rindle.streaming.memory import InMemoryProvider
from rindle.webhooks import ingest_webhook
from tests.gallery import VARIANTS, Gallery, opened, png

#: Longer than every column, and with characters that PostgreSQL does not store.
FOREIGN = "a\0b\ud800" + "Ж" * 300

#: Why text columns that are not a ``Note`` need no cut. A column that is added needs a reason, or is one.
REASONS = {
    "refused when overlong or not storable, as an argument or a declaration": {
        *("uploaded_by", "actor", "client_content_type", "idempotency_key"),
        *("owner_type", "owner_id", "slot", "profile", "variant_name", "media_variants.name"),
        *("provider_name", "playback_policy", "ingest_mode"),
    },
    "written by this library: vocabulary, ids, keys, digests, labels": {
        "applied_step",
        "outcome",
        *("state", "kind", "output_kind", "storage_key", "superseded_key", "upload_key", "filename"),
        *("recipe_digest", "checksum_sha256", "media_variants.content_type", "upload_strategy", "concat_role"),
        *(
            "worker",
            "release_error_code",
            "run_id",
            "workflow_type",
            "media_outbox.workflow_id",
            "task_queue",
            "signal",
        ),
        *("scope_key", "scope_id", "type", "release_error_code", "mux_passthrough"),
    },
    "an id that the provider gives and reads again; of a webhook it is used only if it fits": {
        *("provider_asset_id", "provider_upload_id"),
    },
    "a name that the store gives and reads again; XML has no NUL": {"multipart_upload_id"},
    "compared with the store's own; the contract of stores limits it": {"stored_etag", "scanned_etag", "verified_etag"},
    "reserved": {
        *("resumable_protocol", "session_uri", "region_hint", "upload_metadata", "lock_owner"),
        *("dedupe_key", "traceparent", "request_id"),
    },
}


def make_profiles(store: Storage) -> list[type[Profile]]:
    return [type("Avatar", (Profile,), {"name": "avatar", "storage": store, "variants": VARIANTS})]


@pytest.fixture
async def gallery(tmp_path: Path, database_url: str) -> AsyncIterator[Gallery]:
    async with opened(tmp_path, make_profiles, storage=MemoryStorage(), database_url=database_url) as made:
        yield made


async def test_the_type_that_an_uploader_gave_its_object_does_not_prevent_verification(
    gallery: Gallery, tmp_path: Path
) -> None:
    rindle, source = gallery.rindle, tmp_path / "source.png"
    source.write_bytes(png())
    session = await rindle.initiate_upload("avatar", filename="me.png")
    await rindle.sign_url(session.id)
    storage = rindle.services.storage("avatar")
    await storage.store(session.upload_key, source, content_type="image/png; a=" + "x" * 2000)

    done = await rindle.verify_completion(session.id)

    asset = await rindle.asset(done.asset.id)
    assert asset.state == "validating"
    assert asset.content_type is not None and len(asset.content_type) <= 255


async def test_reasons_codes_and_documents_of_others_are_stored(gallery: Gallery) -> None:
    avatar = gallery.rindle.profiles.get("avatar")
    rejected, promoted = await gallery.uploaded(avatar), await gallery.uploaded(avatar)

    def write(session: Session) -> None:
        detail = {FOREIGN: FOREIGN, "foreign": object()}
        rejection = UploadRejected(FOREIGN, code=FOREIGN, detail=detail, operator=FOREIGN)
        promotion.quarantine(session, rejected.id, rejection)
        document = {"analyzer": {FOREIGN: [FOREIGN]}}
        promotion.promote(session, promoted.id, avatar, kind="image", media_metadata=document)
        run = {"run_id": "run", "worker": "render", "attempt": 1, "workflow_id": FOREIGN * 4}
        claimed = variant_rows.claim_group(session, promoted.id, "images", gallery.rindle.profiles.get, run)
        assert claimed is not None
        for claim in claimed.claims:
            variant_rows.record_failure(session, claim, code=FOREIGN, reason=FOREIGN, final=True)
        scope = ("asset", promoted.id)
        record_event(session, "attachment_changed", scope=scope, payload={"slot": FOREIGN}, asset_id=promoted.id)

    await gallery.rindle.database.write(write)

    asset = await gallery.rindle.asset(rejected.id)
    assert (asset.state, len((asset.error_code or "").encode())) == ("quarantined", 63)
    assert asset.error_reason == asset.operator_reason == "a\ufffdb\ufffd" + "Ж" * 300
    assert asset.error_detail == {asset.error_reason: asset.error_reason}
    asset = await gallery.rindle.asset(promoted.id)
    [(key, [value])] = asset.media_metadata["analyzer"].items()
    assert key == value == "a\ufffdb\ufffd" + "Ж" * 300
    assert {row.state for row in asset.variants} == {"failed"}
    runs = await gallery.rindle.database.read(lambda session: session.scalars(select(MediaProcessingRun)).all())
    assert runs and all(len((run.workflow_id or "").encode()) <= 255 for run in runs)
    assert (await gallery.rindle.timeline(promoted.id))[-1].payload["slot"] == "a\ufffdb\ufffd" + "Ж" * 300


async def test_the_longest_owner_fits_into_the_index_of_attachments(gallery: Gallery) -> None:
    """An index row of PostgreSQL has at most 2704 bytes; random text, because it compresses them."""
    asset = await gallery.ready(gallery.rindle.profiles.get("avatar"))
    wide = "".join(chr(0x10000 + (7919 * number) % 0xFFFF) for number in range(255))
    owner = ("".join(chr(33 + (31 * number) % 94) for number in range(255)), wide)

    await gallery.rindle.attach(asset, owner, wide[::-1])

    found = await gallery.rindle.attachment_for(owner, wide[::-1])
    assert found is not None and found.asset_id == asset.id
    with pytest.raises(InvalidOwner, match="printable ASCII"):
        await gallery.rindle.attach(asset, (wide, wide), wide)


async def test_the_ids_of_a_webhook_are_used_only_if_a_row_can_have_them(tmp_path: Path, database_url: str) -> None:
    provider = InMemoryProvider()
    async with opened(tmp_path, make_profiles, database_url=database_url, providers=[provider]) as gallery:
        rindle, foreign = gallery.rindle, ProviderAsset(FOREIGN, (FOREIGN, "play1"), "ready", FOREIGN, FOREIGN)
        body, headers = provider.webhook("ready", "s", asset=foreign, upload_id=FOREIGN, event_id=FOREIGN)
        for _ in range(2):
            assert await ingest_webhook(rindle.services, "memory", body, headers, ["s"])

        def route(session: Session) -> int:
            [row] = session.scalars(select(MediaOutbox).where(MediaOutbox.kind == "provider_webhook")).all()
            assert row.payload["event"]["playback_ids"] == ["play1"]
            return len(webhooks.route(session, [row]).waiting)

        assert await rindle.database.write(route) == 1


def test_every_text_column_cuts_what_is_foreign_or_has_a_reason() -> None:
    listed = set().union(*REASONS.values())
    columns = {
        (model.__tablename__, attribute.columns[0].name)
        for model in models()
        for attribute in inspect(model).column_attrs
        if isinstance(attribute.columns[0].type, String)
    }

    assert {(table, name) for table, name in columns if not {name, f"{table}.{name}"} & listed} == set()
    assert isinstance(MediaAsset.__table__.c.error_reason.type, Note)
