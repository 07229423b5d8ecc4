"""Every branch of the workflows: how to bring one about, and what its history must then show.

``python -m tests.workflows.record`` plays each on a real server and saves its history; ``test_replay.py`` replays what
is saved and plays them again with workers that keep nothing in memory.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory, WorkflowUpdateFailedError

from rindle import messages
from rindle.activities import claim_watch, liveness
from rindle.db.models import MediaAsset, new_id
from rindle.errors import ProviderSyncFailed, StoragePermanent, StorageUnauthorized
from rindle.messages import ErasureInput, MaintenanceInput, PurgeInput, VariantInput
from rindle.operations.maintenance import runs
from rindle.operations.maintenance.verify_storage import VerifyStorage, VerifyStorageOptions
from rindle.protocols import WebhookKind
from rindle.states import VariantState
from rindle.streaming.memory import InMemoryProvider
from rindle.testing.flaky import FlakyStorage
from rindle.uploads.to_provider import DirectUpload
from rindle.workflows import ids, streaming
from tests.application import storage
from tests.media.clips import Clips
from tests.patience import until
from tests.servers.temporal import suggesting_temporal
from tests.stage import Stage, photo
from tests.tus import encoded, session_of, tus_client
from tests.unit.streaming.cinema import Cinema
from tests.unit.streaming.studio import Studio
from tests.workflows.films import cinema_on, in_state, start, workflow_of
from tests.workflows.fleet import Fleet, Interruption, at_rest, closed, dispatched, handle_of, in_stage, marks, runs_of
from tests.workflows.talks import in_state as in_state_of_talk
from tests.workflows.talks import overdue, studio_on, waiting
from tests.workflows.talks import workflow_of as talk_workflow

HISTORIES = Path(__file__).resolve().parent / "histories"

#: Brings one branch about; returns the id of the workflow that went through it.
Play = Callable[[Stage, Fleet], Awaitable[str]]


@dataclass(frozen=True)
class Branch:
    """One way through a workflow.

    Args:
        workflow: class of the workflow.
        case: name of the branch and of its file.
        play: brings it about.
        shows: marks (see ``fleet.marks``) its history has in this order, others between them.
        lacks: marks its history has not.
        environment: settings of the stage that make its durations short.
        suggests_after: events after which the server suggests to continue as new; its own limit when ``None``.
    """

    workflow: str
    case: str
    play: Play
    shows: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    suggests_after: int | None = None

    def __str__(self) -> str:
        return f"{self.workflow}-{self.case}"

    @property
    def file(self) -> Path:
        """Where its history is saved."""
        return HISTORIES / self.workflow / f"{self.case}.json"

    async def played(self, stage: Stage, fleet: Fleet) -> WorkflowHistory:
        """Bring the branch about and return the history that shows it, when nothing of the stage works any more."""
        with _cancelled_by_temporal():
            workflow_id = await self.play(stage, fleet)
            await at_rest(stage)

        async def found() -> WorkflowHistory | None:
            for run in await runs_of(stage, workflow_id):
                history = await run.fetch_history()
                if not self.missing(history):
                    return history
            return None

        try:
            return await until(found, what=f"a run of {workflow_id} that shows {self}")
        except AssertionError as late:
            newest = await (await handle_of(stage, workflow_id)).fetch_history()
            late.add_note(self.missing(newest))
            raise

    @asynccontextmanager
    async def target(self, shared: str) -> AsyncIterator[str]:
        """Yield the address of a server on which it can be played: ``shared``, or one with the limit it needs."""
        if self.suggests_after is None:
            yield shared
            return
        with tempfile.TemporaryDirectory(prefix="rindle-branch-") as home:
            async with suggesting_temporal(Path(home), after=self.suggests_after) as own:
                yield own.target

    def load(self) -> WorkflowHistory:
        """Return the saved history."""
        return WorkflowHistory.from_json(f"saved-{self.case}", self.file.read_text(encoding="utf-8"))

    def missing(self, history: WorkflowHistory) -> str:
        """Say what ``history`` lacks of this branch, or has although it should not; empty when it shows the branch."""
        found = list(marks(history))
        rest = iter(found)
        missing = [mark for mark in self.shows if mark not in rest]
        unwanted = [mark for mark in self.lacks if mark in found]
        return f"{self} lacks {missing} and has {unwanted} too much: {found}" if missing or unwanted else ""

    def check(self, history: WorkflowHistory) -> None:
        """Assert that ``history`` went through this branch."""
        assert not self.missing(history), self.missing(history)


@contextmanager
def _cancelled_by_temporal() -> Iterator[None]:
    """Let builds in this process learn of their cancellation from Temporal, so that histories show it.

    Otherwise a build usually reads its rows first and ends before its workflow has cancelled it.
    """
    with patch.object(claim_watch, "WATCH_SECONDS", 3600.0), patch.object(liveness, "PATIENCE", 1 / 60):
        yield


BRANCHES: list[Branch] = []


def _branch(
    workflow: str,
    *shows: str,
    lacks: tuple[str, ...] = (),
    suggests_after: int | None = None,
    **environment: str,
) -> Callable[[Play], Play]:
    """Enter the decorated play into :data:`BRANCHES` under its name."""

    def enter(play: Play) -> Play:
        BRANCHES.append(Branch(workflow, play.__name__, play, shows, lacks, environment, suggests_after))
        return play

    return enter


# --- uploads --------------------------------------------------------------------------------------------------------

_UPLOAD = "UploadWorkflow"

#: Lifetimes of tickets, tried in this order. A signed URL must still work when its session is released, so that the
#: workflow waits and releases once more: what is long enough for that on a quiet machine is over on a busy one.
TICKET_SECONDS = (3, 12, 48)


async def _has_waited_to_release_again(stage: Stage, workflow_id: str, *timer: str) -> bool:
    """Whether a run has released an upload, waited for its tickets with the marks ``timer``, and released it again."""
    found = marks(await (await handle_of(stage, workflow_id)).fetch_history())
    return all(mark in found for mark in ("release_upload", *timer, "release_upload"))


async def _waiting(
    stage: Stage,
    fleet: Fleet,
    profile: str = "avatar",
    body: bytes | None = None,
    size: int | None = None,
    interruption: Interruption | None = None,
    ticket_seconds: int = 1,
) -> str:
    """Send an upload to a workflow that waits for it; returns the session's id."""
    await fleet.start(interruption=interruption)
    session = await stage.rindle.initiate_upload(profile, filename="me.jpg", size=size)
    workflow_id = stage.upload_workflow(session.id)
    await dispatched(stage)
    await in_stage(stage, workflow_id, "waiting")
    picture = photo(stage.home / "photo.jpg")
    await stage.rindle.sign_url(session.id, expires_in=ticket_seconds)
    await stage.put(session.id, body or picture)
    return session.id


