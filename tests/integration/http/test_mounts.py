"""Uploads that are opened over HTTP and sent by tus or by the draft of the IETF: from the ticket to the asset."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from rindle import Rindle
from rindle.errors import Misconfigured
from rindle.http.resumable import resumable_router
from rindle.http.tus import SameActor, tus_router
from rindle.http.tus.router import TusRouter
from rindle.http.uploads import upload_router
from rindle.protocols import UploadSubject
from rindle.security.upload_token import sign_upload
from rindle.uploads import backing
from tests.gallery import png
from tests.integration.http.site import CLOSED_PORT, SESSION_FIELDS, Ruling, Site, actor_of, error_of, site
from tests.tus import BYTES, SECRET, assembled

BODY = png()
#: Largest upload of the mounts; the profile allows more.
MOUNT_BYTES = 1 << 20
PROTOCOLS = ["tus", "ietf"]


def mounted(rindle: Rindle) -> Mapping[str, Any]:
    """Return one mount of each protocol, for one actor each upload."""
    rules: dict[str, Any] = {
        "profile": "accounts.Avatar",
        "secrets": [SECRET],
        "actor_from_request": actor_of,
        "authorizer": SameActor(),
        "max_size": MOUNT_BYTES,
    }
    return {
        "/files": tus_router(rindle, path="/files", **rules),
        "/drafts": resumable_router(rindle, path="https://gallery.test/drafts/", **rules),
    }


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    for name in ("tus.patch", "tus.create", "resumable.call"):
        monkeypatch.setattr(f"rindle.http.{name}.ASSEMBLY_SECONDS", 0.0)
    async with site(tmp_path, mounted=mounted) as made:
        yield made


async def begun(web: Site, strategy: str, *, headers: Mapping[str, str] | None = None, **body: Any) -> dict[str, Any]:
    wanted = {"profile": "avatar", "filename": "me.png", "size": len(BODY), "strategy": strategy}
    answer = await web.call("POST", "/uploads", json={**wanted, **body}, headers=dict(headers or {}))
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return dict(answer.json())


async def append(
    web: Site, ticket: dict[str, Any], piece: bytes, offset: int, *, actor: str = "alice"
) -> httpx.Response:
    """Send bytes to the address of a ticket, as a client of its protocol does."""
    strategy = "tus" if "tus" in ticket else "ietf"
    spoken = {
        "tus": {"Tus-Resumable": "1.0.0", "Content-Type": BYTES},
        "ietf": {
            "Content-Type": "application/partial-upload",
            "Upload-Complete": "?1" if offset + len(piece) == len(BODY) else "?0",
        },
    }[strategy]
    headers = {"X-User": actor, "Upload-Offset": str(offset), **spoken}
    path = httpx.URL(ticket[strategy]["upload_url"]).raw_path.decode()
    return await web.client.patch(path, content=piece, headers=headers)


async def files_left(web: Site, ticket: dict[str, Any], root: Path) -> list[Path]:
    """Return the files of unfinished uploads, after what the workflow of an ended one does."""
    row = await web.rindle.upload_session(ticket["session"]["id"])
    await backing.release(web.rindle.services, row)
    return list(root.rglob("*.part"))


@pytest.mark.parametrize("strategy", PROTOCOLS)
async def test_an_upload_from_ticket_to_asset_over_a_reload(web: Site, strategy: str) -> None:
    ticket = await begun(web, strategy)
    session_id, half = ticket["session"]["id"], len(BODY) // 2
    assert ticket.keys() == {"session", strategy}
    assert ticket["session"].keys() == SESSION_FIELDS
    assert (ticket["session"]["state"], ticket["session"]["resumable_protocol"]) == ("signed", strategy)
    grant = ticket[strategy]
    assert grant.keys() == {"endpoint", "upload_url", "expires_at"}
    assert grant["endpoint"] == {"tus": "/files/", "ietf": "https://gallery.test/drafts/"}[strategy]
    assert grant["upload_url"].startswith(grant["endpoint"])

    await append(web, ticket, BODY[:half], 0)
    reloaded = await web.call("GET", f"/uploads/{session_id}")
    assert reloaded.headers["cache-control"] == "no-store"
    assert reloaded.json()["session"]["last_known_offset"] == half
    assert reloaded.json()[strategy]["upload_url"] == grant["upload_url"]

    await append(web, reloaded.json(), BODY[half:], half)
    early = await web.call("POST", f"/uploads/{session_id}/verify")
    await assembled(web.rindle.services, session_id)
    done = await web.call("POST", f"/uploads/{session_id}/complete")
    shown = await web.call("GET", f"/uploads/{session_id}")

    assert error_of(early) == (409, "storage_object_missing")
    assert done.status_code == 200
    assert done.json()["asset"]["byte_size"] == len(BODY)
    assert shown.json().keys() == {"session"}
    assert shown.json()["session"]["state"] == "completed"


@pytest.mark.parametrize("strategy", PROTOCOLS)
async def test_a_file_of_unknown_size_needs_none(web: Site, strategy: str) -> None:
    ticket = await begun(web, strategy, size=None)

    assert ticket["session"]["upload_length"] is None
    assert (await append(web, ticket, BODY[:9], 0)).status_code == 204


@pytest.mark.parametrize("strategy", PROTOCOLS)
async def test_an_idempotency_key_returns_the_first_upload(web: Site, strategy: str) -> None:
    key = {"Idempotency-Key": "one file"}
    first = await begun(web, strategy, headers=key)
    await append(web, first, BODY[:9], 0)

    again = await begun(web, strategy, headers=key)
    other_lane = next(name for name in PROTOCOLS if name != strategy)
    crossed = await web.call(
        "POST", "/uploads", json={"profile": "avatar", "filename": "me.png", "strategy": other_lane}, headers=key
    )

    assert again["session"]["id"] == first["session"]["id"]
    assert again["session"]["last_known_offset"] == 9
    assert again[strategy] | {"expires_at": ""} == first[strategy] | {"expires_at": ""}
    assert error_of(crossed) == (400, "invalid_argument")
    await web.call("DELETE", f"/uploads/{first['session']['id']}")
    ended = await web.call(
        "POST", "/uploads", json={"profile": "avatar", "filename": "me.png", "strategy": strategy}, headers=key
    )
    assert error_of(ended) == (409, "upload_cancelled")


@pytest.mark.parametrize("strategy", PROTOCOLS)
async def test_a_cancelled_upload_takes_no_more_bytes_and_leaves_none(web: Site, tmp_path: Path, strategy: str) -> None:
    ticket = await begun(web, strategy)
    await append(web, ticket, BODY[:9], 0)
    assert list(tmp_path.rglob("*.part"))
    path = f"/uploads/{ticket['session']['id']}"

    cancelled = await web.call("DELETE", path)
    late = await append(web, ticket, BODY[9:], 9)

    assert cancelled.json()["session"]["state"] == "aborted"
    assert late.status_code == 410
    assert (await web.call("GET", path)).json().keys() == {"session"}
    assert await files_left(web, ticket, tmp_path) == []


@pytest.mark.parametrize("strategy", PROTOCOLS)
async def test_only_the_actor_who_opened_an_upload_gets_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    async with site(tmp_path, mounted=mounted, authorizer=Ruling()) as web:
        ticket = await begun(web, strategy)
        path = f"/uploads/{ticket['session']['id']}"

        own, admin = await web.call("GET", path), await web.call("GET", path, actor="admin")
        stranger = await web.call("GET", path, actor="bob")

        assert own.json().keys() == {"session", strategy}
        assert admin.json().keys() == {"session"}  # who may read an upload may not send its bytes
        assert error_of(stranger) == (404, "not_found")
        assert (await append(web, ticket, BODY[:9], 0, actor="bob")).status_code in (401, 403)
        assert (await append(web, ticket, BODY[:9], 0)).status_code == 204


async def test_the_routes_and_the_mount_must_both_allow_an_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", CLOSED_PORT)
    routes, tus = Ruling(), Ruling()

    def ruled(rindle: Rindle) -> Mapping[str, Any]:
        rules: dict[str, Any] = {"secrets": [SECRET], "actor_from_request": actor_of, "authorizer": tus}
        return {"/files": tus_router(rindle, profile="accounts.Avatar", path="/files", **rules)}

    async with site(tmp_path, mounted=ruled, authorizer=routes) as web:
        wanted = {"profile": "avatar", "filename": "me.png", "size": 9, "strategy": "tus"}
        assert (await web.call("POST", "/uploads", json=wanted)).status_code == 201
        assert [(action, subject.filename, subject.size) for _, action, subject in tus.asked] == [
            ("tus.create", "me.png", 9)
        ]
        asked = len(tus.asked)
        assert error_of(await web.call("POST", "/uploads", json=wanted, actor="nobody")) == (403, "unauthorized")
        assert len(tus.asked) == asked

        routes_say_yes = AllowAll()
        monkeypatch.setattr(routes, "authorize", routes_say_yes.authorize)
        assert error_of(await web.call("POST", "/uploads", json=wanted, actor="nobody")) == (403, "unauthorized")


class AllowAll:
    async def authorize(self, actor: Any, action: str, subject: Any) -> None:
        assert isinstance(subject, UploadSubject)


@pytest.mark.parametrize("strategy", PROTOCOLS)
async def test_no_other_address_leads_to_an_upload(web: Site, strategy: str) -> None:
    ticket = await begun(web, strategy)
    url = ticket[strategy]["upload_url"]
    mount, _, token = url.rpartition("/")
    claims, _, signature = token.partition(".")
    session_id, profile = ticket["session"]["id"], "accounts.Avatar"

    def signed(secret: str = SECRET, *, name: str = profile, actor: str = "alice", seconds: int = 60) -> str:
        return sign_upload(session_id, name, actor, expires_at=int(time.time()) + seconds, secrets=[secret])

    forged = [
        *(token[:length] for length in range(1, len(token), 7)),
        *(f"{token[:at]}{'A' if token[at] != 'A' else 'B'}{token[at + 1 :]}" for at in (0, len(claims) // 2, -2)),
        f"{claims}.",
        f".{signature}",
        f"{signature}.{claims}",
        f"{token}.{signature}",
        f"{token}%0a",
        signed("another secret, which is long enough as well"),
        signed(name="logo"),
        signed(actor="bob"),
    ]
    for wrong in forged:
        answer = await append(web, {strategy: {"upload_url": f"{mount}/{wrong}"}}, BODY[:9], 0)
        assert answer.status_code == 404, wrong

    late = await append(web, {strategy: {"upload_url": f"{mount}/{signed(seconds=-60)}"}}, BODY[:9], 0)
    assert late.status_code == 401
    assert (await web.rindle.upload_session(session_id)).last_known_offset == 0
    assert (await append(web, {strategy: {"upload_url": f"{mount}/{signed()}"}}, BODY[:9], 0)).status_code == 204


@pytest.mark.parametrize("strategy", PROTOCOLS)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"size": MOUNT_BYTES + 1}, (413, "tus_size_exceeded")),
        ({"size": (32 << 20) + 1}, (413, "max_bytes_exceeded")),
        ({"filename": "me.exe"}, (422, "extension_not_allowed")),
        ({"part_size": 5 << 20}, (400, "invalid_argument")),
        ({"expires_in": 59}, (400, "invalid_argument")),
        ({"profile": "logo", "filename": "me.svg"}, (422, "upload_unsupported")),  # it has no mount
    ],
)
async def test_a_bad_ticket_is_refused_before_any_row(
    web: Site, strategy: str, body: dict[str, Any], code: tuple[int, str]
) -> None:
    wanted = {"profile": "avatar", "filename": "me.png", "strategy": strategy}
    answer = await web.call("POST", "/uploads", json={**wanted, **body})

    assert error_of(answer) == code
    if code[1] == "upload_unsupported":
        assert answer.json()["error"]["detail"]["capability"] == "tus_upload"


async def test_a_mount_that_the_routes_cannot_name_is_refused(web: Site) -> None:
    avatar, logo = web.avatar, web.rindle.profiles.get("logo")

    def mount(path: str | None = None) -> TusRouter:
        return tus_router(web.rindle, profile=avatar, secrets=[SECRET], path=path, allow_anonymous=True)

    for mounts, profile, complaint in (
        ([mount()], avatar, "has no path"),
        ([mount("/files"), mount("/more")], avatar, "is there twice"),
        ([mount("/files")], logo, "belongs to no profile"),
    ):
        with pytest.raises(Misconfigured, match=complaint):
            upload_router(web.rindle, profiles={"photo": profile}, mounts=mounts, allow_anonymous=True)
