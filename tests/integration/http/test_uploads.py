"""Direct uploads over HTTP: tickets, sending, verifying, cancelling, and what is refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from rindle import MediaAsset, MediaOutbox, MediaUploadSession, Profile, Rindle
from rindle.db.promotion import promote
from rindle.db.uploads import insert_upload
from rindle.states import AssetState
from rindle.uploads import sessions
from tests.gallery import png
from tests.integration.http.site import ASSET_FIELDS, RFC_3339_UTC, SESSION_FIELDS, LongBody, Site, count_of, error_of


async def test_a_direct_upload_from_ticket_to_asset(web: Site) -> None:
    data = png()

    ticket = await web.ticket(size=len(data), content_type="image/png")
    session, upload = ticket["session"], ticket["upload"]
    sent = await web.put(upload, data)
    verified = await web.call("POST", f"/uploads/{session['id']}/verify")
    again = await web.call("POST", f"/uploads/{session['id']}/verify")

    assert set(ticket) == {"session", "upload"} and set(session) == SESSION_FIELDS
    assert (session["state"], session["upload_strategy"]) == ("signed", "presigned_put")
    assert set(upload) == {"url", "method", "headers", "expires_at"}
    assert sent.status_code == 200
    assert verified.status_code == 200 and verified.json() == again.json()
    assert verified.headers["cache-control"] == "no-store"
    assert set(verified.json()) == {"session", "asset"} and set(verified.json()["asset"]) == ASSET_FIELDS
    assert verified.json()["session"]["state"] == "completed"
    asset = verified.json()["asset"]
    assert (asset["state"], asset["profile"], asset["byte_size"]) == ("validating", "avatar", len(data))
    for moment in (session["expires_at"], upload["expires_at"], verified.json()["session"]["verified_at"]):
        assert RFC_3339_UTC.fullmatch(moment)


async def test_answers_hide_what_is_not_the_client_s(web: Site) -> None:
    ticket = await web.ticket(actor="alice-the-actor")
    shown = await web.call("GET", f"/uploads/{ticket['session']['id']}", actor="alice-the-actor")

    assert set(shown.json()) == {"session"} and set(shown.json()["session"]) == SESSION_FIELDS
    for text in (str(ticket["session"]), shown.text):
        assert "alice" not in text and "session_uri" not in text and "accounts.Avatar" not in text


async def test_complete_and_verify_by_key_are_verify(web: Site) -> None:
    ticket = await web.ticket()
    await web.put(ticket["upload"], png())
    session = ticket["session"]

    by_key = await web.call("POST", "/uploads/verify", json={"key": session["upload_key"]})
    completed = await web.call("POST", f"/uploads/{session['id']}/complete", json={"parts": []})
    bare = await web.call("POST", f"/uploads/{session['id']}/complete")
    with_parts = await web.call("POST", f"/uploads/{session['id']}/complete", json={"parts": [{"part_number": 1}]})

    assert by_key.status_code == 200 and by_key.json() == completed.json() == bare.json()
    assert error_of(with_parts) == (400, "invalid_argument")


async def test_signing_again_gives_a_fresh_url_until_the_upload_has_ended(web: Site) -> None:
    ticket = await web.ticket()
    path = f"/uploads/{ticket['session']['id']}"

    signed = await web.call("POST", f"{path}/sign")
    await web.put(signed.json()["upload"], png())
    await web.call("POST", f"{path}/verify")
    ended = await web.call("POST", f"{path}/sign")

    assert set(signed.json()) == {"session", "upload"} and signed.headers["cache-control"] == "no-store"
    assert error_of(ended) == (409, "invalid_transition")


async def test_a_verify_before_the_bytes_may_be_repeated(web: Site) -> None:
    ticket = await web.ticket()
    path = f"/uploads/{ticket['session']['id']}"

    early = await web.call("POST", f"{path}/verify")
    await web.put(ticket["upload"], png())
    late = await web.call("POST", f"{path}/verify")

    assert error_of(early) == (409, "storage_object_missing")
    assert late.status_code == 200


async def test_bytes_that_were_not_announced_are_refused(web: Site) -> None:
    ticket = await web.ticket(size=5)
    refused = await web.put(ticket["upload"], b"too many bytes")
    empty = await web.ticket()
    await web.put(empty["upload"], b"")
    nothing = await web.call("POST", f"/uploads/{empty['session']['id']}/verify")
    repeated = await web.call("POST", f"/uploads/{empty['session']['id']}/verify")

    assert refused.status_code == 400
    assert error_of(nothing) == error_of(repeated) == (422, "empty_upload")


async def test_cancelling_is_idempotent_and_refused_once_complete(web: Site) -> None:
    ticket = await web.ticket()
    path = f"/uploads/{ticket['session']['id']}"
    done = await web.verified()

    first = await web.call("DELETE", path)
    second = await web.call("DELETE", path)
    late = await web.call("POST", f"{path}/verify")
    too_late = await web.call("DELETE", f"/uploads/{done['session']['id']}")

    assert first.status_code == 200 and first.json()["session"]["state"] == "aborted"
    assert second.json()["session"] == first.json()["session"]
    assert error_of(late) == (409, "upload_cancelled")
    assert error_of(too_late) == (409, "upload_already_completed")


async def test_an_idempotency_key_returns_the_first_session_to_its_own_actor(web: Site) -> None:
    key = {"Idempotency-Key": "k-1"}
    body = {"profile": "avatar", "filename": "me.png"}

    first = await web.call("POST", "/uploads", json=body, headers=key)
    again = await web.call("POST", "/uploads", json=body, headers=key)
    other = await web.call("POST", "/uploads", json=body, headers=key, actor="bob")
    elsewhere = await web.call("POST", "/uploads", json={"profile": "banner", "filename": "me.png"}, headers=key)

    assert first.status_code == again.status_code == 201
    assert first.json()["session"]["id"] == again.json()["session"]["id"] != other.json()["session"]["id"]
    assert error_of(elsewhere) == (400, "invalid_argument")


async def test_a_stranger_who_guesses_a_key_gets_neither_the_session_nor_a_url(web: Site) -> None:
    key = {"Idempotency-Key": "k-1"}
    body = {"profile": "avatar", "filename": "me.png"}
    first = await web.call("POST", "/uploads", json=body, headers=key)

    stranger = await web.call("POST", "/uploads", actor=None, json=body, headers=key)
    strangers_own = await web.call("POST", "/uploads", actor=None, json=body, headers={"Idempotency-Key": "k-2"})
    without_key = await web.call("POST", "/uploads", actor=None, json=body)
    guessed_by_bob = await web.call("POST", "/uploads", actor="bob", json=body, headers=key)

    assert error_of(stranger) == error_of(strangers_own) == (400, "invalid_argument")
    assert stranger.json()["error"]["detail"] == {"option": "idempotency_key"}
    assert without_key.status_code == guessed_by_bob.status_code == 201
    ids = {answer.json()["session"]["id"] for answer in (first, without_key, guessed_by_bob)}
    assert len(ids) == 3
    assert await web.rindle.database.read(count_of, MediaUploadSession) == 3


async def test_a_repeated_ticket_is_signed_afresh_and_refused_once_the_upload_has_ended(web: Site) -> None:
    key = {"Idempotency-Key": "k-1"}
    body = {"profile": "avatar", "filename": "me.png"}
    first = (await web.call("POST", "/uploads", json=body, headers=key)).json()

    again = (await web.call("POST", "/uploads", json=body, headers=key)).json()
    sent = await web.put(again["upload"], png())
    await web.call("DELETE", f"/uploads/{first['session']['id']}")
    late = await web.call("POST", "/uploads", json=body, headers=key)

    assert again["session"]["state"] == first["session"]["state"] == "signed"
    assert sent.status_code == 200
    assert error_of(late) == (409, "invalid_transition")


@contextmanager
def counted(rindle: Rindle) -> Iterator[Counter[str]]:
    """Count the transactions and the statements that read or lock an upload session, by kind."""
    counts: Counter[str] = Counter()
    engine = rindle.database.engine
    assert isinstance(engine, AsyncEngine)

    def begun(connection: Any) -> None:
        counts["transactions"] += 1

    def executed(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and "JOIN media_assets" in statement and "media_upload_sessions" in statement:
            counts["reads of the upload"] += 1

    event.listen(engine.sync_engine, "begin", begun)
    event.listen(engine.sync_engine, "before_cursor_execute", executed)
    try:
        yield counts
    finally:
        event.remove(engine.sync_engine, "begin", begun)
        event.remove(engine.sync_engine, "before_cursor_execute", executed)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k-1"}])
async def test_a_ticket_is_one_transaction(web: Site, headers: dict[str, str]) -> None:
    body = {"profile": "avatar", "filename": "me.png"}
    with counted(web.rindle) as counts:
        answer = await web.call("POST", "/uploads", json=body, headers=headers)

    assert answer.status_code == 201 and answer.json()["session"]["state"] == "signed"
    assert counts["transactions"] == 1


@pytest.mark.parametrize("by_key", [False, True])
async def test_verifying_reads_the_upload_once(web: Site, by_key: bool) -> None:
    ticket = await web.ticket()
    await web.put(ticket["upload"], png())
    path = "/uploads/verify" if by_key else f"/uploads/{ticket['session']['id']}/verify"
    body = {"key": ticket["session"]["upload_key"]} if by_key else None
    with counted(web.rindle) as first:
        answer = await web.call("POST", path, json=body)
    with counted(web.rindle) as second:
        again = await web.call("POST", path, json=body)

    assert answer.status_code == 200 and again.json() == answer.json()
    assert first == {"transactions": 2, "reads of the upload": 1}  # it is read, and then moved
    assert second == {"transactions": 1, "reads of the upload": 1}


async def test_signing_again_reads_the_upload_once(web: Site) -> None:
    ticket = await web.ticket()
    with counted(web.rindle) as counts:
        answer = await web.call("POST", f"/uploads/{ticket['session']['id']}/sign")

    assert answer.status_code == 200
    assert counts == {"transactions": 2, "reads of the upload": 1}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"profile": "avatar", "filename": "a.exe"}, (422, "extension_not_allowed")),
        ({"profile": "avatar", "filename": "a"}, (422, "missing_extension")),
        ({"profile": "avatar", "filename": "a.png", "size": 33 << 20}, (413, "max_bytes_exceeded")),
        ({"profile": "nobody", "filename": "a.png"}, (422, "unknown_profile")),
        ({"profile": "internal", "filename": "a.png"}, (422, "unknown_profile")),
        ({"profile": "accounts.Avatar", "filename": "a.png"}, (422, "unknown_profile")),
        ({"profile": "avatar", "filename": "a.png", "strategy": "multipart"}, (422, "upload_unsupported")),
        ({"profile": "avatar", "filename": "a.png", "strategy": "pigeon"}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "expires_in": 59}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "expires_in": 604_801}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "size": -1}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "size": "5"}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "size": 2**63}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "x" * 2000 + ".png"}, (400, "invalid_argument")),
        (
            {"profile": "avatar", "filename": "a.png", "content_type": "image/png\r\nX-Evil: 1"},
            (400, "invalid_argument"),
        ),
        ({"profile": "avatar", "filename": "a.png", "content_type": "ïmage/png"}, (400, "invalid_argument")),
        ({"profile": "avatar", "filename": "a.png", "state": "ready", "uploaded_by": "x"}, (400, "invalid_argument")),
        ({"profile": "avatar"}, (400, "invalid_argument")),
        ([], (400, "invalid_argument")),
    ],
)
async def test_a_bad_ticket_is_refused_before_any_row_exists(web: Site, body: Any, expected: tuple[int, str]) -> None:
    answer = await web.call("POST", "/uploads", json=body)

    assert error_of(answer) == expected
    assert await web.rindle.database.read(count_of, MediaAsset) == 0


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"\xff\xfe", b"null", b'{"\\ud800": 1}', b'{"profile":"avatar","filename":"\\ud800.png"}'],
)
async def test_a_body_that_is_no_json_is_refused_in_our_shape(web: Site, content: bytes) -> None:
    answer = await web.call("POST", "/uploads", content=content, headers={"Content-Type": "application/json"})

    assert error_of(answer) == (400, "invalid_argument")


async def test_a_huge_json_body_is_refused_unread(web: Site) -> None:
    long = LongBody(b" ")

    announced = await web.call("POST", "/uploads", content=b" " * 70_000, headers={"Content-Type": "application/json"})
    async with aclosing(long.pieces()) as body:
        chunked = await web.call("POST", "/uploads", content=body, headers={"Content-Type": "application/json"})

    assert error_of(announced) == error_of(chunked) == (413, "max_bytes_exceeded")
    assert long.consumed < 1 << 20


async def test_wrong_values_are_named_and_not_repeated(web: Site) -> None:
    answer = await web.call("POST", "/uploads", json={"profile": "avatar", "filename": "a.png", "size": "the-value"})

    assert answer.json()["error"]["detail"]["option"] == "size"
    assert "the-value" not in answer.text


@pytest.mark.parametrize(
    "filename",
    [
        "../../etc/passwd.png",
        "a\r\nSet-Cookie: x.png",
        "\u202egnp.exe.png",
        "<script>.png",
        "a\x07b.png",
        "%2e%2e%2f.png",
    ],
)
async def test_a_hostile_filename_never_reaches_key_url_or_header(web: Site, filename: str) -> None:
    ticket = await web.ticket(filename=filename)
    await web.put(ticket["upload"], png())
    verified = await web.call("POST", f"/uploads/{ticket['session']['id']}/verify")
    asset = verified.json()["asset"]
    await web.gallery.moved(asset["id"], AssetState.ANALYZING)
    await web.rindle.database.write(_promote, asset["id"], web.avatar)

    url = (await web.call("GET", f"/assets/{asset['id']}/url?disposition=attachment")).json()["url"]
    served = await web.client.get(url)

    assert re.fullmatch(r"accounts-avatar/[0-9a-f-]{36}/[0-9a-f-]{36}\.png", ticket["session"]["upload_key"])
    assert re.fullmatch(r"[A-Za-z0-9._-]+", asset["filename"])
    assert served.status_code == 200 and served.content == png()
    disposition = served.headers["content-disposition"]
    assert re.fullmatch(r"attachment; filename=\"[A-Za-z0-9._-]+\"; filename\*=UTF-8''[A-Za-z0-9._%-]+", disposition)
    assert not re.search("%0[0-9A-F]|%E2%80%AE", disposition)
    assert "set-cookie" not in served.headers and served.headers["x-content-type-options"] == "nosniff"


def _promote(session: Session, asset_id: str, profile: type[Profile]) -> None:
    promote(session, asset_id, profile, kind="image", content_type="image/png")


async def test_a_session_whose_time_is_over_says_so(web: Site) -> None:
    def begin(session: Session) -> str:
        asset, upload = sessions.new_upload(
            web.avatar, filename="a.png", actor="alice", strategy="presigned_put", ttl_seconds=-1
        )
        return insert_upload(session, asset, upload).session.id

    session_id = await web.rindle.database.write(begin)

    assert error_of(await web.call("POST", f"/uploads/{session_id}/sign")) == (410, "upload_session_expired")


async def test_uploads_work_while_temporal_is_away(web: Site) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(web.app.router.lifespan_context(web.app))
        done = await web.verified()
        inline = await web.call("POST", "/uploads/inline?profile=avatar&filename=a.png", content=png())
        cancelled = await web.call("DELETE", f"/uploads/{(await web.ticket())['session']['id']}")

    assert inline.status_code == 201 and cancelled.status_code == 200
    assert done["asset"]["state"] == "validating"
    states = await web.rindle.database.read(lambda session: {*session.scalars(select(MediaOutbox.state))})
    assert states == {"pending"}
