"""Building the routers: options, several storages, the lifespan, and the OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from rindle import Profile, Rindle
from rindle.errors import CODES, Misconfigured, UnknownProfile, http_status_of
from rindle.http import assets_router, create_asgi_app, create_router, upload_router
from rindle.protocols import Storage
from rindle.storage.local import LocalStorage
from tests.gallery import SECRET, opened, png
from tests.integration.http.site import CLOSED_PORT, ORIGIN, Site, error_of, make_profiles, operations, site


async def test_open_routes_are_not_built_by_accident(tmp_path: Path) -> None:
    async with opened(tmp_path, make_profiles) as gallery:
        rindle, avatar = gallery.rindle, gallery.rindle.profiles.get("accounts.Avatar")
        for make in (create_router, create_asgi_app, upload_router, assets_router):
            with pytest.raises(Misconfigured, match="allow_anonymous"):
                make(rindle, profiles={"avatar": avatar})
            with pytest.raises(Misconfigured, match="no profile"):
                make(rindle, profiles={}, allow_anonymous=True)

        class Stranger(Profile):
            storage = "elsewhere"
            variants = {}

        with pytest.raises(UnknownProfile):
            create_router(rindle, profiles={"x": Stranger}, allow_anonymous=True)
        with pytest.raises(Misconfigured, match="tus"):
            create_router(rindle, profiles={"avatar": avatar}, allow_anonymous=True, include={"tus"})
        with pytest.raises(Misconfigured, match="unknown profile logo in companion; choose from avatar"):
            create_router(rindle, profiles={"avatar": avatar}, allow_anonymous=True, companion={"logo"})
        with pytest.raises(Misconfigured, match="allow_anonymous"):
            create_router(rindle, profiles={"avatar": avatar}, include={"script"}, companion={"avatar"})


async def test_parts_can_be_left_out(tmp_path: Path) -> None:
    async with site(tmp_path, include={"assets"}) as web:
        web.client.event_hooks = {}
        assert (await web.call("POST", "/uploads")).status_code == 404
        assert {path for path, _, _ in operations(web.app)} == {
            "/media/assets/{asset_id}",
            "/media/assets/{asset_id}/url",
            "/media/assets/{asset_id}/cancel",
            "/media/assets/{asset_id}/requeue",
        }
        assert (await web.call("GET", "/companion/avatar/s3/params")).json() == {"detail": "Not Found"}


@pytest.mark.parametrize("base_url", ["http://x.test", "http://x.test/", "http://x.test/media/uploads"])
async def test_a_local_storage_needs_a_place_of_its_own(tmp_path: Path, base_url: str) -> None:
    storage = LocalStorage(tmp_path / "objects", base_url=base_url, secrets=[SECRET])

    with pytest.raises(Misconfigured, match="base_url"):
        async with site(tmp_path, storage=storage):
            pass


async def test_two_local_storages_are_served_side_by_side(tmp_path: Path) -> None:
    async def tell(names: tuple[str, str]) -> list[bytes]:
        one, two = (
            LocalStorage(tmp_path / str(place), base_url=f"{ORIGIN}/{name}", secrets=[SECRET], fsync=False)
            for place, name in enumerate(names)
        )

        def both(_: Storage) -> list[type[Profile]]:
            class First(Profile):
                name = "first"
                storage = one
                variants = {}

            class Second(Profile):
                name = "second"
                storage = two
                variants = {}

            return [First, Second]

        async with opened(tmp_path, both, storage=one) as gallery:
            profiles = {profile.name: profile for profile in gallery.rindle.profiles}
            app = create_asgi_app(gallery.rindle, profiles=profiles, allow_anonymous=True)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
                served = []
                for size, profile in enumerate(profiles.values(), start=1):
                    asset = await gallery.available(profile, data=png(size))
                    served.append((await client.get(await gallery.rindle.url(profile, asset))).content)
                return served

    assert await tell(("a", "b")) == [png(1), png(2)]
    with pytest.raises(Misconfigured, match="two local storages"):
        await tell(("a", "a"))


class Watched(Rindle):
    """Counts how often it was entered and left."""

    entered = left = 0

    async def __aenter__(self) -> Watched:
        self.entered += 1
        await super().__aenter__()
        return self

    async def close(self) -> None:
        self.left += 1
        await super().close()


async def test_the_router_s_lifespan_runs_rindle_beside_the_application_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    own: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        own.append("start")
        yield
        own.append("stop")

    async with opened(tmp_path, make_profiles) as gallery:
        profiles = [*gallery.rindle.profiles]
        rindle = Watched(engine=gallery.rindle.database.engine, profiles=profiles, settings=gallery.rindle.settings)
        options: dict[str, Any] = {"profiles": {"avatar": profiles[0]}, "allow_anonymous": True}
        app = FastAPI(lifespan=lifespan)
        app.include_router(create_router(rindle, **options), prefix="/media")

        async with app.router.lifespan_context(app):
            assert (rindle.entered, rindle.left, own) == (1, 0, ["start"])
        assert (rindle.entered, rindle.left, own) == (1, 1, ["start", "stop"])

        alone = create_asgi_app(rindle, **options)
        async with alone.router.lifespan_context(alone):
            assert rindle.entered == 2
        mounted = Starlette(routes=[Mount("/media", alone)])
        async with mounted.router.lifespan_context(mounted):
            assert rindle.entered == 2  # as documented: write ``async with rindle`` there
            transport = httpx.ASGITransport(mounted)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                answer = await client.get(f"/media/assets/{uuid4()}")
        assert error_of(answer) == (404, "not_found")


async def test_the_description_is_complete(web: Site) -> None:
    document = web.app.openapi()

    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    for reference in references(document):
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    names = [operation["operationId"] for _, _, operation in operations(web.app)]
    assert len(names) == len(set(names)) and all(name.startswith("rindle_") for name in names)
    for path, method, operation in operations(web.app):
        assert operation["summary"] and operation["description"], path
        in_path = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        for status, response in operation["responses"].items():
            assert response["description"], (path, status)
            if status.startswith("3") or status == "204" or "text/event-stream" in response.get("content", {}):
                continue
            schema = response["content"]["application/json"]["schema"]
            is_error = status == "default" or int(status) >= 400
            assert (schema["$ref"] == "#/components/schemas/ErrorAnswer") is is_error, (path, status)
            if is_error and status != "default":
                for code in re.findall(r"`(\w+)`", response["description"]):
                    assert str(http_status_of(code)) == status and code in CODES
        # What says how the process is takes no arguments and asks for no actor.
        refusals = set() if operation["tags"] == ["health"] else {"400", "401", "403", "503"}
        assert {"500", "default"} | refusals <= operation["responses"].keys()
        assert ("404" in operation["responses"]) is ("{" in path or path.endswith("/verify")), (method, path)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    inline = document["paths"]["/media/uploads/inline"]["post"]["requestBody"]["content"]
    assert inline.keys() == {"multipart/form-data", "application/octet-stream"}
