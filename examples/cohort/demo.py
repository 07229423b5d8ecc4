"""``make demo``: a photo, three hostile files, a worker killed at work, a video, a video that is cancelled, a large
film whose upload breaks twice, and a streaming provider, to which the browser sends a talk, all through the public API.
Then things are broken by SQL, rm and kill, and repaired by what the commands print, and a member is erased.

Starts everything embedded (Temporal, worker, site, SQLite, local files), behaves like a member's browser over real
HTTP, checks what comes back, and writes ``var/demo/report.html`` with the certificates of the erasure beside it. Ends
with status 0, or with 1 and the check that failed.
"""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich import box
from rich.table import Table
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from examples.cohort import demo_files, demo_friday, demo_lesson, demo_stream, demo_train
from examples.cohort.demo_friday import Friday
from examples.cohort.demo_lesson import Lesson
from examples.cohort.demo_stage import (
    AT_REST,
    CLOSE_LOOK_SECONDS,
    DEMO,
    HOME,
    LOOK_SECONDS,
    MEMBER,
    Browser,
    CheckFailed,
    Checks,
    Sent,
    answered,
    console,
    fetch,
    fetch_variants,
    looks,
    seconds,
    step,
)
from examples.cohort.demo_stream import Provider, Stream
from examples.cohort.demo_train import Crossing
from rindle.cli.dev import Stack, start
from rindle.cli.supervisor import Supervisor
from rindle.db.models import MediaAsset, MediaEvent, MediaProcessingRun
from rindle.errors import RindleError
from rindle.process import leave
from rindle.states import AssetState

REPORT = DEMO / "report.html"
APPLICATION = "examples.cohort.app:rindle"

#: Longest side of the photo that is being worked on when the worker dies: as large as a good camera's.
LARGE_SIDE = 6000
#: Photos to send, if need be, until one is caught at work.
KILL_ATTEMPTS = 5
#: Seconds of silence after which Temporal counts the worker as lost; 30 in production, short here to be watched.
HEARTBEAT_SECONDS = 3
#: Seconds that an upload ticket is valid; an hour in production.
TICKET_SECONDS = 60


@dataclass
class Killed:
    """How the worker died and what that cost."""

    pid: int
    at: datetime
    states: dict[str, str]
    back_at: datetime
    done_at: datetime
    attempts: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Moment:
    """One line of the report's timeline."""

    at: datetime
    text: str
    tone: str = ""


# --- the story -----------------------------------------------------------------------------------------------------


def print_addresses(stack: Stack, supervisor: Supervisor, provider: Provider) -> None:
    """Run the story on a started stack and write the report.

    Raises:
        CheckFailed: something is not as promised.
    """
    checks = Checks()
    browser = Browser(str(stack.web))
    database = create_engine(stack.environment["DATABASE_URL"].replace("+aiosqlite", ""))
    try:
        photo, killed = kill_midway(browser, supervisor, database, checks)
        inspect(browser, photo, checks)
        hostile = [refuse(browser, sent, reason, checks) for sent, reason in hostile_files()]
        second = replace(browser, database, photo, checks)
        lesson = demo_lesson.teach(browser, checks)
        crossing = demo_train.cross(browser, supervisor, checks)
        streamed = demo_stream.stream(browser, provider, str(stack.web), lesson.sent, checks)
        timeline = moments(database, photo, killed)
        friday = demo_friday.spend(stack, supervisor, browser, database, second, lesson.sent, checks)
        checks.that(provider.mux.assets == [], "nothing of hers is left at the streaming provider")
        streamed.talk.end = f"{streamed.talk.end}, then erased"
        images = [photo, *hostile, second]
        print_tables(images, lesson, crossing, streamed, friday)
        write_report(images, killed, lesson, crossing, streamed, timeline, friday, checks)
    finally:
        browser.close()
        database.dispose()
    console.print(f"\n[bold green]All {len(checks.passed)} checks passed.[/] Report: {REPORT}")


