"""The Python of the pages, as type checkers see it. Written by ``python -m docs.generate``; never run."""

# pyright: reportUnusedVariable=false, reportUnusedFunction=false, reportUnusedClass=false, reportMissingTypeStubs=false
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

from tests.typing.site import (
    Asset,
    AudioLesson,
    Avatar,
    Base,
    LEGAL_TEAM,
    Lesson,
    MediaAsset,
    MediaAttachment,
    Member,
    MemberPhoto,
    Mount,
    MuxWeb,
    Profile,
    Request,
    Response,
    Rindle,
    Sequence,
    SqliteStorage,
    Starlette,
    TeamAuthorizer,
    Web,
    actor_of,
    app,
    asset,
    asset_id,
    check_token,
    connection,
    create_asgi_app,
    db,
    engine,
    lifespan,
    media,
    member,
    owners,
    report,
    require_member,
    rindle,
    settings,
    storages,
    token,
    user,
)


async def README_1() -> None:
    session = await rindle.initiate_upload("avatar", filename="me.jpg", actor="alice")  # a ticket
    signed = await rindle.sign_url(session.id)  # the browser PUTs here
    verified = await rindle.verify_completion(session.id)  # proof; the rest follows
    await rindle.attach(verified.asset, member, "avatar", uploaded_by="alice", session=db)
    html = await rindle.picture_tag("avatar", asset, ["thumb", "large"], alt="Alice")


async def README_2() -> None:
    class Avatar(Profile):  # of rindle
        name = "avatar"
        storage = "media"
        allow_mime = ("image/*",)
        max_bytes = 10_000_000
        variants = {
            "thumb": {"mode": "crop", "width": 128, "height": 128},
            "large": {"mode": "fit", "width": 1024, "height": 1024, "format": "webp"},
        }


async def README_3() -> None:
    class Lesson(Web):  # of rindle.presets: web_720p and a poster; portrait videos stay portrait
        name = "lesson"
        storage = "media"
        allow_mime = ("video/*",)


    async with rindle.subscribe("asset", asset_id) as events:  # browsers: GET /media/events, or rindle.js
        async for event in events:
            print(event.type, event.payload)  # variant_progress {"variant_name": "web_720p", "progress": 43, ...}


async def README_4() -> None:
    class Talk(MuxWeb):  # of rindle.presets: web_720p is pushed to Mux, and video_tag plays its signed playlist
        name = "talk"
        storage = "media"
        allow_mime = ("video/*",)


async def docs_browser_1() -> None:
    from rindle.http import create_router

    app.include_router(
        create_router(
            rindle,
            profiles={"photo": MemberPhoto, "lesson": Lesson},
            companion={"lesson"},  # served at /media/companion/lesson
            actor_from_request=actor_of,
            authorizer=TeamAuthorizer(...),
        ),
        prefix="/media",
    )


async def docs_concepts_1() -> None:
    rindle.register_owner_type("member", Member, slots={"avatar": Avatar, "lesson": [Lesson, AudioLesson]})


async def docs_delivery_1() -> None:
    await rindle.url("photo", asset, actor=user)  # the original
    await rindle.variant_url("photo", asset, "thumb", actor=user)  # a variant, or its fallback
    await rindle.picture_tag("photo", asset, ["thumb", "large"], alt="Alice", actor=user)


async def docs_delivery_2() -> None:
    from rindle.protocols import AssetSubject, DeliverySubject, OwnerRef


    class Owners:
        def authorize(self, actor: str | None, action: str, subject: AssetSubject | DeliverySubject) -> bool:
            return actor is not None and (actor == subject.uploaded_by or OwnerRef("member", actor) in subject.owners)


async def docs_delivery_3() -> None:
    await rindle.video_tag("lesson", asset, ["web_720p"], poster="poster", controls=True, playsinline=True)
    await rindle.audio_tag("episode", asset, ["m4a_128k"], fallback="none")


async def docs_delivery_4() -> None:
    from rindle.security import is_digest_of, verify_token

    claims = verify_token(token, rindle.secrets, "rindle:local:url")
    made_for_ada = is_digest_of(claims["sub"], "ada@example.com", rindle.secrets, "rindle:local:url")


async def docs_erasure_1() -> None:
    preview = await rindle.preview_owner_erasure(member)  # writes nothing
    report = await rindle.erase_owner(member, actor="support")


