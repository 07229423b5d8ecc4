"""What crosses Temporal: inputs, results and the wire names of workflows, signals and activities.

Messages hold ids and small facts, never keys, URLs, filenames or bytes. They are frozen. Unknown fields are ignored, so
that an old worker can read what a new one wrote: changes only add fields. Names are permanent.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict

from rindle.arguments import canonical_id

# --- wire names --------------------------------------------------------------------------------------------------

UPLOAD_WORKFLOW = "rindle.UploadWorkflow"
VARIANT_WORKFLOW = "rindle.VariantWorkflow"
PURGE_WORKFLOW = "rindle.PurgeWorkflow"
PROVIDER_PUSH_WORKFLOW = "rindle.ProviderPushWorkflow"
PROVIDER_UPLOAD_WORKFLOW = "rindle.ProviderUploadWorkflow"
OWNER_ERASURE_WORKFLOW = "rindle.OwnerErasureWorkflow"
MAINTENANCE_WORKFLOW = "rindle.MaintenanceWorkflow"

READ_UPLOAD = "rindle.read_upload"
ADMIT = "rindle.admit"
SCAN = "rindle.scan"
VERIFY_UPLOAD = "rindle.verify_upload"
ASSEMBLE_UPLOAD = "rindle.assemble_upload"
EXPIRE_UPLOAD = "rindle.expire_upload"
RELEASE_UPLOAD = "rindle.release_upload"
ABORT_UPLOAD = "rindle.abort_upload"
FAIL_PROMOTION = "rindle.fail_promotion"

RENDER_IMAGES = "rindle.render_images"
BUILD_AV = "rindle.build_av"
READ_GROUP = "rindle.read_group"
REQUEUE_GROUP = "rindle.requeue_group"
CANCEL_GROUP = "rindle.cancel_group"
FAIL_GROUP = "rindle.fail_group"
REMOVE_OBSOLETE = "rindle.remove_obsolete"

ENSURE_PROVIDER_ROW = "rindle.ensure_provider_row"
CREATE_PROVIDER_ASSET = "rindle.create_provider_asset"
POLL_PROVIDER_ASSET = "rindle.poll_provider_asset"
APPLY_PROVIDER_EVENTS = "rindle.apply_provider_events"
FAIL_PROVIDER_ASSET = "rindle.fail_provider_asset"
READ_PROVIDER_UPLOAD = "rindle.read_provider_upload"
CHECK_PROVIDER_UPLOAD = "rindle.check_provider_upload"
RELEASE_PROVIDER_UPLOAD = "rindle.release_provider_upload"

BEGIN_PURGE = "rindle.begin_purge"
STOP_ASSET_WORK = "rindle.stop_asset_work"
DELETE_ASSET = "rindle.delete_asset"

DETACH_OWNER = "rindle.detach_owner"
SETTLE_ERASURE = "rindle.settle_erasure"

SWEEP_PAGE = "rindle.sweep_page"

#: Name of the variant group that holds every image variant of an image asset.
IMAGES_GROUP = "images"
#: Suffix of the task queue of ffmpeg builds, behind the name of the workflows' queue and a hyphen.
AV_QUEUE = "av"
#: The same of the task queue of sweeps, which also has their workflow.
MAINTENANCE_QUEUE = "maintenance"
#: The same of the task queue of calls to streaming providers.
PROVIDER_QUEUE = "provider"
#: Failed items that a sweep names; all are counted.
MAX_SWEEP_FAILURES = 5


def is_ours(type_name: str) -> bool:
    """Whether a workflow or activity of this type belongs to this library; a worker may run others too."""
    return type_name.startswith("rindle.")


def _canonical(value: object) -> object:
    return canonical_id(value) or value


#: The id of a row. Operators may write it in any form of a UUID; the code that sends a message may pass a ``UUID``.
RowId = Annotated[str, BeforeValidator(_canonical)]


class Message(BaseModel):
    """Base of everything that crosses Temporal."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class StatusView(Message):
    """Result of the query ``status`` of every workflow."""

    kind: str
    state: str
    stage: str
    attempts: int = 0
    last_error_code: str | None = None
    started_at: datetime | None = None


class Failure(Message):
    """Why an activity gave up, as the closing activity records it on the rows."""

    code: str
    message: str = ""


# --- uploads -----------------------------------------------------------------------------------------------------


class UploadInput(Message):
    """Input of ``UploadWorkflow``."""

    session_id: RowId


class UploadStep(StrEnum):
    """The next step of an upload, as its rows require it."""

    WAIT = "wait"  #: wait for the timer or a signal
    VERIFY = "verify"  #: check whether the object exists
    ASSEMBLE = "assemble"  #: all bytes were sent through the application: make the object from them
    PROMOTE = "promote"  #: the bytes have arrived: validate them
    SCAN = "scan"  #: the byte gate passed: scan the file before any decoder opens it
    RELEASE = "release"  #: the upload ended without an asset: delete its object from the store
    DONE = "done"  #: nothing is left to do


