"""The demo's last chapters, Friday at 5 p.m.: things are broken by SQL, rm and kill, and repaired by what is printed.

``rindle runtime-status``, ``explain``, ``doctor`` and the sweeps find each breakage. What repairs it is read from their
output and typed as it stands; this module knows no repair. Then a member leaves, with a certificate.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine, bindparam, select, text
from sqlalchemy.orm import Session

from examples.cohort import demo_files
from examples.cohort.demo_stage import (
    COURSE,
    DEMO,
    HOME,
    MEMBER,
    Browser,
    CheckFailed,
    Checks,
    Sent,
    console,
    step,
)
from examples.cohort.models import Course, Member
from rindle.cli.dev import Stack
from rindle.cli.supervisor import Supervisor
from rindle.db.models import MediaAsset, MediaUploadSession, MediaVariant
from rindle.states import AssetState
from rindle.workflows import ids

#: Seconds that finding and repairing one thing may take.
REPAIR_SECONDS = 120.0
#: Seconds between two looks with a command, which takes a second itself.
COMMAND_LOOK_SECONDS = 2.0
#: What a monitor looks for that pages somebody and opens tickets; the video cancelled before is no fault.
CLASSES = "alert,failed_work,probe_drift,recipe_drift,run_without_rows"
#: What is broken by SQL; three hours are beyond the patience of every finding.
PARKS = """UPDATE media_outbox SET state = 'parked', last_error = 'INVALID_ARGUMENT: by hand',
    inserted_at = datetime('now', '-3 hours'), updated_at = datetime('now', '-3 hours')
    WHERE workflow_id = :workflow"""
DROPS_AN_INDEX = "DROP INDEX ix_media_variants_output_kind"
FAILS = """UPDATE media_variants SET state = 'failed', error_code = 'process_timeout',
    updated_at = datetime('now', '-3 hours') WHERE asset_id = :asset AND name = 'card'"""
LOSES_A_BUILD = """UPDATE media_variants SET state = 'processing',
    updated_at = datetime('now', '-3 hours') WHERE asset_id = :asset AND name = 'card'"""
GOES_BACK = """UPDATE media_assets SET state = 'validating',
    updated_at = datetime('now', '-3 hours') WHERE id = :asset"""
LOSES_ITS_SIZE = "UPDATE media_assets SET width = NULL, height = NULL WHERE id = :asset"
CHANGES_THE_RECIPE = """UPDATE media_variants SET recipe_digest = hex(zeroblob(32))
    WHERE asset_id = :asset AND name = 'card'"""
DELETES = """UPDATE media_assets SET state = 'deleted',
    updated_at = datetime('now', '-3 hours') WHERE id = :asset"""
ENDS_THE_TICKET = """UPDATE media_upload_sessions SET url_expires_at = datetime('now', '-3 hours')
    WHERE asset_id = :asset"""
#: What ``explain`` says of an asset that needs nothing.
SOUND = "no problem found"
#: How ``erase-owners`` names the command that shows a certificate.
CERTIFICATE = re.compile(r"certificate: (rindle erasure-certificate \S+)")
#: Age in hours that a sweep of temporary files regards as left behind.
LEFT_HOURS = 5


@dataclass(frozen=True, slots=True)
class Repair:
    """One breakage: what was done, what found it, what it was said to be, the printed command, and its seconds."""

    title: str
    broken: str
    found_by: str
    said: str
    command: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """The evidence of one owner's erasure, and its two files beside the report."""

    owner: str
    command: str
    facts: dict[str, Any]
    page: Path
    document: Path


@dataclass
class Friday:
    """What was repaired, and the certificates of the erasure."""

    repairs: list[Repair] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)


