"""Every public call with an id in every form that it may have, on both databases: the outcome is the same."""

from __future__ import annotations

import inspect
import io
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaEvent, MediaUploadSession, MediaVariant, Rindle, RindleError
from rindle.attachments import SessionAttachments
from rindle.db.models import MediaProviderAsset
from rindle.errors import InvalidArgument, NotFound, NotProcessing
from rindle.operations.explain import explain
from rindle.operations.tombstones import preview_purge
from tests.architecture.test_ids import PARAMETERS
from tests.gallery import Gallery, opened, png
from tests.integration.http.site import CLOSED_PORT, Site, make_profiles, operations, site

#: What the calls need beside the id.
OTHERS = {
    "profile": "accounts.Avatar",
    "variant": "thumb",
    "owner": ("member", "1"),
    "slot": "avatar",
    "scope": "asset",
    "part_number": 1,
    "reason": "a court order",
    "actor": "legal",
}
#: The public methods with the id of an asset or an upload, and its parameter.
METHODS = sorted(
    (name, parameter)
    for name, parameter in PARAMETERS
    if name.startswith(("Rindle.", "SessionAttachments.")) and parameter != "operation_id"
)


@pytest.fixture
async def gallery(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gallery]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)  # not the server that a developer may run on the usual port
    async with opened(tmp_path, make_profiles, database_url=database_url) as made:
        yield made


async def outcome_of(rindle: Rindle, name: str, parameter: str, row: Any) -> str:
    """Return what a call does: the type of its result and how many rows that has, or the code of its error."""
    cls, _, method = name.partition(".")
    parameters = inspect.signature(getattr(Rindle if cls == "Rindle" else SessionAttachments, method)).parameters
    others = {
        key: OTHERS[key]
        for key, one in parameters.items()
        if key not in ("self", parameter, "session") and one.default is one.empty and one.kind is not one.VAR_KEYWORD
    }
    given = {parameter: row, **others}
    try:
        if cls == "SessionAttachments":
            result = await rindle.database.write(
                lambda session: getattr(rindle.attachments, method)(**given, session=session)
            )
        else:
            result = getattr(rindle, method)(**given)
            if inspect.isawaitable(result):
                result = await result
    except RindleError as error:
        return error.code
    is_list = isinstance(result, Sequence) and not isinstance(result, str)
    return f"{type(result).__name__} of {len(result)}" if is_list else type(result).__name__


async def _at_a_provider(gallery: Gallery, asset: MediaAsset) -> None:
    """Note that the asset was uploaded to a provider, which is gone."""
    row = MediaProviderAsset(
        asset_id=asset.id, profile=asset.profile, provider_name="gone", ingest_mode="direct_creator_upload"
    )
    await gallery.rindle.database.write(lambda session: session.add(row))


async def expired(gallery: Gallery, row: Any) -> Any:
    """Return the row as a session leaves it behind that has committed: none of its columns is loaded."""
    engine = gallery.rindle.database.engine
    assert isinstance(engine, AsyncEngine)
    async with AsyncSession(engine) as session:
        found = await session.get_one(type(row), row.id)
        await session.commit()
    return found


async def test_every_call_takes_every_form_of_an_id(gallery: Gallery) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("accounts.Avatar"), actor="alice")
    upload = await gallery.session_of(asset)
    await gallery.rindle.attach(asset, OTHERS["owner"], "avatar")
    await _at_a_provider(gallery, asset)
    for name, parameter in METHODS:
        row: Any = upload if parameter == "session_id" else asset
        expected = await outcome_of(gallery.rindle, name, parameter, row.id)
        assert expected not in ("not_found", "invalid_argument", "list of 0"), name

        for form in (uuid.UUID(row.id), row.id.upper(), f"urn:uuid:{row.id}", row, await expired(gallery, row)):
            if parameter == "asset_or_key" and str(form).startswith("urn:"):
                continue  # a key
            outcome = await outcome_of(gallery.rindle, name, parameter, form)
            assert outcome == expected, (name, form)


async def test_an_unknown_id_is_unknown_in_every_form(gallery: Gallery) -> None:
    unknown = uuid.uuid4()
    for name, parameter in METHODS:
        expected = await outcome_of(gallery.rindle, name, parameter, str(unknown))

        for form in (unknown, str(unknown).upper()):
            assert await outcome_of(gallery.rindle, name, parameter, form) == expected, (name, form)


async def test_anything_else_is_refused_before_the_database(gallery: Gallery) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("accounts.Avatar"))
    async with gallery.counting() as statements:
        for name, parameter in METHODS:
            for wrong in (7, b"x", asset.variants[0]):
                if name == "Rindle.streaming_url" and wrong is asset.variants[0]:
                    continue  # it stands for its asset
                outcome = await outcome_of(gallery.rindle, name, parameter, wrong)
                assert outcome == "invalid_argument", (name, wrong)

    assert statements == []