class GroupStart(Message):
    """One variant build to be started as a child."""

    workflow_id: str
    group: str
    task_queue: str


class UploadStatus(Message):
    """The state of an upload and its next step.

    ``wait_seconds`` is the time until the session expires or is verified again; with ``poll`` the timer verifies,
    otherwise it expires the session. ``outcome`` names the end (a session or asset state) for the timeline.
    """

    step: UploadStep
    asset_id: RowId | None = None
    profile: str | None = None
    outcome: str = ""
    wait_seconds: float = 0.0
    poll: bool = False
    groups: tuple[GroupStart, ...] = ()
    #: Why a verification failed; for the caller of the Update.
    failure: Failure | None = None


class UploadResult(Message):
    """Result of ``UploadWorkflow``: its outcome, as the timeline shows it."""

    session_id: RowId
    asset_id: RowId | None
    outcome: str


class PromotionFailure(Message):
    """Input of ``fail_promotion``: the promotion failed for a reason other than the content."""

    session_id: RowId
    failure: Failure


class VerifyAnswer(Message):
    """Result of the Update ``verify``."""

    session_id: RowId
    session_state: str
    asset_id: RowId
    asset_state: str


# --- variants ----------------------------------------------------------------------------------------------------


class VariantInput(Message):
    """Input of ``VariantWorkflow``: one group of one asset.

    ``task_queue`` runs its build activity. An operator who starts a workflow may leave it out: image variants are then
    built on the workflow's own queue, all others on that name with the suffix ``-av``.
    """

    asset_id: RowId
    group: str = IMAGES_GROUP
    task_queue: str = ""


class GroupOrder(Message):
    """Input of the group's SQL activities; ``names`` of ``None`` selects all that qualify."""

    asset_id: RowId
    group: str
    names: tuple[str, ...] | None = None
    failure: Failure | None = None


class GroupStatus(Message):
    """How many variants of a group are in which state; ``asset_state`` is ``None`` when the asset is gone."""

    asset_id: RowId
    group: str
    asset_state: str | None = None
    queued: int = 0
    processing: int = 0
    ready: int = 0
    failed: int = 0
    cancelled: int = 0
    #: Rows this call moved.
    moved: int = 0
    #: Objects in the store that the rows no longer name and that are still to be deleted.
    obsolete: int = 0

    @property
    def summary(self) -> str:
        """One word for the timeline."""
        if self.asset_state is None:
            return "gone"
        if self.queued or self.processing:
            return "open"
        return "failed" if self.failed else "cancelled" if self.cancelled else "ready"


# --- streaming providers -----------------------------------------------------------------------------------------


class ProviderPushInput(Message):
    """Input of ``ProviderPushWorkflow``, ``ProviderUploadWorkflow`` and their activities: one asset at one provider.

    ``task_queue`` runs the activities that call the provider.
    """

    asset_id: RowId
    profile: str
    provider: str
    task_queue: str = ""


class ProviderStatus(Message):
    """Where an asset is at its provider. ``outcome`` is empty while there is something to wait for.

    ``poll_seconds`` is the first pause between polls. With ``needs_create`` nothing was created at the provider yet.

    Of a direct upload: with ``awaits_upload`` its bytes are awaited, and after ``wait_seconds`` the provider is
    queried for them; with ``needs_release`` it was cancelled, and the provider does not know that yet.
    """

    asset_id: RowId
    state: str = ""
    outcome: str = ""
    reason: str = ""
    needs_create: bool = False
    poll_seconds: float = 30.0
    awaits_upload: bool = False
    wait_seconds: float = 0.0
    needs_release: bool = False


class ProviderEvents(Message):
    """Input of ``apply_provider_events``: webhooks that the rows of the outbox hold."""

    push: ProviderPushInput
    outbox_ids: tuple[int, ...]


class ProviderFailure(Message):
    """Input of ``fail_provider_asset``: why the push ended, as the row shows it."""

    push: ProviderPushInput
    failure: Failure


class ProviderPushResult(Message):
    """Result of ``ProviderPushWorkflow`` and ``ProviderUploadWorkflow``.

    ``ready``, ``errored``, ``deleted``, ``skipped``, ``cancelled`` or ``stale_source``.
    """

    asset_id: RowId
    outcome: str
    reason: str = ""


# --- purge -------------------------------------------------------------------------------------------------------


class PurgeInput(Message):
    """Input of ``PurgeWorkflow`` and of its activities."""

    asset_id: RowId
    #: Set by workflows that know the outcome ``waiting``.
    may_wait: bool = False


