"""Release from quarantine: everything is checked again, and the audit says who wanted it and why."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from rindle import RindleError
from rindle.errors import InvalidArgument, InvalidTransition, NotFound
from rindle.operations.explain import explain
from rindle.operations.quarantine import release_quarantine
from tests.stage import Stage


def scans(stage: Stage) -> int:
    calls = stage.home / "scans"
    return len(calls.read_text().splitlines()) if calls.is_file() else 0


async def test_a_released_asset_is_scanned_again_and_the_release_is_audited(stage: Stage) -> None:
    await stage.member()
    stage.tell("scanner", "evil")
    asset = await stage.ready("scanned")
    assert (asset.state, asset.error_code, scans(stage)) == ("quarantined", "scanner_rejected", 1)
    assert "rindle release-quarantine" in (await explain(stage.rindle.services, asset.id)).diagnosis.summary

    # The signature is still known: released, scanned, and back in quarantine.
    report = await release_quarantine(stage.rindle.services, asset, "false alarm?", actor="ada")
    assert (report.state, report.error_code) == ("validating", "scanner_rejected")
    assert (await stage.settled(asset.id)).state == "quarantined"
    assert scans(stage) == 2

    stage.tell("scanner", "")
    await release_quarantine(stage.rindle.services, asset.id, "signature withdrawn", actor="ada")
    released = await stage.settled(asset.id)

    assert (released.state, released.error_code, released.operator_reason) == ("ready", None, None)
    assert scans(stage) == 3
    audits = await stage.events(asset.id, "asset.quarantine_released")
    assert [(event.actor, event.audit, event.payload["reason"], event.payload["error_code"]) for event in audits] == [
        ("ada", True, "false alarm?", "scanner_rejected"),
        ("ada", True, "signature withdrawn", "scanner_rejected"),
    ]


async def test_what_was_never_quarantined_or_has_no_bytes_is_not_released(stage: Stage) -> None:
    await stage.member()
    good = await stage.ready("plain")
    session = await stage.sent("avatar", size=5)
    with pytest.raises(RindleError):
        await stage.rindle.verify_completion(session.id)
    refused = str(session.asset_id)
    services, before = stage.rindle.services, len(await stage.outbox())

    with pytest.raises(InvalidTransition, match="the asset is ready"):
        await release_quarantine(services, good, "because")
    with pytest.raises(InvalidTransition, match="upload the file again"):
        await release_quarantine(services, refused, "because")
    assert "release-quarantine" not in (await explain(services, refused)).diagnosis.summary
    with pytest.raises(NotFound):
        await release_quarantine(services, uuid.uuid4(), "because")
    for reason in ("", "x" * 256, "a\0b"):
        with pytest.raises(InvalidArgument):
            await release_quarantine(services, good, reason)
    assert len(await stage.outbox()) == before
    assert (await stage.rindle.asset(refused)).state == "quarantined"


async def test_a_text_file_that_is_released_is_rejected_again(stage: Stage, tmp_path: Path) -> None:
    await stage.member()
    asset = await stage.ready("avatar", b"only text " * 50, filename="note.jpg")
    assert asset.state == "quarantined"
    code = asset.error_code

    await release_quarantine(stage.rindle.services, asset, "try", actor=None)

    again = await stage.settled(asset.id)
    assert (again.state, again.error_code) == ("quarantined", code)
