"""Text that cannot be stored is refused where it enters, by every call and every route, and equally on both databases.

The calls and the routes are found by introspection: one that is added later is tested too. A string argument is refused
as ``invalid_argument`` with its name, unless a table below says what else happens to it.
"""

from __future__ import annotations

import inspect
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from rindle import MediaAsset, Profile, Rindle
from rindle.errors import RindleError
from rindle.http import local_router
from rindle.http.errors import error_response
from rindle.protocols import Storage
from rindle.storage.local import LocalStorage
from tests.gallery import SECRET, VARIANTS, Gallery, opened, png
from tests.integration.http.site import CLOSED_PORT, Site, error_of, operations, site
from tests.servers import postgres

BAD = {"nul": "a\0b", "surrogate": "a\ud800b", "long": "x" * 20_000}
#: What happens to bad text in an argument, or in the argument of one call, where it is not ``invalid_argument``:
#: ``returned`` when no row is looked up or written with it, or the code of another error.
OTHERWISE: Mapping[str, set[str]] = {
    # Only registered names are accepted; no database is involved.
    "profile": {"unknown_profile"},
    "doctor.profiles": {"returned"},
    "runtime_status.profile": {"invalid_profile"},
    "runtime_status.format": {"invalid_format"},
    # Only UUIDs are ids.
    "session_id": {"not_found"},
    "asset": {"not_found"},
    "cancel_direct_upload.asset_id": {"not_found"},
    "cancel_processing.asset": {"not_processing"},
    "ready_variants_for.asset": {"returned"},
    "timeline.asset": {"returned"},
    "erasure_certificate.operation_id": {"not_found"},
    "picture_tag.asset": {"returned"},
    "video_tag.asset": {"returned"},
    "audio_tag.asset": {"returned"},
    # Owners and slots have codes of their own.
    "owner": {"invalid_owner"},
    "owners": {"invalid_owner"},
    "register_owner_type.name": {"invalid_owner"},
    "register_owner_type.slots": {"unknown_profile"},
    "slot": {"invalid_slot"},
    "complete_multipart_upload.parts": {"invalid_multipart_parts"},
    "create_direct_upload.cors_origin": {"invalid_cors_origin"},
    # Compared with the names of variants that were read.
    "variant": {"returned", "unknown_variant"},
    "variants": {"returned", "unknown_variant"},
    "poster": {"returned", "unknown_variant"},
    "variant_names": {"unknown_variant_names"},
    "regenerate_variants.variant_name": {"unknown_variant"},
    "url.asset_or_key": {"invalid_key"},
    "streaming_url.asset_or_key": {"invalid_key"},
    # The path of a file that does not exist.
    "upload.source": {"invalid_argument", "OSError"},
}
#: Calls of which other strings become part of a URL or of markup: rows are neither read nor written with them.
DELIVERY = frozenset({"url", "variant_url", "streaming_url", "picture_tag", "video_tag", "audio_tag"})


def make_profiles(store: Storage) -> list[type[Profile]]:
    return [type("Avatar", (Profile,), {"name": "avatar", "storage": store, "variants": VARIANTS})]


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    async with site(tmp_path) as opened_site:
        yield opened_site


@pytest.fixture
async def databases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_server: postgres.PostgresServer
) -> AsyncIterator[dict[str, str]]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    url = postgres_server.new_database()
    yield {"sqlite": f"sqlite+aiosqlite:///{tmp_path / 'text.db'}", "postgres": url}
    postgres_server.drop_database(url)


# --- calls ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Argument:
    """An argument of a call of ``Rindle`` that takes text, alone or in a list or mapping."""

    call: str
    name: str
    annotation: str

    def bad(self, text: str) -> Any:
        """Return a value of the argument that contains ``text``."""
        if self.name == "owner":
            return ("user", text)
        if self.name == "owners":
            return [("user", text)]
        if re.search(r"Iterable|Collection|Sequence\[Any", self.annotation):
            return [text]
        if self.annotation.startswith("Sequence[Mapping"):
            return [{"src": "/a.vtt", "label": text}]
        return {"title": text} if self.annotation.startswith("Mapping") else text

    def __str__(self) -> str:
        return f"{self.call}.{self.name}"

    @property
    def expected(self) -> set[str]:
        """The possible outcomes of bad text."""
        others = {"invalid_argument", "returned"} if self.call in DELIVERY else {"invalid_argument"}
        return OTHERWISE.get(str(self), OTHERWISE.get(self.name, others))