def kill_midway(browser: Browser, supervisor: Supervisor, database: Any, checks: Checks) -> tuple[Sent, Killed]:
    """Upload a photo, kill the worker while it builds the variants, and watch the work being finished all the same."""
    with step("1. A photo, and the worker is killed while it works on it") as status:
        for attempt in range(1, KILL_ATTEMPTS + 1):
            status.update("making a photo of 24 megapixels with a place in its EXIF…")
            photo = Sent(
                "rocket.jpg", demo_files.photograph("rocket", LARGE_SIDE), "photo of 24 megapixels, with a place in it"
            )
            status.update("uploading…")
            browser.upload(photo)
            at_work = catch_at_work(browser, photo.asset_id)
            if at_work is not None:
                break
            console.print(f"  the worker was too fast (try {attempt}); sending another one")
        else:
            raise CheckFailed(f"one of {KILL_ATTEMPTS} photos is caught while its variants are being built")
        pid, at = supervisor.kill_part("worker", signal.SIGKILL), datetime.now(UTC)
        states = {variant["name"]: variant["state"] for variant in browser.asset(photo.asset_id)["variants"]}
        console.print(f"  [red]✗[/] worker process {pid} killed with SIGKILL; variants: {summary_of(states)}")
        checks.that("processing" in states.values(), "the worker died in the middle of building variants")
        status.update("no worker is running; the supervisor starts a new one…")
        supervisor.wait_ready("worker")
        back_at = datetime.now(UTC)
        checks.that(supervisor.pid("worker") != pid, f"a new worker is there {seconds(at, back_at)} later")
        status.update("Temporal notices the missing heartbeat and hands the work out again…")
        asset = browser.settled(
            photo.asset_id,
            lambda asset: status.update(summary_of({one["name"]: one["state"] for one in asset["variants"]})),
        )
        killed = Killed(pid, at, states, back_at, datetime.now(UTC), attempts_at(database, photo.asset_id))
        photo.state, photo.end = asset["state"], "replaced, then purged"
        checks.that(asset["state"] == "ready", f"the photo is ready {seconds(at, killed.done_at)} after the kill")
        numbers = [run["attempt"] for run in killed.attempts]
        checks.that(max(numbers, default=0) > 1, f"Temporal tried again: attempts {', '.join(map(str, numbers))}")
        browser.wear(photo.asset_id)
        page = browser.get(f"/members/{MEMBER}").text
        checks.that("<picture>" in page and ">Ready<" in page, "the member's page shows <picture> and the badge Ready")
    return photo, killed


def catch_at_work(browser: Browser, asset_id: str) -> dict[str, Any] | None:
    """Return the asset as soon as one of its variants is being built, or ``None`` when it was ready before that."""
    for _ in looks(CLOSE_LOOK_SECONDS):
        asset = browser.asset(asset_id)
        if any(variant["state"] == "processing" for variant in asset["variants"]):
            return asset
        if asset["state"] in AT_REST:
            return None
    raise CheckFailed("the worker begins with the photo")


def attempts_at(database: Any, asset_id: str) -> list[dict[str, Any]]:
    """Return the audit rows of the attempts at an asset's variants, one per attempt."""
    with Session(database) as session:
        rows = session.scalars(
            select(MediaProcessingRun)
            .where(MediaProcessingRun.asset_id == asset_id, MediaProcessingRun.variant_name.is_not(None))
            .order_by(MediaProcessingRun.attempt, MediaProcessingRun.variant_name)
        ).all()
    by_attempt: dict[int, dict[str, Any]] = {}
    for row in rows:
        found = by_attempt.setdefault(row.attempt, {"attempt": row.attempt, "states": {}})
        found["states"][row.variant_name] = row.state
    return [*by_attempt.values()]