class Terminal:
    """An operator's shell beside the running site: its environment, and the virtualenv's programs first."""

    def __init__(self, environment: dict[str, str]) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self.environment = {**environment, "PATH": path}

    def typed(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for its end.

        Raises:
            CheckFailed: it does not end in time.
        """
        environment = {**os.environ, **self.environment}
        try:
            return subprocess.run(
                shlex.split(command), env=environment, capture_output=True, text=True, timeout=REPAIR_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise CheckFailed(f"{command} ends within {REPAIR_SECONDS:.0f} s") from None

    def report(self, command: str) -> dict[str, Any]:
        """Type a command that reports something, and return its JSON.

        Raises:
            CheckFailed: it printed none.
        """
        done = self.typed(f"{command} --format json")
        try:
            found: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise CheckFailed(
                f"{command} reports JSON (it ended with {done.returncode}: {done.stderr[-300:]})"
            ) from None
        return found

    def repairs(self, command: str) -> None:
        """Type what was printed.

        Raises:
            CheckFailed: it failed.
        """
        done = self.typed(command)
        if done.returncode:
            raise CheckFailed(f"{command} succeeds (it ended with {done.returncode}: {done.stderr[-300:]})")


class Operator:
    """Breaks, finds and repairs; knows of each breakage only what the commands print."""

    def __init__(self, stack: Stack, database: Engine, checks: Checks, friday: Friday) -> None:
        self.terminal = Terminal(stack.environment)
        self.database = database
        self.checks = checks
        self.friday = friday

    def sql(self, statement: str, **values: str) -> str:
        """Change rows behind the library's back; returns the statement as it is shown."""
        # The column's own type knows how this database stores ids.
        types = {"asset": MediaAsset.id.type}
        parameters = [bindparam(name, value, type_=types.get(name)) for name, value in values.items()]
        with self.database.begin() as connection:
            changed = connection.execute(text(statement).bindparams(*parameters))
        if not changed.rowcount:
            raise CheckFailed(f"{statement} changes something")
        for name, value in values.items():
            statement = statement.replace(f":{name}", f"'…{value[-6:]}'")
        return " ".join(statement.split())

    def findings(self) -> dict[str, dict[str, Any]]:
        """Return what ``runtime-status`` finds, by class."""
        status = self.terminal.report("rindle runtime-status --limit 20")
        sections = [status[name] for name in ("runtime_checks", "variants", "upload_sessions", "purges", "temporal")]
        return {finding["class"]: finding for section in sections for finding in section["findings"]}

    def found(self, name: str, asset_id: str | None = None) -> bool:
        """Whether a class is reported now, for this asset."""
        finding = self.findings().get(name)
        if finding is None or asset_id is None:
            return finding is not None
        return any(sample.get("asset_id", asset_id) == asset_id for sample in finding["samples"])

    def explained(self, asset_id: str) -> dict[str, Any]:
        """Return the diagnosis of ``rindle explain``."""
        diagnosis: dict[str, Any] = self.terminal.report(f"rindle explain {asset_id}")["diagnosis"]
        return diagnosis

    def diagnosed(self, asset_id: str) -> tuple[str, str]:
        """Return the summary and the command of ``rindle explain``.

        Raises:
            CheckFailed: it has no command.
        """
        diagnosis = self.explained(asset_id)
        if not diagnosis["command"]:
            raise CheckFailed(f"rindle explain prints a command (it says: {diagnosis['summary']})")
        return diagnosis["summary"], diagnosis["command"]

    def repair(self, title: str, broken: str, name: str, asset_id: str, *, by: str = "rindle runtime-status") -> None:
        """Find an asset's breakage by its class, type what ``explain`` prints for it, and see the finding disappear.

        Raises:
            CheckFailed: it is not found, or still there afterwards.
        """
        self.breaks(title, broken)
        began = time.monotonic()
        eventually(lambda: self.found(name, asset_id), f"rindle runtime-status finds {name} for the asset")
        said, command = self.diagnosed(asset_id)
        self.terminal.repairs(command)
        eventually(lambda: not self.found(name, asset_id), f"{name} is gone after {command}")
        self.repaired(title, broken, f"{by}: {name}", said, command, time.monotonic() - began)

    def repair_explained(self, title: str, broken: str, asset_id: str) -> None:
        """The same for a breakage that only ``explain`` sees: until it has nothing to repair any more."""
        self.breaks(title, broken)
        began = time.monotonic()
        said, command = self.diagnosed(asset_id)
        self.terminal.repairs(command)
        eventually(lambda: self.explained(asset_id)["summary"] == SOUND, f"{SOUND} after {command}")
        self.repaired(title, broken, "rindle explain", said, command, time.monotonic() - began)

    def rest(self, asset_id: str) -> None:
        """Wait until no run of an asset is open: it would explain what is broken next, or repair it.

        Raises:
            CheckFailed: one is still open after two minutes.
        """

        def is_resting() -> bool:
            runs = self.terminal.report(f"rindle explain {asset_id}")["workflows"]
            return all(run["status"] != "running" for run in runs)

        eventually(is_resting, "every run of the asset ends")

    def breaks(self, title: str, broken: str) -> None:
        """Show what was broken."""
        console.print(f"  [red]✗[/] {title}: [dim]{broken}[/]", soft_wrap=True)

    def repaired(self, title: str, broken: str, found_by: str, said: str, command: str, took: float) -> None:
        """Note a repair."""
        console.print(f"    found by [bold]{found_by}[/]: {said}", soft_wrap=True)
        console.print(f"    printed:  [cyan]{command}[/]", soft_wrap=True)
        self.checks.that(took < REPAIR_SECONDS, f"repaired with the printed command in {took:.1f} s: {title}")
        self.friday.repairs.append(Repair(title, broken, found_by, said, command, took))


def spend(
    stack: Stack, supervisor: Supervisor, browser: Browser, database: Engine, photo: Sent, lesson: Sent, checks: Checks
) -> Friday:
    """Break things, repair them with what is printed, and let the member leave.

    Args:
        photo: the member's photo, which is ready and worn.
        lesson: a video that is ready.

    Raises:
        CheckFailed: something is not as promised.
    """
    friday = Friday()
    operator = Operator(stack, database, checks, friday)
    with step("9. Friday, 5 p.m.: the worker is killed, and nobody starts it") as status:
        lose_the_worker(operator, supervisor, browser, f"{stack.health}/readyz", status.update)
    with step("10. Rows are changed by SQL, files removed by rm"):
        old = Sent("old.jpg", demo_files.photograph("coffee", 800), "photo that nobody uses")
        browser.upload(old)
        checks.that(browser.settled(old.asset_id)["state"] == "ready", "another photo is ready")
        break_rows(operator, photo.asset_id, lesson.asset_id, old.asset_id)
        remove_a_file(operator, photo.asset_id)
        calm = operator.terminal.typed(f"rindle runtime-status --fail-on {CLASSES}")
        checks.that(calm.returncode == 0, f"rindle runtime-status --fail-on {CLASSES} finds nothing any more")
    with step("11. Alice leaves, and everything of hers is erased") as status:
        browser.post(f"/lessons/{COURSE}/media", data={"asset_id": lesson.asset_id})
        erase(operator, status.update)
        photo.end, lesson.end = f"{photo.end}, then erased", f"{lesson.end}, then erased"
    return friday


# --- while no worker runs ------------------------------------------------------------------------------------------


def lose_the_worker(
    operator: Operator, supervisor: Supervisor, browser: Browser, ready: str, show: Callable[[str], None]
) -> None:
    """Kill the worker for good, and repair meanwhile what needs none; then start it as ``explain`` says."""
    checks, terminal = operator.checks, operator.terminal
    pid = supervisor.kill_part("worker", signal.SIGKILL, restart=False)
    killed_at = time.monotonic()
    sent = Sent("friday.jpg", demo_files.photograph("rocket", 2400), "photo sent while no worker runs")
    browser.upload(sent)
    operator.breaks("No worker", f"kill -9 {pid}; then a photo is uploaded")
    lose_a_request(operator, sent.asset_id)
    drop_an_index(operator)
    leave_a_directory(operator)

    def no_worker() -> bool:
        show(f"{time.monotonic() - killed_at:.0f} s without a worker; Temporal forgets the last poll after 65 s…")
        return operator.found("no_worker")

    eventually(no_worker, "rindle runtime-status finds no_worker")
    began = time.monotonic()
    said, command = operator.diagnosed(sent.asset_id)
    # Under the supervisor, so that the worker ends with the demo.
    supervisor.start_part("worker", shlex.split(command), terminal.environment, ready=lambda: answers(ready))
    show("the worker starts…")
    supervisor.wait_ready("worker")
    state = browser.settled(sent.asset_id)["state"]
    checks.that(state == "ready", "the photo that was waiting is ready")
    eventually(lambda: not operator.found("no_worker"), "no_worker is gone")
    took = time.monotonic() - began
    operator.repaired("No worker", f"kill -9 {pid}", "rindle runtime-status: no_worker", said, command, took)


def lose_a_request(operator: Operator, asset_id: str) -> None:
    """Park the request to Temporal, as if it had been rejected."""
    with Session(operator.database) as session:
        upload = session.scalars(select(MediaUploadSession.id).where(MediaUploadSession.asset_id == asset_id)).one()
    broken = operator.sql(PARKS, workflow=ids.upload_id(upload))
    operator.repair("A request to Temporal is stuck", broken, "outbox_parked", asset_id)


def drop_an_index(operator: Operator) -> None:
    """Drop an index; ``doctor`` misses it."""
    with operator.database.begin() as connection:
        connection.execute(text(DROPS_AN_INDEX))
    title, broken = "An index is gone", DROPS_AN_INDEX
    operator.breaks(title, broken)
    began = time.monotonic()

    def schema() -> dict[str, Any]:
        [check] = operator.terminal.report("rindle doctor --only db.schema")["checks"]
        return dict(check)

    found = schema()
    if found["status"] != "error":
        raise CheckFailed("rindle doctor finds the missing index")
    operator.terminal.repairs(found["fix"])
    if schema()["status"] != "ok":
        raise CheckFailed(f"rindle doctor finds nothing after {found['fix']}")
    took = time.monotonic() - began
    operator.repaired(title, broken, "rindle doctor: db.schema", found["summary"], found["fix"], took)


def leave_a_directory(operator: Operator) -> None:
    """Leave a temporary directory behind, as a killed process does."""
    directory = HOME / "tmp" / "rindle.tmp" / "left-behind"
    directory.mkdir(parents=True)
    (directory / "half.jpg").write_bytes(bytes(100_000))
    old = time.time() - LEFT_HOURS * 3600
    os.utime(directory, (old, old))
    title, broken = "A dead process left its files", f"a run directory, {LEFT_HOURS} hours old"
    operator.breaks(title, broken)
    began = time.monotonic()
    command = "rindle sweep-temp-files"
    counted = operator.terminal.typed(command)
    if "add --execute" not in counted.stdout or not directory.exists():
        raise CheckFailed(f"{command} only counts, and prints what to add")
    found = operator.terminal.report(command)["orphan_count"]
    if not found:
        raise CheckFailed(f"{command} finds the directory")
    operator.terminal.repairs(f"{command} --execute")
    if directory.exists():
        raise CheckFailed(f"{command} --execute removes the directory")
    took = time.monotonic() - began
    said = f"orphan_count {found}; add --execute"
    operator.repaired(title, broken, command, said, f"{command} --execute", took)


# --- rows and files ------------------------------------------------------------------------------------------------


def break_rows(operator: Operator, photo: str, lesson: str, old: str) -> None:
    """Break rows by SQL, one after the other, and repair each."""
    for title, statement, name, asset_id in (
        ("A variant failed", FAILS, "failed_work", photo),
        ("A build was lost", LOSES_A_BUILD, "orphan_suspect", photo),
        ("An upload stays in validation", GOES_BACK, "workflow_missing", photo),
        ("A video lost its size", LOSES_ITS_SIZE, "probe_drift", lesson),
    ):
        operator.rest(asset_id)
        operator.repair(title, operator.sql(statement, asset=asset_id), name, asset_id)
    operator.rest(photo)
    broken = operator.sql(CHANGES_THE_RECIPE, asset=photo)
    operator.repair_explained("A variant is of an older recipe", broken, photo)
    operator.rest(old)
    broken = operator.sql(DELETES, asset=old)
    operator.sql(ENDS_THE_TICKET, asset=old)
    operator.repair("A deleted photo is still there", broken, "purge_stuck", old)
    operator.checks.that(not stored_files(old), "and its files are gone")


def remove_a_file(operator: Operator, photo: str) -> None:
    """Remove the object of a variant behind the library's back."""
    operator.rest(photo)
    with Session(operator.database) as session:
        key = session.scalars(
            select(MediaVariant.storage_key).where(MediaVariant.asset_id == photo, MediaVariant.name == "thumb")
        ).one()
    path = HOME / "media" / str(key)
    path.unlink()
    operator.terminal.repairs("rindle verify-storage")
    operator.repair(
        "The file of a variant is gone",
        f"rm …/{path.name[-24:]}",
        "storage_drift",
        photo,
        by="rindle verify-storage, then rindle runtime-status",
    )
    checks = operator.checks
    with Session(operator.database) as session:
        key = session.scalars(
            select(MediaVariant.storage_key).where(MediaVariant.asset_id == photo, MediaVariant.name == "thumb")
        ).one()
    checks.that((HOME / "media" / str(key)).is_file(), "the file is there again")


# --- leaving -------------------------------------------------------------------------------------------------------


def erase(operator: Operator, show: Callable[[str], None]) -> None:
    """Erase a member and her courses, keep the certificates, and purge what she uploaded and never used."""
    checks, terminal = operator.checks, operator.terminal
    with Session(operator.database) as session:
        member = session.scalars(select(Member).where(Member.handle == MEMBER)).one()
        courses = session.scalars(select(Course.id).where(Course.teacher_id == member.id)).all()
    owners = [{"owner_type": "member", "owner_id": str(member.id)}]
    owners += [{"owner_type": "course", "owner_id": str(course)} for course in courses]
    path = DEMO / "owners.json"
    path.write_text(json.dumps(owners))
    command = f"rindle erase-owners --owners-file {shlex.quote(str(path))}"
    preview = terminal.report(command)
    checks.that(
        preview["net_assets_to_purge"] == 3, "the preview: her photo, her talk and her lesson are used by nobody else"
    )
    done = terminal.typed(f"{command} --execute")
    printed = CERTIFICATE.findall(done.stdout)
    checks.that(
        done.returncode == 0 and len(printed) == len(owners),
        f"rindle erase-owners --execute names {len(printed)} certificates: one for her, one for her course",
    )
    for owner, certificate_command in zip(owners, printed, strict=True):
        show("waiting for the certificate…")
        keep_certificate(operator, owner["owner_type"], certificate_command)
    show("purging what she uploaded and never used…")
    with Session(operator.database) as session:
        mine = MediaAsset.uploaded_by == MEMBER
        unused = session.scalars(select(MediaAsset.id).where(mine, MediaAsset.state != AssetState.DELETED)).all()
    for asset_id in unused:
        terminal.repairs(f"rindle purge {asset_id} --execute")
    eventually(lambda: not stored_files(), "the store is empty")
    checks.that(not stored_files(), f"{len(unused)} uploads that she never used are purged, too: the store is empty")


def keep_certificate(operator: Operator, owner: str, command: str) -> None:
    """Wait for a certificate and write it as JSON and as a page."""
    checks, terminal = operator.checks, operator.terminal
    eventually(lambda: terminal.typed(command).returncode == 0, f"{command} is final")
    found = terminal.report(command)
    objects = [one for asset in found["assets"] for one in asset["objects"]]
    checks.that(
        found["status"] == "complete" and objects and all(one["absent_at"] for one in objects),
        f"certificate of the {owner}: {len(objects)} objects deleted, each found absent by a request afterwards",
    )
    checks.that(
        not any((HOME / "media" / one["key"]).exists() for one in objects),
        f"what it says of the {owner}'s files is true",
    )
    page = DEMO / f"certificate-{owner}.html"
    page.write_text(terminal.typed(f"{command} --format html").stdout)
    document = page.with_suffix(".json")
    document.write_text(json.dumps(found, indent=2))
    operator.friday.certificates.append(Certificate(owner, command, found, page, document))


# --- shared --------------------------------------------------------------------------------------------------------


def eventually(holds: Callable[[], bool], claim: str) -> None:
    """Wait until something holds.

    Raises:
        CheckFailed: it does not in time.
    """
    deadline = time.monotonic() + REPAIR_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise CheckFailed(f"{claim} within {REPAIR_SECONDS:.0f} s")
        time.sleep(COMMAND_LOOK_SECONDS)


def answers(address: str) -> bool:
    """Whether an address answers 200."""
    try:
        return httpx.get(address, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def stored_files(asset_id: str = "") -> list[Path]:
    """Return the files in the store, of one asset or all."""
    return [path for path in (HOME / "media").rglob("*") if path.is_file() and asset_id in str(path)]