def arguments() -> list[Argument]:
    found = []
    for call in sorted(name for name in dir(Rindle) if not name.startswith("_")):
        function = inspect.getattr_static(Rindle, call)
        if not inspect.isfunction(function):
            continue
        for name, parameter in inspect.signature(function).parameters.items():
            annotation = str(parameter.annotation)
            takes_text = re.search(r"\bstr\b|OrId\b", annotation) or name in ("owner", "owners", "actor", "variants")
            if takes_text and parameter.kind is not parameter.VAR_KEYWORD:
                found.append(Argument(call, name, annotation))
    return found


def good(asset: MediaAsset, session_id: str) -> dict[str, Any]:
    """Return a valid value for each required argument of a call, by name."""
    return {
        "profile": "avatar",
        "session_id": session_id,
        "asset_id": asset.id,
        "asset": asset,
        "asset_or_key": asset,
        "variant": "thumb",
        "owner": ("user", "1"),
        "owners": [("user", "1")],
        "reason": "a court order",
        "actor": "legal",
        "slot": "avatar",
        "source": io.BytesIO(png()),
        "filename": "photo.png",
        "part_number": 1,
        "cors_origin": "https://example.com",
        "length": 3,
        "path": "/files",
        "scope": "asset",
        "id": asset.id,
        "name": "member",
        "owner_class": Gallery,
        # Not required, but the other argument has no effect without it.
        "idempotency_key": None,
        "only": None,
    }


async def outcome(gallery: Gallery, argument: Argument, text: str, asset: MediaAsset, session_id: str) -> str:
    function = getattr(gallery.rindle, argument.call)
    parameters = inspect.signature(function).parameters
    values = good(asset, session_id)
    required = {
        name: values[name] for name, found in parameters.items() if found.default is found.empty and name in values
    }
    if argument.call == "doctor":
        required |= {"workers": False, "offline": True}
    if argument.name == "idempotency_key":
        required["actor"] = "ada"
    if argument.call == "regenerate_variants":
        required["profile"] = "avatar"
    try:
        result = function(**(required | {argument.name: argument.bad(text)}))
        if inspect.isawaitable(result):
            await result
    except OSError as error:
        assert argument.name == "source", error
        return type(error).__name__
    except RindleError as error:
        assert error.http_status < 500, error
        assert error_response(error).status_code == error.http_status  # it can be sent
        if error.code == "invalid_argument":
            assert error.detail.get("option") == argument.name, error.detail
        return error.code
    return "returned"


@pytest.mark.parametrize("flaw", BAD)
async def test_a_call_refuses_text_that_cannot_be_stored(tmp_path: Path, databases: dict[str, str], flaw: str) -> None:
    found: dict[str, dict[str, str]] = {}
    for name, database_url in databases.items():
        async with opened(tmp_path / name, make_profiles, database_url=database_url) as gallery:
            asset = await gallery.ready(gallery.rindle.profiles.get("avatar"))
            session = await gallery.session_of(asset)
            found[name] = {
                str(argument): await outcome(gallery, argument, BAD[flaw], asset, session.id)
                for argument in arguments()
            }

    assert found["sqlite"] == found["postgres"]
    unexpected = {
        str(argument): found["postgres"][str(argument)]
        for argument in arguments()
        if found["postgres"][str(argument)] not in argument.expected
    }
    assert unexpected == {}


def test_the_calls_and_their_text_arguments_are_found() -> None:
    found = {str(argument) for argument in arguments()}

    assert {"initiate_upload.idempotency_key", "attach.owner", "requeue_variants.variant_names"} <= found
    assert len(found) > 60


# --- routes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """A string in a request: a parameter, or a field of a JSON body."""

    method: str
    path: str
    place: str
    name: str
    is_list: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.place} {self.name}"


def fields(site: Site) -> list[Field]:
    """Return every string of every route."""
    found = []
    schemas = site.app.openapi()["components"]["schemas"]
    for path, method, operation in operations(site.app):
        found += [
            Field(method, path, parameter["in"], parameter["name"], is_list)
            for parameter in operation.get("parameters", ())
            for is_list in _takes_text(parameter["schema"])
        ]
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for one in (content.get("schema", {}), *content.get("schema", {}).get("anyOf", ())):
            if "$ref" in one:
                for name, schema in schemas[one["$ref"].rpartition("/")[2]]["properties"].items():
                    found += [Field(method, path, "body", name, is_list) for is_list in _takes_text(schema)]
    return found


