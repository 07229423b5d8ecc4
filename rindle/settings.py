"""Settings: environment variables with the prefix ``RINDLE_``, validated once.

Temporal's connection is configured elsewhere: by ``temporalio.envconfig`` (``TEMPORAL_ADDRESS``,
``TEMPORAL_NAMESPACE``, ``TEMPORAL_PROFILE``, TLS and API key), which Temporal users already know.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ModelWrapValidatorHandler, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rindle.errors import Misconfigured
from rindle.messages import AV_QUEUE, IMAGES_GROUP, MAINTENANCE_QUEUE, PROVIDER_QUEUE
from rindle.protocols import MAX_URL_SECONDS

#: Largest ``max_pixels`` of a profile; also applies when ``max_pixels`` is ``None``.
PIXEL_CEILING = 100_000_000


class Settings(BaseSettings):
    """All settings. Durations are in seconds unless the name states another unit.

    Every field is read from ``RINDLE_<FIELD NAME>`` and can be given to the constructor instead.

    Raises:
        Misconfigured: values are not valid; the message names their variables and repeats no value.
    """

    model_config = SettingsConfigDict(env_prefix="RINDLE_", extra="ignore", frozen=True)

    #: Directory of everything embedded: database, media, Temporal's file, secret.
    home: Path = Path("var/rindle")
    #: Scratch space of workers; run directories live below ``<tmp_dir>/rindle.tmp``.
    tmp_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()))
    #: Signing secrets of local URLs, separated by commas: the first signs, all verify. At least 32 bytes each.
    secrets: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    #: Keys that encrypt the session URIs of resumable uploads in their column, separated by commas: the first encrypts,
    #: all decrypt. Each is 32 random bytes in URL-safe Base64 (44 characters). Without one the URIs are kept in clear.
    session_uri_key: Annotated[tuple[SecretStr, ...], NoDecode] = ()

    upload_session_ttl_seconds: int = Field(default=86_400, ge=1, le=MAX_URL_SECONDS)
    presigned_put_ttl_seconds: int = Field(default=3_600, ge=1, le=MAX_URL_SECONDS)
    signed_url_ttl_seconds: int = Field(default=900, ge=1, le=MAX_URL_SECONDS)
    #: How long after the expiry of a PUT ticket an upload that began before it may still end. Objects of purged and of
    #: ended uploads are deleted a second time after that.
    late_put_seconds: float = Field(default=3_600, ge=0)
    #: Grace period between detaching and purging.
    purge_delay_seconds: float = Field(default=0, ge=0)
    #: How long ``erase_owner`` waits for its report before it raises ``erasure_pending``.
    erasure_report_seconds: float = Field(default=20, gt=0)
    #: Pause after which an erasure starts purges again that have not ended, unless some ended meanwhile. Usually the
    #: last purge wakes it earlier.
    erasure_check_seconds: float = Field(default=3_600, gt=0)
    #: Owners that one batch erasure accepts.
    max_batch_erasure_owners: int = Field(default=100, ge=1)
    #: How long a purge waits for running work of its asset before it deletes the objects anyway.
    purge_settle_seconds: float = Field(default=60, ge=0)
    #: First pause between HEAD requests when a session verifies itself; doubles up to ``auto_verify_max_seconds``.
    auto_verify_initial_seconds: float = Field(default=5, gt=0)
    auto_verify_max_seconds: float = Field(default=300, gt=0)
    #: How long a session that verifies itself continues after its last signed URL has expired.
    auto_verify_grace_seconds: float = Field(default=60, ge=0)

    #: Application prefix of task queues and workflow ids: two applications may share a namespace.
    task_queue_prefix: str = Field(default="rindle", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    workflow_id_prefix: str = Field(default="rindle", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    #: Queue for image renders, 1 to 200 ASCII characters; ``None`` keeps them on the workflows' own queue (eager
    #: activities work only there).
    image_task_queue: str | None = Field(default=None, pattern=r"^[!-~]{1,200}$")
    search_attributes: bool = True

    #: First pause before a failed activity is retried; the policy's own value when ``None``.
    retry_initial_seconds: float | None = Field(default=None, gt=0)
    #: Time without a heartbeat after which a worker counts as lost; the policy's 30 s when ``None``.
    heartbeat_seconds: float | None = Field(default=None, ge=1)
    #: Render children per worker; ``None`` means one per core.
    render_workers: int | None = Field(default=None, ge=1)
    render_wall_seconds: int = Field(default=120, ge=1)
    #: Wall limit of reading one uploaded image, in seconds; nine tenths of it may be CPU time.
    render_probe_seconds: int = Field(default=30, ge=1)
    render_memory_bytes: int = Field(default=2 << 30, ge=256 << 20)
    #: ffmpeg builds at once per worker; ``None`` means one for every four cores, since one build keeps several busy.
    av_workers: int | None = Field(default=None, ge=1)
    #: ffmpeg, 5.1 or newer; the one on ``PATH`` when ``None``.
    ffmpeg_path: Path | None = None
    #: ffprobe of the same release; the one on ``PATH`` when ``None``.
    ffprobe_path: Path | None = None
    #: Longest original that is transcoded; longer ones fail, even if the profile accepts them.
    av_max_duration_seconds: int = Field(default=7_200, ge=1)
    #: Largest audio or video variant; a larger one fails. A build needs twice that much free disk.
    av_max_output_bytes: int = Field(default=500_000_000, ge=1)
    #: Address space of one ffmpeg.
    av_memory_bytes: int = Field(default=4 << 30, ge=256 << 20)
    #: Shortest wall limit of one ffmpeg run; the limit is four times the duration and two minutes.
    av_wall_floor_seconds: float = Field(default=600, gt=0)
    #: Longest wall limit of one ffmpeg run, also used when the duration is unknown.
    av_wall_ceiling_seconds: float = Field(default=14_400, gt=0, le=14_400)
    #: Longest time without a progress report of ffmpeg, which reports twice a second.
    av_stall_seconds: float = Field(default=120, gt=0)
    #: Wall limit of one ffprobe run.
    av_probe_seconds: float = Field(default=60, gt=0)
    #: Added to the worker's own niceness for ffmpeg, so that web processes on the same machine go first.
    av_nice: int = Field(default=10, ge=0, le=19)
    #: Threads per codec; ``None`` lets ffmpeg choose, up to 16.
    av_threads: int | None = Field(default=None, ge=1)
    #: Pause between two sweeps of a worker for run directories that dead processes left on its host.
    temp_sweep_seconds: float = Field(default=3_600, gt=0)
    source_cache_bytes: int = Field(default=10 << 30, ge=0)
    source_cache_age_seconds: int = Field(default=3_600, ge=0)
    #: Classified failures of one variant before it is ``failed``.
    variant_attempts: int = Field(default=5, ge=1)
    scanner_timeout_seconds: float = Field(default=600, gt=0)

    #: Age at which a webhook of a streaming provider is refused, in both directions of the clock.
    webhook_tolerance_seconds: int = Field(default=300, ge=1)
    #: First pause between two polls of an asset at a streaming provider; it doubles once, then it is 5 minutes, or the
    #: first where that is longer.
    provider_poll_seconds: float = Field(default=30, gt=0)
    #: How long after the end of a direct upload to a streaming provider the provider is queried for it.
    provider_upload_grace_seconds: int = Field(default=600, ge=0)
    #: How long an asset may stay unchanged at a streaming provider before it counts as stuck.
    provider_stuck_seconds: int = Field(default=7_200, ge=1)
    #: Lifetime of the URL from which a streaming provider fetches the source.
    provider_source_seconds: int = Field(default=1_800, ge=60, le=MAX_URL_SECONDS)

    #: Worker versioning (Temporal worker deployments): enabled when both are set. Such workers receive no tasks until
    #: the version has been made current once (``temporal worker deployment set-current-version``).
    deployment_name: str | None = None
    build_id: str | None = None

    #: Whether workers of the maintenance queue bring the schedules of the sweeps into the namespace at their start.
    schedules: bool = True
    #: Whether the daily ``cleanup-orphans`` deletes what it finds; otherwise it only counts.
    schedules_cleanup_execute: bool = False
    #: Whether ``verify-storage`` runs every week: it sends a request to the store for each object.
    schedules_verify_storage: bool = False

    relay_poll_seconds: float = Field(default=1.0, gt=0)
    relay_idle_poll_seconds: float = Field(default=5.0, gt=0)
    #: How long relays keep outbox rows that were sent: 7 days. Then they delete them in small batches.
    outbox_retention_seconds: int = Field(default=604_800, ge=60)
    #: Pause between two polls for new events on databases without notifications: SQLite and sync engines.
    event_poll_seconds: float = Field(default=0.5, gt=0)
    #: Longest such pause while idle; on Postgres, which notifies, this poll is the safety net.
    event_idle_poll_seconds: float = Field(default=2.0, gt=0)
    #: How long events of state changes are kept: 90 days. Until then a stream can be resumed and ``rindle timeline``
    #: lists them. Audit events are kept for ever.
    event_retention_seconds: int = Field(default=7_776_000, ge=3_600)
    #: How long progress events are kept: one hour.
    progress_retention_seconds: int = Field(default=3_600, ge=60)
    #: Pause between two pings of an event stream.
    stream_ping_seconds: float = Field(default=15.0, gt=0)
    #: Longest lifetime of one connection of an event stream.
    stream_max_seconds: float = Field(default=1_800.0, gt=0)
    #: How long ``until=terminal`` stays open after all subjects have reached a terminal state.
    stream_grace_seconds: float = Field(default=30.0, ge=0)
    #: How long a client may take to accept one message before its stream is closed.
    stream_send_seconds: float = Field(default=30.0, gt=0)
    #: Event streams one actor may have open in one process.
    streams_per_actor: int = Field(default=5, ge=1)
    #: Event streams that a process serves at once.
    streams_per_process: int = Field(default=1_000, ge=1)
    #: Share of the streams of a process that all anonymous clients together may have, 0 to 1; at least one stream. The
    #: rest is kept for actors.
    streams_anonymous_share: float = Field(default=0.3, ge=0, le=1)
    #: The same for all clients without an actor that have a ticket for every subject.
    streams_ticket_share: float = Field(default=0.3, ge=0, le=1)
    temporal_connect_seconds: float = Field(default=2.0, gt=0)
    sync_threads: int = Field(default=8, ge=1)

    #: How long failed builds are findings of ``runtime-status``; ``None`` at any age. Counts show them at any age.
    failed_work_seconds: int | None = Field(default=604_800, ge=1)
    #: The same for cancelled builds: usually a user cancelled them.
    cancelled_work_seconds: int | None = Field(default=86_400, ge=1)
    #: Command that starts workers of this installation, as ``explain`` and ``runtime-status`` print it; ``python -m
    #: rindle.cli.worker`` when ``None``.
    start_worker_command: str | None = Field(default=None, max_length=500)
    #: Command that starts the Temporal server of this installation, printed when it does not answer; a check of
    #: ``rindle doctor`` when ``None``.
    start_temporal_command: str | None = Field(default=None, max_length=500)

    #: Address of the worker's ``/livez``, ``/readyz`` and of Temporal's Prometheus metrics; ``None`` disables them.
    health_address: str | None = None
    metrics_address: str | None = None

    @field_validator("secrets", "session_uri_key", mode="before")
    @classmethod
    def _split_secrets(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("session_uri_key")
    @classmethod
    def _check_session_uri_key(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in keys:
            if re.fullmatch(r"[A-Za-z0-9_-]{43}=", key.get_secret_value()) is None:
                raise ValueError("each key must be 32 bytes in URL-safe Base64 (44 characters)")
        return keys

    @model_validator(mode="wrap")
    @classmethod
    def _name_variables(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            # Without the values, which may be secrets: neither in the message nor as a cause.
            problems = [
                f"{'_'.join(['RINDLE', *(str(part) for part in found['loc'][:1])]).upper()}: {found['msg']}"
                for found in error.errors(include_input=False, include_context=False, include_url=False)
            ]
        raise Misconfigured(f"a setting is not valid: {'; '.join(problems)}", detail={"problems": problems})

    @property
    def scratch(self) -> Path:
        """Root of all run directories (mode 0700)."""
        return self.tmp_dir / "rindle.tmp"

    def queue(self, kind: str = "") -> str:
        """Return a task queue's name: ``queue()`` is the main one, ``queue("maintenance")`` a suffixed one."""
        return f"{self.task_queue_prefix}-{kind}" if kind else self.task_queue_prefix

    @property
    def image_queue(self) -> str:
        """Task queue of image renders."""
        return self.image_task_queue or self.queue()

    @property
    def av_queue(self) -> str:
        """Task queue of ffmpeg builds."""
        return self.queue(AV_QUEUE)

    @property
    def maintenance_queue(self) -> str:
        """Task queue of sweeps."""
        return self.queue(MAINTENANCE_QUEUE)

    @property
    def provider_queue(self) -> str:
        """Task queue of calls to streaming providers."""
        return self.queue(PROVIDER_QUEUE)

    def queue_of(self, group: str) -> str:
        """Return the task queue that builds a variant group."""
        return self.image_queue if group == IMAGES_GROUP else self.av_queue

    @property
    def av_slots(self) -> int:
        """How many ffmpeg builds a worker runs at once."""
        return self.av_workers or max(1, (os.cpu_count() or 1) // 4)

    @property
    def render_children(self) -> int:
        """How many render children a worker keeps."""
        return self.render_workers or os.cpu_count() or 1