async def docs_erasure_2() -> None:
    certificate = await rindle.erasure_certificate(report.operation_id)
    certificate.status  # "pending", "complete" or "incomplete"
    document = certificate.to_dict()  # JSON
    page = certificate.to_html()  # one page for people, without scripts or other files


async def docs_erasure_3() -> None:
    preview = await rindle.preview_batch_owner_erasure(owners)
    report = await rindle.erase_owners(owners, actor="support")


async def docs_erasure_4() -> None:
    def allow(asset: MediaAsset, attachments: Sequence[MediaAttachment], actor: str, reason: str) -> None:
        """Only the legal team may delete what members use."""
        if actor not in LEGAL_TEAM:
            raise PermissionError


    rindle = Rindle(engine=engine, profiles=[Avatar], storages=storages, force_delete_policy=allow)


async def docs_erasure_5() -> None:
    await rindle.force_delete_asset(asset, "court order", actor="legal", reference="AZ 7", dry_run=False)


async def docs_extending_1() -> None:
    from collections.abc import AsyncIterator

    import pytest
    from rindle.testing.storage_contract import StorageContract


    class TestSqliteStorage(StorageContract):
        @pytest.fixture
        async def storage(self, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SqliteStorage]:
            storage = SqliteStorage(tmp_path_factory.mktemp("archive") / "archive.db")
            yield storage
            await storage.close()


async def docs_gcs_1() -> None:
    from rindle.storage.gcs import GCSStorage

    storage = GCSStorage("members-media", signing_email="media@my-project.iam.gserviceaccount.com")


async def docs_getting_started_1() -> None:
    from alembic import context
    from rindle.db.migrate import include_object

    context.configure(connection=connection, target_metadata=Base.metadata, include_object=include_object)


async def docs_http_1() -> None:
    from rindle.http import create_router

    app.include_router(
        create_router(
            rindle,
            profiles={"photo": MemberPhoto},  # names that clients use; other profiles are not available here
            actor_from_request=actor_of,
            authorizer=TeamAuthorizer(...),  # or allow_anonymous=True
        ),
        prefix="/media",
    )


async def docs_http_2() -> None:
    from rindle.http.forms import reading_form


    @app.post("/members/{handle}/photo")
    async def choose(request: Request, handle: str) -> Response:
        actor = require_member(request, handle)
        async with reading_form(request, max_bytes=15_000_000) as form:
            check_token(request, form.fields.get("token"))
            asset = await rindle.upload("photo", form.file(), filename=form.filename or "", actor=actor)
        return Response(asset.id)


async def docs_index_1() -> None:
    session = await rindle.initiate_upload("avatar", filename="me.jpg", actor="alice")  # a ticket
    signed = await rindle.sign_url(session.id)  # the browser PUTs here
    verified = await rindle.verify_completion(session.id)  # proof; the rest follows
    await rindle.attach(verified.asset, member, "avatar", uploaded_by="alice", session=db)
    html = await rindle.picture_tag("avatar", asset, ["thumb", "large"], alt="Alice")


async def docs_live_1() -> None:
    ticket = rindle.subscription_ticket("asset", asset.id, ttl=3600)  # put it into the page: ...&ticket={ticket}


async def docs_live_2(asset: Asset) -> None:
    async with rindle.subscribe("asset", asset.id) as events:
        async for event in events:  # event.id, event.type, event.payload, event.occurred_at
            ...

    asset = await rindle.settled(asset.id, timeout=30)  # nothing is queued or being built any more


async def docs_live_3() -> None:
    media = create_asgi_app(rindle, profiles={"photo": MemberPhoto}, authorizer=TeamAuthorizer(...))
    app = Starlette(routes=[Mount("/media", media)], lifespan=lifespan)  # lifespan: async with rindle: yield


async def docs_live_4() -> None:
    from django.core.asgi import get_asgi_application

    application = Starlette(
        routes=[Mount("/media", media), Mount("/", get_asgi_application())],  # media: as above
        lifespan=lifespan,
    )


async def docs_operations_1() -> None:
    from alembic import context
    from rindle.db.migrate import include_object

    context.configure(connection=connection, target_metadata=Base.metadata, include_object=include_object)


async def docs_profiles_1() -> None:
    from rindle import ImageVariant, Profile


    class MemberPhoto(Profile):
        name = "photo"
        storage = "media"
        allow_mime = ["image/jpeg", "image/png", "image/heic"]
        max_bytes = 15_000_000
        variants = {
            "thumb": {"mode": "crop", "width": 128, "height": 128, "gravity": "attention"},
            "large": ImageVariant(mode="fit", width=1024, height=1024, format="webp"),
        }