def inspect(browser: Browser, photo: Sent, checks: Checks) -> None:
    """Fetch the original and every variant by its address and look into the bytes."""
    with step("2. Every address is fetched and every image opened"):
        photo.original = browser.asset(photo.asset_id) | answered(fetch(browser, photo.asset_id, None))
        photo.place = photo.original["place"]
        checks.that(photo.original["body"] == photo.body, "the original comes back byte for byte")
        checks.that(photo.place is not None, f"it still contains its location: {shown(photo.place)}")
        photo.variants = fetch_variants(browser, photo.asset_id)
        for variant in photo.variants:
            size = demo_files.size_of(variant["body"])
            right = (
                size == (variant["width"], variant["height"])
                and len(variant["body"]) == variant["byte_size"]
                and variant["served_as"] == variant["content_type"]
            )
            checks.that(
                right, f"{variant['name']}: {size[0]} × {size[1]}, {variant['byte_size']:,} bytes, as in its row"
            )
            checks.that(variant["place"] is None, f"{variant['name']}: no place in it")
        page = browser.get(f"/members/{MEMBER}").text
        found = re.findall(r'(?:src|srcset)="([^"]*/media/local/[^"]+)"', page)
        photo.addresses = [html.unescape(address) for address in found]
        answers = [browser.get(address).status_code for address in photo.addresses]
        checks.that(answers and set(answers) == {200}, f"{len(answers)} addresses of the page's <picture> answer 200")
        forged = photo.addresses[0][:-4] + ("AAAA" if photo.addresses[0][-4:] != "AAAA" else "BBBB")
        checks.that(browser.get(forged).status_code == 403, "an address with a changed signature answers 403")


def hostile_files() -> Iterator[tuple[Sent, frozenset[str]]]:
    """Yield files that mean harm, each with the reasons it may be refused for."""
    yield (
        Sent("portrait.jpg", demo_files.script_in_disguise(), "SVG with a script, called .jpg"),
        frozenset({"mime_not_allowed", "extension_mime_mismatch"}),
    )
    yield Sent("bomb.png", demo_files.bomb(), "PNG that unpacks to 625 megapixels"), frozenset({"max_pixels_exceeded"})
    yield Sent("half.jpg", demo_files.half_a_photograph(), "JPEG cut off in the middle"), frozenset({"decode_failed"})


def refuse(browser: Browser, sent: Sent, reasons: frozenset[str], checks: Checks) -> Sent:
    """Upload a file that means harm and see it set aside."""
    with step(f"3. {sent.name}: {sent.what}, {len(sent.body):,} bytes"):
        browser.upload(sent)
        asset = browser.settled(sent.asset_id)
        sent.state, sent.reason, sent.end = asset["state"], asset["error_code"], "never served"
        checks.that(asset["state"] == "quarantined", f"{sent.name} is quarantined")
        checks.that(sent.reason in reasons, f"the reason is {sent.reason}")
        checks.that(asset["variants"] == [], "nothing was made of it")
        refused = browser.get(f"/media/assets/{sent.asset_id}/url")
        checks.that(refused.status_code == 409, f"nothing of it is served: {refused.json()['error']['code']}")
    return sent


def replace(browser: Browser, database: Any, before: Sent, checks: Checks) -> Sent:
    """Replace the member's photo and see the one before it disappear completely."""
    with step("4. The photo is replaced, and the one before it purged") as status:
        photo = Sent("coffee.jpg", demo_files.photograph("coffee", 2400), "another photo")
        browser.upload(photo)
        asset = browser.settled(photo.asset_id)
        photo.state, photo.end = asset["state"], "the member's photo"
        checks.that(asset["state"] == "ready", "the second photo is ready")
        photo.variants = fetch_variants(browser, photo.asset_id)
        checks.that(all(one["place"] is None for one in photo.variants), "no place in its variants either")
        with Session(database) as session:
            keys = stored_keys(session, before.asset_id)
        checks.that(
            all((HOME / "media" / key).is_file() for key in keys),
            f"{len(keys)} files of the first photo lie in the store",
        )
        browser.wear(photo.asset_id)
        status.update("waiting for the purge…")
        for _ in looks(LOOK_SECONDS):
            left = [key for key in keys if (HOME / "media" / key).exists()]
            if not left:
                break
        checks.that(left == [], "after the purge its files are gone")
        with Session(database) as session:
            row = session.get(MediaAsset, before.asset_id)
            is_gone = row is None or row.state == AssetState.DELETED
        checks.that(is_gone, "its row is marked as deleted; it is kept until its upload ticket has expired")
        codes = {browser.get(address).status_code for address in before.addresses}
        checks.that(codes == {404}, "and its addresses, whose time is not over, answer 404")
    return photo


