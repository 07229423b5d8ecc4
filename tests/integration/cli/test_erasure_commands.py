"""``rindle erase-owners``, ``erasure-certificate`` and ``force-delete``, run in this process."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest

from rindle.cli import commands
from tests.patience import until
from tests.stage import Stage

OWNERS = [
    {"owner_type": "member", "owner_id": "ada"},
    {"owner_type": "member", "owner_id": "bob"},
    {"owner_type": "membre", "owner_id": "eve"},
]


class Terminal:
    """Runs commands of the application of a stage."""

    def __init__(self, stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
        self.stage = stage
        self.capsys = capsys

    async def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run one command, check its exit code and return what it printed on the two streams."""
        self.capsys.readouterr()
        found = await asyncio.to_thread(commands.execute, list(arguments))
        shown = self.capsys.readouterr()
        assert found == code, shown.out + shown.err
        return shown.out, shown.err

    async def json(self, *arguments: str, code: int = 0) -> Any:
        """Run one command and return the document it printed."""
        return json.loads((await self(*arguments, "--format", "json", code=code))[0])


@pytest.fixture
def rindle(lite_stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """The command line of the stage's application."""
    for variable, value in lite_stage.environment.items():
        monkeypatch.setenv(variable, value)
    return Terminal(lite_stage, capsys)


def owners_file(stage: Stage, document: object = OWNERS) -> str:
    """Return the path of a file with a document."""
    path = stage.home / "owners.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("[", "not valid JSON"),
        ([], "at least one owner"),
        ({"owner_type": "a", "owner_id": "b"}, "JSON array"),
        ([OWNERS[0], {"owner_type": "a", "owner_id": ""}], "entry 1: owner_id must be a string"),
        ([{"owner_type": "a", "owner_id": 7}], "entry 0: owner_id must be a string"),
        ([{"owner_type": "a", "owner_id": "b", "name": "c"}], "entry 0: must have exactly the keys"),
        (["ada"], "entry 0: must be an object"),
    ],
)
async def test_a_file_with_a_problem_erases_nobody(rindle: Terminal, document: object, told: str) -> None:
    out, error = await rindle("erase-owners", "--owners-file", owners_file(rindle.stage, document), "--execute", code=1)

    assert told in error
    assert out == ""


async def test_owners_are_previewed_then_erased_and_certified(
    rindle: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = rindle.stage
    await stage.member()
    shared, own = (await stage.ready("plain")).id, (await stage.ready("plain")).id
    for asset, owner, slot in [(shared, "ada", "a"), (shared, "bob", "a"), (own, "bob", "b")]:
        await stage.rindle.attach(asset, ("member", owner), slot)
    path = owners_file(stage)

    text, warnings = await rindle("erase-owners", "--owners-file", path)
    assert text.splitlines()[-1] == "[DRY RUN] Done. Nothing was changed; add --execute."
    assert "'membre'" in warnings
    assert "'member'" not in warnings
    preview = await rindle.json("batch-owner-erasure", "--owners-file", path)
    assert await stage.rindle.attachment_for(("member", "ada"), "a") is not None
    too_many, error = await rindle("erase-owners", "--owners-file", path, "--max-owners", "2", code=1)
    assert (too_many, error.splitlines()[-1].partition(":")[0]) == ("", "batch_too_large")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(OWNERS).encode()), encoding="utf-8"))
    report = await rindle.json("erase-owners", "--owners-file", "-", "--execute")

    assert (preview["mode"], report["mode"]) == ("preview", "execute")
    for name in ("attachments_to_detach", "assets_to_purge", "retained_shared_assets", "net_assets_to_purge"):
        assert preview[name] == report[name]
    assert set(report["owners"][0]["report"]) == {
        *("mode", "attachments_to_detach", "assets_to_purge", "retained_shared_assets"),
        *("purge_enqueued", "purge_already_queued", "operation_id"),
    }
    assert [one["owner"] for one in report["owners"]] == OWNERS
    operation = report["owners"][1]["report"]["operation_id"]

    async def final() -> bool:
        return (await stage.rindle.erasure_certificate(operation)).status == "complete"

    await until(final, what="the certificate to be final")
    certificate = await rindle.json("erasure-certificate", operation)
    assert certificate["counts"]["objects_absent"] == 2
    assert "complete" in (await rindle("erasure-certificate", operation))[0]
    assert (await rindle("erasure-certificate", operation, "--format", "html"))[0].startswith("<!doctype html>")
    _, unknown = await rindle("erasure-certificate", shared, code=1)
    assert unknown.startswith("not_found:")


async def test_a_forced_deletion_without_a_policy_is_refused(rindle: Terminal) -> None:
    stage = rindle.stage
    upload = await stage.sent("plain")

    _, error = await rindle("force-delete", str(upload.asset_id), "--reason", "why not", "--execute", code=1)

    assert error.startswith("force_delete_forbidden:")
    _, usage = await rindle("force-delete", str(upload.asset_id), code=2)
    assert "--reason" in usage