async def docs_resumable_1() -> None:
    opened = await rindle.initiate_multipart_upload("lesson", filename="lesson.mp4", size=4_000_000_000, actor="alice")
    first = await rindle.sign_multipart_part(opened.session.id, 1)  # the client sends the first part to first.presigned.url
    there = await rindle.list_parts(opened.session.id)  # after a break: these need not be sent again
    upload = await rindle.complete_multipart_upload(opened.session.id)


async def docs_resumable_2() -> None:
    opened = await rindle.initiate_resumable_session(
        "lesson", filename="lesson.mp4", size=4_000_000_000, actor="alice", origin="https://example.com"
    )
    answer = {"session_id": opened.session.id, "session_uri": opened.resumable.session_uri.get_secret_value()}
    progress = await rindle.resumable_session_status(opened.session.id, resume=True)  # continue at progress.committed_bytes
    upload = await rindle.verify_completion(opened.session.id)  # when all bytes are sent


async def docs_resumable_3() -> None:
    from rindle.http import create_router
    from rindle.http.tus import SameActor, tus_router

    files = tus_router(rindle, profile=Avatar, path="/files", actor_from_request=actor_of, authorizer=SameActor())
    app.mount("/files", files)
    router = create_router(
        rindle, profiles={"avatar": Avatar}, mounts=[files], actor_from_request=actor_of, authorizer=TeamAuthorizer()
    )
    app.include_router(router, prefix="/media")


async def docs_resumable_http_1() -> None:
    from fastapi import FastAPI
    from starlette.middleware.cors import CORSMiddleware

    from rindle.http.resumable import ALLOW_HEADERS, EXPOSE_HEADERS, SameActor, resumable_router

    app = FastAPI()
    router = resumable_router(rindle, profile=Avatar, actor_from_request=actor_of, authorizer=SameActor())
    app.mount("/uploads", router)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://app.example.com"],
        allow_methods=["POST", "HEAD", "GET", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=ALLOW_HEADERS,
        expose_headers=EXPOSE_HEADERS,
    )


async def docs_storage_1() -> None:
    from rindle.storage.local import LocalStorage
    from rindle.storage.s3 import S3Storage

    rindle = Rindle(
        engine=engine,
        profiles=[MemberPhoto],
        storages={
            "media": S3Storage("members-media", region="eu-central-1"),
            "inbox": LocalStorage("var/inbox", base_url="https://example.com/media/local", secrets=settings.secrets),
        },
    )


async def docs_streaming_1() -> None:
    from rindle.presets import MuxWeb


    class Lesson(MuxWeb):
        name = "lesson"
        storage = "media"
        allow_mime = ["video/*"]


async def docs_tus_1() -> None:
    from fastapi import FastAPI
    from starlette.middleware.cors import CORSMiddleware

    from rindle.http.tus import TUS_ALLOW_HEADERS, TUS_EXPOSE_HEADERS, SameActor, tus_router

    app = FastAPI()
    app.mount("/files", tus_router(rindle, profile=Avatar, actor_from_request=actor_of, authorizer=SameActor()))
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://app.example.com"],
        allow_methods=["POST", "HEAD", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=TUS_ALLOW_HEADERS,
        expose_headers=TUS_EXPOSE_HEADERS,
    )


async def docs_video_1() -> None:
    from rindle import AudioVariant, Profile, WaveformVariant
    from rindle.presets import Web


    class Lesson(Web):  # brings web_720p and poster
        name = "lesson"
        storage = "media"
        allow_mime = ["video/mp4", "video/quicktime", "video/webm"]
        max_bytes = 4_000_000_000
        max_duration_seconds = 3600
        scrub_strip = True  # four small frames for the seek bar


    class Talk(Profile):
        name = "talk"
        storage = "media"
        allow_mime = ["audio/*"]
        variants = {
            "listen": AudioVariant(preset="m4a_128k", normalize=True, two_pass=True),
            "outline": WaveformVariant(),
        }


async def docs_video_2() -> None:
    async with rindle.subscribe("asset", asset_id) as events:
        async for event in events:
            if event.type == "variant_progress":
                print(event.payload["variant_name"], event.payload["progress"])  # at most once a second, in steps of 5


async def docs_video_3() -> None:
    await rindle.cancel_processing(asset_id)  # ffmpeg ends within three seconds, no partial output is left
    await rindle.requeue_variants(asset_id)  # failed and cancelled variants again