def stored_keys(session: Session, asset_id: str) -> list[str]:
    """Return the storage keys of an original and its variants."""
    asset = session.get_one(MediaAsset, asset_id)
    return [asset.storage_key, *(variant.storage_key for variant in asset.variants if variant.storage_key)]


# --- what is shown -------------------------------------------------------------------------------------------------


def moments(database: Any, photo: Sent, killed: Killed) -> list[Moment]:
    """Return what happened to the photo, from its durable events, with the kill in its place."""
    with Session(database) as session:
        events = session.scalars(
            select(MediaEvent).where(MediaEvent.asset_id == photo.asset_id).order_by(MediaEvent.id)
        ).all()
    found = [Moment(event.occurred_at, described(event)) for event in events]
    found += [
        Moment(killed.at, f"worker process {killed.pid} killed with SIGKILL", "bad"),
        Moment(killed.back_at, "a new worker polls", "good"),
    ]
    return sorted(found, key=lambda moment: moment.at)


def described(event: MediaEvent) -> str:
    """Return an event as one line."""
    facts = event.payload
    match event.type:
        case "asset_state_changed":
            return f"asset: {facts['from']} → {facts['state']}"
        case "variant_state_changed":
            return f"variant {facts['variant_name']}: {facts['from']} → {facts['state']}"
        case name if name.startswith("variant_"):
            return f"variant {facts['variant_name']}: {facts['state']}"
        case name if name.startswith("upload_session_"):
            return f"upload: {facts['state']}"
        case "attachment_changed":
            return f"slot {facts['slot']}: {facts['change']}"
        case name:
            return name.replace("_", " ").replace(".", " ")


def print_tables(images: Sequence[Sent], lesson: Lesson, crossing: Crossing, streamed: Stream, friday: Friday) -> None:
    """Print what became of each file and each variant, and what was repaired."""
    console.print()
    files = Table(
        "file", "what it is", "bytes", "state", "reason", "in the end", title="What was sent", box=box.SIMPLE_HEAD
    )
    for sent in [*images, lesson.sent, crossing.sent, streamed.lost, streamed.talk, streamed.cancelled]:
        colour = "green" if sent.state == "ready" else "red"
        files.add_row(
            sent.name, sent.what, f"{len(sent.body):,}", f"[{colour}]{sent.state}[/]", sent.reason or "", sent.end
        )
    console.print(files)
    made = Table(
        *("file", "variant", "pixels", "type", "bytes", "place in it", "fetched from", "answer"),
        title="What was made of it",
        box=box.SIMPLE_HEAD,
    )
    rows = [
        (sent, variant)
        for sent in images
        for variant in [*([sent.original | {"name": "original"}] if sent.original else []), *sent.variants]
    ]
    for sent, variant in [*rows, *((lesson.sent, variant) for variant in lesson.made.values())]:
        made.add_row(
            sent.name,
            variant["name"],
            f"{variant['width']} × {variant['height']}" if variant["width"] else "",
            variant["content_type"],
            f"{variant['byte_size']:,}",
            shown(variant.get("place")),
            variant["address"],
            str(variant["status"]),
        )
    console.print(made)
    repaired = Table("what was broken", "found by", "printed command", "seconds", title="Friday", box=box.SIMPLE_HEAD)
    for one in friday.repairs:
        repaired.add_row(one.title, one.found_by, one.command, f"{one.seconds:.1f}")
    console.print(repaired)


