"""Scanners that are away, decoders that crash, hostile files: fail closed, condemn only content, keep working."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from rindle import MediaProcessingRun, bootstrap
from rindle.errors import ScannerUnavailable, UploadRejected
from rindle.media.render_pool import RenderPool
from rindle.workflows import ids
from tests.invariants import everything_holds
from tests.patience import PATIENCE_SECONDS, until
from tests.stage import NOTICES_LOST_WORKERS, REPOSITORY, Stage, photo


def _scans(stage: Stage) -> int:
    calls = stage.home / "scans"
    return len(calls.read_text().splitlines()) if calls.is_file() else 0


async def test_a_scanner_that_is_away_is_asked_again_and_never_taken_for_clean(stage: Stage) -> None:
    stage.tell("scanner", "down")
    await stage.member()
    asset = await stage.verified("scanned")

    async def asked_twice() -> bool:
        return _scans(stage) >= 2

    await until(asked_twice, what="the scanner to be asked again")
    waiting = await stage.rindle.asset(asset.id)
    assert (waiting.state, waiting.scanned_etag, waiting.variants) == ("analyzing", None, [])
    stage.tell("scanner", "")

    done = await stage.settled(asset.id)
    assert (done.state, done.scanned_etag) == ("ready", done.stored_etag)


async def test_a_scanner_that_says_no_quarantines_before_any_decoder_opens_the_file(stage: Stage) -> None:
    stage.tell("scanner", "evil")
    await stage.member()

    asset = await stage.ready("scanned")

    assert (asset.state, asset.error_code) == ("quarantined", "scanner_rejected")
    assert (asset.width, asset.variants) == (None, [])  # never probed
    assert asset.storage_key in await stage.keys()  # kept for inspection


@pytest.mark.parametrize("verdict", ["evil", "down"])
async def test_a_server_side_upload_passes_the_scanner_before_anything_is_stored(stage: Stage, verdict: str) -> None:
    stage.tell("scanner", verdict)
    expected = UploadRejected if verdict == "evil" else ScannerUnavailable
    with pytest.raises(expected) as refused:
        await stage.rindle.upload("scanned", photo(stage.home / "p.jpg"), filename="p.jpg")
    assert refused.value.code == ("scanner_rejected" if verdict == "evil" else "scanner_unavailable")
    assert await stage.keys() == set()
    assert await stage.outbox() == []


async def test_a_clean_server_side_upload_is_not_scanned_twice(stage: Stage) -> None:
    await stage.member()
    asset = await stage.rindle.upload("scanned", photo(stage.home / "p.jpg"), filename="p.jpg", actor="alice")
    assert (asset.state, asset.uploaded_by) == ("analyzing", "alice")
    assert (await stage.settled(asset.id)).state == "ready"
    assert _scans(stage) == 1
    await everything_holds(stage)


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        (
            "portrait.jpg",
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "mime_not_allowed",
        ),
        ("scan.jpg", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "mime_not_allowed"),
        ("note.jpg", b"\x00\x01\x02\x03" * 8, "unknown_mime"),
        ("anim.mp4", b"GIF89a/*\x01\x00\x01\x00\x80\x00\x00*/=1;alert(1)//", "extension_mime_mismatch"),
    ],
)
async def test_hostile_files_are_quarantined_by_content_whatever_they_are_called(
    lite_stage: Stage, name: str, body: bytes, code: str
) -> None:
    await lite_stage.member()
    asset = await lite_stage.ready(body=body, filename=name, content_type="image/jpeg")
    assert (asset.state, asset.error_code) == ("quarantined", code)
    assert asset.variants == []
    assert asset.error_reason and str(lite_stage.home) not in asset.error_reason
    with pytest.raises(UploadRejected) as refused:  # the same gate on the other lane
        source = lite_stage.home / "hostile"
        source.write_bytes(body)
        await lite_stage.rindle.upload("avatar", source, filename=name)
    assert refused.value.code == code


async def test_a_truncated_picture_is_a_verdict(lite_stage: Stage) -> None:
    await lite_stage.member()
    whole = photo(lite_stage.home / "p.jpg").read_bytes()
    asset = await lite_stage.ready(body=whole[: len(whole) // 3])
    assert (asset.state, asset.error_code) == ("quarantined", "decode_failed")


async def test_a_worker_that_its_processor_kills_costs_the_build_an_attempt_and_nothing_else(stage: Stage) -> None:
    stage.tell("processor", "die")
    first = await stage.worker(**NOTICES_LOST_WORKERS)
    asset = await stage.verified("held")
    assert await first.wait() == -9
    stage.tell("processor", "")
    await stage.member(stage.application())
    assert (await stage.settled(asset.id)).state == "ready"
    await everything_holds(stage)


async def test_a_render_child_killed_from_outside_is_replaced(stage: Stage) -> None:
    """What a decoder crash looks like to the pipeline: the child dies, the worker lives, the variant is built."""
    worker = await stage.worker()
    await stage.ready()
    killed = [pid for pid in await _children(worker.process.pid) if _kill(pid)]
    assert killed
    asset = await stage.ready()
    assert asset.state == "ready"
    assert worker.process.returncode is None
    await everything_holds(stage)


@pytest.mark.parametrize(
    ("deaths", "state", "code"),
    [(4, "ready", None), (100, "quarantined", "decode_failed")],
    ids=["killed four times, an innocent file passes", "killed every time, it is condemned"],
)
async def test_a_file_whose_reader_dies_is_tried_again_but_not_for_a_day(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch, deaths: int, state: str, code: str | None
) -> None:
    pool = RenderPool(1, engine="tests.faults.engine_that_dies")
    monkeypatch.setattr(bootstrap, "render_pool", lambda settings: pool)
    lite_stage.tell("deaths", str(deaths))
    await lite_stage.member()

    asset = await lite_stage.ready()

    assert (asset.state, asset.error_code) == (state, code)
    assert deaths - int((lite_stage.home / "deaths").read_text()) == 5  # probed five times, not once more


async def test_a_file_that_uses_up_its_cpu_time_is_read_once(
    lite_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = RenderPool(
        1,
        engine="tests.faults.engine_that_dies",
        wall_seconds=PATIENCE_SECONDS,
        probe_seconds=PATIENCE_SECONDS,
        cpu_share=1 / PATIENCE_SECONDS,
    )
    monkeypatch.setattr(bootstrap, "render_pool", lambda settings: pool)
    lite_stage.tell("deaths", "-1")
    await lite_stage.member()

    asset = await lite_stage.ready()

    assert (asset.state, asset.error_code) == ("quarantined", "content_too_complex")
    assert int((lite_stage.home / "deaths").read_text()) == -2


async def _children(pid: int) -> list[int]:
    """Return the processes below ``pid`` that hold a pool's work (its grandchildren under the fork server)."""

    def below(parent: int) -> list[int]:
        found = []
        for task in Path(f"/proc/{parent}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
                found += [int(child) for child in (task / "children").read_text().split()]
        return found + [grand for child in found for grand in below(child)]

    return await asyncio.to_thread(lambda: below(pid)[1:])


def _kill(pid: int) -> bool:
    """Kill a process; false when it is gone already, as a child is whose fork server was killed before it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


async def test_every_attempt_is_on_record(stage: Stage) -> None:
    stage.tell("processor", "fail")
    await stage.member(stage.application(RINDLE_VARIANT_ATTEMPTS="2"))
    asset = await stage.verified("held")
    thumb = await stage.variant(asset.id, "thumb", "failed")
    assert (thumb.attempts, thumb.error_code) == (2, "unexpected")
    await stage.variant(asset.id, "large", "failed")
    await stage.state(asset.id, "degraded")
    runs = await stage.read(
        lambda s: s.execute(
            select(MediaProcessingRun.variant_name, MediaProcessingRun.state).where(
                MediaProcessingRun.asset_id == asset.id
            )
        ).all()
    )
    assert sorted(runs) == [("large", "failed")] * 2 + [("thumb", "failed")] * 2


async def test_sigterm_finishes_or_hands_back_what_is_running(stage: Stage) -> None:
    stage.tell("processor", "hold")
    first = await stage.worker("--grace", "1")
    asset = await stage.verified("held")
    await stage.variant(asset.id, "thumb", "processing")

    assert await first.stop() == 0  # the build does not end within its grace: handed back
    stage.tell("processor", "")
    await stage.member(stage.application())

    done = await stage.settled(asset.id)
    assert done.state == "ready"
    assert {row.attempts for row in done.variants} == {0}  # a deploy is nobody's failure
    await everything_holds(stage)


async def test_a_client_that_did_its_work_always_ends_with_status_0(lite_stage: Stage) -> None:
    """The SDK's runtime sometimes aborts while the interpreter shuts down; rindle.process.leave does not let it."""
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.client", "pings", "50"),
        cwd=REPOSITORY,
        env={**os.environ, **lite_stage.environment},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await client.communicate()

    assert client.returncode == 0
    assert output.decode() == "{0: 50}\n"


async def test_no_secret_and_no_file_name_reaches_a_temporal_history(stage: Stage) -> None:
    await stage.member()
    session = await stage.rindle.initiate_upload(
        "avatar", filename="canary-holiday-with-anna.jpg", actor="canary-alice"
    )
    signed = await stage.rindle.sign_url(session.id)
    await stage.put(session.id, photo(stage.home / "p.jpg"))
    asset = (await stage.rindle.verify_completion(session.id)).asset
    await stage.settled(asset.id)
    await stage.let_tickets_expire(session.id)  # a purge waits for that
    await stage.rindle.purge_asset(asset.id)
    await stage.gone(asset.id)
    client = await stage.client()
    token = signed.presigned.url.rpartition("/")[2]
    purge = ids.purge_id(asset.id, prefix=stage.prefix)
    for workflow_id in (stage.upload_workflow(session.id), stage.variants_workflow(asset.id), purge):
        handle = client.get_workflow_handle(workflow_id)
        text = (await handle.fetch_history()).to_json() + str(await (await handle.describe()).memo())
        for secret in ("canary", token, asset.storage_key, "me.jpg"):
            assert secret not in text, f"{secret!r} in {workflow_id}"