def _takes_text(schema: dict[str, Any]) -> set[bool]:
    """Return whether a schema accepts strings, and whether in a list."""
    alternatives = [schema, *schema.get("anyOf", ())]
    text = {False for one in alternatives if one.get("type") == "string"}
    return text | {True for one in alternatives if one.get("items", {}).get("type") == "string"}


#: Routes whose body names a profile.
_CREATIONS = ("/uploads", "/uploads/direct")


async def sent(site: Site, field: Field, text: str, ids: dict[str, str]) -> httpx.Response:
    """Send a request that is valid but for ``text`` in ``field``."""
    path, query, headers = field.path.removeprefix("/media"), dict[str, Any](), dict[str, Any]()
    body: dict[str, Any] = {"profile": "avatar", "filename": "a.png"} if path in _CREATIONS else {}
    if path == "/events":
        query = {"scope": "asset", "id": ids["asset_id"], "until": "terminal"}
    if path == "/uploads/inline":
        query = {"profile": "avatar", "filename": "a.png"}
    encoded = quote(text, errors="surrogatepass", safe="")
    if field.place == "path":
        path = path.replace(f"{{{field.name}}}", encoded)
    elif field.place == "query":
        query[field.name] = text
    elif field.place == "header":
        headers[field.name.encode()] = text.encode(errors="surrogatepass")
    else:
        body[field.name] = [text] if field.is_list else text
    pairs = [f"{name}={quote(str(value), errors='surrogatepass', safe='')}" for name, value in query.items()]
    address = path.format(**ids) + ("?" + "&".join(pairs) if pairs else "")
    sends_body = field.place == "body" or path in _CREATIONS
    content = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}} if sends_body else {}
    headers = {name.decode(): value for name, value in headers.items()} | content.pop("headers", {})
    return await site.call(field.method, address, headers=headers, **content)


@pytest.mark.parametrize("flaw", ["nul", "surrogate", "long"])
async def test_a_route_refuses_text_that_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str, flaw: str
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    async with site(tmp_path, database_url=database_url) as web:
        asset = await web.gallery.ready(web.avatar, actor="alice")
        ids = {"asset_id": asset.id, "session_id": (await web.gallery.session_of(asset)).id, "part_number": "1"}
        found = fields(web)
        for field in found:
            if flaw == "surrogate" and field.place != "body":
                continue  # the framework replaces what is not UTF-8 in an address; nothing to refuse is left
            answer = await sent(web, field, BAD[flaw], ids)
            assert error_of(answer) in {(400, "invalid_argument"), (400, "invalid_last_event_id")}, str(field)
            if error_of(answer)[1] == "invalid_argument":
                named = answer.json()["error"]["detail"]["option"].partition(".")[0]
                assert named.lower().replace("_", "-") == field.name.lower().replace("_", "-"), str(field)
    assert len(found) > 20


@pytest.mark.parametrize(
    ("profile", "filename", "option"),
    [
        (b"ava\0tar", b"a.png", "profile"),
        (b"avatar", b"a\0b.png", "filename"),
    ],
)
async def test_a_form_is_refused_when_its_text_cannot_be_stored(
    web: Site, profile: bytes, filename: bytes, option: str
) -> None:
    parts = (b'name="profile"\r\n\r\n' + profile, b'name="file"; filename="' + filename + b'"\r\n\r\n' + png())
    body = b"".join(b"--x\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--x--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=x"}

    answer = await web.call("POST", "/uploads/inline", content=body, headers=form)

    assert error_of(answer) == (400, "invalid_argument")
    assert answer.json()["error"]["detail"]["option"] == option


async def test_a_public_key_that_no_store_can_have_is_not_looked_up(tmp_path: Path) -> None:
    looked_up: list[str] = []
    store = LocalStorage(
        tmp_path / "store", base_url="http://x.test", secrets=[SECRET], public_base_url="http://x.test/p"
    )
    app = FastAPI()
    app.include_router(local_router(store, is_public=lambda key: bool(looked_up.append(key))))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x.test") as client:
        statuses = [(await client.get(path)).status_code for path in ("/p/avatar/a%00b", "/p/avatar/ab", "/a%00b")]

    assert (statuses, looked_up) == ([404, 404, 403], ["avatar/ab"])