async def _verified(
    stage: Stage, fleet: Fleet, profile: str = "avatar", interruption: Interruption | None = None
) -> str:
    """Verify an upload whose workflow waits for that, so that nothing is said to it twice; returns the asset's id."""
    session_id = await _waiting(stage, fleet, profile, interruption=interruption)
    return (await stage.rindle.verify_completion(session_id)).asset.id


async def _ended(stage: Stage, session_id: str) -> str:
    """Wait until a session's workflow has ended and nothing is on its way to it; returns its id."""
    workflow_id = stage.upload_workflow(session_id)
    await dispatched(stage)
    await closed(stage, workflow_id)
    return workflow_id


@_branch(_UPLOAD, "read_upload", "timer", "signal verified", "admit", "child started", "completed")
async def happy(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet)
    await stage.rindle.verify_completion(session_id)
    return await _ended(stage, session_id)


@_branch(_UPLOAD, "signal verified", "admit", "child started", "completed", lacks=("read_upload", "timer"))
async def verified_first(stage: Stage, fleet: Fleet) -> str:
    session = await stage.sent()
    await stage.rindle.verify_completion(session.id)
    await fleet.start()
    return await _ended(stage, session.id)


@_branch(
    _UPLOAD,
    *("read_upload", "signal verified", "admit", "child started", "completed"),
    lacks=("timer", "child refused"),
)
async def verified_while_reading(stage: Stage, fleet: Fleet) -> str:
    interruption = Interruption()
    session = await stage.sent()
    workflow_id = stage.upload_workflow(session.id)

    async def verify() -> None:
        await stage.rindle.verify_completion(session.id)
        await dispatched(stage)

    interruption.at("reading", workflow_id, verify)
    await fleet.start(interruption=interruption)
    return await _ended(stage, session.id)


@_branch(_UPLOAD, "admit", "scan", "admit", "child started", "completed")
async def scanner(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet, "scanned")
    await stage.rindle.verify_completion(session_id)
    return await _ended(stage, session_id)


@_branch(
    _UPLOAD,
    *("signal cancel", "read_upload", "release_upload", "timer", "timer fired", "release_upload", "completed"),
)
async def cancelled(stage: Stage, fleet: Fleet) -> str:
    for seconds in TICKET_SECONDS:
        session_id = await _waiting(stage, fleet, ticket_seconds=seconds)
        await stage.rindle.cancel_upload(session_id)
        workflow_id = await _ended(stage, session_id)
        if await _has_waited_to_release_again(stage, workflow_id, "timer", "timer fired"):
            break
    return workflow_id