def write_report(
    everything: Sequence[Sent],
    killed: Killed,
    lesson: Lesson,
    crossing: Crossing,
    streamed: Stream,
    timeline: Sequence[Moment],
    friday: Friday,
    checks: Checks,
) -> None:
    """Write everything with its images into one HTML file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "data_uri": data_uri,
        "place": shown,
        "clock": lambda instant: instant[11:23],
        "since": lambda at: (at - timeline[0].at).total_seconds(),
    }
    page = environment.get_template("demo_report.html").render(
        everything=everything,
        photo=everything[0],
        killed=killed,
        lesson=lesson,
        crossing=crossing,
        streamed=streamed,
        timeline=timeline,
        friday=friday,
        checks=checks.passed,
        place=shown(everything[0].place),
        now=datetime.now(UTC),
        took=seconds,
    )
    REPORT.write_text(page)


def data_uri(variant: dict[str, Any]) -> str:
    """Return a variant's bytes as an address that needs no server."""
    return f"data:{variant['content_type']};base64,{base64.b64encode(variant['body']).decode()}"


def summary_of(states: dict[str, str]) -> str:
    """Return variants and their states as one line."""
    return ", ".join(f"{name} {state}" for name, state in states.items()) or "none yet"


def shown(place: tuple[float, float] | None) -> str:
    """Return a place as people write it."""
    if place is None:
        return "none"
    north, east = place
    return f"{abs(north):.4f}° {'N' if north >= 0 else 'S'}, {abs(east):.4f}° {'E' if east >= 0 else 'W'}"


# --- running it ----------------------------------------------------------------------------------------------------


def prepare_environment() -> None:
    """Make the run independent of the shell it is started from, and quick to notice a lost worker."""
    for name in [*os.environ]:
        ours = name.startswith(("RINDLE_", "TEMPORAL_", "COHORT_")) or name in ("DATABASE_URL", "MEDIA_BUCKET")
        if ours and name != "RINDLE_TEMPORAL_CLI":
            del os.environ[name]
    os.environ["RINDLE_HEARTBEAT_SECONDS"] = str(HEARTBEAT_SECONDS)
    os.environ["RINDLE_TMP_DIR"] = str(HOME / "tmp")
    # An object is certified as absent when no upload ticket can write it again; nobody waits for an hour here.
    os.environ["RINDLE_PRESIGNED_PUT_TTL_SECONDS"] = str(TICKET_SECONDS)
    os.environ["RINDLE_LATE_PUT_SECONDS"] = "0"


def clear_home() -> None:
    """Remove what an earlier run left; its processes have been ended by the supervisor."""
    for entry in HOME.iterdir():
        if entry.name.startswith("supervisor."):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (HOME / "tmp").mkdir()


def main() -> int:
    """Run the demo and return its exit status."""
    prepare_environment()
    began = time.monotonic()
    DEMO.mkdir(parents=True, exist_ok=True)
    log = DEMO / "demo.log"

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with (
            log.open("wb") as output,
            demo_stream.provider() as provider,
            Supervisor(
                HOME, report=lambda line: console.print(f"  [dim]{line}[/]"), output=output.fileno()
            ) as supervisor,
        ):
            clear_home()
            with step("0. Starting Temporal, a worker and the site") as status:
                status.update("the first time this may fetch or build Temporal, which takes minutes…")
                stack = start(supervisor, application=APPLICATION)
                console.print(f"  site {stack.web} · Temporal UI {stack.ui} · what they print: {log}")
            print_addresses(stack, supervisor, provider)
            with step("12. Stopping everything"):
                supervisor.stop()
    except CheckFailed as failure:
        console.print(f"\n[bold red]Check failed:[/] {failure}\nWhat the parts printed: {log}")
        return 1
    except RindleError as failure:
        console.print(f"\n[bold red]{failure.code}:[/] {failure.message}\nWhat the parts printed: {log}")
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130
    console.print(f"Done in {time.monotonic() - began:.0f} s.")
    return 0


if __name__ == "__main__":
    leave(main())