class PurgeDecision(Message):
    """Result of ``begin_purge``: ``purge``, ``still_attached`` or ``gone``; ``purged`` when nothing is left to do."""

    outcome: str
    attachments: int = 0
    #: Deleted objects, and variants among them, of the outcome ``purged``.
    objects: int = 0
    variants: int = 0
    groups: tuple[str, ...] = ()
    session_ids: tuple[RowId, ...] = ()
    #: Streaming providers that have the asset.
    providers: tuple[str, ...] = ()


class StopOrder(Message):
    """Input of ``stop_asset_work``: the workflows whose work on the asset must end first."""

    asset_id: RowId
    groups: tuple[str, ...] = ()
    session_ids: tuple[RowId, ...] = ()
    providers: tuple[str, ...] = ()


class PurgeResult(Message):
    """Result of ``PurgeWorkflow``, and of ``delete_asset``.

    An activity's outcome ``waiting`` means that the objects are deleted, and are to be deleted again after
    ``wait_seconds``, when no PUT ticket is valid any more.
    """

    asset_id: RowId
    outcome: str
    objects: int = 0
    variants: int = 0
    wait_seconds: float = 0.0


# --- owner erasure -----------------------------------------------------------------------------------------------


class ErasureInput(Message):
    """Input of ``OwnerErasureWorkflow`` and of ``detach_owner``: the rows have the owner, whom Temporal never sees."""

    operation_id: RowId


class ErasureCounts(Message):
    """Result of ``detach_owner`` and of the Update ``report``; the rows have the report itself.

    ``outcome`` is ``detached``, or ``withdrawn`` when the rows have no such operation: then nothing was done.
    """

    operation_id: RowId
    outcome: str = "detached"
    attachments: int = 0
    assets_to_purge: int = 0
    retained_shared_assets: int = 0
    purge_enqueued: int = 0
    purge_already_queued: int = 0


class SettleOrder(Message):
    """Input of ``settle_erasure``: count the purges that have not ended; ``restart`` starts a page of them again."""

    operation_id: RowId
    restart: bool = False
    after: str = ""


class ErasureProgress(Message):
    """Result of ``settle_erasure``.

    With ``pending`` of 0 the erasure is completed. ``after`` is the cursor of the next page of a restart, empty after
    the last one; ``wait_seconds`` is the pause until the next restart.
    """

    operation_id: RowId
    pending: int = 0
    after: str = ""
    wait_seconds: float = 0.0


class ErasureResult(Message):
    """Result of ``OwnerErasureWorkflow``."""

    operation_id: RowId
    outcome: str
    assets_to_purge: int = 0


# --- maintenance -------------------------------------------------------------------------------------------------


class SweepFailure(Message):
    """An item that a sweep could not handle: the id of its row, and the code of the error."""

    item: str
    code: str


class SweepPage(Message):
    """Result of ``sweep_page``: the counters of this page, and the cursor of the next one; ``None`` after the last.

    ``failures`` are the first of the ``failed`` items.
    """

    cursor: str | None = None
    counters: dict[str, int] = {}
    failures: tuple[SweepFailure, ...] = ()
    failed: int = 0


class SweepProgress(Message):
    """How far a sweep has come, over all pages until now; result of the query ``progress``.

    ``cursor`` is that of the next page. It holds ids and names of steps, never keys or addresses of objects.
    """

    cursor: str = ""
    pages: int = 0
    counters: dict[str, int] = {}
    failures: tuple[SweepFailure, ...] = ()
    failed: int = 0
    started_at: datetime | None = None

    def after(self, page: SweepPage) -> Self:
        """Return the progress after one more page."""
        counters = dict(self.counters)
        for name, count in page.counters.items():
            counters[name] = counters.get(name, 0) + count
        return self.model_copy(
            update={
                "cursor": page.cursor or "",
                "pages": self.pages + 1,
                "counters": counters,
                "failures": (*self.failures, *page.failures)[:MAX_SWEEP_FAILURES],
                "failed": self.failed + max(page.failed, len(page.failures)),
            }
        )


class MaintenanceInput(Message):
    """Input of ``MaintenanceWorkflow``.

    ``options`` are those of the sweep that ``verb`` names. ``progress`` is set by a run that continues as new, which it
    does after ``max_pages`` pages, or with 0 when the server suggests it.
    """

    verb: str
    options: dict[str, Any] = {}
    progress: SweepProgress = SweepProgress()
    max_pages: int = 0


class SweepOrder(Message):
    """Input of ``sweep_page``; ``started_at`` is the start of the whole sweep."""

    verb: str
    options: dict[str, Any] = {}
    cursor: str = ""
    started_at: datetime


class MaintenanceResult(Message):
    """Result of ``MaintenanceWorkflow``."""

    verb: str
    outcome: str = "completed"
    progress: SweepProgress