@_branch(
    _UPLOAD,
    "timer",
    "timer fired",
    "expire_upload",
    "release_upload",
    "completed",
    RINDLE_UPLOAD_SESSION_TTL_SECONDS="4",
)
async def expired(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    return await _ended(stage, session.id)


@_branch(
    _UPLOAD,
    "signal complete",
    "verify_upload",
    "release_upload",
    "completed",
    lacks=("admit",),
    RINDLE_PRESIGNED_PUT_TTL_SECONDS="3",
)
async def rejected_at_verify(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet, body=b"\xff\xd8\xff" + b"x" * 97, size=99)
    await (await handle_of(stage, stage.upload_workflow(session_id))).signal("complete")
    return await _ended(stage, session_id)


@_branch(_UPLOAD, "signal verified", "admit", "completed", lacks=("child started", "fail_promotion"))
async def quarantined(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet, body=b"no picture at all, whatever the name says")
    await stage.rindle.verify_completion(session_id)
    return await _ended(stage, session_id)


@_branch(_UPLOAD, "timer", "signal complete", "verify_upload", "admit", "child started", "completed")
async def complete_signal(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet)
    await (await handle_of(stage, stage.upload_workflow(session_id))).signal("complete")
    return await _ended(stage, session_id)


@_branch(
    _UPLOAD,
    "timer",
    "timer fired",
    "verify_upload",
    "timer",
    "verify_upload",
    "admit",
    "child started",
    "completed",
    RINDLE_AUTO_VERIFY_INITIAL_SECONDS="0.2",
    RINDLE_AUTO_VERIFY_MAX_SECONDS="0.4",
)
async def auto_verify(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg", auto_verify=True)
    await stage.rindle.sign_url(session.id)
    handle = await handle_of(stage, stage.upload_workflow(session.id))
    await dispatched(stage)

    async def looked() -> bool:
        found = list(marks(await handle.fetch_history()))
        return "verify_upload" in found and "timer" in found[found.index("verify_upload") :]

    await until(looked, what="the workflow to have looked for the object and to wait again")
    await stage.put(session.id, photo(stage.home / "photo.jpg"))
    return await _ended(stage, session.id)


@_branch(
    _UPLOAD,
    *("timer", "timer fired", "verify_upload", "timer", "timer fired", "verify_upload", "continued as new"),
    lacks=("admit",),
    suggests_after=40,
    RINDLE_AUTO_VERIFY_INITIAL_SECONDS="0.2",
    RINDLE_AUTO_VERIFY_MAX_SECONDS="0.4",
)
async def waited_long(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg", auto_verify=True)
    await stage.rindle.sign_url(session.id)
    await dispatched(stage)
    handle = await handle_of(stage, stage.upload_workflow(session.id))
    first = (await handle.describe()).run_id

    async def continued() -> bool:
        return (await handle.describe()).run_id != first

    await until(continued, what="the workflow to have continued as new")
    await stage.put(session.id, photo(stage.home / "photo.jpg"))
    await stage.settled(str(session.asset_id))
    return await _ended(stage, session.id)


@_branch(_UPLOAD, "signal verified", "admit", "admit failed", "fail_promotion", "completed", lacks=("child started",))
async def promotion_gave_up(stage: Stage, fleet: Fleet) -> str:
    broken = FlakyStorage(storage(stage.environment))
    broken.fail("local_path", StoragePermanent("the store says no"), times=1)
    session = await stage.sent()
    await stage.rindle.verify_completion(session.id)
    # Only now: the workflow starts with the signal, which would otherwise arrive during the promotion and repeat it.
    await fleet.start(stage.application(store=broken))
    return await _ended(stage, session.id)


@_branch(_UPLOAD, "signal verified", "admit", "child started", "completed", lacks=("fail_promotion",))
async def resume(stage: Stage, fleet: Fleet) -> str:
    workflow_id = await promotion_gave_up(stage, fleet)
    upload = await stage.session(workflow_id.rpartition(":")[2])
    await stage.rindle.resume(str(upload.asset_id))
    return await _ended(stage, upload.id)


@_branch(_UPLOAD, "timer", "update verify", "verify_upload", "update answered", "child started", "completed")
async def update_verify(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet)
    await (await handle_of(stage, stage.upload_workflow(session_id))).execute_update("verify")
    return await _ended(stage, session_id)


@_branch(_UPLOAD, "update verify", "verify_upload", "update refused", "signal verified", "completed")
async def update_refused(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    session = await stage.rindle.initiate_upload("avatar", filename="me.jpg")
    await stage.rindle.sign_url(session.id)
    await dispatched(stage)
    handle = await handle_of(stage, stage.upload_workflow(session.id))
    try:
        await handle.execute_update("verify")
    except WorkflowUpdateFailedError:
        await stage.put(session.id, photo(stage.home / "photo.jpg"))
    await stage.rindle.verify_completion(session.id)
    return await _ended(stage, session.id)


@_branch(_UPLOAD, "signal verified", "admit", "child refused", "running child signalled", "completed")
async def child_already_started(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    workflow_id = await _resumed(stage, asset_id)
    await _built(stage, asset_id)
    return workflow_id


@_branch(_UPLOAD, "child refused", "running child gone", "child started", "completed")
async def child_closed_meanwhile(stage: Stage, fleet: Fleet) -> str:
    interruption = Interruption()
    asset_id = await _building(stage, fleet, interruption)
    running = await handle_of(stage, stage.variants_workflow(asset_id))
    upload = await _upload_of(stage, asset_id)
    interruption.at("signalling", upload, running.terminate)
    workflow_id = await _resumed(stage, asset_id)
    stage.tell("processor", "")
    await stage.settled(asset_id)
    await closed(stage, stage.variants_workflow(asset_id))
    return workflow_id


@_branch(
    _UPLOAD,
    *("timer", "cancel requested", "abort_upload", "release_upload", "timer", "release_upload", "canceled"),
    lacks=("admit", "child started"),
)
async def cancel_request_of_an_upload(stage: Stage, fleet: Fleet) -> str:
    for seconds in TICKET_SECONDS:
        workflow_id = stage.upload_workflow(await _waiting(stage, fleet, ticket_seconds=seconds))
        await (await handle_of(stage, workflow_id)).cancel()
        await closed(stage, workflow_id)
        if await _has_waited_to_release_again(stage, workflow_id, "timer"):
            break
    return workflow_id


@_branch(
    _UPLOAD,
    *("admit", "cancel requested", "abort_upload", "child started", "completed"),
    lacks=("admit canceled", "release_upload"),
)
async def cancel_request_after_verification(stage: Stage, fleet: Fleet) -> str:
    store = FlakyStorage(storage(stage.environment))
    held = store.hang("local_path")
    await fleet.start(stage.application(store=store))
    asset = await stage.verified()
    await held.reached.wait()
    workflow_id = await _upload_of(stage, asset.id)
    handle = await handle_of(stage, workflow_id)
    await handle.cancel()

    async def noticed() -> bool:
        return "abort_upload" in marks(await handle.fetch_history())

    await until(noticed, what="the workflow to notice the request")
    held.release()
    await closed(stage, workflow_id)
    return workflow_id


@_branch(_UPLOAD, "admit", "cancel requested", "child started", "abort_upload", "completed")
async def cancel_request_while_builds_start(stage: Stage, fleet: Fleet) -> str:
    """The start of a child is completed: one whose parent ends too early may never get a task."""
    interruption = Interruption()
    await fleet.start(interruption=interruption)
    session = await stage.sent()
    workflow_id = stage.upload_workflow(session.id)
    handle = await handle_of(stage, workflow_id)
    interruption.at("starting", workflow_id, handle.cancel)
    await stage.rindle.verify_completion(session.id)
    await stage.settled(str(session.asset_id))
    await closed(stage, workflow_id)
    return workflow_id


@_branch(
    _UPLOAD,
    "timer",
    "cancel requested",
    "abort_upload",
    "completed",
    lacks=("admit", "child started", "release_upload"),
)
async def cancel_request_of_a_purge(stage: Stage, fleet: Fleet) -> str:
    session_id = await _waiting(stage, fleet)
    await stage.rindle.purge_asset(str((await stage.session(session_id)).asset_id))
    await closed(stage, stage.upload_workflow(session_id))
    return stage.upload_workflow(session_id)


@_branch(_UPLOAD, "admit", "task failed: unhandled_command", "signal touch", "read_upload", "completed")
async def signal_in_closing_task(stage: Stage, fleet: Fleet) -> str:
    interruption = Interruption()
    session = await stage.sent("plain")
    workflow_id = stage.upload_workflow(session.id)
    handle = await handle_of(stage, workflow_id)
    interruption.at("closing", workflow_id, lambda: handle.signal("touch"))
    await stage.rindle.verify_completion(session.id)
    await fleet.start(interruption=interruption)
    return await _ended(stage, session.id)


@_branch(
    _UPLOAD,
    *("read_upload", "timer", "signal complete", "verify_upload", "assemble_upload", "admit", "completed"),
    lacks=("fail_promotion", "release_upload"),
)
async def tus_bytes_assembled(stage: Stage, fleet: Fleet) -> str:
    body = photo(stage.home / "photo.jpg").read_bytes()
    await fleet.start()
    async with tus_client(stage.rindle, "avatar") as client:
        url = await client.create(len(body), body[:100], upload_metadata=encoded(filename="me.jpg"))
        await dispatched(stage)
        await in_stage(stage, stage.upload_workflow(session_of(url)), "waiting")
        assert (await client.patch(url, 100, body[100:])).status_code == 204
    return await _ended(stage, session_of(url))


@_branch(
    _UPLOAD,
    *("verify_upload", "assemble_upload", "release_upload", "completed"),
    lacks=("admit",),
)
async def tus_upload_refused(stage: Stage, fleet: Fleet) -> str:
    async with tus_client(stage.rindle, "avatar") as client:
        url = await client.create(0, upload_metadata=encoded(filename="me.jpg"))
    await fleet.start()
    return await _ended(stage, session_of(url))


@_branch(_UPLOAD, "read_upload", "timer", "signal cancel", "read_upload", "completed", lacks=("assemble_upload",))
async def tus_upload_terminated(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    async with tus_client(stage.rindle, "avatar") as client:
        url = await client.create(10, b"abc", upload_metadata=encoded(filename="me.jpg"))
        await dispatched(stage)
        await in_stage(stage, stage.upload_workflow(session_of(url)), "waiting")
        assert (await client.call("DELETE", url)).status_code == 204
    return await _ended(stage, session_of(url))


@_branch(
    _UPLOAD,
    *("read_upload", "timer", "signal cancel", "read_upload", "release_upload", "completed"),
    lacks=("assemble_upload",),
)
async def tus_partial_joined(stage: Stage, fleet: Fleet) -> str:
    """The workflow of a partial upload, which ends when a final one is made of it."""
    body = photo(stage.home / "photo.jpg").read_bytes()
    await fleet.start()
    async with tus_client(stage.rindle, "avatar") as client:
        parts = [
            await client.create(len(piece), piece, upload_concat="partial") for piece in (body[:1000], body[1000:])
        ]
        await dispatched(stage)
        for url in parts:
            await in_stage(stage, stage.upload_workflow(session_of(url)), "waiting")
        made = await client.call(
            "POST", upload_concat=f"final;{' '.join(parts)}", upload_metadata=encoded(filename="me.jpg")
        )
        assert made.status_code == 201, made.text
        final = await client.row(made.headers["location"])
    await stage.settled(str(final.asset_id))
    await _ended(stage, final.id)
    return await _ended(stage, session_of(parts[0]))


async def _upload_of(stage: Stage, asset_id: str) -> str:
    rows = [row for row in await stage.outbox() if row.workflow_type == messages.UPLOAD_WORKFLOW]
    return next(row.workflow_id for row in rows if row.payload["facts"]["asset_id"] == asset_id)


async def _resumed(stage: Stage, asset_id: str) -> str:
    workflow_id = await _upload_of(stage, asset_id)
    await closed(stage, workflow_id)
    await stage.rindle.resume(asset_id)
    return await _ended(stage, workflow_id.rpartition(":")[2])


# --- variants -------------------------------------------------------------------------------------------------------

_VARIANTS = "VariantWorkflow"


async def _building(stage: Stage, fleet: Fleet, interruption: Interruption | None = None) -> str:
    """Bring an asset to where its processor holds a build of both variants; returns the asset's id."""
    stage.tell("processor", "hold")
    asset_id = await _verified(stage, fleet, "held", interruption)
    await stage.variant(asset_id, "thumb", "processing")
    return asset_id


async def _built(stage: Stage, asset_id: str) -> str:
    """Let the processor go on; returns the id of the group's workflow when it has ended."""
    stage.tell("processor", "")
    await dispatched(stage)
    workflow_id = stage.variants_workflow(asset_id)
    await closed(stage, workflow_id)
    return workflow_id


@_branch(_VARIANTS, "render_images", "completed", lacks=("read_group", "requeue_group", "cancel_group"))
async def built(stage: Stage, fleet: Fleet) -> str:
    return await _built(stage, (await stage.settled(await _verified(stage, fleet))).id)


@_branch(_VARIANTS, "signal requeue", "requeue_group", "render_images", "completed")
async def requeue_signal(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    await stage.rindle.cancel_processing(asset_id)
    workflow_id = await _built(stage, asset_id)
    await requeue_with_start(stage, asset_id)
    await stage.state(asset_id, "ready")
    await closed(stage, workflow_id)
    return workflow_id


async def requeue_with_start(stage: Stage, asset_id: str, *arguments: list[str]) -> None:
    """Signal ``requeue`` to a group that may be closed, as ``temporal workflow signal-with-start`` does."""
    await (await stage.client()).start_workflow(
        messages.VARIANT_WORKFLOW,
        VariantInput(asset_id=asset_id),
        id=stage.variants_workflow(asset_id),
        task_queue=stage.prefix,
        start_signal="requeue",
        start_signal_args=list(arguments),
    )


@_branch(
    _VARIANTS,
    *("render_images", "signal cancel", "cancel_group", "read_group", "render_images canceled", "read_group"),
    "completed",
)
async def cancel_signal(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    await (await handle_of(stage, stage.variants_workflow(asset_id))).signal("cancel")
    await closed(stage, stage.variants_workflow(asset_id))
    return await _built(stage, asset_id)


@_branch(
    _VARIANTS,
    *("render_images", "cancel requested", "cancel_group", "read_group", "render_images canceled", "canceled"),
)
async def cancel_request(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    await (await handle_of(stage, stage.variants_workflow(asset_id))).cancel()
    await closed(stage, stage.variants_workflow(asset_id))
    return await _built(stage, asset_id)


@_branch(
    _VARIANTS,
    *("signal requeue", "cancel requested", "requeue_group", "cancel_group", "render_images", "canceled"),
    lacks=("render_images canceled",),
)
async def cancel_request_before_the_first_task(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    workflow_id = stage.variants_workflow(asset_id)
    await stage.rindle.cancel_processing(asset_id)
    await _built(stage, asset_id)
    await fleet.stop()
    await requeue_with_start(stage, asset_id)
    await (await handle_of(stage, workflow_id)).cancel()
    await fleet.start()
    await closed(stage, workflow_id)
    return workflow_id


@_branch(
    _VARIANTS,
    *("render_images", "signal wake", "read_group", "cancel requested", "cancel_group", "render_images canceled"),
    "canceled",
)
async def cancel_request_while_rows_are_read(stage: Stage, fleet: Fleet) -> str:
    """A request that arrives during another step is applied after it, and not when the build has ended."""
    interruption = Interruption()
    asset_id = await _building(stage, fleet, interruption)
    workflow_id = stage.variants_workflow(asset_id)
    handle = await handle_of(stage, workflow_id)

    async def noticed() -> bool:
        types = [event.event_type for event in (await handle.fetch_history()).events]
        requested = types.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
        return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in types[requested:]

    async def request() -> None:
        await handle.cancel()
        await until(noticed, what="the workflow to notice the request")

    interruption.at("reading", workflow_id, request)
    await handle.signal("wake")
    await closed(stage, workflow_id)
    return await _built(stage, asset_id)


@_branch(
    _VARIANTS,
    "render_images",
    "signal wake",
    "read_group",
    "completed",
    lacks=("render_images canceled", "cancel_group"),
)
async def wake_while_building(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    workflow_id = stage.variants_workflow(asset_id)
    handle = await handle_of(stage, workflow_id)
    await handle.signal("wake")

    async def looked() -> bool:
        return "read_group" in marks(await handle.fetch_history())

    await until(looked, what="the workflow to look at its rows")
    return await _built(stage, asset_id)


@_branch(
    _VARIANTS,
    "render_images",
    "signal wake",
    "read_group",
    "render_images canceled",
    "completed",
    lacks=("cancel_group",),
)
async def wake_when_rows_are_gone(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    workflow_id = stage.variants_workflow(asset_id)
    await stage.rindle.database.write(lambda session: session.delete(session.get(MediaAsset, asset_id)))
    await (await handle_of(stage, workflow_id)).signal("wake")
    await closed(stage, workflow_id)
    return await _built(stage, asset_id)


@_branch(
    _VARIANTS,
    # The rows are read between the two signals or after both, as they happen to arrive.
    *("render_images", "signal cancel", "cancel_group", "signal requeue", "requeue_group"),
    *("render_images", "completed"),
    lacks=("render_images canceled",),
)
async def requeue_while_building(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    handle = await handle_of(stage, stage.variants_workflow(asset_id))
    await handle.signal("cancel", ["thumb"])
    await stage.variant(asset_id, "thumb", "cancelled")
    await handle.signal("requeue", ["thumb"])
    await stage.variant(asset_id, "thumb", "queued")
    return await _built(stage, asset_id)


@_branch(
    _VARIANTS,
    *("render_images", "signal wake", "read_group", "signal requeue", "requeue_group", "continued as new"),
    suggests_after=40,
)
async def woken_often(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    handle = await handle_of(stage, stage.variants_workflow(asset_id))
    for count in range(1, 7):
        await handle.signal("wake")

        async def looked(count: int = count) -> bool:
            return list(marks(await handle.fetch_history())).count("read_group") >= count

        await until(looked, what="the workflow to look at its rows")
    await handle.signal("cancel", ["thumb"])
    await stage.variant(asset_id, "thumb", "cancelled")
    await handle.signal("requeue", ["thumb"])
    await stage.variant(asset_id, "thumb", "queued")
    workflow_id = await _built(stage, asset_id)
    await stage.settled(asset_id)
    return workflow_id


@_branch(_VARIANTS, "render_images", "signal cancel", "completed", lacks=("cancel_group",))
async def signal_with_nonsense(stage: Stage, fleet: Fleet) -> str:
    asset_id = await _building(stage, fleet)
    handle = await handle_of(stage, stage.variants_workflow(asset_id))
    await handle.signal("cancel", args=[["thumb"], ["large"]])  # the handler takes one list
    return await _built(stage, asset_id)


@_branch(_VARIANTS, "render_images", "render_images failed", "fail_group", "completed")
async def gave_up(stage: Stage, fleet: Fleet) -> str:
    broken = FlakyStorage(storage(stage.environment))
    broken.fail("store", StoragePermanent("the store says no"), times=1)
    await fleet.start(stage.application(store=broken))
    asset = await stage.ready()
    return await _built(stage, asset.id)


@_branch(_VARIANTS, "signal wake", "render_images", "remove_obsolete", "completed")
async def replaced_object_stays_for_a_while(stage: Stage, fleet: Fleet) -> str:
    """A store that refuses deletions does not stop builds; it is asked again until it has deleted the object."""
    await fleet.start()
    asset = await stage.ready()
    workflow_id = await _built(stage, asset.id)
    await fleet.stop()
    stage.environment["APP_DRIFTED"] = "1"
    refusing = FlakyStorage(storage(stage.environment))
    refusing.fail("delete", StorageUnauthorized("the store says no"), times=2)
    drifted = stage.application(store=refusing)
    await fleet.start(drifted)
    await drifted.regenerate_variants("avatar")
    await stage.variant(asset.id, "thumb", "ready")
    await dispatched(stage)
    await closed(stage, workflow_id)
    return workflow_id


@_branch(_VARIANTS, "signal wake", "render_images", "completed", lacks=("read_group", "requeue_group", "cancel_group"))
async def nothing_to_do(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    asset = await stage.ready()
    workflow_id = await _built(stage, asset.id)
    await (await stage.client()).start_workflow(
        messages.VARIANT_WORKFLOW,
        VariantInput(asset_id=asset.id),
        id=workflow_id,
        task_queue=stage.prefix,
        start_signal="wake",
    )
    await closed(stage, workflow_id)
    return workflow_id


@_branch(
    _VARIANTS,
    *("render_images", "task failed: unhandled_command", "signal requeue", "requeue_group", "render_images"),
    "completed",
)
async def requeue_in_closing_task(stage: Stage, fleet: Fleet) -> str:
    interruption = Interruption()
    asset_id = await _building(stage, fleet, interruption)
    workflow_id = stage.variants_workflow(asset_id)
    handle = await handle_of(stage, workflow_id)
    interruption.at("closing", workflow_id, lambda: handle.signal("requeue"))
    await stage.rindle.cancel_processing(asset_id)
    return await _built(stage, asset_id)


async def _film(stage: Stage) -> MediaAsset:
    clip = Clips(stage.home).film()
    return await stage.verified("held_film", clip, filename="film.mp4")


async def _film_built(stage: Stage, asset_id: str) -> str:
    stage.tell("processor", "")
    await dispatched(stage)
    workflow_id = stage.variants_workflow(asset_id, "web")
    await closed(stage, workflow_id)
    return workflow_id


@_branch(_VARIANTS, "build_av", "completed", lacks=("read_group", "render_images"))
async def film_built(stage: Stage, fleet: Fleet) -> str:
    asset = await _film(stage)
    await fleet.start()
    await stage.settled(asset.id)
    return await _film_built(stage, asset.id)


@_branch(_VARIANTS, "build_av", "signal wake", "read_group", "build_av canceled", "read_group", "completed")
async def film_cancelled(stage: Stage, fleet: Fleet) -> str:
    stage.tell("processor", "hold")
    asset = await _film(stage)
    await fleet.start()
    await stage.variant(asset.id, "web", "processing")
    await stage.rindle.cancel_processing(asset.id)
    await dispatched(stage)
    await closed(stage, stage.variants_workflow(asset.id, "web"))
    return await _film_built(stage, asset.id)


@_branch(_VARIANTS, "signal requeue", "requeue_group", "build_av", "completed", lacks=("render_images",))
async def film_requeued_by_hand(stage: Stage, fleet: Fleet) -> str:
    """Nobody says which queue builds films: the workflow knows."""
    stage.tell("processor", "fail")
    await fleet.start(stage.application(RINDLE_VARIANT_ATTEMPTS="1"))
    asset = await _film(stage)
    await stage.variant(asset.id, "web", "failed")
    workflow_id = await _film_built(stage, asset.id)
    await (await stage.client()).start_workflow(
        messages.VARIANT_WORKFLOW,
        VariantInput(asset_id=asset.id, group="web"),
        id=workflow_id,
        task_queue=stage.prefix,
        start_signal="requeue",
    )
    await stage.state(asset.id, "ready")
    await closed(stage, workflow_id)
    return workflow_id


# --- purges ---------------------------------------------------------------------------------------------------------

_PURGE = "PurgeWorkflow"
_OWNER = ("User", "1")


async def _purge(stage: Stage, asset_id: str) -> str:
    workflow_id = ids.purge_id(asset_id, prefix=stage.prefix)
    await (await stage.client()).start_workflow(
        messages.PURGE_WORKFLOW, PurgeInput(asset_id=asset_id), id=workflow_id, task_queue=stage.prefix
    )
    await closed(stage, workflow_id)
    return workflow_id


async def _idle(stage: Stage) -> MediaAsset:
    """Return an asset of which nothing is running, and whose ticket has expired now."""
    session = await stage.sent("plain")
    await stage.rindle.verify_completion(session.id)
    await stage.settled(str(session.asset_id))
    await stage.let_tickets_expire(session.id)
    return await stage.rindle.asset(str(session.asset_id))


@_branch(_PURGE, "begin_purge", "completed", lacks=("stop_asset_work", "delete_asset"))
async def purged(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    asset = await _idle(stage)
    workflow_id = await _purge(stage, asset.id)
    assert await stage.keys() == set()
    return workflow_id


@_branch(_PURGE, "begin_purge", "stop_asset_work", "delete_asset", "completed", lacks=("timer",))
async def purged_in_steps(stage: Stage, fleet: Fleet) -> str:
    """The upload of a quarantined asset may still be at work."""
    await fleet.start()
    session = await stage.sent("plain", b"not a picture")
    await stage.rindle.verify_completion(session.id)
    await stage.state(str(session.asset_id), "quarantined")
    await stage.let_tickets_expire(session.id)
    return await _purge(stage, str(session.asset_id))


@_branch(_PURGE, "begin_purge", "completed", lacks=("stop_asset_work", "delete_asset"))
async def still_attached(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    asset = await stage.ready("plain")
    await stage.rindle.attach(asset.id, _OWNER, "avatar")
    return await _purge(stage, asset.id)


@_branch(
    _PURGE,
    *("begin_purge", "task failed: unhandled_command", "signal wake", "begin_purge", "completed"),
)
async def woken_again(stage: Stage, fleet: Fleet) -> str:
    interruption = Interruption()
    await fleet.start(interruption=interruption)
    asset = await _idle(stage)
    await stage.rindle.attach(asset.id, _OWNER, "avatar")
    workflow_id = ids.purge_id(asset.id, prefix=stage.prefix)

    async def detach() -> None:
        await stage.rindle.detach(_OWNER, "avatar")
        await dispatched(stage)

    interruption.at("closing", workflow_id, detach)
    await _purge(stage, asset.id)
    await stage.gone(asset.id)
    return workflow_id


@_branch(
    _PURGE,
    *("begin_purge", "stop_asset_work", "delete_asset", "timer", "cancel requested", "delete_asset", "completed"),
)
async def cancel_request_while_a_ticket_is_valid(stage: Stage, fleet: Fleet) -> str:
    """The purge is completed, and deletes what was uploaded with the ticket meanwhile."""
    await fleet.start()
    session = await stage.sent("plain")
    asset = await stage.settled((await stage.rindle.verify_completion(session.id)).asset.id)
    await stage.let_tickets_expire(session.id, hours=-1)
    workflow_id = ids.purge_id(asset.id, prefix=stage.prefix)
    await stage.rindle.purge_asset(asset.id)
    await in_stage(stage, workflow_id, "waiting")
    handle = await handle_of(stage, workflow_id)
    await handle.cancel()
    await stage.put(session.id, b"late bytes")
    await stage.let_tickets_expire(session.id)
    await handle.signal("wake")
    await closed(stage, workflow_id)
    await stage.gone(asset.id)
    return workflow_id


@_branch(_PURGE, "begin_purge", "completed", lacks=("stop_asset_work", "delete_asset"))
async def gone(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    asset = await stage.ready("plain")
    await _purge(stage, asset.id)
    return await _purge(stage, asset.id)


# --- erasures -------------------------------------------------------------------------------------------------------

_ERASURE = "OwnerErasureWorkflow"


#: The delay of purges that run when a test makes them due.
_WAITS = "3600"


async def _erased(stage: Stage, fleet: Fleet) -> str:
    """Erase an owner with one asset; returns the id of the erasure's workflow."""
    await fleet.start()
    asset = await stage.ready("plain")
    await stage.rindle.attach(asset.id, _OWNER, "avatar")
    report = await stage.rindle.erase_owner(_OWNER)
    return ids.erasure_id(report.operation_id, prefix=stage.prefix)


async def _purged(stage: Stage, workflow_id: str) -> None:
    """Make the purges of an erasure due, also those that are requested meanwhile, until it has ended."""
    handle = await handle_of(stage, workflow_id)

    async def ended() -> bool:
        described = await handle.describe()
        await stage.make_due()
        return described.status is not None and described.status.name != "RUNNING"

    await until(ended, what=f"{workflow_id} to end")


@_branch(
    _ERASURE,
    *("detach_owner", "settle_erasure", "update answered", "timer", "signal wake", "settle_erasure", "completed"),
    lacks=("timer fired",),
    RINDLE_PURGE_DELAY_SECONDS=_WAITS,
)
async def erased(stage: Stage, fleet: Fleet) -> str:
    workflow_id = await _erased(stage, fleet)
    await in_stage(stage, workflow_id, "waiting")
    await _purged(stage, workflow_id)
    return workflow_id


@_branch(_ERASURE, "detach_owner", "settle_erasure", "update answered", "completed", lacks=("timer",))
async def nothing_to_erase(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    report = await stage.rindle.erase_owner(_OWNER)
    workflow_id = ids.erasure_id(report.operation_id, prefix=stage.prefix)
    await closed(stage, workflow_id)
    return workflow_id


@_branch(_ERASURE, "detach_owner", "completed", lacks=("settle_erasure",))
async def withdrawn(stage: Stage, fleet: Fleet) -> str:
    """The rows have no such operation: the caller was refused, and took the request back."""
    await fleet.start()
    operation_id = new_id()
    workflow_id = ids.erasure_id(operation_id, prefix=stage.prefix)
    await (await stage.client()).start_workflow(
        messages.OWNER_ERASURE_WORKFLOW,
        ErasureInput(operation_id=operation_id),
        id=workflow_id,
        task_queue=stage.prefix,
    )
    await closed(stage, workflow_id)
    return workflow_id


@_branch(
    _ERASURE,
    *("detach_owner", "settle_erasure", "timer", "timer fired", "settle_erasure", "timer", "completed"),
    RINDLE_PURGE_DELAY_SECONDS=_WAITS,
    RINDLE_ERASURE_CHECK_SECONDS="0.5",
)
async def purges_started_again(stage: Stage, fleet: Fleet) -> str:
    workflow_id = await _erased(stage, fleet)
    handle = await handle_of(stage, workflow_id)

    async def settled_again() -> bool:
        return list(marks(await handle.fetch_history())).count("timer") > 1  # the second one starts after that

    await until(settled_again, what="the purges to be started again")
    await _purged(stage, workflow_id)
    return workflow_id


@_branch(
    _ERASURE,
    *("settle_erasure", "timer", "cancel requested", "signal wake", "settle_erasure", "completed"),
    RINDLE_PURGE_DELAY_SECONDS=_WAITS,
)
async def cancel_request_of_an_erasure(stage: Stage, fleet: Fleet) -> str:
    """The erasure is completed."""
    workflow_id = await _erased(stage, fleet)
    await in_stage(stage, workflow_id, "waiting")
    await (await handle_of(stage, workflow_id)).cancel()
    await _purged(stage, workflow_id)
    return workflow_id


@_branch(
    _ERASURE,
    *("detach_owner", "settle_erasure", "timer", "timer fired", "settle_erasure", "continued as new"),
    suggests_after=30,
    RINDLE_PURGE_DELAY_SECONDS=_WAITS,
    RINDLE_ERASURE_CHECK_SECONDS="0.2",
)
async def purges_took_long(stage: Stage, fleet: Fleet) -> str:
    workflow_id = await _erased(stage, fleet)
    handle = await handle_of(stage, workflow_id)
    first = (await handle.describe()).run_id

    async def continued() -> bool:
        return (await handle.describe()).run_id != first

    await until(continued, what="the erasure to continue as new")
    await _purged(stage, workflow_id)
    return workflow_id


# --- maintenance ----------------------------------------------------------------------------------------------------

_MAINTENANCE = "MaintenanceWorkflow"


async def _swept(stage: Stage, options: VerifyStorageOptions, *, max_pages: int = 0) -> str:
    handle = await runs.start(stage.rindle.services, VerifyStorage(), options, max_pages=max_pages)
    await closed(stage, handle.id)
    return handle.id


@_branch(_MAINTENANCE, "sweep_page", "completed", lacks=("continued as new",))
async def swept(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    return await _swept(stage, VerifyStorageOptions(objects=False))


@_branch(_MAINTENANCE, "sweep_page", "sweep_page", "continued as new", lacks=("completed",))
async def swept_in_parts(stage: Stage, fleet: Fleet) -> str:
    await fleet.start()
    return await _swept(stage, VerifyStorageOptions(originals=True), max_pages=2)


@_branch(_MAINTENANCE, "sweep_page", "sweep_page", "completed")
async def swept_with_errors(stage: Stage, fleet: Fleet) -> str:
    """A store that does not list is counted and named, and the sweep goes on."""
    store = FlakyStorage(storage(stage.environment))
    store.fail("list_keys", StorageUnauthorized("not for you"), times=100)
    await fleet.start(stage.application(store=store))
    return await _swept(stage, VerifyStorageOptions(profile="plain"))


@_branch(_MAINTENANCE, "sweep_page", "cancel requested", "sweep_page canceled", "canceled")
async def cancel_request_of_a_sweep(stage: Stage, fleet: Fleet) -> str:
    store = FlakyStorage(storage(stage.environment))
    held = store.hang("list_keys")
    await fleet.start(stage.application(store=store))
    handle = await runs.start(stage.rindle.services, VerifyStorage(), VerifyStorageOptions())
    await held.reached.wait()
    await handle.cancel()
    await closed(stage, handle.id)
    held.release()
    return handle.id


@_branch(_MAINTENANCE, "sweep_page", "sweep_page failed", "failed", lacks=("completed",))
async def sweep_of_another_release(stage: Stage, fleet: Fleet) -> str:
    """The worker does not know the sweep that it is to run."""
    await fleet.start()
    workflow_id = ids.maintenance_id("sweep-the-floor", prefix=stage.prefix)
    await (await stage.client()).start_workflow(
        messages.MAINTENANCE_WORKFLOW,
        MaintenanceInput(verb="sweep-the-floor"),
        id=workflow_id,
        task_queue=stage.rindle.settings.maintenance_queue,
    )
    await closed(stage, workflow_id)
    return workflow_id


# --- streaming providers --------------------------------------------------------------------------------------------

_PUSH = "ProviderPushWorkflow"


@_branch(
    _PUSH,
    *("signal wake", "ensure_provider_row", "create_provider_asset", "timer", "timer fired", "poll_provider_asset"),
    "completed",
    lacks=("apply_provider_events", "fail_provider_asset"),
    RINDLE_PROVIDER_POLL_SECONDS="0.2",
)
async def pushed_and_polled(stage: Stage, fleet: Fleet) -> str:
    with patch.object(streaming, "POLL_SECONDS", 0.5):  # the third poll and all later ones come soon, too
        cinema, asset = await _pushing(stage, fleet)
        cinema.provider.finish((await cinema.row(asset)).provider_asset_id or "")
        await in_state(cinema, asset, "ready")
    return workflow_of(stage, asset)


@_branch(
    _PUSH,
    *("create_provider_asset", "timer", "signal provider_event", "apply_provider_events", "ensure_provider_row"),
    "completed",
    lacks=("poll_provider_asset",),
    RINDLE_PROVIDER_POLL_SECONDS="3600",
)
async def pushed_and_notified(stage: Stage, fleet: Fleet) -> str:
    cinema, asset = await _pushing(stage, fleet)
    cinema.provider.finish((await cinema.row(asset)).provider_asset_id or "")
    await _waiting_for_provider(stage, asset)
    await cinema.received(WebhookKind.READY, asset)
    await in_state(cinema, asset, "ready")
    return workflow_of(stage, asset)


@_branch(_PUSH, "create_provider_asset", "create_provider_asset failed", "fail_provider_asset", "completed")
async def push_refused(stage: Stage, fleet: Fleet) -> str:
    provider = InMemoryProvider()
    provider.fail_next("create_asset", ProviderSyncFailed("status 401", status=401))
    _, asset = await _pushing(stage, fleet, provider, until_state="errored")
    return workflow_of(stage, asset)


@_branch(_PUSH, "create_provider_asset", "completed", lacks=("timer", "fail_provider_asset"))
async def push_of_an_outdated_source(stage: Stage, fleet: Fleet) -> str:
    cinema = cinema_on(stage, InMemoryProvider())
    asset = await cinema.film()
    await cinema.gallery.move_variant(asset, "web_720p", VariantState.STALE)
    await start(cinema, asset)
    await fleet.start(cinema.rindle)
    await dispatched(stage)
    await closed(stage, workflow_of(stage, asset))
    return workflow_of(stage, asset)


@_branch(_PUSH, "timer", "cancel requested", "completed", RINDLE_PROVIDER_POLL_SECONDS="3600")
async def cancel_request_of_a_push(stage: Stage, fleet: Fleet) -> str:
    _, asset = await _pushing(stage, fleet)
    await _waiting_for_provider(stage, asset)
    await (await handle_of(stage, workflow_of(stage, asset))).cancel()
    await closed(stage, workflow_of(stage, asset))
    return workflow_of(stage, asset)


@_branch(_PUSH, "signal provider_event", "apply_provider_events", "ensure_provider_row", "completed", lacks=("timer",))
async def notified_after_the_end(stage: Stage, fleet: Fleet) -> str:
    cinema = cinema_on(stage, InMemoryProvider())
    asset = await cinema.film()
    await cinema.push(asset)
    cinema.provider.finish((await cinema.row(asset)).provider_asset_id or "")
    await cinema.received(WebhookKind.READY, asset)
    await fleet.start(cinema.rindle)
    await in_state(cinema, asset, "ready")
    return workflow_of(stage, asset)


async def _pushing(
    stage: Stage, fleet: Fleet, provider: InMemoryProvider | None = None, *, until_state: str = "processing"
) -> tuple[Cinema, MediaAsset]:
    """Push a film until its row has a state."""
    cinema = cinema_on(stage, provider or InMemoryProvider())
    asset = await cinema.film()
    await start(cinema, asset)
    await fleet.start(cinema.rindle)
    await in_state(cinema, asset, until_state)
    return cinema, asset


async def _waiting_for_provider(stage: Stage, asset: MediaAsset) -> None:
    await in_stage(stage, workflow_of(stage, asset), "waiting for provider, polled 0 times")


# --- uploads to providers -------------------------------------------------------------------------------------------

_TO_PROVIDER = "ProviderUploadWorkflow"
_LINKED = WebhookKind.UPLOAD_ASSET_CREATED


@_branch(
    _TO_PROVIDER,
    *("read_provider_upload", "timer", "signal provider_event", "apply_provider_events", "read_provider_upload"),
    *("signal provider_event", "apply_provider_events", "read_provider_upload", "completed"),
    lacks=("check_provider_upload", "poll_provider_asset"),
    RINDLE_PROVIDER_POLL_SECONDS="3600",
)
async def upload_linked_and_notified(stage: Stage, fleet: Fleet) -> str:
    studio, upload = await _uploading(stage, fleet)
    made = await studio.sent(upload)
    await studio.told(_LINKED, upload, made)
    await in_state_of_talk(studio, upload, "processing")
    await in_stage(stage, talk_workflow(stage, upload), "waiting for provider, polled 0 times")
    await studio.told(WebhookKind.READY, upload, studio.provider.finish(made.id))
    await in_state_of_talk(studio, upload, "ready")
    return talk_workflow(stage, upload)


@_branch(
    _TO_PROVIDER,
    *("read_provider_upload", "check_provider_upload", "timer", "timer fired", "poll_provider_asset", "completed"),
    lacks=("apply_provider_events", "fail_provider_asset"),
    RINDLE_PROVIDER_POLL_SECONDS="0.2",
)
async def upload_whose_webhooks_are_lost(stage: Stage, fleet: Fleet) -> str:
    studio = studio_on(stage, InMemoryProvider(ready_at_once=True))
    upload = await studio.opened()
    await studio.sent(upload)
    return await _followed(stage, fleet, studio, upload, "ready")


@_branch(
    _TO_PROVIDER,
    *("read_provider_upload", "check_provider_upload", "completed"),
    lacks=("timer", "poll_provider_asset", "fail_provider_asset"),
)
async def upload_that_never_came(stage: Stage, fleet: Fleet) -> str:
    studio = studio_on(stage, InMemoryProvider())
    upload = await studio.opened()
    return await _followed(stage, fleet, studio, upload, "errored")


@_branch(_TO_PROVIDER, "check_provider_upload", "check_provider_upload failed", "fail_provider_asset", "completed")
async def upload_that_cannot_be_asked_for(stage: Stage, fleet: Fleet) -> str:
    studio = studio_on(stage, InMemoryProvider())
    upload = await studio.opened()
    studio.provider.fail_next("get_direct_upload", ProviderSyncFailed("status 401", status=401))
    return await _followed(stage, fleet, studio, upload, "errored")


@_branch(
    _TO_PROVIDER,
    *("timer", "signal wake", "read_provider_upload", "release_provider_upload", "completed"),
    lacks=("check_provider_upload", "apply_provider_events"),
)
async def upload_cancelled_later_at_the_provider(stage: Stage, fleet: Fleet) -> str:
    studio, upload = await _uploading(stage, fleet)
    studio.provider.fail_next("cancel_direct_upload", ProviderSyncFailed("status 401", status=401))
    with suppress(ProviderSyncFailed):
        await studio.rindle.cancel_direct_upload(upload.asset_id)

    async def cancelled() -> bool:
        return not (await studio.row_of(upload)).cleanup_pending

    await until(cancelled, what="the upload to be cancelled at its provider")
    return talk_workflow(stage, upload)


@_branch(_TO_PROVIDER, "timer", "cancel requested", "completed")
async def cancel_request_of_an_upload_to_a_provider(stage: Stage, fleet: Fleet) -> str:
    _, upload = await _uploading(stage, fleet)
    await (await handle_of(stage, talk_workflow(stage, upload))).cancel()
    await closed(stage, talk_workflow(stage, upload))
    return talk_workflow(stage, upload)


@_branch(
    _TO_PROVIDER,
    *("signal provider_event", "apply_provider_events", "read_provider_upload", "completed"),
    lacks=("timer", "check_provider_upload"),
)
async def upload_that_was_ready_before_any_worker(stage: Stage, fleet: Fleet) -> str:
    studio = studio_on(stage, InMemoryProvider(ready_at_once=True))
    upload = await studio.opened()
    made = await studio.sent(upload)
    for kind in (WebhookKind.READY, _LINKED):
        await studio.told(kind, upload, made)
    await fleet.start(studio.rindle)
    await in_state_of_talk(studio, upload, "ready")
    return talk_workflow(stage, upload)


async def _uploading(stage: Stage, fleet: Fleet) -> tuple[Studio, DirectUpload]:
    """Open an upload, whose workflow waits for its bytes."""
    studio = studio_on(stage, InMemoryProvider())
    upload = await studio.opened()
    await fleet.start(studio.rindle)
    await waiting(stage, upload)
    return studio, upload


async def _followed(stage: Stage, fleet: Fleet, studio: Studio, upload: DirectUpload, state: str) -> str:
    """Let the time of an upload be over, and its workflow find that out."""
    await overdue(studio, upload)
    await fleet.start(studio.rindle)
    await in_state_of_talk(studio, upload, state)
    return talk_workflow(stage, upload)


# --- saving ---------------------------------------------------------------------------------------------------------


def scrub(history: WorkflowHistory) -> str:
    """Return a history as JSON without what tells of the machine that made it: identities, sticky queues, traces."""
    return json.dumps(_scrubbed(json.loads(history.to_json())), indent=1, sort_keys=True) + "\n"


def _scrubbed(value: object) -> object:
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("kind") == "TASK_QUEUE_KIND_STICKY":
        return {**value, "name": "sticky"}
    kept = {key: _scrubbed(item) for key, item in value.items() if key not in ("stackTrace", "workerVersion")}
    return {key: "worker" if key == "identity" else item for key, item in kept.items()}


__all__ = ["BRANCHES", "HISTORIES", "Branch", "requeue_with_start", "scrub"]