async def test_the_id_of_an_erasure_has_every_form_too(gallery: Gallery) -> None:
    unknown = uuid.uuid4()
    for form in (unknown, str(unknown), str(unknown).upper(), unknown.hex):
        with pytest.raises(NotFound):
            await gallery.rindle.erasure_certificate(form)
    wrong: Any
    for wrong in (7, b"x", None):
        with pytest.raises(InvalidArgument):
            await gallery.rindle.erasure_certificate(wrong)
    with pytest.raises(InvalidArgument):
        await gallery.rindle.erase_owner(("member", "1"), operation_id="no UUID")


async def test_operators_calls_take_rows_and_uuids_too(gallery: Gallery) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("accounts.Avatar"))
    services = gallery.rindle.services

    for form in (asset, asset.id.upper(), uuid.UUID(asset.id)):
        assert (await preview_purge(services, form)).asset_id == asset.id
        assert (await gallery.rindle.requeue_variants(form)).asset_id == asset.id
    assert (await explain(services, await gallery.session_of(asset))).asset.id == asset.id


async def test_the_subject_of_a_subscription_may_be_its_row(gallery: Gallery) -> None:
    rindle = gallery.rindle
    asset = await gallery.ready(rindle.profiles.get("accounts.Avatar"))
    rows = {"asset": asset, "provider_asset": asset, "variant": asset.variants[0]}
    for scope, row in {**rows, "upload_session": await gallery.session_of(asset)}.items():
        subjects = {rindle.subscribe(scope, form)._subjects[0] for form in (row, row.id, uuid.UUID(row.id))}
        assert len(subjects) == 1
    with pytest.raises(InvalidArgument):
        rindle.subscribe("variant", asset)
    async with rindle.subscribe("asset", asset, after=0) as events:
        assert (await anext(events)).payload["asset_id"] == asset.id


async def test_an_actor_may_be_a_uuid(gallery: Gallery) -> None:
    """The primary key of the application's users, as its models have it."""
    rindle, actor = gallery.rindle, uuid.uuid4()
    asset = await rindle.upload("accounts.Avatar", io.BytesIO(png()), filename="a.png", actor=actor)
    session = await rindle.initiate_upload("accounts.Avatar", filename="a.png", actor=actor, idempotency_key="once")

    assert asset.uploaded_by == session.actor == str(actor)
    await rindle.attach(asset, ("member", actor), "avatar", uploaded_by=actor)
    with pytest.raises(NotFound):
        await rindle.attach(asset, ("member", actor), "avatar", uploaded_by=uuid.uuid4())
    with pytest.raises(NotProcessing):
        await rindle.cancel_processing(asset, actor=actor)
    assert (await rindle.requeue_variants(asset, actor=actor)).enqueued == 0


async def test_a_raw_key_of_hexadecimal_digits_stays_a_key(gallery: Gallery) -> None:
    assert await gallery.rindle.url("logo", uuid.uuid4().hex)
    with pytest.raises(NotFound):
        await gallery.rindle.url("logo", str(uuid.uuid4()))


async def test_queries_compare_the_models_ids_with_every_form(gallery: Gallery) -> None:
    asset = await gallery.ready(gallery.rindle.profiles.get("accounts.Avatar"))

    def look(session: Session) -> None:
        for form in (uuid.UUID(asset.id), asset.id.upper(), asset.id):
            assert session.scalars(select(MediaAsset.id).where(MediaAsset.id == form)).all() == [asset.id]
            assert session.scalars(select(MediaAsset.id).where(MediaAsset.id.in_([form]))).all() == [asset.id]
            assert session.scalars(select(MediaEvent).where(MediaEvent.asset_id == form)).first() is not None
            assert session.get(MediaAsset, form) is not None
        assert len(session.scalars(select(MediaVariant).where(MediaVariant.asset_id == uuid.UUID(asset.id))).all()) == 2

    await gallery.rindle.database.read(look)


async def test_paths_take_an_id_in_upper_case(tmp_path: Path) -> None:
    """On SQLite it was unknown."""
    async with site(tmp_path) as web:
        for path, method, _ in operations(web.app):
            if "{asset_id}" in path or "{session_id}" in path:
                asset = await web.gallery.available(web.avatar, actor="alice")
                upload = await web.gallery.session_of(asset)
                await _at_a_provider(web.gallery, asset)
                statuses = [await _status(web, method, path, upload, upper=upper) for upper in (True, False)]
                # Another lane has neither parts nor a session of the store, and its provider is gone.
                others = () if "/parts" in path or "/direct" in path or path.endswith("/resumable") else (422,)
                assert statuses[0] not in (404, *others), (method, path)


async def _status(web: Site, method: str, path: str, upload: MediaUploadSession, *, upper: bool) -> int:
    assert upload.asset_id is not None
    names = {"asset_id": upload.asset_id, "session_id": upload.id}
    given = {key: value.upper() if upper else value for key, value in names.items()} | {"part_number": "1"}
    answer = await web.call(method, path.removeprefix("/media").format(**given), actor="alice")
    return answer.status_code
